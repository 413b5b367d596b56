//! Each scenario of the sandbox, against ingest, the poller and a pipeline into PostgreSQL: in the end the sink has what
//! the provider has, row by row, each event once, and the books agree.

use std::time::Duration;

use hookline_tests::postgres::connect;
use hookline_tests::process::Program;
use hookline_tests::wait;
use sandbox::provider::{self, ConfigOptions, Expected, Options, Resource, Row, Scenario, Urls, config_toml};

use crate::stand::Stand;

/// How long a scenario may take, and what is left to do after it.
const PATIENCE: Duration = Duration::from_secs(180);
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// How long a revision that is missing is waited for.
const GAP_WAIT: Duration = Duration::from_secs(5);

/// A scenario that was played, with what it was played against.
struct Played {
    stand: Stand,
    provider: provider::Running,
    poller: Program,
    /// Ingest and the processor.
    programs: [Program; 2],
}

fn play(name: &str) -> Played {
    let stand = Stand::new(&format!("scenario-{name}"));
    let registry = stand.dir.path().join("connections");
    let provider =
        provider::start(&Options { registry: Some(registry.clone()), ..Options::default() }).unwrap();
    let sources = config_toml(&ConfigOptions {
        source: "makini",
        api_url: &provider.url(),
        registry: &registry,
        gap_wait: GAP_WAIT,
        poll_interval: Duration::from_secs(2),
        overlap: Duration::from_secs(30),
    });
    stand.configure(&sources, "");
    let programs = [stand.ingest().started(), stand.processor().started()];
    let poller = stand.poller().started();
    // As an operator tells the provider.
    let connections: Vec<String> = provider.tokens().into_keys().collect();
    provider.set_urls(Urls::parse(&stand.urls(), "ingest urls", "makini", &connections).unwrap());
    provider.play(Scenario::find(name).unwrap()).unwrap();
    Played { stand, provider, poller, programs }
}

impl Played {
    /// Waits until the sink has what the provider has; then nothing may be there twice, and the books agree.
    fn settle(&self) {
        assert!(self.provider.wait_done(PATIENCE), "the scenario does not end: {:?}", self.provider.state());
        let expected = self.provider.expected();
        let mut left = Vec::new();
        let settled = wait::within(SETTLED_WITHIN, || {
            left = provider::compare(&expected, &Resource::ALL, &self.rows());
            left.is_empty().then_some(())
        });
        let shown: Vec<String> = left.iter().take(20).map(ToString::to_string).collect();
        assert!(settled.is_some(), "{} differences:\n{}", left.len(), shown.join("\n"));
        self.each_event_once(&expected);
        self.stand.verify();
        let tokens = self.provider.tokens();
        for token in tokens.values() {
            assert!(!self.poller.log_text().contains(token), "a token is in the log");
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut client = connect(&self.stand.database);
        let rows = client.query("SELECT connection, entity, body FROM hookline_entities", &[]).unwrap();
        let row = |row: &postgres::Row| {
            let (connection, entity): (String, String) = (row.get(0), row.get(1));
            Row::of_entity(&connection, &entity, &row.get::<_, Vec<u8>>(2)).map(Result::unwrap)
        };
        rows.iter().filter_map(row).collect()
    }

    fn each_event_once(&self, expected: &Expected) {
        let mut client = connect(&self.stand.database);
        let one =
            |client: &mut postgres::Client, sql: &str| client.query_one(sql, &[]).unwrap().get::<_, i64>(0);
        let twice = "SELECT count(*) FROM (SELECT FROM hookline_events GROUP BY source, connection, event_id \
                     HAVING count(*) > 1) AS twice";
        assert_eq!(one(&mut client, twice), 0, "events are there twice");
        // A version is applied once, whether a webhook brought it or a list.
        let versions = "SELECT count(*) FROM (SELECT FROM hookline_events WHERE sequence IS NOT NULL \
                        GROUP BY source, connection, entity, sequence HAVING count(*) > 1) AS twice";
        assert_eq!(one(&mut client, versions), 0, "versions are there twice");
        assert!(one(&mut client, "SELECT count(*) FROM hookline_events") >= expected.entities.len() as i64);
    }
}

/// Plays a scenario, and waits until the sink has what the provider has.
fn settled(name: &str) -> Played {
    let played = play(name);
    played.settle();
    played
}

#[test]
fn what_comes_twice_is_applied_once() {
    settled("duplicates");
}

#[test]
fn what_comes_in_disorder_is_applied_in_order() {
    settled("out-of-order");
}

#[test]
fn what_comes_late_is_not_applied_over_what_is_newer() {
    settled("late");
}

#[test]
fn what_is_lost_is_found_by_polling_and_counted() {
    let played = settled("lost");
    let lost = played.provider.state().lost;
    let [_, processor] = &played.programs;
    let missed = processor.metrics().sum("hookline_processor_snapshots_applied_total", &[]);
    // Records that were there before, too, and of several lost revisions of a record the last one alone.
    assert!(lost > 0 && missed > Some(0.0), "{lost} lost, {missed:?} found by polling");
}

#[test]
fn a_storm_is_taken_in() {
    settled("storm");
}

#[test]
fn a_sender_without_patience_sends_again() {
    let played = settled("slow-receiver");
    let webhooks = played.provider.state().webhooks;
    assert!(webhooks.attempts > webhooks.answered, "{webhooks:?}");
}

#[test]
fn what_failed_while_the_token_was_refused_is_fetched_with_the_new_one() {
    let played = settled("credentials-expired");
    let refused = played.provider.requests()["acme"].statuses.get(&401).copied();
    assert!(refused > Some(0), "no request was refused");
    // The provider's own webhooks say the same; what the poller tells has its mark.
    let told = played.stand.events().into_iter().filter(|event| {
        event.header("hookline-scheme").as_deref() == Some("poll")
            && event.header("hookline-snapshot").is_none()
    });
    let told: Vec<String> = told.map(|event| event.header("ce_type").unwrap()).collect();
    assert!(told.contains(&"connection.reauthorization_needed".to_owned()), "{told:?}");
    assert!(told.contains(&"connection.online".to_owned()), "{told:?}");
}

#[test]
fn an_api_that_fails_in_every_way_is_read_to_its_end_and_each_failure_is_named() {
    let played = settled("api-errors");
    let log = played.poller.log_text();
    for failure in [
        "the provider asks to wait (status 429)",
        "the provider answers with status 500",
        "no answer in time",
        "the answer is not JSON: it ends too early",
        "the answer is not JSON: it breaks the grammar",
        "the provider does not take the request",
    ] {
        assert!(log.contains(failure), "“{failure}” is not in the poller's log");
    }
}

#[test]
fn a_gap_is_filled_by_asking_for_the_record() {
    let played = settled("sequence-gap");
    let asked: u64 = played.provider.requests().values().map(|requests| requests.ones).sum();
    assert!(asked > 0, "no record was asked for");
}

#[test]
fn all_of_it_at_once() {
    settled("mixed");
}
