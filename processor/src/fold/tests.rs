//! The fold against a naive model: plain lists, searched anew for each record. And what any replay rests on:
//! that checkpoints, wherever they fall, change nothing, and that decoders of stored bytes never panic.

mod gaps;
mod model;
mod stored;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use rdkafka::message::Headers;
use shared::config::GapPolicy;
use shared::event::{CONTROL_PREFIX, CONTROL_SOURCE, Event, EventView};

use self::model::{books, firsts, model};
use super::config::SourceFold;
use super::*;
use crate::control::{ConfigRecord, Control, GapExpired};
use crate::journal::JournalRecord;
use crate::position::Epoch;

const PIPELINE: &str = "p";
const WAIT_MS: i64 = 1_000;
const EPOCH: Epoch = Epoch { lineage: 1, claim: 0 };

pub(crate) fn config(window_ms: i64) -> FoldConfig {
    with_policy(window_ms, GapPolicy::Skip)
}

fn with_policy(window_ms: i64, gap_policy: GapPolicy) -> FoldConfig {
    let sequence = |start| Order::Sequence { start, gap_wait_ms: WAIT_MS, gap_policy };
    let all = [
        ("arrival", Order::Arrival),
        ("version", Order::Version),
        ("sequence", sequence(Some(1))),
        ("unbased", sequence(None)),
    ];
    let source = |(name, order): (&str, Order)| {
        let ignored = RuleFold { types: vec!["ignored.*".into()], order: None };
        (name.to_owned(), SourceFold { rules: vec![ignored], order })
    };
    FoldConfig {
        version: fold_version(),
        window_ms,
        held_events_max: 1_000,
        held_bytes_max: 1 << 20,
        sources: all.into_iter().map(source).collect(),
    }
}

/// How an event came into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Webhook,
    /// By polling.
    Snapshot,
    /// By polling, and the record has no number.
    Unnumbered,
}

/// An event, as its sender knows it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    source: &'static str,
    id: u32,
    entity: u8,
    number: u8,
    as_time: bool,
    kind: &'static str,
    found: Found,
    /// Time since the record before it.
    after_ms: i64,
}

pub(crate) fn sent() -> impl Strategy<Value = Sent> {
    let source =
        prop_oneof![Just("arrival"), Just("version"), Just("sequence"), Just("unbased"), Just("other")];
    let kind = prop_oneof![9 => Just("order.changed"), 1 => Just("ignored.this")];
    let found =
        prop_oneof![8 => Just(Found::Webhook), 3 => Just(Found::Snapshot), 1 => Just(Found::Unnumbered)];
    (source, 0..30_u32, 0..2_u8, 1..9_u8, any::<bool>(), kind, found, -50..400_i64).prop_map(
        |(source, id, entity, number, as_time, kind, found, after_ms)| {
            // Versions of one entity are all of one kind.
            let as_time = source == "version" && as_time && entity == 1;
            let entity = if as_time { 2 } else { entity };
            Sent { source, id, entity, number, as_time, kind, found, after_ms }
        },
    )
}

fn frame(event: &Event, body: &[u8]) -> Frame {
    let headers = event.to_headers();
    let list: Vec<_> = headers.iter().map(|h| (h.key, h.value)).collect();
    Frame::pack(Some(event.key(body).as_bytes()), list.into_iter(), Some(body))
}

pub(crate) fn records(sent: &[Sent]) -> Vec<Record> {
    let mut time_ms = 1_000_000;
    let record = |(offset, sent): (usize, &Sent)| {
        time_ms += sent.after_ms;
        let number = sent.number;
        let sequence = if sent.as_time { format!("2026-01-01T00:00:0{number}Z") } else { number.to_string() };
        let event = Event {
            id: sent.id.to_string(),
            source: sent.source.into(),
            kind: sent.kind.into(),
            entity: Some(sent.entity.to_string()),
            snapshot: (sent.found != Found::Webhook).then(|| sequence.clone()),
            sequence: (sent.found != Found::Unnumbered).then_some(sequence),
            ..Event::default()
        };
        Record { offset: offset as i64, time_ms, frame: frame(&event, b"{}") }
    };
    sent.iter().enumerate().map(record).collect()
}

