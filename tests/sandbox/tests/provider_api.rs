//! The provider's API over HTTP: who is let in, pages that miss nothing, what is refused, and each way to fail.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]

mod common;

use common::{Answered, Receiver, change, get, list, post, start};
use proptest::prelude::*;
use sandbox::provider::{ChangeKind, Fault, FaultKind, Resource, Running, Status};
use serde_json::{Value, json};

const LIST: Resource = Resource::PurchaseOrders;

fn with_records(count: usize) -> Running {
    let running = start(&Receiver::strict());
    for _ in 0..count {
        change(&running, "acme", LIST, ChangeKind::Create, None);
    }
    running
}

fn ask(running: &Running, connection: &str, path: &str) -> Answered {
    get(&format!("{}{path}", running.url()), Some(&running.tokens()[connection]))
}

fn ids(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["id"].as_str().unwrap()).collect()
}

#[test]
fn a_token_opens_its_own_connection_and_nothing_else() {
    let running = with_records(3);
    let url = format!("{}/api/v1/purchase-orders", running.url());
    assert_eq!(ask(&running, "acme", "/api/v1/purchase-orders").json()["data"].as_array().unwrap().len(), 3);
    assert_eq!(ask(&running, "globex", "/api/v1/purchase-orders").json()["data"], json!([]));
    for token in [None, Some("guessed"), Some("")] {
        let answer = get(&url, token);
        assert_eq!((answer.status, answer.headers["www-authenticate"].as_str()), (401, "Bearer"));
        assert_eq!(answer.json()["error"]["code"], "unauthorized");
    }
    let requests = running.requests();
    assert_eq!((requests["acme"].lists, requests["globex"].lists), (1, 1));
    assert_eq!(requests[""].statuses, [(401, 3)].into());
}

