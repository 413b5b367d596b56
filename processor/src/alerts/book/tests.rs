//! What is told, when, to whom, and what is not told again.

use super::*;
use crate::position::Position;

fn config(more: &str) -> AlertsConfig {
    let channel = |name: &str| format!("[channels.{name}.slack]\nurl = \"env:UNUSED\"\n");
    toml::from_str(&format!("{more}\n{}{}", channel("one"), channel("two"))).unwrap()
}

fn standing(status: ConnectionStatus, since: &str) -> Standing {
    Standing {
        source: "makini".into(),
        connection: "acme".into(),
        status,
        since: since.into(),
        previous: None,
        event_id: "e".into(),
        event_type: "t".into(),
        reason: None,
        time: since.into(),
        // Each later time in these tests is a later event.
        position: Position { offset: since.trim_start_matches('t').parse().unwrap(), ordinal: 0 },
    }
}

const KEY: &str = "makini/acme";
const ACTIVE: ConnectionStatus = ConnectionStatus::Active;
const OFFLINE: ConnectionStatus = ConnectionStatus::Offline;

/// Tells everybody what is due, and returns what that was.
fn tell(book: &mut Book, now_ms: i64, outcome: Outcome) -> Vec<(Kind, ConnectionStatus, Vec<String>)> {
    let mut told = Vec::new();
    for alert in book.due(now_ms, 10) {
        told.push((alert.kind, alert.standing.status, alert.channels.iter().cloned().collect()));
        for channel in &alert.channels {
            book.finished(KEY, channel, outcome).unwrap();
        }
    }
    told
}

fn both() -> Vec<String> {
    vec!["one".to_owned(), "two".to_owned()]
}

#[test]
fn trouble_is_told_once_and_so_is_its_end() {
    let mut book = Book::new(&config(""));
    book.hear(standing(ACTIVE, "t0"), 0, (0, 1));
    assert_eq!(tell(&mut book, 0, Outcome::Sent), []);
    book.hear(standing(OFFLINE, "t1"), 10, (0, 2));
    assert_eq!(tell(&mut book, 10, Outcome::Sent), [(Kind::Trouble, OFFLINE, both())]);
    book.hear(Standing { reason: Some("other".into()), ..standing(OFFLINE, "t1") }, 11, (0, 3));
    assert_eq!(tell(&mut book, 11, Outcome::Sent), []);
    book.hear(standing(ACTIVE, "t2"), 12, (0, 4));
    assert_eq!(tell(&mut book, 12, Outcome::Sent), [(Kind::Recovery, ACTIVE, both())]);
    book.hear(standing(ACTIVE, "t2"), 13, (0, 5));
    assert_eq!(tell(&mut book, 13, Outcome::Sent), []);
    book.hear(standing(OFFLINE, "t3"), 14, (0, 6));
    assert_eq!(tell(&mut book, 14, Outcome::Sent), [(Kind::Trouble, OFFLINE, both())]);
}

#[test]
fn what_passes_soon_is_not_told() {
    let mut book = Book::new(&config("after = \"1s\""));
    book.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    assert_eq!(tell(&mut book, 999, Outcome::Sent), []);
    book.hear(standing(ACTIVE, "t2"), 999, (0, 2));
    assert_eq!(tell(&mut book, 5_000, Outcome::Sent), []);
    book.hear(standing(OFFLINE, "t3"), 6_000, (0, 3));
    assert_eq!(tell(&mut book, 7_000, Outcome::Sent), [(Kind::Trouble, OFFLINE, both())]);
    // A recovery that passes, and the trouble that goes on, neither.
    book.hear(standing(ACTIVE, "t4"), 8_000, (0, 4));
    assert_eq!(tell(&mut book, 8_500, Outcome::Sent), []);
    book.hear(standing(OFFLINE, "t5"), 8_600, (0, 5));
    assert_eq!(tell(&mut book, 20_000, Outcome::Sent), []);
    book.hear(standing(ACTIVE, "t6"), 21_000, (0, 6));
    assert_eq!(tell(&mut book, 22_000, Outcome::Sent), [(Kind::Recovery, ACTIVE, both())]);
}

