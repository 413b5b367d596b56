//! The plan: all stories, mixed into one order of sending, and what must come of them.
//!
//! The same seed and sizes give the same plan on every machine. Only the timestamps that are signed are of the
//! moment of sending.

use std::collections::VecDeque;

use crate::bodies;
use crate::delivery::{Delivery, EntityPlan, Expect, Totals, Verdict};
use crate::rng::Rng;
use crate::sources::CONNECTIONS;
use crate::story::{self, Ids, Order, Story};

/// The fewest deliveries in which everything that is to be shown happens.
pub const WEBHOOKS_MIN: usize = 250;
/// Short stories that are told at the same time.
const SHORT_AT_ONCE: usize = 16;
/// Deliveries that a random order's story has at most.
const ORDER_STEPS_MAX: usize = 24;
/// The first purchase order's number. Both connections count from here.
const FIRST_NUMBER: u64 = 4_500_000_001;
const REPOSITORIES: [&str; 6] = [
    "acme-works/line-4",
    "acme-works/plc-library",
    "globex/warehouse",
    "globex/mes-adapter",
    "initech/tps",
    "Umbrella-Corp/Hive.Controls",
];

/// How large a plan is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Decides everything that is random.
    pub seed: u64,
    /// Deliveries, repeats and forgeries among them; at least [`WEBHOOKS_MIN`].
    pub webhooks: usize,
    /// The receiver's limit of a body in bytes: one byte more must be refused.
    pub body_limit: usize,
}

/// What is sent, in order, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order of sending, phase by phase.
    pub deliveries: Vec<Delivery>,
    /// Every entity that must be there afterwards.
    pub entities: Vec<EntityPlan>,
}

impl Plan {
    /// Makes the plan. Fewer than [`WEBHOOKS_MIN`] deliveries are taken as so many.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        let rng = &mut Rng::new(sizes.seed);
        let webhooks = sizes.webhooks.max(WEBHOOKS_MIN);
        let mut ids = Ids::new(sizes.seed);
        let mut numbers = Numbers { seed: sizes.seed, given: 0 };
        let mut short = showcase(rng, &mut ids, &mut numbers, sizes.body_limit);
        let count = |stories: &[Story]| stories.iter().map(Story::len).sum::<usize>();
        let mut long: Vec<_> =
            CONNECTIONS.iter().map(|c| story::connection(rng, &mut ids, *c, webhooks / 16)).collect();
        let for_orders = webhooks * 3 / 4 - count(&long);
        while count(&short) + ORDER_STEPS_MAX <= for_orders {
            let steps = 4 + rng.below(10);
            let (connection, number) = numbers.next();
            short.push(Order::new(rng, &mut ids, connection, &number).ramble(steps));
        }
        let mut rest = webhooks.saturating_sub(count(&short) + count(&long));
        for (n, name) in REPOSITORIES.iter().enumerate() {
            let size = rest / (REPOSITORIES.len() - n);
            rest -= size;
            long.push(story::repository(rng, name, size));
        }
        rng.shuffle(&mut short);
        mix(rng, short, long)
    }

    /// What all deliveries up to and with a phase must come to.
    #[must_use]
    pub fn totals(&self, phase: usize) -> Totals {
        Totals::of(self.deliveries.iter().filter(|delivery| delivery.phase <= phase))
    }

    /// The number of the last phase.
    #[must_use]
    pub fn last_phase(&self) -> usize {
        self.deliveries.iter().map(|delivery| delivery.phase).max().unwrap_or(0)
    }

    /// How many rows the table of applied events must have.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.entities.iter().map(|entity| entity.applied.len()).sum()
    }
}

/// Gives out order numbers, each under both connections: two customers' order 4500000001-1 are two entities. The
/// seed is part of a number, as of an id.
struct Numbers {
    seed: u64,
    given: u64,
}

impl Numbers {
    fn next(&mut self) -> (crate::sources::Connection, String) {
        let connection = CONNECTIONS[usize::from(self.given % 2 == 1)];
        let number = format!("{}-{}", FIRST_NUMBER + self.given / 2, self.seed);
        self.given += 1;
        (connection, number)
    }
}

/// Everything that is to be shown, once at least, whatever the seed.
fn showcase(rng: &mut Rng, ids: &mut Ids, numbers: &mut Numbers, body_limit: usize) -> Vec<Story> {
    let mut stories = Vec::new();
    for waiting in [2, 3] {
        let (connection, number) = numbers.next();
        let mut order = Order::new(rng, ids, connection, &number);
        order.in_turn();
        order.in_turn();
        order.never_closes(waiting);
        stories.push(order.end());
    }
    for how in story::FORGERIES {
        let (connection, number) = numbers.next();
        let mut order = Order::new(rng, ids, connection, &number);
        order.out_of_turn(3);
        order.forged(how);
        order.repeat();
        order.taken_number();
        order.behind();
        stories.push(order.end());
    }
    for sequence in ["\"abc\"", "-3", "1.5", "9223372036854775808", "null", "[2]"] {
        let (connection, number) = numbers.next();
        let mut order = Order::new(rng, ids, connection, &number);
        order.in_turn();
        order.bad_sequence(sequence);
        order.repeat();
        order.repeat_rewritten();
        order.repeat_at_the_end();
        order.in_turn();
        stories.push(order.end());
    }
    stories.extend(unreadable(rng));
    stories.extend(turned_away(body_limit));
    for connection in CONNECTIONS {
        let ping = story::makini(
            connection,
            bodies::ping("evt_ping", connection.id),
            Expect::Accepted(Verdict::Ignored),
            "of a type that is ignored",
        );
        stories.push(Story::loose(vec![ping.clone(), ping]));
    }
    stories
}