#[test]
fn an_old_token_stays_refused_after_the_customer_has_logged_in_anew() {
    let receiver = Receiver::strict();
    let running = start(&receiver);
    let path = format!("{}/api/v1/assets", running.url());
    let old = running.tokens()["acme"].clone();
    running.set_status("acme", Status::ReauthorizationNeeded).unwrap();
    assert_eq!(get(&path, Some(&old)).status, 401);
    assert_eq!(ask(&running, "globex", "/api/v1/assets").status, 200, "another's token");
    running.set_status("acme", Status::Online).unwrap();
    let new = running.tokens()["acme"].clone();
    assert_ne!(new, old);
    assert_eq!((get(&path, Some(&old)).status, get(&path, Some(&new)).status), (401, 200));
    assert_eq!(running.requests()["acme"].statuses, [(200, 1), (401, 2)].into(), "counted for whom it was");
    common::until("both are told", || receiver.of_type("connection.*").len() == 2);
    let mut told = receiver.of_type("connection.*");
    told.sort_by_key(|body| body["timestamp"].as_str().unwrap().to_owned());
    let types: Vec<_> = told.iter().map(|body| body["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["connection.reauthorization_needed", "connection.online"]);
    common::until("and that all is synchronised", || receiver.of_type("sync.completed").len() == 4);
}

#[test]
fn a_list_has_each_record_once_in_pages_of_any_size() {
    let running = with_records(23);
    let first = ask(&running, "acme", "/api/v1/purchase-orders?limit=10").json();
    assert_eq!((first["data"].as_array().unwrap().len(), first["total"].as_u64()), (10, Some(23)));
    let all = list(&running, "acme", LIST, 500);
    assert_eq!(all.len(), 23);
    for limit in [1, 7, 22, 23, 24] {
        assert_eq!(list(&running, "acme", LIST, limit), all, "{limit} a page");
    }
    change(&running, "acme", Resource::Assets, ChangeKind::Create, None);
    assert_eq!(ask(&running, "acme", "/api/v1/assets").json()["total"], Value::Null, "which it cannot tell");
}

#[test]
fn what_was_modified_after_a_time_is_listed_and_nothing_else() {
    let running = with_records(5);
    let all = list(&running, "acme", LIST, 10);
    let id = all[1]["id"].as_str().unwrap();
    let after = all.iter().map(|record| record["updated_at"].as_str().unwrap()).max().unwrap();
    change(&running, "acme", LIST, ChangeKind::Update, Some(id));
    change(&running, "acme", LIST, ChangeKind::Create, None);
    let path = format!("/api/v1/purchase-orders?limit=1&modified_after={after}");
    let page = ask(&running, "acme", &path).json();
    assert_eq!((ids(page["data"].as_array().unwrap()), page["total"].as_u64()), (vec![id], Some(2)));
    // A cursor keeps the filter, whether it is named again or not.
    let cursor = page["next_cursor"].as_str().unwrap();
    for path in [format!("{path}&cursor={cursor}"), format!("/api/v1/purchase-orders?cursor={cursor}")] {
        let page = ask(&running, "acme", &path).json();
        assert_eq!(ids(page["data"].as_array().unwrap()), ["po_000006"]);
        assert_eq!(page.get("next_cursor"), None);
    }
    let wrong = format!("/api/v1/purchase-orders?modified_after=2026-01-05T08:00:00Z&cursor={cursor}");
    assert_eq!(ask(&running, "acme", &wrong).status, 400);
}

#[test]
fn what_a_list_cannot_be_asked_for_is_refused_with_the_reason() {
    let running = with_records(3);
    let page = ask(&running, "acme", "/api/v1/purchase-orders?limit=1").json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let max = [(LIST, 500), (Resource::Suppliers, 200), (Resource::WorkOrders, 100), (Resource::Assets, 100)];
    for (resource, max) in max {
        let base = format!("/api/v1/{}?limit=", resource.path());
        assert_eq!(ask(&running, "acme", &format!("{base}{max}")).status, 200);
        let answer = ask(&running, "acme", &format!("{base}{}", max + 1));
        assert_eq!(answer.status, 400);
        assert!(answer.message().ends_with(&format!("1 to {max}")), "{}", answer.message());
    }
    for (query, says) in [
        ("limit=0".to_owned(), "limit is \"0\""),
        ("limit=ten".to_owned(), "limit is \"ten\""),
        ("limit=1&limit=2".to_owned(), "limit is there twice"),
        ("modified_after=yesterday".to_owned(), "modified_after is \"yesterday\""),
        ("updated_after=2026-01-05T08:00:00Z".to_owned(), "unknown parameter \"updated_after\""),
        ("cursor=".to_owned(), "cursor was not given out"),
        (format!("cursor={cursor}0"), "cursor was not given out"),
    ] {
        let answer = ask(&running, "acme", &format!("/api/v1/purchase-orders?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.message().contains(says), "{query}: {}", answer.message());
    }
    let elsewhere = ["globex", "acme"].map(|connection| {
        let list = if connection == "globex" { "purchase-orders" } else { "suppliers" };
        ask(&running, connection, &format!("/api/v1/{list}?cursor={cursor}")).status
    });
    assert_eq!(elsewhere, [400, 400], "another's cursor, and another list's");
    assert_eq!(ask(&running, "acme", "/api/v1/invoices").status, 404);
}

#[test]
fn a_record_is_asked_for_by_its_id() {
    let running = with_records(1);
    let record = ask(&running, "acme", "/api/v1/purchase-orders/po_000001").json();
    assert_eq!(record, list(&running, "acme", LIST, 1)[0]);
    assert_eq!(ask(&running, "globex", "/api/v1/purchase-orders/po_000001").status, 404);
    change(&running, "acme", LIST, ChangeKind::Delete, Some("po_000001"));
    assert_eq!(ask(&running, "acme", "/api/v1/purchase-orders/po_000001").status, 404);
    // An id with a slash and a space.
    change(&running, "acme", Resource::Assets, ChangeKind::Create, None);
    let asset = ask(&running, "acme", "/api/v1/assets/PUMP%2FCR-32%200001").json();
    assert_eq!(asset["id"], "PUMP/CR-32 0001");
    assert_eq!(running.requests()["acme"].ones, 3);
}

#[test]
fn the_state_of_synchronisation_is_told() {
    let running = start(&Receiver::strict());
    running.sync("acme", LIST).unwrap();
    let lists = ask(&running, "acme", "/api/v1/sync-status").json();
    assert_eq!(lists["data"][0]["resource"], "purchase-orders");
    assert_eq!(lists["data"][0]["status"], "completed");
    assert_eq!(lists["data"][1]["status"], "pending");
}

#[test]
fn pages_by_number_and_by_link_have_the_same_records() {
    let running = with_records(7);
    let all = list(&running, "acme", LIST, 100);
    let mut by_number = Vec::new();
    for page in 1.. {
        let path = format!("/api/pages/v1/purchase-orders?limit=3&page={page}");
        let records = ask(&running, "acme", &path).json()["data"].as_array().unwrap().clone();
        if records.is_empty() {
            break;
        }
        by_number.extend(records);
    }
    assert_eq!(by_number, all);
    let mut by_link = Vec::new();
    let mut url = format!("{}/api/links/v1/purchase-orders?limit=3", running.url());
    loop {
        let answer = get(&url, Some(&running.tokens()["acme"]));
        by_link.extend(answer.json().as_array().unwrap().clone());
        let Some(link) = answer.headers.get("link") else { break };
        url =
            link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap().to_owned();
    }
    assert_eq!(by_link, all);
}

fn fault(running: &Running, kind: FaultKind, requests: u32) {
    let wait = std::time::Duration::from_millis(if kind == FaultKind::RateLimited { 1_500 } else { 10 });
    let at = std::time::Duration::ZERO;
    let fault = Fault {
        at,
        kind,
        requests,
        connection: Some("acme".to_owned()),
        resource: Some(LIST),
        on: None,
        wait,
    };
    running.fault(&fault).unwrap();
}

#[test]
fn each_fault_is_shown_so_often_to_whom_it_is_for() {
    let running = with_records(4);
    let path = "/api/v1/purchase-orders?limit=2";
    let good = ask(&running, "acme", path);
    let cursor = good.json()["next_cursor"].as_str().unwrap().to_owned();
    for (kind, status) in [
        (FaultKind::RateLimited, 429),
        (FaultKind::ServerError, 500),
        (FaultKind::TimeOut, 504),
        (FaultKind::BrokenJson, 200),
        (FaultKind::Html, 200),
    ] {
        fault(&running, kind, 2);
        assert_eq!(ask(&running, "globex", path).status, 200, "another's");
        assert_eq!(ask(&running, "acme", "/api/v1/suppliers").status, 200, "another list");
        for _ in 0..2 {
            let answer = ask(&running, "acme", path);
            assert_eq!(answer.status, status, "{}", kind.name());
            assert_eq!(answer.headers.get("retry-after").map(String::as_str), (status == 429).then_some("2"));
            if status != 429 {
                assert!(serde_json::from_str::<Value>(&answer.text).is_err(), "{}", kind.name());
            }
        }
        assert_eq!(ask(&running, "acme", path).text, good.text);
    }
    fault(&running, FaultKind::CursorExpired, 1);
    assert_eq!(ask(&running, "acme", path).text, good.text, "without a cursor nothing can expire");
    let answer = ask(&running, "acme", &format!("{path}&cursor={cursor}"));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (400, Some("cursor_expired")));
    assert_eq!(ask(&running, "acme", &format!("{path}&cursor={cursor}")).status, 200);
    fault(&running, FaultKind::CursorRepeats, 1);
    let repeating = ask(&running, "acme", path).json();
    assert_eq!(repeating["data"], good.json()["data"]);
    let next = repeating["next_cursor"].as_str().unwrap();
    assert_eq!(
        ask(&running, "acme", &format!("{path}&cursor={next}")).text,
        good.text,
        "the same page once more"
    );
    let faults = &running.requests()["acme"].faults;
    assert_eq!((faults[&FaultKind::ServerError], faults[&FaultKind::CursorRepeats]), (2, 1));
}

#[test]
fn a_fault_of_pages_leaves_single_records_alone_and_the_other_way_round() {
    let running = with_records(1);
    let paths = ["/api/v1/purchase-orders", "/api/v1/purchase-orders/po_000001"];
    for (on, statuses) in [("pages", [500, 200]), ("one", [200, 500])] {
        let fault = json!({ "kind": "server_error", "requests": 1, "connection": "acme", "on": on });
        assert_eq!(post(&format!("{}/control/fault", running.url()), &fault).status, 200);
        assert_eq!(paths.map(|path| ask(&running, "acme", path).status), statuses, "{on}");
        assert_eq!(paths.map(|path| ask(&running, "acme", path).status), [200, 200], "{on}, only once");
    }
    let fault = json!({ "kind": "server_error", "requests": 1, "on": "one" });
    assert_eq!(post(&format!("{}/control/fault", running.url()), &fault).status, 200);
    let nowhere = "/api/v1/purchase-orders/po_000009";
    assert_eq!([nowhere; 2].map(|path| ask(&running, "acme", path).status), [500, 404]);
}

#[test]
fn by_hand_too_what_is_unknown_or_beyond_a_limit_is_refused() {
    let running = with_records(0);
    let refused = |path: &str, body: Value| {
        let answer = post(&format!("{}/control/{path}", running.url()), &body);
        (answer.status, answer.message())
    };
    let (status, message) =
        refused("change", json!({"connection": "umbrella", "resource": "assets", "kind": "create"}));
    assert_eq!((status, message.as_str()), (404, "there is no connection \"umbrella\""));
    let (status, message) =
        refused("change", json!({"connection": "acme", "resource": "assets", "kind": "update"}));
    assert_eq!((status, message.as_str()), (404, "there is no such record in assets of acme"));
    let (status, message) = refused("status", json!({"connection": "acme", "state": "online"}));
    assert_eq!(status, 400);
    assert!(message.contains("unknown field `state`"), "{message}");
    let (status, message) = refused("fault", json!({"kind": "html", "requests": 0}));
    assert_eq!((status, message.as_str()), (400, "requests must be 1 to 1000, not 0"));
    let (status, message) = refused("scenario", json!({"name": "calm"}));
    assert_eq!(status, 400);
    assert!(message.starts_with("there is no scenario \"calm\""), "{message}");
}

/// What happens between two pages.
#[derive(Clone, Debug)]
enum Meanwhile {
    Create,
    Update(prop::sample::Index),
    Delete(prop::sample::Index),
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        Just(Meanwhile::Create),
        any::<prop::sample::Index>().prop_map(Meanwhile::Update),
        any::<prop::sample::Index>().prop_map(Meanwhile::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is created, changed and deleted meanwhile: a record that is there all the time is on one page, and
    /// only one, and none is there that never was.
    #[test]
    fn a_record_that_stays_is_on_exactly_one_page(
        count in 1usize..30,
        limit in 1usize..8,
        changes in prop::collection::vec(prop::collection::vec(meanwhile(), 0..5), 1..8),
    ) {
        let running = with_records(count);
        let token = running.tokens()["acme"].clone();
        let mut stay: Vec<String> = (1..=count).map(|n| format!("po_{n:06}")).collect();
        let mut live = stay.clone();
        let mut seen: Vec<String> = Vec::new();
        let mut cursor = String::new();
        let mut changes = changes.iter().cycle();
        // Creations between pages may outrun the list: after so many pages only the rest is read.
        for page in 0.. {
            let url = format!("{}/api/v1/purchase-orders?limit={limit}{cursor}", running.url());
            let answer = get(&url, Some(&token)).json();
            seen.extend(ids(answer["data"].as_array().unwrap()).into_iter().map(str::to_owned));
            let Some(next) = answer["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
            for change_now in changes.next().unwrap().iter().filter(|_| page < 20) {
                match change_now {
                    Meanwhile::Create => live.push(change(&running, "acme", LIST, ChangeKind::Create, None)),
                    Meanwhile::Update(which) if !live.is_empty() => {
                        change(&running, "acme", LIST, ChangeKind::Update, Some(&live[which.index(live.len())]));
                    }
                    Meanwhile::Delete(which) if !live.is_empty() => {
                        let id = live.remove(which.index(live.len()));
                        change(&running, "acme", LIST, ChangeKind::Delete, Some(&id));
                        stay.retain(|stays| *stays != id);
                    }
                    Meanwhile::Update(_) | Meanwhile::Delete(_) => {}
                }
            }
        }
        for id in &stay {
            prop_assert_eq!(seen.iter().filter(|seen| *seen == id).count(), 1, "{}", id);
        }
        let mut unique = seen.clone();
        unique.sort();
        unique.dedup();
        prop_assert_eq!(unique.len(), seen.len(), "twice: {:?}", seen);
    }
}
