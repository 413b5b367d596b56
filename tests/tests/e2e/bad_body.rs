//! A body that cannot be read is no reason to lose it: it is accepted, appended, and dead-lettered with its
//! reason, and what comes after it is applied.

use hookline_tests::http::Client;
use hookline_tests::wait;
use sandbox::sources::CONNECTIONS;

use crate::common::{PATIENCE, order, shared};

#[test]
fn a_body_that_cannot_be_read_is_dead_lettered_with_its_reason() {
    // A body with so many levels.
    let nested = |levels: usize, id: &str, number: &str| {
        let arrays = "[".repeat(levels - 1) + &"]".repeat(levels - 1);
        let order = text(order(id, number, "1"));
        format!(r#"{},"extra":{arrays}}}"#, &order[..order.len() - 1])
    };
    let long = "x".repeat(10_000);
    let number = |sequence: &str| {
        let id: String = sequence.bytes().map(|byte| format!("{byte:02x}")).collect();
        text(order(&format!("evt_{id}"), "bad-body", sequence))
    };
    let cases: Vec<(String, &str)> = vec![
        (nested(128, "evt_128", "bad-body"), "body nests deeper than 127 levels"),
        (nested(10_000, "evt_10000", "bad-body"), "body nests deeper than 127 levels"),
        (number("\"abc\""), "sequence is not an integer"),
        (number("1.5"), "sequence is not an integer"),
        (number("1e3"), "sequence is not an integer"),
        (number("-1"), "sequence is not an integer"),
        (number("9223372036854775808"), "sequence is not an integer"),
        (number("true"), "sequence is not an integer"),
        (number("null"), "/sequence is null"),
        (number("{}"), "/sequence points at an object"),
        (number("[1]"), "/sequence points at an array"),
        (text(order("", "bad-body-empty", "1")), "/id is empty"),
        (text(order(&long, "bad-body-long", "1")), "/id is longer than 1024 bytes"),
        (text(order("evt_nul\\u0000", "bad-body-nul", "1")), "/id contains U+0000"),
        (text(order("evt_long_entity", &long, "1")), "/data/number is longer than 1024 bytes"),
        (
            r#"{"id":{"a":1},"type":"t","sequence":1,"data":{"number":"x"}}"#.to_owned(),
            "/id points at an object",
        ),
        (r#"{"id":null,"type":"t","sequence":1,"data":{"number":"x"}}"#.to_owned(), "/id is null"),
        (
            r#"{"id":"evt_null_entity","type":"t","sequence":1,"data":null}"#.to_owned(),
            "/data/number is missing",
        ),
        (
            r#"{"id":"evt_no_sequence","type":"t","data":{"number":"bad-body"}}"#.to_owned(),
            "/sequence is missing",
        ),
        (r#"{"id":"evt_cut","type":"#.to_owned(), "body is not JSON: it ends too early"),
        (r#"{"id":"evt_twice"} {}"#.to_owned(), "body is not JSON"),
        ("\u{feff}{}".to_owned(), "body is not JSON"),
        (String::new(), "body is not JSON"),
        ("42".to_owned(), "/type is missing"),
    ];
    let shared = shared();
    let (client, [acme, _]) = (Client::new(), CONNECTIONS);
    for (body, reason) in &cases {
        let answer = shared.site.post_order(&client, acme, body.as_bytes());
        assert_eq!(answer.status, 200, "{reason}: {}", answer.text());
    }
    let not_text = [b"\xff\xfe{\"id\":\"evt_latin\"}".as_slice(), b"{\"id\":\"evt_\xe4\"}"];
    for body in not_text {
        assert_eq!(shared.site.post_order(&client, acme, body).status, 200);
    }
    // The entity goes on.
    assert_eq!(
        shared.site.post_order(&client, acme, nested(127, "evt_good", "bad-body").as_bytes()).status,
        200
    );
    let rows = shared.rows_of("acme", "purchase-order-bad-body", 1);
    assert_eq!(rows[0].event_id, "evt_good");

    let expected = cases.iter().map(|(body, reason)| (body.as_bytes(), *reason));
    let expected = expected.chain(not_text.map(|body| (body, "body is not JSON: it is not UTF-8")));
    let expected: Vec<(&[u8], &str)> = expected.collect();
    let letters = wait::until("all dead letters", PATIENCE, || {
        let letters = shared.site.dead_letters();
        let is_there =
            |body| letters.iter().any(|letter| letter.value.as_deref().unwrap_or_default() == body);
        expected.iter().all(|(body, _)| is_there(*body)).then_some(letters)
    });
    for (body, reason) in expected {
        let own = || letters.iter().filter(|letter| letter.value.as_deref().unwrap_or_default() == body);
        let (times, letter) = (own().count(), own().next().unwrap());
        assert_eq!(times, 1, "{reason}: once");
        let said = letter.header("hookline-dead-letter-reason").unwrap_or_default();
        assert!(said.contains(reason), "`{reason}` is not in `{said}`");
        // A reason is told to people: it has nothing of the body.
        assert!(!said.contains("xxxx") && !said.contains("abc"), "{said}");
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}