/// Well signed, but not to be read: each is accepted and dead-lettered, its repeat a duplicate.
fn unreadable(rng: &mut Rng) -> Vec<Story> {
    let [acme, globex] = CONNECTIONS;
    let order = r#""type":"purchase_order.updated","sequence":1,"data":{"number":"4600000001"}"#;
    let long_id = format!(r#"{{"id":"{}",{order}}}"#, "x".repeat(10_000));
    let deep = "[".repeat(200) + &"]".repeat(200);
    let bodies: [(&str, Vec<u8>); 10] = [
        ("not JSON", b"Order 4500000001 was changed.".to_vec()),
        ("not even text", vec![0xff, 0xfe, 0x00, 0x80]),
        ("empty body", Vec::new()),
        ("cut off", br#"{"id":"evt_cut","type":"purchase_order.upd"#.to_vec()),
        ("no id", format!("{{{order}}}").into_bytes()),
        ("id is an object", format!(r#"{{"id":{{"value":"evt_1"}},{order}}}"#).into_bytes()),
        ("empty id", format!(r#"{{"id":"",{order}}}"#).into_bytes()),
        ("id of 10 kB", long_id.into_bytes()),
        (
            "no entity",
            br#"{"id":"evt_no_entity","type":"purchase_order.updated","sequence":1,"data":{}}"#.to_vec(),
        ),
        ("nested too deeply", format!(r#"{{"id":"evt_deep",{order},"extra":{deep}}}"#).into_bytes()),
    ];
    let mut stories = Vec::new();
    for (n, (what, body)) in bodies.into_iter().enumerate() {
        let connection = if n % 2 == 0 { acme } else { globex };
        let first = story::makini(connection, body, Expect::Accepted(Verdict::DeadLettered), what);
        let again = Delivery { expect: Expect::Accepted(Verdict::Duplicate), ..first.clone() };
        stories.push(Story::loose(vec![first, again]));
    }
    let guid = bodies::guid(rng);
    let body = br#"{"zen":"Half measures are as bad as nothing at all.""#.to_vec();
    let first = story::github(&guid, "push", body, Expect::Accepted(Verdict::DeadLettered), "cut off");
    let again = Delivery { expect: Expect::Accepted(Verdict::Duplicate), ..first.clone() };
    stories.push(Story::loose(vec![first, again]));
    stories
}

/// Refused for other reasons than the signature.
fn turned_away(body_limit: usize) -> Vec<Story> {
    let [acme, _] = CONNECTIONS;
    let body = br#"{"id":"evt_nobody","type":"purchase_order.created","sequence":1,"data":{"number":"1"}}"#;
    let array =
        br#"[{"id":"evt_in_array","type":"purchase_order.created","sequence":1,"data":{"number":"1"}}]"#;
    let unknown = story::makini(acme, body.to_vec(), Expect::Refused(404), "unknown source");
    let unknown = Delivery { path: "/webhooks/nobody".to_owned(), ..unknown };
    let large = story::makini(acme, vec![b' '; body_limit + 1], Expect::Refused(413), "body too large");
    let array = story::makini(acme, array.to_vec(), Expect::Refused(422), "array of events");
    [unknown, large, array].into_iter().map(|delivery| Story::loose(vec![delivery])).collect()
}

/// Deals the stories' steps into one order. Long ones run from beginning to end; of the short ones some are
/// told at a time, and one with an open gap goes first every second time, so that gaps close soon.
fn mix(rng: &mut Rng, short: Vec<Story>, long: Vec<Story>) -> Plan {
    let mut plan = Plan { deliveries: Vec::new(), entities: Vec::new() };
    let (mut end, mut after) = (Vec::new(), Vec::new());
    let mut steps_of = |story: Story| {
        plan.entities.extend(story.entity);
        end.extend(story.end);
        after.extend(story.after);
        VecDeque::from(story.steps)
    };
    let mut long: Vec<_> = long.into_iter().map(&mut steps_of).collect();
    let mut waiting: VecDeque<_> = short.into_iter().map(&mut steps_of).collect();
    let mut short_left: usize = waiting.iter().map(VecDeque::len).sum();
    let mut told: Vec<(VecDeque<(Delivery, bool)>, bool)> = Vec::new();
    loop {
        long.retain(|steps| !steps.is_empty());
        told.retain(|(steps, _)| !steps.is_empty());
        while told.len() < SHORT_AT_ONCE
            && let Some(steps) = waiting.pop_front()
        {
            told.push((steps, false));
        }
        let long_left: usize = long.iter().map(VecDeque::len).sum();
        if long_left + short_left == 0 {
            break;
        }
        let urgent = told.iter().position(|(_, urgent)| *urgent).filter(|_| rng.chance(50));
        let from_short = urgent.is_some() || rng.below(long_left + short_left) < short_left;
        if from_short {
            let n = urgent.unwrap_or_else(|| rng.below(told.len()));
            let (steps, urgent) = &mut told[n];
            if let Some((delivery, gap_open)) = steps.pop_front() {
                *urgent = gap_open;
                short_left -= 1;
                plan.deliveries.push(delivery);
            }
        } else {
            let n = rng.below(long.len());
            plan.deliveries.extend(long[n].pop_front().map(|(delivery, _)| delivery));
        }
    }
    plan.deliveries.extend(end);
    plan.deliveries.extend(after);
    plan.entities.retain(|entity| !entity.applied.is_empty());
    plan
}

#[cfg(test)]
mod tests;
