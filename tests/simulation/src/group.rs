//! The group coordinator of a pipeline: members, generations, cooperative rebalances with static members, and
//! each member's own view of it, which is late.

use std::collections::{BTreeMap, BTreeSet};

use crate::random::Random;

/// What a commit names: a member and the generation that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The instance.
    pub process: usize,
    /// Its member id.
    pub member: u64,
    /// The generation.
    pub number: i32,
}

/// What a member's client calls back with.
#[derive(Clone, Debug)]
pub enum Callback {
    /// Partitions added, perhaps none, in a generation.
    Assign(Vec<i32>, Generation),
    /// Partitions to give up; the group waits for it.
    Revoke(Vec<i32>),
}

/// Where a rebalance moves partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// To any other member.
    AwayFrom(usize),
    /// To this one.
    Towards(usize),
}

impl Steer {
    fn allows(self, process: usize) -> bool {
        match self {
            Self::AwayFrom(other) => process != other,
            Self::Towards(one) => process == one,
        }
    }
}

/// The coordinator.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The generation that it accepts.
    pub generation: i32,
    /// Member ids by instance.
    pub members: BTreeMap<usize, u64>,
    /// Who owns which partition, as the coordinator knows.
    owner: BTreeMap<i32, usize>,
    /// Partitions that their owner was told to give up.
    revoking: BTreeSet<i32>,
    /// The next rebalance is due.
    pub dirty: bool,
    /// Where partitions are to go, while somebody cares.
    pub steer: Option<Steer>,
    issued: u64,
}

impl Group {
    /// An instance joins. A static member that is still known takes its partitions over under a new member
    /// id, without a rebalance.
    pub fn join(&mut self, process: usize) -> Option<Callback> {
        self.issued += 1;
        let member = self.issued;
        if self.members.insert(process, member).is_none() {
            self.dirty = true;
            return None;
        }
        let given_up: Vec<i32> = self.owned(process, true);
        for partition in given_up {
            self.release(process, partition);
        }
        let generation = Generation { process, member, number: self.generation };
        Some(Callback::Assign(self.owned(process, false), generation))
    }

    fn owned(&self, process: usize, revoking: bool) -> Vec<i32> {
        let of =
            |(p, o): (&i32, &usize)| (*o == process && self.revoking.contains(p) == revoking).then_some(*p);
        self.owner.iter().filter_map(of).collect()
    }

    /// A member gave a partition up.
    pub fn release(&mut self, process: usize, partition: i32) {
        if self.owner.get(&partition) == Some(&process) {
            self.owner.remove(&partition);
            self.revoking.remove(&partition);
            self.dirty = true;
        }
    }

    /// A member's session is over: its partitions are free, whatever it thinks.
    pub fn expel(&mut self, process: usize) {
        if self.members.remove(&process).is_some() {
            let revoking = &mut self.revoking;
            self.owner.retain(|partition, owner| {
                let keep = *owner != process;
                if !keep {
                    revoking.remove(partition);
                }
                keep
            });
            self.dirty = true;
        }
    }

    /// Whether an instance is a member under this id.
    #[must_use]
    pub fn knows(&self, process: usize, member: Option<u64>) -> bool {
        member.is_some() && self.members.get(&process).copied() == member
    }

    /// Whether a commit by this generation is taken.
    #[must_use]
    pub fn accepts(&self, generation: &Generation) -> bool {
        self.generation == generation.number && self.knows(generation.process, Some(generation.member))
    }

    /// All members have joined again: a new generation, with what each is told.
    pub fn rebalance(&mut self, random: &mut Random, partitions: i32) -> Vec<(usize, Callback)> {
        self.dirty = false;
        self.generation += 1;
        let members: Vec<usize> = self.members.keys().copied().collect();
        let steer = self.steer.filter(|steer| members.iter().any(|member| steer.allows(*member)));
        let allows = |member: usize| steer.is_none_or(|steer| steer.allows(member));
        let targets: Vec<usize> = members.iter().copied().filter(|member| allows(*member)).collect();
        let mut told = Vec::new();
        let mut added: BTreeMap<usize, Vec<i32>> = members.iter().map(|m| (*m, Vec::new())).collect();
        let mut lost: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
        for partition in 0..partitions {
            let Some(target) = random.pick(&targets) else { break };
            match self.owner.get(&partition).copied() {
                None => {
                    self.owner.insert(partition, target);
                    added.entry(target).or_default().push(partition);
                }
                Some(owner)
                    if owner == target
                        || self.revoking.contains(&partition)
                        || (steer.is_none_or(|steer| steer.allows(owner)) && random.chance(600)) => {}
                Some(owner) => {
                    self.revoking.insert(partition);
                    lost.entry(owner).or_default().push(partition);
                }
            }
        }
        for (process, partitions) in lost {
            told.push((process, Callback::Revoke(partitions)));
        }
        for (process, partitions) in added {
            let member = self.members.get(&process).copied().unwrap_or(0);
            let generation = Generation { process, member, number: self.generation };
            told.push((process, Callback::Assign(partitions, generation)));
        }
        told
    }
}
