//! How connections stand, and who is told: webhooks twice and in disorder, through ingest and a pipeline that is
//! killed, to the topic, the command line, the metrics; and from there to people, once each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Output;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, read_all};
use hookline_tests::process::{self, Program};
use hookline_tests::receiver::{Receiver, Request};
use hookline_tests::smtp::{self, Smtp};
use hookline_tests::{kafka_topics, ports, wait};
use sandbox::sources::{CONNECTIONS, Connection};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::common::{
    BILLING_SECRET, Instance, PATIENCE, Sink, Site, assert_nothing_leaked, processor, stderr, stdout,
};

/// What is added to the configuration, after the pipeline's table.
const STATUS: &str = r#"
[sources.makini.status]
active = ["connection.online"]
degraded = ["connection.degraded"]
reauthorization_needed = ["connection.reauthorization_needed"]
offline = ["connection.offline"]
revoked = ["connection.revoked"]
reason = "/data/reason"
time = "/timestamp"

[sources.makini.connections.acme.labels]
name = "Acme's SAP"
email = "later@acme.example"
reconnect_url = "https://portal.example/acme"
[sources.makini.connections.globex.labels]
name = "Globex"
email = "never@globex.example"
"#;

/// In the second of the minute, a connection's event of a kind.
fn tells(site: &Site, connection: Connection, id: &str, kind: &str, second: u32) {
    let text = json!({
        "id": id, "type": format!("connection.{kind}"), "connection_id": connection.id,
        "timestamp": time(second), "data": {"reason": format!("because of {id}")},
    });
    let answer = site.post_order(&Client::new(), connection, text.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{id}");
}

fn time(second: u32) -> String {
    format!("2026-05-01T10:{:02}:{:02}Z", second / 60, second % 60)
}

fn connections(instance: &Instance, arguments: &[&str]) -> Output {
    let config = instance.config.display().to_string();
    let (command, rest) = arguments.split_first().unwrap();
    let mut all = vec!["connections", command, "--config", &config];
    all.extend(rest);
    process::run("processor", &all, instance.program.environment())
}

/// The statuses that the topic has, in its order, by connection: id, status, since, previous.
fn history(site: &Site, topic: &str) -> BTreeMap<String, Vec<[String; 4]>> {
    let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for record in read_all(site.bootstrap(), topic, Isolation::ReadCommitted) {
        let key = String::from_utf8(record.key.unwrap()).unwrap();
        if key == "hookline:fence" {
            continue;
        }
        let value: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let text = |name: &str| value[name].as_str().unwrap_or("-").to_owned();
        let row = [text("event_id"), text("status"), text("since"), text("previous")];
        found.entry(key).or_default().push(row);
    }
    found
}

#[test]
fn each_status_is_published_once_whatever_comes_twice_late_or_is_killed() {
    const ROUNDS: u32 = 12;
    let site = Site::new("statuses", Kafka::shared(), 2);
    let topic = "statuses.connections";
    let _ingest = site.ingest().started();
    let mut instance = site.instance_with("statuses", "only", &Sink::Connections(topic.to_owned()), STATUS);
    instance.program.spawn();
    let [acme, globex] = CONNECTIONS;
    let mut expected = Vec::new();
    let mut before = "-";
    for round in 0..ROUNDS {
        let kind = ["online", "offline", "offline", "reauthorization_needed"][round as usize % 4];
        let status = if kind == "online" { "active" } else { kind };
        let (id, second) = (format!("evt_{round}"), 10 * round);
        tells(&site, acme, &id, kind, second);
        // Again; and another one that is older than it, and comes late.
        tells(&site, acme, &id, kind, second);
        if round > 0 {
            tells(&site, acme, &format!("late_{round}"), "revoked", second - 5);
        }
        if round % 4 == 1 {
            instance.program.kill();
            instance.program.spawn();
        }
        let since = if round % 4 == 2 { second - 10 } else { second };
        let previous = if round % 4 == 2 { "active" } else { before };
        expected.push([id, status.to_owned(), time(since), previous.to_owned()]);
        before = status;
    }
    tells(&site, globex, "evt_globex", "degraded", 0);
    instance.program.wait_ready();
    site.wait_caught_up();

    let found = history(&site, topic);
    assert_eq!(found["makini/acme"], expected);
    assert_eq!(found["makini/globex"], [["evt_globex", "degraded", &time(0), "-"].map(str::to_owned)]);
    assert_eq!(found.len(), 2);
    assert_eq!(kafka_topics::settings(site.bootstrap(), topic)["cleanup.policy"], "compact");

    let listed = connections(&instance, &["list", "--output", "json"]);
    let listed: Value =
        serde_json::from_str(&stdout(&listed)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&listed)));
    let [first, second] = listed.as_array().unwrap().as_slice() else { panic!("not two: {listed}") };
    let last = ROUNDS - 1;
    assert_eq!(first["connection"], "acme");
    assert_eq!(first["status"], "reauthorization_needed");
    assert_eq!(first["since"], time(10 * last));
    assert_eq!(first["previous"], "offline");
    assert_eq!(first["event_id"], format!("evt_{last}"));
    assert_eq!(first["reason"], format!("because of evt_{last}"));
    assert_eq!(first["labels"]["name"], "Acme's SAP");
    assert_eq!((&second["connection"], &second["status"]), (&json!("globex"), &json!("degraded")));
    let degraded = connections(&instance, &["list", "--status", "degraded", "--source", "makini"]);
    assert!(
        stdout(&degraded).contains("globex") && !stdout(&degraded).contains("acme"),
        "{}",
        stdout(&degraded)
    );
    let shown = connections(&instance, &["show", "makini", "acme"]);
    assert!(shown.status.success() && stdout(&shown).contains("because of evt_11"), "{}", stdout(&shown));
    assert_eq!(connections(&instance, &["show", "makini", "nobody"]).status.code(), Some(1));
    let wrong = connections(&instance, &["list", "--status", "happy"]);
    assert!(
        !wrong.status.success() && stderr(&wrong).contains("there are active, degraded"),
        "{}",
        stderr(&wrong)
    );

    let metrics = instance.program.metrics();
    let number = |status| metrics.sum("hookline_connections", &[("source", "makini"), ("status", status)]);
    assert_eq!(
        [number("active"), number("degraded"), number("reauthorization_needed")],
        [Some(0.0), Some(1.0), Some(1.0)]
    );
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
    assert_nothing_leaked(&[instance.program.log_text()], &["because of"]);
}