fn control(offset: i64, time_ms: i64, key: &[u8], control: &Control) -> Record {
    let (event, body) = control.to_event(jiff::Timestamp::UNIX_EPOCH).unwrap();
    let headers = event.to_headers();
    let list: Vec<_> = headers.iter().map(|h| (h.key, h.value)).collect();
    Record { offset, time_ms, frame: Frame::pack(Some(key), list.into_iter(), Some(&body)) }
}

pub(crate) fn new_state(config: FoldConfig) -> State {
    let mut state = State::new(0);
    state.start_with(InForce { config, epoch: EPOCH });
    state
}

/// Folds, with a checkpoint behind each record that `cut` names, which is final when the next one begins.
fn fold(
    state: &mut State,
    records: &[Record],
    cut: impl Fn(usize) -> bool,
) -> (Vec<Option<Verdict>>, Vec<Effect>) {
    let (mut verdicts, mut effects) = (Vec::new(), Vec::new());
    let mut under_way: Option<Delta> = None;
    for (n, record) in records.iter().enumerate() {
        verdicts.push(decide(state, record, PIPELINE, &mut effects).unwrap());
        if cut(n) {
            under_way.take().into_iter().for_each(|delta| state.apply(delta));
            let delta = state.seal();
            // As it comes out of the journal.
            let bytes = postcard::to_allocvec(&delta).unwrap();
            let read: Delta = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(read, delta);
            under_way = Some(read);
        }
    }
    under_way.into_iter().for_each(|delta| state.apply(delta));
    let delta = state.delta();
    state.apply(delta);
    (verdicts, effects)
}

