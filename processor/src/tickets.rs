//! Tickets: who may claim and checkpoint a partition now. Step P2 of the protocol.
//!
//! Kafka fences members of a group, not owners of a partition. So each assignment of a partition has a
//! ticket; a revocation or loss invalidates it under the lock that every claim and checkpoint holds while it
//! commits. `G` is the group's generation, by which Kafka fences members.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::defect::{Defect, planted};

/// The number of an assignment: another one each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The valid tickets, and the generation that they stand for.
#[derive(Debug)]
pub struct Tickets<G> {
    inner: RwLock<Inner<G>>,
}

#[derive(Debug)]
struct Inner<G> {
    generation: Option<G>,
    valid: BTreeMap<i32, Ticket>,
    issued: u64,
}

/// While it lives, the tickets that it was made for stay valid.
#[derive(Debug)]
pub struct Held<'a, G> {
    guard: RwLockReadGuard<'a, Inner<G>>,
}

impl<G> Default for Tickets<G> {
    fn default() -> Self {
        Self { inner: RwLock::new(Inner { generation: None, valid: BTreeMap::new(), issued: 0 }) }
    }
}

impl<G> Tickets<G> {
    /// An assignment, empty or not: issues tickets for its partitions, and renews all others by the
    /// generation.
    pub fn assign(&self, partitions: &[i32], generation: G) -> Vec<(i32, Ticket)> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
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

    /// A revocation or loss: waits for commits under way, then invalidates.
    pub fn revoke(&self, partitions: &[i32]) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for partition in partitions {
            inner.valid.remove(partition);
        }
    }

    /// Holds tickets for the length of a commit; `None` where one is not valid any more.
    pub fn hold(&self, wanted: impl IntoIterator<Item = (i32, Ticket)>) -> Option<Held<'_, G>> {
        let guard = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let valid = wanted.into_iter().all(|(partition, ticket)| match guard.valid.get(&partition) {
            Some(valid) => *valid == ticket || planted(Defect::TicketNumberIgnored),
            None => false,
        });
        (valid && guard.generation.is_some()).then_some(Held { guard })
    }
}

impl<G> Held<'_, G> {
    /// The generation to commit with. Never another one: it could be that of a later assignment.
    #[must_use]
    pub fn generation(&self) -> Option<&G> {
        self.guard.generation.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_does_not_outlive_its_revocation_even_when_the_partition_comes_back() {
        let tickets = Tickets::default();
        let first = tickets.assign(&[3], 1);
        assert_eq!(tickets.hold(first.clone()).and_then(|held| held.generation().copied()), Some(1));
        tickets.revoke(&[3]);
        assert!(tickets.hold(first.clone()).is_none());
        let second = tickets.assign(&[3], 2);
        assert!(tickets.hold(first).is_none());
        assert!(tickets.hold(second).is_some());
    }

    #[test]
    fn an_empty_assignment_renews_what_is_kept() {
        let tickets = Tickets::default();
        let kept = tickets.assign(&[1], 1);
        tickets.assign(&[], 2);
        assert_eq!(tickets.hold(kept).and_then(|held| held.generation().copied()), Some(2));
    }
}