/// Where alerts go.
struct People {
    smtp: Smtp,
    slack: Receiver,
    tickets: Receiver,
    broken: Receiver,
}

impl People {
    fn start() -> Self {
        let people = Self {
            smtp: Smtp::start(),
            slack: Receiver::start(),
            tickets: Receiver::start(),
            broken: Receiver::start(),
        };
        people.broken.answers(|_| Some((503, "")));
        // The first answer is lost.
        let mut first = true;
        people.tickets.answers(move |_| if std::mem::take(&mut first) { None } else { Some((200, "")) });
        people
    }

    fn config(&self, topic: &str, admin: &str) -> String {
        let mut text = format!(
            "\n[alerts]\ntopic = \"{topic}\"\nretry_for = \"4s\"\nadmin_listen = \"{admin}\"\n\
             reconnect_url = \"https://connect.example/{{source}}/{{connection}}\"\n"
        );
        text += "[alerts.channels.slack.slack]\nurl = \"env:SLACK_URL\"\n";
        let secret = BILLING_SECRET.name;
        let _ = writeln!(
            text,
            "[alerts.channels.tickets.http]\nurl = \"env:TICKETS_URL\"\nsecrets = [\"env:{secret}\"]\n\
             [alerts.channels.broken.http]\nurl = \"env:BROKEN_URL\""
        );
        let smtp = format!(
            "host = \"localhost\"\nport = {}\nuser = \"{}\"\npassword = \"env:SMTP_PASSWORD\"\n\
             from = \"Hookline <alerts@hookline.example>\"",
            self.smtp.port,
            smtp::USER
        );
        text + &format!(
            "[alerts.channels.operators.email]\n{smtp}\nto = [\"ops@hookline.example\"]\n\
             [alerts.channels.customers.email]\n{smtp}\nto_label = \"email\"\n"
        )
    }

    fn program(&self, instance: &Instance, admin: std::net::SocketAddr) -> Program {
        let program = Program::alerts(&instance.config, admin)
            .env("HOSTNAME", "alerts-of-a-test")
            .env("HOOKLINE_LOG", "debug,rustls=info")
            .env("SLACK_URL", &self.slack.url("services/hunter2"))
            .env("TICKETS_URL", &self.tickets.url("tickets"))
            .env("BROKEN_URL", &self.broken.url("broken"))
            .env("SMTP_PASSWORD", smtp::PASSWORD)
            .env("SSL_CERT_FILE", &self.smtp.certificate().display().to_string());
        program.env(BILLING_SECRET.name, BILLING_SECRET.value)
    }

    /// Waits until so many messages are there, and returns those to an address.
    fn messages(&self, number: usize, to: &str) -> Vec<smtp::Message> {
        let what = format!("{number} messages");
        let mut all =
            wait::until(&what, PATIENCE, || Some(self.smtp.messages()).filter(|all| all.len() >= number));
        assert_eq!(all.len(), number, "{all:?}");
        all.retain(|message| message.to == [to]);
        all
    }
}

/// Waits until so many requests were taken, and returns them in the order in which they came.
fn taken(receiver: &Receiver, number: usize) -> Vec<Request> {
    wait::until(&format!("{number} requests"), PATIENCE, || {
        let mut seen = std::collections::BTreeSet::new();
        let mut got = receiver.got();
        got.retain(|request| seen.insert(request.header("idempotency-key").to_owned()));
        assert!(got.len() <= number, "{got:?}");
        (got.len() == number).then_some(got)
    })
}