fn counts(state: &State) -> BTreeMap<Verdict, u64> {
    let Totals { applied, duplicate, stale, held, dead_lettered, ignored, .. } = state.head().totals;
    let all = [
        (Verdict::Applied, applied),
        (Verdict::Duplicate, duplicate),
        (Verdict::Stale, stale),
        (Verdict::Held, held),
        (Verdict::DeadLettered, dead_lettered),
        (Verdict::Ignored, ignored),
    ];
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

proptest! {
    /// Promise: verdicts and effects are what the rules say, for all orders side by side.
    #[test]
    fn the_fold_does_what_a_plain_list_says(sent in proptest::collection::vec(sent(), 0..60)) {
        let records = records(&sent);
        let mut state = new_state(config(i64::MAX / 4));
        let (verdicts, effects) = fold(&mut state, &records, |_| false);
        let expected = model(&sent);
        prop_assert_eq!(counts(&state), books(&sent, &expected));
        let wanted: Vec<_> = expected.iter().map(|(verdict, _)| Some(*verdict)).collect();
        prop_assert_eq!(verdicts, wanted);
        let applied: Vec<_> = effects
            .iter()
            .filter(|e| e.action == Action::Apply)
            .map(|e| (e.position.offset as usize, e.event_offset as usize))
            .collect();
        let wanted: Vec<_> = expected
            .iter()
            .enumerate()
            .flat_map(|(n, (_, released))| released.iter().map(move |event| (n, *event)))
            .collect();
        prop_assert_eq!(applied, wanted);
    }

    /// Promise: under the first version of the fold, what polling found is a webhook like any other.
    #[test]
    fn the_first_version_knows_no_snapshots(sent in proptest::collection::vec(sent(), 0..60)) {
        let mut first = config(i64::MAX / 4);
        first.version = 1;
        let records = records(&sent);
        let (verdicts, _) = fold(&mut new_state(first), &records, |_| false);
        let mut webhooks = sent.clone();
        for event in webhooks.iter_mut().filter(|event| event.found == Found::Snapshot) {
            event.found = Found::Webhook;
        }
        let expected = model(&webhooks);
        let is_ordered = |s: &Sent| s.source == "sequence" || s.source == "unbased";
        for (n, (wanted, _)) in expected.into_iter().enumerate() {
            // Without a number it is a dead letter, and not applied as it is.
            let dead = webhooks[n].found == Found::Unnumbered && is_ordered(&webhooks[n]);
            let wanted = if dead && wanted == Verdict::Applied { Verdict::DeadLettered } else { wanted };
            prop_assert_eq!(verdicts[n], Some(wanted), "event {}", n);
        }
    }

    /// Promise: when all gaps' waits are over, what was held is applied in the order of its numbers, once.
    #[test]
    fn skipped_gaps_release_everything_sorted(sent in proptest::collection::vec(sent(), 0..60)) {
        let mut records = records(&sent);
        let mut state = new_state(config(i64::MAX / 4));
        let (_, mut effects) = fold(&mut state, &records, |_| false);
        let mut time_ms = state.head().stream_time_ms;
        while state.gaps_open() > 0 {
            time_ms += WAIT_MS + 1;
            let due: Vec<_> =
                state.gaps_due(time_ms).map(|open| (open.key.to_vec(), open.next, open.gap)).collect();
            prop_assert!(!due.is_empty());
            for (key, next, gap) in due {
                let expired = GapExpired {
                    pipeline: PIPELINE.into(), next, opened_at: gap.opened_at, stage: 0,
                    by: String::new(), why: String::new(),
                };
                let offset = records.len() as i64;
                let record = control(offset, time_ms, &key, &Control::GapExpired(expired));
                decide(&mut state, &record, PIPELINE, &mut effects).unwrap();
                records.push(record);
            }
            let delta = state.delta();
            state.apply(delta);
        }
        prop_assert_eq!(state.head().totals.held, 0);
        prop_assert_eq!(state.head().totals.events(), sent.len() as u64);
        let mut by_entity: BTreeMap<(&str, u8), Vec<u8>> = BTreeMap::new();
        for effect in effects.iter().filter(|e| e.action == Action::Apply) {
            let event = &sent[effect.event_offset as usize];
            let is_counted = event.source == "sequence" || event.source == "unbased";
            if is_counted && event.found != Found::Unnumbered {
                by_entity.entry((event.source, event.entity)).or_default().push(event.number);
            }
        }
        for ((source, entity), applied) in by_entity {
            let mut sorted = applied.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(&applied, &sorted, "{} {}", source, entity);
            let is_own = |s: &&Sent| s.source == source && s.entity == entity;
            if source == "unbased" && sent.iter().filter(is_own).all(|s| s.found == Found::Webhook) {
                let mut all: Vec<u8> = firsts(&sent, sent.len().saturating_sub(1))
                    .into_iter()
                    .filter(|i| sent[*i].source == source && sent[*i].entity == entity)
                    .map(|i| sent[i].number)
                    .collect();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(applied, all);
            }
        }
    }

    /// Promise: any two ways to cut the same log into checkpoints give the same verdicts, effects and bytes;
    /// also where ids expire, and where the window is configured anew on the way.
    #[test]
    fn checkpoints_change_nothing(
        sent in proptest::collection::vec(sent(), 0..60),
        windows in proptest::collection::vec((0..60_usize, 100..5_000_i64), 0..3),
        cuts in any::<u64>(),
        others in any::<u64>(),
    ) {
        let mut records = records(&sent);
        for (at, window_ms) in windows {
            if let Some(record) = records.get_mut(at) {
                let changed = ConfigRecord {
                    pipeline: PIPELINE.into(), epoch: EPOCH, fold: config(window_ms),
                    by: String::new(), why: String::new(),
                };
                *record = control(record.offset, record.time_ms, b"p", &Control::Config(changed));
            }
        }
        let (mut one, mut two) = (new_state(config(2_000)), new_state(config(2_000)));
        let first = fold(&mut one, &records, |n| cuts >> (n % 64) & 1 == 1);
        let second = fold(&mut two, &records, |n| others >> (n % 64) & 1 == 1);
        prop_assert_eq!(first, second);
        let bytes = |state: &State| postcard::to_allocvec(&state.whole()).unwrap();
        prop_assert_eq!(bytes(&one), bytes(&two));
    }

    /// Promise: what was folded since the last checkpoint can be dropped and folded again, also where a checkpoint is
    /// under way.
    #[test]
    fn a_dropped_overlay_leaves_no_trace(
        sent in proptest::collection::vec(sent(), 0..40),
        at in 0..40_usize,
        sealed in 0..40_usize,
    ) {
        let records = records(&sent);
        let at = at.min(records.len());
        let (mut one, mut two) = (new_state(config(2_000)), new_state(config(2_000)));
        fold(&mut one, &records[..at], |_| false);
        let mut effects = Vec::new();
        for (n, record) in records[at..].iter().enumerate() {
            decide(&mut one, record, PIPELINE, &mut effects).unwrap();
            if n == sealed {
                let _ = one.seal();
            }
        }
        one.drop_overlay();
        let again = fold(&mut one, &records[at..], |_| false).1;
        prop_assert_eq!(again, effects);
        fold(&mut two, &records, |_| false);
        prop_assert_eq!(one.whole(), two.whole());
    }

    /// Promise: a repeat within the window is a duplicate; after the window and an eighth it is new.
    #[test]
    fn ids_are_remembered_for_the_window_of_stream_time(
        start in 0..10_000_i64,
        window in 80..5_000_i64,
        after in 0..10_000_i64,
        back in 0..5_000_i64,
    ) {
        let mut state = new_state(config(window));
        let event = |id: &str| Event {
            id: id.into(), source: "arrival".into(), kind: "k".into(), ..Event::default()
        };
        let record = |offset, time_ms, id| Record { offset, time_ms, frame: frame(&event(id), b"") };
        // The second one's clock is behind: stream time stands still.
        let list = [
            record(0, start, "a"), record(1, start + after, "b"), record(2, start + after - back.min(after), "a"),
        ];
        let (verdicts, _) = fold(&mut state, &list, |n| n % 2 == 0);
        if after <= window {
            prop_assert_eq!(verdicts[2], Some(Verdict::Duplicate));
        } else if after > window + window / 8 {
            prop_assert_eq!(verdicts[2], Some(Verdict::Applied));
        }
    }

    /// Promise: a refusal turns exactly its effect into a dead letter, and what follows it is decided as before.
    #[test]
    fn a_refusal_changes_its_effect_only(sent in proptest::collection::vec(sent(), 1..40), pick in any::<usize>()) {
        let records = records(&sent);
        let (_, effects) = fold(&mut new_state(config(i64::MAX / 4)), &records, |_| false);
        let applied: Vec<_> = effects.iter().filter(|e| e.action == Action::Apply).collect();
        prop_assume!(!applied.is_empty());
        let refused = applied[pick % applied.len()].position;
        let mut state = new_state(config(i64::MAX / 4));
        state.refuse(refused, "no".into());
        let (_, again) = fold(&mut state, &records, |_| false);
        let wanted: Vec<Effect> = effects
            .into_iter()
            .map(|e| if e.position == refused { Effect { action: Action::Refused, ..e } } else { e })
            .collect();
        prop_assert_eq!(again, wanted);
    }

    /// Promise: bytes from outside never make a decoder panic.
    #[test]
    fn decoders_take_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in "[a-z-]{0,12}") {
        let _ = JournalRecord::decode(0, &bytes);
        let journal: Vec<u8> = b"HKJ\x01".iter().chain(&bytes).copied().collect();
        let _ = JournalRecord::decode(0, &journal);
        let _ = Entity::from_bytes(&Bytes::from(bytes.clone()));
        let _ = postcard::from_bytes::<Delta>(&bytes);
        for kind in [kind.as_str(), "config", "gap-expired", "gap-skip"] {
            let kind = format!("{CONTROL_PREFIX}{kind}");
            let event = EventView { kind: &kind, source: CONTROL_SOURCE, ..EventView::default() };
            let _ = Control::parse(&event, &bytes);
        }
    }

    /// Promise: damage within a stored entity is noticed or harmless, never a panic.
    #[test]
    fn damaged_entities_never_panic(
        sent in proptest::collection::vec(sent(), 1..20), at in any::<usize>(), bit in 0..8_u8,
    ) {
        let mut state = new_state(config(i64::MAX / 4));
        fold(&mut state, &records(&sent), |_| false);
        for (_, entity) in state.whole().entities {
            let mut bytes = entity.to_bytes();
            prop_assert_eq!(Entity::from_bytes(&Bytes::from(bytes.clone())).unwrap(), entity);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = Entity::from_bytes(&Bytes::from(bytes));
        }
    }
}
