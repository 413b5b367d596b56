//! The promises of every database that keeps a table of how connections are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;

use processor::fold::Effect;
use processor::sink::SinkError;
use shared::config::{ColumnType, ConnectionsTableConfig, SinkConfig};
use shared::event::Event;
use toml::Spanned;

use super::mapping::{ORDERS, Table, order, orders, refused, rows, with};
use super::relational::Relational;
use super::remote::{self, Remote};
use super::{
    Owner, Place, StoredEntity, StoredEvent, Tamper, context, effect, epoch, event, halted, ids, open,
};

macro_rules! promises {
    ($place:expr) => {
        $crate::sink_contract::tests_of! { statuses, $place;
            a_connections_row_is_its_last_status
            a_repeat_keeps_since_and_previous_also_after_a_reopening
            a_batch_delivered_again_changes_no_status
            a_former_owner_writes_no_status
            a_value_that_nobody_configured_is_refused_alone
            what_another_partition_told_later_stays
            statuses_and_mapped_tables_stand_side_by_side
            a_long_batch_of_connections_is_in_the_table
            an_older_installation_gets_the_table
            a_table_of_that_name_that_is_another_halts
            a_status_that_somebody_changed_halts
            lanes_may_make_the_table_at_the_same_time
        }
    };
}
pub(crate) use promises;

/// For servers.
macro_rules! remote_promises {
    ($place:expr) => {
        $crate::sink_contract::tests_of! { statuses, $place;
            a_cut_at_any_step_leaves_the_same_statuses
        }
    };
}
pub(crate) use remote_promises;

const NAME: &str = "hookline_connections";

const STATUS: &str = r#"
    active = ["online", "push"]
    offline = ["offline"]
    reauthorization_needed = ["expired"]
    reason = "/reason"
"#;

const BY_VALUE: &str = r#"
    at = "/status"
    types = ["state"]
    active = ["ok"]
    ignore = ["syncing"]
"#;

/// A place whose sink keeps the table.
struct Keeping<'a, P> {
    place: &'a P,
    status: &'static str,
}

fn keeping<P: Place>(place: &P) -> Keeping<'_, P> {
    Keeping { place, status: STATUS }
}

impl<P> Keeping<'_, P> {
    fn with_table(&self, mut config: SinkConfig) -> SinkConfig {
        let sources = BTreeMap::from([("github".to_owned(), toml::from_str(self.status).unwrap())]);
        config
            .keep_connections(ConnectionsTableConfig { name: Spanned::new(0..0, NAME.to_owned()), sources });
        config
    }
}

impl<P: Place> Place for Keeping<'_, P> {
    fn config(&self) -> SinkConfig {
        self.with_table(self.place.config())
    }

    fn events(&self) -> Vec<StoredEvent> {
        self.place.events()
    }

    fn entities(&self) -> Vec<StoredEntity> {
        self.place.entities()
    }

    fn tamper(&self, how: Tamper) {
        self.place.tamper(how);
    }

    fn refuse_bad(&self) {
        self.place.refuse_bad();
    }
}

impl<P: Remote> Remote for Keeping<'_, P> {
    fn address(&self) -> SocketAddr {
        self.place.address()
    }

    fn config_at(&self, host: &str, port: u16) -> SinkConfig {
        self.with_table(self.place.config_at(host, port))
    }

    fn wrong_credentials(&self) -> Vec<SinkConfig> {
        self.place.wrong_credentials()
    }
}

