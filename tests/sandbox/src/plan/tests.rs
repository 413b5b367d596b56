//! The plan is the same every time, has everything in it, and agrees with a naive reading of Hookline's rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::*;
use crate::delivery::{AppliedEvent, Gap};
use crate::sources::{GITHUB, MAKINI};

fn plan(seed: u64, webhooks: usize) -> Plan {
    Plan::new(Sizes { seed, webhooks, body_limit: 65_536 })
}

#[test]
fn the_seed_decides_the_plan() {
    assert_eq!(plan(7, 800), plan(7, 800));
    assert_ne!(plan(7, 800), plan(8, 800));
}

#[test]
fn there_are_as_many_deliveries_as_asked_for() {
    for (seed, webhooks) in [(1, WEBHOOKS_MIN), (2, 251), (3, 300), (4, 1_000), (5, 3_000), (6, 10_001)] {
        let plan = plan(seed, webhooks);
        assert_eq!(plan.deliveries.len(), webhooks, "seed {seed}");
        assert_eq!(plan.rows(), plan.totals(1).verdicts.applied);
        assert!(plan.deliveries.is_sorted_by_key(|d| d.phase));
    }
    assert_eq!(plan(1, 0).deliveries.len(), WEBHOOKS_MIN);
}

#[test]
fn everything_happens_in_the_smallest_plan() {
    for seed in 0..20 {
        let plan = plan(seed, WEBHOOKS_MIN);
        let totals = plan.totals(plan.last_phase());
        let verdicts = totals.verdicts;
        assert!(verdicts.duplicates > 20 && verdicts.stale > 4 && verdicts.dead_lettered > 15, "{totals:?}");
        assert!(verdicts.ignored == 4 && totals.waited > 5, "{totals:?}");
        assert_eq!(totals.accepted, verdicts.sum());
        assert_eq!(totals.refused.keys().collect::<Vec<_>>(), [&401, &404, &413, &422]);
        let what: BTreeSet<_> = plan.deliveries.iter().map(|d| d.what).collect();
        for must in ["behind a gap that never closes", "missing number, too late", "closes a gap"] {
            assert!(what.contains(must), "{must}");
        }
        let numbers = |connection| -> BTreeSet<_> {
            let of = plan.entities.iter().filter(|e| e.source == MAKINI && e.connection == connection);
            of.map(|e| e.entity.clone()).filter(|e| e.starts_with("purchase-order-")).collect()
        };
        assert!(numbers("acme").intersection(&numbers("globex")).count() > 4);
    }
}

#[test]
fn gaps_close_soon() {
    let plan = plan(3, 5_000);
    let mut open = HashMap::new();
    for (n, delivery) in plan.deliveries.iter().enumerate() {
        match delivery.gap {
            Some(Gap::Opens(gap)) => assert!(open.insert(gap, n).is_none()),
            Some(Gap::Closes(gap)) => {
                let steps = n - open.remove(&gap).unwrap();
                assert!(steps < 250, "{steps} deliveries");
            }
            None => {}
        }
    }
    assert!(open.is_empty());
}

/// One entity as a naive reader of the rules keeps it.
#[derive(Default)]
struct Naive {
    applied: Vec<AppliedEvent>,
    last: i128,
    held: BTreeMap<i128, AppliedEvent>,
}

impl Naive {
    fn apply(&mut self, version: i128, event: AppliedEvent) -> Expect {
        self.applied.push(event);
        self.last = version;
        Expect::Accepted(Verdict::Applied)
    }

    fn release(&mut self) {
        while let Some(event) = self.held.remove(&(self.last + 1)) {
            self.apply(self.last + 1, event);
        }
    }

    fn sequence(&mut self, number: i128, event: AppliedEvent) -> Expect {
        if number == self.last || self.held.contains_key(&number) {
            return Expect::Accepted(Verdict::DeadLettered);
        }
        if number < self.last {
            return Expect::Accepted(Verdict::Stale);
        }
        if number > self.last + 1 {
            self.held.insert(number, event);
            return Expect::Waits;
        }
        let expect = self.apply(number, event);
        self.release();
        expect
    }
}

