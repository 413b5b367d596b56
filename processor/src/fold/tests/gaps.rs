//! Gaps and what ends them: the wait, an operator, the missing event, a snapshot; by each policy.

use super::*;
use crate::control::GapSkip;

const POLICIES: [GapPolicy; 4] =
    [GapPolicy::Skip, GapPolicy::Park, GapPolicy::BackfillOrSkip, GapPolicy::BackfillOrPark];

/// A partition under a policy, and what was folded of it.
struct Log {
    state: State,
    offset: i64,
    time_ms: i64,
    effects: Vec<Effect>,
    /// The numbers that were held and became stale.
    passed: Vec<u64>,
}

impl Log {
    fn new(config: FoldConfig) -> Self {
        Self {
            state: new_state(config),
            offset: 0,
            time_ms: 1_000_000,
            effects: Vec::new(),
            passed: Vec::new(),
        }
    }

    fn take(&mut self, record: &Record) -> Option<Verdict> {
        let verdict = decide(&mut self.state, record, PIPELINE, &mut self.effects).unwrap();
        self.passed.extend(self.state.take_passed().iter().map(|held| number_of(&held.frame)));
        let delta = self.state.delta();
        self.state.apply(delta);
        self.offset += 1;
        verdict
    }

    /// An event of the one entity; the id is unlike any other's.
    fn event(&mut self, source: &str, number: Option<u64>, found: Found) -> Verdict {
        let sequence = number.map(|number| number.to_string());
        let event = Event {
            id: self.offset.to_string(),
            source: source.into(),
            kind: "order.changed".into(),
            entity: Some("7".into()),
            snapshot: (found != Found::Webhook).then(|| "v".to_owned()),
            sequence,
            ..Event::default()
        };
        let record = Record { offset: self.offset, time_ms: self.time_ms, frame: frame(&event, b"{}") };
        self.take(&record).unwrap()
    }

    fn webhook(&mut self, number: u64) -> Verdict {
        self.event("sequence", Some(number), Found::Webhook)
    }

    fn snapshot(&mut self, number: u64) -> Verdict {
        self.event("sequence", Some(number), Found::Snapshot)
    }

    /// The only gap that is open: the entity's key, what is missing, the gap.
    fn gap(&self) -> (Vec<u8>, Option<u64>, Gap) {
        let mut open = self.state.gaps().map(|open| (open.key.to_vec(), open.next, open.gap));
        let gap = open.next().unwrap();
        assert_eq!(open.next(), None);
        gap
    }

    /// The wait is over, and the owner says so.
    fn expire(&mut self) {
        let (key, next, gap) = self.gap();
        self.time_ms += WAIT_MS + 1;
        let (by, why) = (String::new(), String::new());
        let expired =
            GapExpired { pipeline: PIPELINE.into(), next, opened_at: gap.opened_at, stage: 0, by, why };
        self.take(&control(self.offset, self.time_ms, &key, &Control::GapExpired(expired)));
    }

    fn skip(&mut self, pipeline: &str, next: Option<u64>, opened_at: i64) {
        let (key, ..) = self.gap();
        let (by, why) = ("ann".to_owned(), "lost".to_owned());
        let skip = GapSkip { pipeline: pipeline.into(), next, opened_at, by, why };
        self.take(&control(self.offset, self.time_ms, &key, &Control::GapSkip(skip)));
    }

    /// The numbers that were applied, in their order; without one: 0.
    fn applied(&self) -> Vec<u64> {
        let applied = self.effects.iter().filter(|effect| effect.action == Action::Apply);
        applied.map(|effect| number_of(&effect.frame)).collect()
    }
}

fn number_of(frame: &Frame) -> u64 {
    frame.event().unwrap().sequence.map_or(0, |number| number.parse().unwrap())
}

fn under(policy: GapPolicy) -> Log {
    Log::new(with_policy(i64::MAX / 4, policy))
}

/// Promise: at the end of its wait a gap is given up, or its entity stands still, as its policy says.
#[test]
fn a_policy_decides_at_the_end_of_the_wait() {
    for policy in POLICIES {
        let mut log = under(policy);
        for number in [1, 3, 4, 6] {
            log.webhook(number);
        }
        log.expire();
        if policy.parks() {
            assert_eq!((log.applied(), log.state.gaps_parked()), (vec![1], 1), "{policy:?}");
            assert_eq!(log.state.gaps_due(i64::MAX).count(), 0, "a parked gap is never due");
            assert_eq!(log.webhook(7), Verdict::Held);
            // Whatever is said of its end, and however late.
            log.expire();
            assert_eq!(log.state.head().totals.held, 4);
            // The missing event is still taken, and opens the next gap with a wait of its own.
            assert_eq!(log.webhook(2), Verdict::Applied);
            assert_eq!((log.applied(), log.state.gaps_parked()), (vec![1, 2, 3, 4], 0), "{policy:?}");
            assert_eq!(log.gap().1, Some(5));
        } else {
            assert_eq!((log.applied(), log.state.gaps_parked()), (vec![1, 3, 4], 0), "{policy:?}");
            assert_eq!(log.gap().1, Some(5));
        }
    }
}

/// Promise: a first number that is looked for is no missing event: no policy parks an entity for it.
#[test]
fn the_first_number_is_found_by_every_policy() {
    for policy in POLICIES {
        let mut log = under(policy);
        assert_eq!(log.event("unbased", Some(40), Found::Webhook), Verdict::Held);
        log.expire();
        assert_eq!((log.applied(), log.state.gaps_open()), (vec![40], 0), "{policy:?}");
    }
}