fn columns(names: &[&'static str]) -> Table {
    Table {
        name: NAME,
        columns: names.iter().map(|name| (*name, ColumnType::Text)).collect(),
        key: Vec::new(),
    }
}

/// Connection, status, the second of `since`, `previous`, the event.
fn statuses(place: &impl Relational) -> Vec<String> {
    let rows = rows(place, &columns(&["connection", "status", "since", "previous", "event_id"]));
    rows.into_iter().map(|row| row.replace("2026-03-01T12:00:", "")).collect()
}

/// An event of a connection, in the second of its offset.
pub(crate) fn tells(offset: i64, connection: &str, kind: &str, body: &str) -> Effect {
    at(offset, offset, connection, kind, body)
}

fn at(offset: i64, second: i64, connection: &str, kind: &str, body: &str) -> Effect {
    let event = Event {
        connection: connection.into(),
        kind: kind.into(),
        time: format!("2026-03-01T12:00:{second:02}Z"),
        ..event(&format!("e{offset}"), Some("connection"))
    };
    effect(offset, 0, &event, body.as_bytes())
}

pub(crate) fn a_connections_row_is_its_last_status(place: &impl Relational) {
    let mut owner = Owner::claim(&keeping(place), 2, epoch(1));
    owner
        .deliver(&[
            tells(1, "a/b", "online", "{}"),
            tells(2, "A/b ", "offline", r#"{"reason":"O'Brien \"x\" \\ \ud83e\udd80"}"#),
            tells(3, "a/b", "expired", r#"{"reason":"because"}"#),
        ])
        .unwrap();
    // Tells nothing.
    owner.deliver(&[tells(4, "a/b", "order.changed", "no JSON"), tells(5, "other", "ping", "{}")]).unwrap();
    let all = columns(&[
        "source",
        "connection",
        "status",
        "since",
        "previous",
        "reason",
        "event_id",
        "event_type",
        "time",
        "log_partition",
        "effect_offset",
        "effect_ordinal",
    ]);
    let time = |second: u32| format!("2026-03-01T12:00:{second:02}Z");
    let quoted = "O'Brien \"x\" \\ \u{1F980}";
    assert_eq!(
        rows(place, &all),
        [
            format!("github|A/b |offline|{}|null|{quoted}|e2|offline|{}|2|2|0", time(2), time(2)),
            format!(
                "github|a/b|reauthorization_needed|{}|active|because|e3|expired|{}|2|3|0",
                time(3),
                time(3)
            ),
        ]
    );
    assert_eq!(ids(place), ["e1", "e2", "e3", "e4", "e5"]);
}

pub(crate) fn a_repeat_keeps_since_and_previous_also_after_a_reopening(place: &impl Relational) {
    let mut first = Owner::claim(&keeping(place), 0, epoch(1));
    first.deliver(&[tells(1, "a", "online", "{}"), tells(2, "a", "offline", "{}")]).unwrap();
    first.deliver(&[tells(3, "a", "offline", r#"{"reason":"x"}"#)]).unwrap();
    assert_eq!(statuses(place), ["a|offline|02Z|active|e3"]);
    drop(first);
    let mut second = Owner::claim(&keeping(place), 0, epoch(2));
    second.deliver(&[tells(4, "a", "offline", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|offline|02Z|active|e4"]);
    assert_eq!(rows(place, &columns(&["connection", "reason"])), ["a|null"]);
    second.deliver(&[tells(5, "a", "online", "{}"), tells(6, "a", "online", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|active|05Z|offline|e6"]);
}

pub(crate) fn a_batch_delivered_again_changes_no_status(place: &impl Relational) {
    let mut owner = Owner::claim(&keeping(place), 0, epoch(1));
    let before = owner.fence;
    let batch = [tells(1, "a", "online", "{}"), tells(2, "a", "offline", "{}")];
    owner.deliver(&batch).unwrap();
    let after = std::mem::replace(&mut owner.fence, before);
    assert!(matches!(owner.deliver(&batch[..1]), Err(SinkError::Fenced { .. })));
    assert_eq!(statuses(place), ["a|offline|02Z|active|e2"]);
    owner.fence = after;
    owner.deliver(&[tells(3, "a", "online", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|active|03Z|offline|e3"]);
}

pub(crate) fn a_former_owner_writes_no_status(place: &impl Relational) {
    let mut old = Owner::claim(&keeping(place), 0, epoch(1));
    let mut new = Owner::claim(&keeping(place), 0, epoch(2));
    assert!(matches!(old.deliver(&[tells(1, "a", "offline", "{}")]), Err(SinkError::Fenced { .. })));
    assert!(statuses(place).is_empty());
    new.deliver(&[tells(1, "a", "online", "{}")]).unwrap();
    assert!(matches!(old.deliver(&[tells(2, "a", "offline", "{}")]), Err(SinkError::Fenced { .. })));
    assert_eq!(statuses(place), ["a|active|01Z|null|e1"]);
}

pub(crate) fn a_value_that_nobody_configured_is_refused_alone(place: &impl Relational) {
    let mut owner = Owner::claim(&Keeping { place, status: BY_VALUE }, 0, epoch(1));
    let state = |offset, status: &str| tells(offset, "a", "state", &format!(r#"{{"status":"{status}"}}"#));
    let message = refused(owner.deliver(&[state(1, "ok"), state(2, "hunter2")]));
    assert_eq!(
        message,
        "the event at offset 2 has at /status a value that no list of [sources.github.status] has"
    );
    assert_eq!(owner.sink.fence(0).unwrap(), owner.fence);
    assert!(statuses(place).is_empty() && ids(place).is_empty());
    // One by one, as a lane does it.
    owner.deliver(&[state(1, "ok")]).unwrap();
    refused(owner.deliver(&[state(2, "hunter2")]));
    owner.deliver(&[state(3, "syncing")]).unwrap();
    assert_eq!(statuses(place), ["a|active|01Z|null|e1"]);
    assert_eq!(ids(place), ["e1", "e3"]);
}

pub(crate) fn what_another_partition_told_later_stays(place: &impl Relational) {
    let mut first = Owner::claim(&keeping(place), 0, epoch(1));
    let mut second = Owner::claim(&keeping(place), 1, epoch(1));
    first.deliver(&[at(1, 20, "a", "online", "{}")]).unwrap();
    second.deliver(&[at(1, 10, "a", "offline", "{}"), at(2, 30, "b", "offline", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|active|20Z|null|e1", "b|offline|30Z|null|e2"]);
    second.deliver(&[at(3, 40, "a", "offline", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|offline|40Z|active|e3", "b|offline|30Z|null|e2"]);
    // In one partition, the log's order counts.
    second.deliver(&[at(4, 35, "a", "online", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|active|35Z|offline|e4", "b|offline|30Z|null|e2"]);
}

/// For a database in which the rows are read before the transaction that writes them. In both orders of the events'
/// times.
pub(crate) fn what_another_partition_tells_during_a_delivery_is_not_overwritten<P: Relational + Remote>(
    place: impl Fn() -> P,
    steps_min: i64,
) {
    for is_later in [false, true] {
        let place = place();
        let second = |step| 2 * step + 2;
        let messages = remote::beside_another_partition_anywhere(
            &keeping(&place),
            steps_min,
            |step| at(step, second(step), "a", "offline", "{}"),
            |step| at(100 + step, second(step) + if is_later { 1 } else { -1 }, "a", "online", "{}"),
            |step| {
                let expected = match is_later {
                    // Nothing of what is older is ever there.
                    true => format!("a|active|{:02}Z|null|e{}", second(0) + 1, 100 + step),
                    false => format!("a|offline|{:02}Z|active|e{step}", second(step)),
                };
                assert_eq!(statuses(&place), [expected], "step {step}");
            },
        );
        let were_overtaken =
            messages.iter().any(|message| message.contains("another partition told meanwhile"));
        assert!(were_overtaken, "{messages:?}");
    }
}

pub(crate) fn statuses_and_mapped_tables_stand_side_by_side(place: &impl Relational) {
    place.create(&orders());
    let mut owner = Owner::claim_with(&keeping(place), &with(ORDERS), 0, epoch(1));
    owner.deliver(&[order(1, "o1", "x"), tells(2, "a", "online", "{}")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|x|1.5"]);
    assert_eq!(statuses(place), ["a|active|02Z|null|e2"]);
    // What does not fit one of them is in neither.
    let bad = super::mapping::of(4, "order.changed", "o2", r#"{"total":"x"}"#);
    refused(owner.deliver(&[tells(3, "a", "offline", "{}"), bad]));
    assert_eq!(statuses(place), ["a|active|02Z|null|e2"]);
}

pub(crate) fn a_long_batch_of_connections_is_in_the_table(place: &impl Relational) {
    const CONNECTIONS: i64 = 2_500;
    let mut owner = Owner::claim(&keeping(place), 0, epoch(1));
    let all = |from: i64, second: i64, kind: &str| -> Vec<_> {
        (0..CONNECTIONS).map(|n| at(from + n, second, &format!("c{n:04}"), kind, "{}")).collect()
    };
    owner.deliver(&all(0, 1, "online")).unwrap();
    owner.deliver(&all(CONNECTIONS, 2, "offline")).unwrap();
    let expected: Vec<_> =
        (0..CONNECTIONS).map(|n| format!("c{n:04}|offline|02Z|active|e{}", CONNECTIONS + n)).collect();
    assert_eq!(statuses(place), expected);
}

/// From the next event on; what was applied before is not read again.
pub(crate) fn an_older_installation_gets_the_table(place: &impl Relational) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner.deliver(&[tells(1, "a", "online", "{}")]).unwrap();
    drop(owner);
    let mut owner = Owner::claim(&keeping(place), 0, epoch(2));
    assert_eq!(owner.fence.position, tells(1, "a", "online", "{}").position);
    assert!(statuses(place).is_empty());
    owner.deliver(&[tells(2, "a", "offline", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|offline|02Z|null|e2"]);
    // Without the key again, the table is left as it is.
    let mut owner = Owner::claim(place, 0, epoch(3));
    owner.deliver(&[tells(3, "a", "online", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|offline|02Z|null|e2"]);
    assert_eq!(ids(place), ["e1", "e2", "e3"]);
}

pub(crate) fn a_table_of_that_name_that_is_another_halts(place: &impl Relational) {
    place.create(&Table { name: NAME, ..orders() });
    let message = halted(open(&keeping(place)));
    assert!(message.contains("name one of its own in sink."), "{message}");
    assert!(message.contains(&format!("table `{NAME}`")), "{message}");
}

pub(crate) fn a_status_that_somebody_changed_halts(place: &impl Relational) {
    let mut owner = Owner::claim(&keeping(place), 0, epoch(1));
    owner.deliver(&[tells(1, "a", "online", "{}")]).unwrap();
    place.sql("UPDATE {hookline_connections} SET status = 'hunter2'");
    let message = halted(owner.deliver(&[tells(2, "a", "online", "{}")]));
    assert!(message.contains("Hookline never writes") && !message.contains("hunter2"), "{message}");
    assert_eq!(ids(place), ["e1"]);
    place.sql("UPDATE {hookline_connections} SET status = 'offline'");
    owner.deliver(&[tells(2, "a", "online", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|active|02Z|offline|e2"]);
}

/// For a database that enforces no key.
pub(crate) fn a_connection_with_two_rows_halts(place: &impl Relational) {
    let mut owner = Owner::claim(&keeping(place), 0, epoch(1));
    owner.deliver(&[tells(1, "a", "online", "{}")]).unwrap();
    place.sql("INSERT INTO {hookline_connections} SELECT * FROM {hookline_connections}");
    let message = halted(owner.deliver(&[tells(2, "a", "offline", "{}")]));
    assert!(message.contains("Hookline never writes"), "{message}");
    place.sql("DELETE FROM {hookline_connections}");
    owner.deliver(&[tells(2, "a", "offline", "{}")]).unwrap();
    assert_eq!(statuses(place), ["a|offline|02Z|null|e2"]);
    assert_eq!(ids(place), ["e1", "e2"]);
}

pub(crate) fn lanes_may_make_the_table_at_the_same_time(place: &impl Relational) {
    place.prepare();
    let barrier = Barrier::new(6);
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..6)
            .map(|partition| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let mut owner = Owner::claim(&keeping(place), partition, epoch(1));
                    owner.deliver(&[tells(1, &format!("c{partition}"), "online", "{}")]).unwrap();
                })
            })
            .collect();
        lanes.into_iter().for_each(|lane| lane.join().unwrap());
    });
    assert_eq!(statuses(place).len(), 6);
}

pub(crate) fn a_cut_at_any_step_leaves_the_same_statuses(place: &(impl Relational + Remote)) {
    let of = |offset: i64| {
        let kind = if offset / 3 % 2 == 0 { "online" } else { "offline" };
        let connection = if offset % 3 == 0 { "b" } else { "a" };
        at(offset, offset % 60, connection, kind, "{}")
    };
    remote::cut_at_any_step(
        &keeping(place),
        &context(),
        |n| [of(n), of(n + 1), of(n + 2)],
        |applied| {
            // Each batch tells another status than the one before, first of `b`, then twice of `a`.
            let (b, a) = (applied - 3, applied - 2);
            let (status, other) = match (applied / 3 - 1) % 2 {
                0 => ("active", "offline"),
                _ => ("offline", "active"),
            };
            let previous = if applied == 3 { "null" } else { other };
            let expected = [
                format!("a|{status}|{:02}Z|{previous}|e{}", a % 60, applied - 1),
                format!("b|{status}|{:02}Z|{previous}|e{b}", b % 60),
            ];
            assert_eq!(statuses(place), expected);
        },
    );
}