#[test]
fn a_naive_reading_of_the_rules_comes_to_the_same() {
    for seed in 0..30 {
        let plan = plan(seed, 2_000);
        let mut entities: BTreeMap<(String, String, String), Naive> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut phase = 0;
        for (n, delivery) in plan.deliveries.iter().enumerate() {
            if delivery.phase > phase {
                phase = delivery.phase;
                for entity in entities.values_mut() {
                    while let Some(first) = entity.held.keys().next().copied() {
                        entity.last = first - 1;
                        entity.release();
                    }
                }
            }
            if matches!(delivery.expect, Expect::Refused(_)) {
                continue;
            }
            let expect = read(delivery, &mut seen, &mut entities);
            assert_eq!(expect, delivery.expect, "seed {seed}, delivery {n}: {}", delivery.what);
        }
        for entity in &plan.entities {
            let key = (entity.source.to_owned(), entity.connection.to_owned(), entity.entity.clone());
            let naive = entities.remove(&key).unwrap();
            assert_eq!(naive.applied, entity.applied, "seed {seed}, {key:?}");
            assert!(naive.held.is_empty());
        }
        entities.retain(|_, naive| !naive.applied.is_empty());
        assert!(entities.is_empty());
    }
}

fn read(
    delivery: &Delivery,
    seen: &mut BTreeSet<(String, String)>,
    entities: &mut BTreeMap<(String, String, String), Naive>,
) -> Expect {
    let dead = Expect::Accepted(Verdict::DeadLettered);
    let body = delivery.body.clone();
    let json = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let at = |pointer: &str| json.as_ref().and_then(|json| json.pointer(pointer)).cloned();
    let text = |pointer: &str| at(pointer).and_then(|v| v.as_str().map(str::to_owned));
    let is_github = delivery.path == format!("/webhooks/{GITHUB}");
    let connection = if is_github { "" } else { delivery.path.rsplit('/').next().unwrap() };
    let kind = text("/type").unwrap_or_default();
    if kind == "ping" {
        return Expect::Accepted(Verdict::Ignored);
    }
    let header = |name: &str| delivery.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
    let id = if is_github { header("X-GitHub-Delivery") } else { text("/id") };
    let id = id.filter(|id| (1..=1024).contains(&id.len()));
    let known = id.clone().unwrap_or_else(|| hex::encode(&body));
    if !seen.insert((connection.to_owned(), known)) {
        return Expect::Accepted(Verdict::Duplicate);
    }
    let Some(event_id) = id else { return dead };
    let (source, entity) = if is_github {
        (GITHUB, text("/repository/full_name"))
    } else if kind.starts_with("connection.") {
        (MAKINI, text("/connection_id").map(|id| format!("connection-{id}")))
    } else {
        (MAKINI, text("/data/number").map(|number| format!("purchase-order-{number}")))
    };
    let Some(entity) = entity else { return dead };
    let naive = entities.entry((source.to_owned(), connection.to_owned(), entity)).or_default();
    if is_github {
        return naive.apply(0, AppliedEvent { event_id, sequence: None, body });
    }
    if kind.starts_with("connection.") {
        let time = text("/timestamp").unwrap();
        let version = i128::from(time.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        if version <= naive.last {
            return Expect::Accepted(Verdict::Stale);
        }
        return naive.apply(version, AppliedEvent { event_id, sequence: Some(time), body });
    }
    match at("/sequence").and_then(|v| v.as_i64()).filter(|n| *n >= 0) {
        Some(n) => naive.sequence(n.into(), AppliedEvent { event_id, sequence: Some(n.to_string()), body }),
        None => dead,
    }
}

#[test]
fn plans_of_two_seeds_into_one_log_share_no_event_and_no_order() {
    let of = |seed| {
        let plan = plan(seed, 300);
        let ids = plan.entities.iter().flat_map(|entity| &entity.applied).map(|event| event.event_id.clone());
        let orders = plan.entities.iter().filter(|entity| entity.entity.starts_with("purchase-order-"));
        ids.chain(orders.map(|entity| entity.entity.clone())).collect::<BTreeSet<_>>()
    };
    assert!(of(1).len() > 100);
    assert_eq!(of(1).intersection(&of(2)).next(), None);
}
