//! What events tell, and how a status follows from them.

use super::*;

const BY_TYPE: &str = r#"
    active = ["connection.online", "connection.restored"]
    reauthorization_needed = ["connection.reauthorization_needed"]
    offline = ["connection.offline*"]
    reason = "/data/reason"
    time = "/timestamp"
"#;

const BY_VALUE: &str = r#"
    types = ["connection.status"]
    at = "/data/status"
    active = ["ok"]
    degraded = ["slow", "3"]
    ignore = ["syncing*"]
"#;

fn teller(text: &str) -> Teller {
    Teller::new(&toml::from_str(text).unwrap())
}

fn event(kind: &str) -> EventView<'_> {
    EventView {
        id: kind,
        source: "makini",
        connection: "acme".into(),
        kind,
        time: "2026-01-01T00:00:00Z",
        ..EventView::default()
    }
}

fn status(text: &str, kind: &str, body: &str) -> Result<Option<ConnectionStatus>, String> {
    teller(text).tell(&event(kind), body.as_bytes()).map(|told| told.map(|told| told.status))
}

#[test]
fn a_type_tells_a_status_whatever_the_body_is() {
    for (kind, told) in [
        ("connection.online", Some(ConnectionStatus::Active)),
        ("connection.reauthorization_needed", Some(ConnectionStatus::ReauthorizationNeeded)),
        ("connection.offline.planned", Some(ConnectionStatus::Offline)),
        ("connection.onlineish", None),
        ("purchase_order.updated", None),
    ] {
        assert_eq!(status(BY_TYPE, kind, "{}"), Ok(told), "{kind}");
        assert_eq!(status(BY_TYPE, kind, "no JSON"), Ok(told), "{kind}");
    }
}

#[test]
fn a_value_in_the_body_tells_a_status() {
    let of =
        |value: &str| status(BY_VALUE, "connection.status", &format!(r#"{{"data":{{"status":{value}}}}}"#));
    assert_eq!(of("\"ok\""), Ok(Some(ConnectionStatus::Active)));
    assert_eq!(of("3"), Ok(Some(ConnectionStatus::Degraded)));
    assert_eq!(of("\"syncing 4711\""), Ok(None));
    assert_eq!(status(BY_VALUE, "connection.online", "{}"), Ok(None));
}

#[test]
fn a_value_that_nobody_configured_is_refused_and_not_repeated() {
    for body in [r#"{"data":{"status":"hunter2"}}"#, r#"{"data":{"status":null}}"#, "{}", "hunter2"] {
        let problem = status(BY_VALUE, "connection.status", body).unwrap_err();
        assert!(!problem.contains("hunter2") && !problem.is_empty(), "{problem}");
    }
}

#[test]
fn a_reason_is_kept_to_its_limit_and_on_one_line() {
    let told =
        |body: &str| teller(BY_TYPE).tell(&event("connection.offline"), body.as_bytes()).unwrap().unwrap();
    assert_eq!(told(r#"{"data":{"reason":"no\nroute\u0007"}}"#).reason.as_deref(), Some("no route "));
    assert_eq!(told(r#"{"data":{"reason":{"code":401}}}"#).reason.as_deref(), Some(r#"{"code":401}"#));
    assert_eq!(told(r#"{"data":{"reason":null}}"#).reason, None);
    let long = told(&format!(r#"{{"data":{{"reason":"{}"}}}}"#, "ä".repeat(1000))).reason.unwrap();
    assert_eq!(long, "ä".repeat(REASON_BYTES_MAX / 2));
}

#[test]
fn the_time_is_the_bodys_if_it_is_one() {
    let time = |body: &str| {
        teller(BY_TYPE).tell(&event("connection.online"), body.as_bytes()).unwrap().unwrap().time
    };
    assert_eq!(time(r#"{"timestamp":"2026-02-03T04:05:06.7+01:00"}"#), "2026-02-03T04:05:06.7+01:00");
    for body in [r#"{"timestamp":"yesterday"}"#, r#"{"timestamp":1}"#, "{}", "no JSON"] {
        assert_eq!(time(body), "2026-01-01T00:00:00Z", "{body}");
    }
}

#[test]
fn a_status_begins_with_a_change_and_goes_on_with_a_repeat() {
    let told = |status, reason: &str, time: &str| Told {
        status,
        reason: Some(reason.to_owned()),
        time: time.to_owned(),
    };
    let at = |offset| Position { offset, ordinal: 0 };
    let (active, offline) = (ConnectionStatus::Active, ConnectionStatus::Offline);
    let first = Standing::after(None, &event("a"), told(active, "", "t1"), at(1));
    assert_eq!((first.status, &*first.since, first.previous), (active, "t1", None));
    assert_eq!((&*first.key(), &*first.event_id), ("makini/acme", "a"));
    let down = Standing::after(Some(&first), &event("b"), told(offline, "x", "t2"), at(5));
    assert_eq!((down.status, &*down.since, down.previous), (offline, "t2", Some(active)));
    let still = Standing::after(Some(&down), &event("c"), told(offline, "y", "t3"), at(7));
    assert_eq!((still.status, &*still.since, still.previous), (offline, "t2", Some(active)));
    assert_eq!((&*still.time, still.reason.as_deref(), &*still.event_id), ("t3", Some("y"), "c"));
    assert_eq!(still.position, at(7));
    let up = Standing::after(Some(&still), &event("d"), told(active, "", "t4"), at(9));
    assert_eq!((up.status, &*up.since, up.previous), (active, "t4", Some(offline)));
}