/// Promise: what a parked entity cannot hold is a dead letter, and its reason says that the entity is parked.
#[test]
fn a_parked_entity_holds_up_to_its_limits() {
    let limits =
        [(2, 1 << 20, "2 events of the parked entity"), (100, 600, "the parked entity's held events")];
    for (held_events_max, held_bytes_max, said) in limits {
        let mut log =
            Log::new(FoldConfig { held_events_max, held_bytes_max, ..with_policy(1 << 40, GapPolicy::Park) });
        log.webhook(1);
        log.webhook(3);
        log.expire();
        let ends: Vec<Verdict> = (4..8).map(|number| log.webhook(number)).collect();
        assert_eq!(ends.last(), Some(&Verdict::DeadLettered));
        let reasons = log.effects.iter().filter_map(|effect| match &effect.action {
            Action::DeadLetter(reason) => Some(reason.as_str()),
            Action::Apply | Action::Refused => None,
        });
        assert!(reasons.clone().count() > 0 && reasons.clone().all(|why| why.starts_with(said)), "{said}");
        assert_eq!(log.state.gaps_parked(), 1);
    }
}

/// Promise: an operator's skip ends the gap that it names, before its deadline or after, and no other.
#[test]
fn an_operator_skips_the_gap_that_is_named() {
    for parked in [false, true] {
        let mut log = under(GapPolicy::Park);
        for number in [1, 3, 5] {
            log.webhook(number);
        }
        if parked {
            log.expire();
        }
        let (_, next, gap) = log.gap();
        log.skip(PIPELINE, next, gap.opened_at + 1);
        log.skip(PIPELINE, Some(4), gap.opened_at);
        log.skip("other", next, gap.opened_at);
        assert_eq!((log.applied(), log.state.gaps_parked()), (vec![1], usize::from(parked)));
        log.skip(PIPELINE, next, gap.opened_at);
        assert_eq!((log.applied(), log.gap().1), (vec![1, 3], Some(4)));
        assert!(!log.gap().2.is_parked(), "the next gap has a wait of its own");
        // The same command again names a gap that is gone.
        log.skip(PIPELINE, next, gap.opened_at);
        assert_eq!(log.applied(), [1, 3]);
        assert_eq!(log.state.head().totals.control, 5 + u64::from(parked));
    }
}

/// Promise: under the first version of the fold an operator's skip is not obeyed, as the programs of that version do.
#[test]
fn the_first_version_knows_no_skip() {
    let mut log = Log::new(FoldConfig { version: 1, ..config(i64::MAX / 4) });
    log.webhook(1);
    log.webhook(3);
    let (_, next, gap) = log.gap();
    log.skip(PIPELINE, next, gap.opened_at);
    assert_eq!((log.applied(), log.state.gaps_open()), (vec![1], 1));
}

/// Promise: a snapshot takes the place of the missing event and of all before it; what waited up to it is stale, what
/// follows it goes on; also where the entity is parked.
#[test]
fn a_snapshot_closes_the_gap() {
    for parked in [false, true] {
        let mut log = under(GapPolicy::BackfillOrPark);
        for number in [1, 3, 4, 6, 7, 9] {
            log.webhook(number);
        }
        if parked {
            log.expire();
        }
        assert_eq!(log.snapshot(1), Verdict::Duplicate);
        assert_eq!(log.snapshot(0), Verdict::Stale);
        assert_eq!(log.state.gaps_parked(), usize::from(parked));
        assert_eq!(log.snapshot(5), Verdict::Applied);
        assert_eq!((log.applied(), &*log.passed), (vec![1, 5, 6, 7], &[3, 4][..]));
        let totals = log.state.head().totals;
        assert_eq!((totals.applied, totals.stale, totals.held, totals.duplicate), (4, 3, 1, 1));
        assert_eq!((log.gap().1, log.state.gaps_parked()), (Some(8), 0));
    }
}

/// Promise: the webhook that a snapshot was quicker than is a duplicate; a conflict is still told between webhooks.
#[test]
fn a_webhook_behind_its_snapshot_is_a_duplicate() {
    let mut log = under(GapPolicy::Skip);
    assert_eq!(log.snapshot(5), Verdict::Applied);
    assert_eq!(log.webhook(5), Verdict::Duplicate);
    assert_eq!(log.webhook(5), Verdict::Duplicate);
    assert_eq!(log.webhook(4), Verdict::Stale);
    assert_eq!(log.webhook(6), Verdict::Applied);
    assert_eq!(log.snapshot(6), Verdict::Duplicate);
    assert_eq!(log.webhook(6), Verdict::DeadLettered);
    assert_eq!(log.applied(), [5, 6]);
}

/// Promise: a snapshot without a number is applied as it is, and what waits goes on waiting.
#[test]
fn a_snapshot_without_a_number_closes_no_gap() {
    let mut log = under(GapPolicy::Skip);
    log.webhook(1);
    log.webhook(3);
    assert_eq!(log.event("sequence", None, Found::Unnumbered), Verdict::Applied);
    assert_eq!((log.applied(), log.gap().1), (vec![1, 0], Some(2)));
    assert_eq!(log.webhook(2), Verdict::Applied);
    assert_eq!(log.applied(), [1, 0, 2, 3]);
}

/// Promise: what could not be read of what polling found is a dead letter, as of a webhook.
#[test]
fn a_snapshot_with_a_problem_is_a_dead_letter() {
    let mut log = under(GapPolicy::Skip);
    let event = Event {
        id: "a".into(),
        source: "sequence".into(),
        kind: "order.changed".into(),
        entity: Some("7".into()),
        sequence: Some("1".into()),
        snapshot: Some("1".into()),
        problem: Some("no type".into()),
        ..Event::default()
    };
    let record = Record { offset: 0, time_ms: 1, frame: frame(&event, b"{}") };
    assert_eq!(log.take(&record), Some(Verdict::DeadLettered));
    assert_eq!(log.webhook(1), Verdict::Applied);
}