#[test]
fn only_who_was_told_of_trouble_is_told_of_its_end() {
    let mut book = Book::new(&config(""));
    book.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    assert_eq!(book.due(0, 10).len(), 1);
    book.finished(KEY, "one", Outcome::Failed).unwrap();
    book.finished(KEY, "two", Outcome::Sent).unwrap();
    // Another trouble, of which nobody could be told.
    book.hear(standing(ConnectionStatus::Revoked, "t2"), 1, (0, 2));
    assert_eq!(tell(&mut book, 1, Outcome::Failed).len(), 1);
    book.hear(standing(ACTIVE, "t3"), 2, (0, 3));
    assert_eq!(tell(&mut book, 2, Outcome::Sent), [(Kind::Recovery, ACTIVE, vec!["two".to_owned()])]);
    let mut nobody = Book::new(&config(""));
    nobody.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    assert_eq!(tell(&mut nobody, 0, Outcome::Failed).len(), 1);
    nobody.hear(standing(ACTIVE, "t2"), 1, (0, 2));
    assert_eq!(tell(&mut nobody, 1, Outcome::Sent), []);
    // Nobody was told: so the next time counts, whatever `after` is.
    let mut unheard = Book::new(&config("after = \"1s\""));
    unheard.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    assert_eq!(tell(&mut unheard, 1_000, Outcome::Failed).len(), 1);
    unheard.hear(standing(ACTIVE, "t2"), 2_000, (0, 2));
    assert_eq!(tell(&mut unheard, 9_000, Outcome::Sent), []);
    unheard.hear(standing(OFFLINE, "t3"), 10_000, (0, 3));
    assert_eq!(tell(&mut unheard, 11_000, Outcome::Sent).len(), 1);
    let mut silent = Book::new(&config("recovery = false"));
    silent.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    assert_eq!(tell(&mut silent, 0, Outcome::Sent).len(), 1);
    silent.hear(standing(ACTIVE, "t2"), 1, (0, 2));
    assert_eq!(tell(&mut silent, 1, Outcome::Sent), []);
}

#[test]
fn after_a_restart_only_what_is_left_is_told() {
    let mut book = Book::new(&config(""));
    book.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    let first = book.due(0, 10).remove(0);
    let (partition, told) = book.finished(KEY, "one", Outcome::Sent).unwrap();
    assert_eq!((partition, told.done, book.first_under_way(0)), (0, false, Some(1)));
    let told: Told = serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap();
    let mut again = Book::new(&config(""));
    again.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    again.remember(0, BTreeMap::from([(KEY.to_owned(), told)]));
    let second = again.due(0, 10).remove(0);
    assert_eq!((&second.id, second.channels), (&first.id, BTreeSet::from(["two".to_owned()])));
    let (_, told) = again.finished(KEY, "two", Outcome::Sent).unwrap();
    assert!(told.done && told.in_trouble.len() == 2);
    let mut third = Book::new(&config(""));
    third.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    third.remember(0, BTreeMap::from([(KEY.to_owned(), told)]));
    assert_eq!(third.due(0, 10), []);
}

#[test]
fn what_is_read_again_is_not_told_again() {
    let mut book = Book::new(&config(""));
    let mut told = Vec::new();
    for (status, since) in [(ACTIVE, "t1"), (OFFLINE, "t2")] {
        book.hear(standing(status, since), 0, (0, 1));
        for alert in book.due(0, 10) {
            told.extend(
                alert.channels.iter().filter_map(|channel| book.finished(KEY, channel, Outcome::Sent)),
            );
        }
    }
    let mut again = Book::new(&config(""));
    again.remember(0, BTreeMap::from([(KEY.to_owned(), told.pop().unwrap().1)]));
    for (status, since) in [(OFFLINE, "t0"), (ACTIVE, "t1"), (OFFLINE, "t2")] {
        again.hear(standing(status, since), 0, (0, 1));
        assert_eq!(again.due(0, 10), [], "{since}");
    }
    again.hear(standing(ACTIVE, "t3"), 0, (0, 1));
    assert_eq!(tell(&mut again, 0, Outcome::Sent), [(Kind::Recovery, ACTIVE, both())]);
}

#[test]
fn of_one_connection_one_alert_is_under_way_and_there_is_a_limit_for_all() {
    let mut book = Book::new(&config(""));
    book.hear(standing(OFFLINE, "t1"), 0, (0, 1));
    assert_eq!(book.due(0, 0).len(), 0);
    assert_eq!(book.due(0, 1).len(), 1);
    book.hear(standing(ACTIVE, "t2"), 1, (0, 2));
    assert_eq!((book.due(1, 10).len(), book.number_under_way()), (0, 1));
    book.finished(KEY, "one", Outcome::Sent).unwrap();
    book.finished(KEY, "two", Outcome::Sent).unwrap();
    assert_eq!(tell(&mut book, 1, Outcome::Sent), [(Kind::Recovery, ACTIVE, both())]);
    assert_eq!(book.first_under_way(0), None);
}
