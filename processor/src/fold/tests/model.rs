//! What must come of each record: a second reading of the rules, from the plain list of all records before it.

use std::cmp::Ordering;

use super::*;

/// What the model expects of one record: its verdict, and the offsets of the events that it causes to be
/// applied.
pub(super) type Expected = (Verdict, Vec<usize>);

/// Nothing is kept between records: each is judged from the list of all before it.
pub(super) fn model(sent: &[Sent]) -> Vec<Expected> {
    (0..sent.len()).map(|n| judge(sent, n)).collect()
}

/// Events that were the first of their id, up to and including `n`.
pub(super) fn firsts(sent: &[Sent], n: usize) -> Vec<usize> {
    let is_taken = |s: &Sent| s.source != "other" && !s.kind.starts_with("ignored");
    let same = |a: &Sent, b: &Sent| is_taken(a) && a.source == b.source && a.id == b.id;
    (0..=n)
        .filter(|i| is_taken(&sent[*i]) && !sent[..*i].iter().any(|before| same(before, &sent[*i])))
        .collect()
}

fn judge(sent: &[Sent], n: usize) -> Expected {
    let event = &sent[n];
    if event.source == "other" || event.kind.starts_with("ignored") {
        return (Verdict::Ignored, vec![]);
    }
    let own = |i: &usize| sent[*i].source == event.source && sent[*i].entity == event.entity;
    let entity: Vec<usize> = firsts(sent, n).into_iter().filter(own).collect();
    if entity.last() != Some(&n) {
        return (Verdict::Duplicate, vec![]);
    }
    let before: Vec<usize> =
        entity[..entity.len() - 1].iter().copied().filter(|i| sent[*i].found != Found::Unnumbered).collect();
    match (event.source, event.found) {
        ("arrival", _) | ("sequence" | "unbased", Found::Unnumbered) => (Verdict::Applied, vec![n]),
        (_, Found::Unnumbered) => (Verdict::DeadLettered, vec![]),
        ("version", found) => {
            let newest = before.iter().map(|i| sent[*i].number).max().unwrap_or(0);
            match (event.number.cmp(&newest), found) {
                (Ordering::Greater, _) => (Verdict::Applied, vec![n]),
                (Ordering::Equal, Found::Snapshot) => (Verdict::Duplicate, vec![]),
                (Ordering::Equal | Ordering::Less, _) => (Verdict::Stale, vec![]),
            }
        }
        _ => counted(sent, &before, n),
    }
}

/// The first webhook with a number.
fn webhook_with(sent: &[Sent], list: &[usize], number: u8) -> Option<usize> {
    list.iter().copied().find(|i| sent[*i].found == Found::Webhook && sent[*i].number == number)
}

/// The number that is missing: above the source's start and above every snapshot, the first without a webhook. None
/// where there is neither start nor snapshot.
fn next(sent: &[Sent], list: &[usize], source: &str) -> Option<u8> {
    let snapshots = list.iter().filter(|i| sent[**i].found == Found::Snapshot);
    let newest = snapshots.map(|i| sent[*i].number + 1).max();
    let from = newest.max((source == "sequence").then_some(1))?;
    (from..).find(|number| webhook_with(sent, list, *number).is_none())
}

/// Whether a snapshot, and no webhook, brought the entity to a number.
fn brought_by_snapshot(sent: &[Sent], list: &[usize], number: u8, source: &str) -> bool {
    (0..list.len()).any(|at| {
        let found = &sent[list[at]];
        let was = next(sent, &list[..at], source);
        found.found == Found::Snapshot && found.number == number && was.is_none_or(|was| was <= number)
    })
}

fn counted(sent: &[Sent], before: &[usize], n: usize) -> Expected {
    let Sent { source, number, found, .. } = sent[n];
    let missing = next(sent, before, source);
    let with: Vec<usize> = before.iter().copied().chain([n]).collect();
    let run = |from: u8| {
        let until = next(sent, &with, source).unwrap_or(from);
        (from..until).filter_map(|number| webhook_with(sent, &with, number))
    };
    match (found, missing) {
        (Found::Snapshot, Some(missing)) if number + 1 == missing => (Verdict::Duplicate, vec![]),
        (Found::Snapshot, Some(missing)) if number < missing => (Verdict::Stale, vec![]),
        (Found::Snapshot, _) => (Verdict::Applied, [n].into_iter().chain(run(number + 1)).collect()),
        (_, Some(missing)) if number + 1 == missing => {
            let by_snapshot = brought_by_snapshot(sent, before, number, source);
            (if by_snapshot { Verdict::Duplicate } else { Verdict::DeadLettered }, vec![])
        }
        (_, Some(missing)) if number < missing => (Verdict::Stale, vec![]),
        (_, Some(missing)) if number == missing => (Verdict::Applied, run(number).collect()),
        _ if webhook_with(sent, before, number).is_some() => (Verdict::DeadLettered, vec![]),
        _ => (Verdict::Held, vec![]),
    }
}

/// What the books must say: an event that was held is released, or stale behind a snapshot, or still held.
pub(super) fn books(sent: &[Sent], expected: &[Expected]) -> BTreeMap<Verdict, u64> {
    let released: Vec<usize> = expected.iter().flat_map(|(_, released)| released.clone()).collect();
    let mut books = BTreeMap::new();
    for (n, (verdict, _)) in expected.iter().enumerate() {
        let event = &sent[n];
        let own = |i: &usize| sent[*i].source == event.source && sent[*i].entity == event.entity;
        let all: Vec<usize> = firsts(sent, sent.len() - 1).into_iter().filter(own).collect();
        let passed = next(sent, &all, event.source).is_some_and(|next| event.number < next);
        let end = match (verdict, released.contains(&n)) {
            (Verdict::Held, true) => Verdict::Applied,
            (Verdict::Held, false) if passed => Verdict::Stale,
            (verdict, _) => *verdict,
        };
        *books.entry(end).or_default() += 1;
    }
    books
}
