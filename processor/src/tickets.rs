//! Tickets: who may claim and checkpoint a partition now. Step P2 of the protocol.
//!
//! Kafka fences members of a group, not owners of a partition. So each assignment of a partition has a
//! ticket; a revocation or loss invalidates it, and waits for the claims and checkpoints that hold it while they
//! commit. `G` is the group's generation, by which Kafka fences members.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::defect::{Defect, planted};

/// A ticket that is held for longer is not waited for: its transaction was given up, and has timed out
/// (`transaction.timeout.ms` is 15 s).
const HELD_MAX: Duration = Duration::from_secs(25);

/// The number of an assignment: another one each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The valid tickets, and the generation that they stand for.
#[derive(Debug)]
pub struct Tickets<G> {
    inner: Mutex<Inner<G>>,
    released: Condvar,
}

#[derive(Debug)]
struct Inner<G> {
    generation: Option<G>,
    valid: BTreeMap<i32, Ticket>,
    /// Partitions whose tickets are held, and until when that is waited for.
    held: Vec<(i32, Instant)>,
    issued: u64,
}

/// While it lives, revocations of the tickets that it was made for wait.
#[derive(Debug)]
pub struct Held<G> {
    tickets: Arc<Tickets<G>>,
    partitions: Vec<i32>,
    until: Instant,
    generation: G,
}

impl<G> Default for Tickets<G> {
    fn default() -> Self {
        let inner = Inner { generation: None, valid: BTreeMap::new(), held: Vec::new(), issued: 0 };
        Self { inner: Mutex::new(inner), released: Condvar::new() }
    }
}

impl<G> Tickets<G> {
    fn lock(&self) -> MutexGuard<'_, Inner<G>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An assignment, empty or not: issues tickets for its partitions, and renews all others by the
    /// generation.
    pub fn assign(&self, partitions: &[i32], generation: G) -> Vec<(i32, Ticket)> {
        let mut inner = self.lock();
        inner.generation = Some(generation);
        let mut issued = Vec::with_capacity(partitions.len());
        for partition in partitions {
            inner.issued += 1;
            let ticket = Ticket(inner.issued);
            inner.valid.insert(*partition, ticket);
            issued.push((*partition, ticket));
        }
        issued
    }

    /// A revocation or loss: invalidates, then waits for the commits under way, 25 s at most.
    pub fn revoke(&self, partitions: &[i32]) {
        let mut inner = self.lock();
        for partition in partitions {
            inner.valid.remove(partition);
        }
        loop {
            let now = Instant::now();
            let held = inner.held.iter().filter(|(p, until)| partitions.contains(p) && *until > now);
            let Some(until) = held.map(|(_, until)| *until).max() else { return };
            inner = self.released.wait_timeout(inner, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<G: Clone> Tickets<G> {
    /// Holds tickets for the length of a commit; `None` where one is not valid any more.
    pub fn hold(self: &Arc<Self>, wanted: &[(i32, Ticket)]) -> Option<Held<G>> {
        let mut inner = self.lock();
        let valid = wanted.iter().all(|(partition, ticket)| match inner.valid.get(partition) {
            Some(valid) => valid == ticket || planted(Defect::TicketNumberIgnored),
            None => false,
        });
        let generation = inner.generation.clone().filter(|_| valid)?;
        let until = Instant::now() + HELD_MAX;
        let partitions: Vec<i32> = wanted.iter().map(|(partition, _)| *partition).collect();
        inner.held.extend(partitions.iter().map(|partition| (*partition, until)));
        Some(Held { tickets: self.clone(), partitions, until, generation })
    }
}

impl<G> Held<G> {
    /// The generation to commit with. Never another one: it could be that of a later assignment.
    #[must_use]
    pub fn generation(&self) -> &G {
        &self.generation
    }
}

impl<G> Drop for Held<G> {
    fn drop(&mut self) {
        let mut inner = self.tickets.lock();
        for partition in &self.partitions {
            let own = inner.held.iter().position(|held| *held == (*partition, self.until));
            own.map(|own| inner.held.swap_remove(own));
        }
        drop(inner);
        self.tickets.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn generation(tickets: &Arc<Tickets<i32>>, wanted: &[(i32, Ticket)]) -> Option<i32> {
        tickets.hold(wanted).map(|held| *held.generation())
    }

    #[test]
    fn a_ticket_does_not_outlive_its_revocation_even_when_the_partition_comes_back() {
        let tickets = Arc::new(Tickets::default());
        let first = tickets.assign(&[3], 1);
        assert_eq!(generation(&tickets, &first), Some(1));
        tickets.revoke(&[3]);
        assert!(tickets.hold(&first).is_none());
        let second = tickets.assign(&[3], 2);
        assert!(tickets.hold(&first).is_none());
        assert!(tickets.hold(&second).is_some());
    }

    #[test]
    fn an_empty_assignment_renews_what_is_kept() {
        let tickets = Arc::new(Tickets::default());
        let kept = tickets.assign(&[1], 1);
        tickets.assign(&[], 2);
        assert_eq!(generation(&tickets, &kept), Some(2));
    }

    #[test]
    fn a_revocation_waits_for_a_commit_of_its_partitions_and_of_no_other() {
        let tickets = Arc::new(Tickets::default());
        let issued = tickets.assign(&[1, 2], 1);
        let (Some(first), Some(second)) = (tickets.hold(&issued[..1]), tickets.hold(&issued[1..])) else {
            panic!("valid tickets are not held")
        };
        tickets.revoke(&[3]);
        drop(second);
        tickets.revoke(&[2]);
        let (done, revoked) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                tickets.revoke(&[1]);
                done.send(()).ok();
            });
            // Invalid at once: nobody can hold it any more, though the commit goes on.
            while tickets.hold(&issued[..1]).is_some() {}
            assert!(revoked.try_recv().is_err(), "revoked while a commit is under way");
            drop(first);
            assert!(revoked.recv().is_ok());
        });
    }
}