#[test]
fn people_are_told_once_of_trouble_and_of_its_end() {
    let site = Site::new("alerting", Kafka::shared(), 2);
    let (people, admin) = (People::start(), ports::free_address());
    let more = STATUS.to_owned() + &people.config("alerting.told", &admin.to_string());
    let _ingest = site.ingest().started();
    let sink = Sink::Connections("alerting.connections".to_owned());
    let mut instance = site.instance_with("alerting", "only", &sink, &more);
    // Another program's configuration: a processor needs none of the channels' secrets.
    instance.program = instance.program.started();
    let mut alerts = people.program(&instance, admin).started();
    let [acme, globex] = CONNECTIONS;

    tells(&site, acme, "up", "online", 0);
    tells(&site, acme, "expired", "reauthorization_needed", 10);
    let [ticket] = taken(&people.tickets, 1).try_into().unwrap();
    let body: Value = serde_json::from_slice(&ticket.body).unwrap();
    assert_eq!(body["type"], "connection.trouble");
    assert_eq!(body["data"]["since"], time(10));
    assert_eq!(body["data"]["status"], "reauthorization_needed");
    assert_eq!(body["data"]["previous"], "active");
    assert_eq!(body["labels"]["name"], "Acme's SAP");
    assert_eq!(body["reconnect_url"], "https://portal.example/acme");
    assert_eq!(body["id"], ticket.header("webhook-id"));
    assert_signed(&ticket);
    let [said] = taken(&people.slack, 1).try_into().unwrap();
    let said: Value = serde_json::from_slice(&said.body).unwrap();
    let text = said["text"].as_str().unwrap();
    assert!(text.contains("Acme's SAP") && text.contains("because of expired"), "{text}");
    // To the operators at once; to the customer at the second try.
    let [customer] = people.messages(2, "later@acme.example").try_into().unwrap();
    assert_eq!(customer.subject, "Please reconnect Acme's SAP");
    assert!(customer.text.contains("https://portal.example/acme"), "{}", customer.text);
    let [operator] = people.messages(2, "ops@hookline.example").try_into().unwrap();
    assert_eq!(operator.subject, "[reauthorization_needed] connection Acme's SAP of makini");
    assert_eq!(operator.id, format!("<{}@hookline.example>", body["id"].as_str().unwrap()));
    assert_eq!(operator.id, customer.id);
    // The broken one was tried, and then passed over.
    let failed = [("channel", "broken"), ("outcome", "failed")];
    wait::until("a channel passed over", PATIENCE, || {
        (alerts.metrics().sum("hookline_alerts_total", &failed) == Some(1.0)).then_some(())
    });
    assert!(people.broken.got().len() > 1);

    // A restart repeats nothing: what comes after it is the next thing that is told.
    alerts.kill();
    tells(&site, globex, "gone", "offline", 20);
    alerts.spawn();
    let [_, ticket] = taken(&people.tickets, 2).try_into().unwrap();
    let body: Value = serde_json::from_slice(&ticket.body).unwrap();
    assert_eq!((&body["data"]["connection"], &body["data"]["status"]), (&json!("globex"), &json!("offline")));
    assert_eq!(body["reconnect_url"], "https://connect.example/makini/globex");
    // There is no such customer, for good.
    assert_eq!(people.messages(3, "ops@hookline.example").len(), 2);

    tells(&site, acme, "back", "online", 30);
    let requests = taken(&people.tickets, 3);
    let body: Value = serde_json::from_slice(&requests[2].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["since"]), (&json!("connection.recovery"), &json!(time(30))));
    let told = people.messages(5, "later@acme.example");
    assert_eq!(told[1].subject, "Acme's SAP works again");
    assert_eq!(taken(&people.slack, 3).len(), 3);
    // Who was not told of trouble is not told of its end.
    wait::until("the end of the second alert", PATIENCE, || {
        (alerts.metrics().sum("hookline_alerts_under_way", &[]) == Some(0.0)).then_some(())
    });
    assert!(people.broken.got().iter().all(|got| !String::from_utf8_lossy(&got.body).contains("recovery")));
    // Only the answer that was lost was asked for again.
    assert_eq!(people.tickets.got().len(), 4);
    assert!(alerts.terminate().success());
    assert_nothing_leaked(&[alerts.log_text()], &[smtp::PASSWORD, "hunter2", "acme.example", "because of"]);
}

/// As a receiver with a Standard Webhooks library does.
fn assert_signed(request: &Request) {
    let key = BASE64_STANDARD.decode(BILLING_SECRET.value.trim_start_matches("whsec_")).unwrap();
    let signed = format!("{}.{}.", request.header("webhook-id"), request.header("webhook-timestamp"));
    let tag =
        BASE64_STANDARD.decode(request.header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(signed).chain_update(&request.body);
    mac.verify_slice(&tag).unwrap();
}
