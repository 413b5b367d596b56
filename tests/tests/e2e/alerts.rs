//! Who is told how connections stand: people, by every kind of channel, once each; also by two programs at once, and by
//! one that dies between sending and recording.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, read_all};
use hookline_tests::process::Program;
use hookline_tests::receiver::{Receiver, Request};
use hookline_tests::smtp::{self, Smtp};
use hookline_tests::{ports, wait};
use sandbox::sources::CONNECTIONS;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::common::{BILLING_SECRET, PATIENCE, Sink, Site, assert_nothing_leaked};
use crate::connections::{STATUS, tells, time};

/// Names the place at which a program dies; `tests/run` builds it in.
const FAILPOINT: &str = "HOOKLINE_FAILPOINT";

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

    /// With two channels: one by HTTP, one by e-mail.
    fn two_channels(&self, topic: &str, admin: SocketAddr) -> String {
        let secret = BILLING_SECRET.name;
        format!(
            "\n[alerts]\ntopic = \"{topic}\"\nretry_for = \"4s\"\nadmin_listen = \"{admin}\"\n\
             reconnect_url = \"https://connect.example/{{source}}/{{connection}}\"\n\
             [alerts.channels.tickets.http]\nurl = \"env:TICKETS_URL\"\nsecrets = [\"env:{secret}\"]\n\
             [alerts.channels.operators.email]\n{}\nto = [\"ops@hookline.example\"]\n",
            self.mail_server()
        )
    }

    fn all_channels(&self, topic: &str, admin: SocketAddr) -> String {
        let more = format!(
            "[alerts.channels.slack.slack]\nurl = \"env:SLACK_URL\"\n\
             [alerts.channels.broken.http]\nurl = \"env:BROKEN_URL\"\n\
             [alerts.channels.customers.email]\n{}\nto_label = \"email\"\n",
            self.mail_server()
        );
        self.two_channels(topic, admin) + &more
    }

    fn mail_server(&self) -> String {
        format!(
            "host = \"localhost\"\nport = {}\nuser = \"{}\"\npassword = \"env:SMTP_PASSWORD\"\n\
             from = \"Hookline <alerts@hookline.example>\"",
            self.smtp.port,
            smtp::USER
        )
    }

    fn program(&self, config: &Path, admin: SocketAddr, name: &str) -> Program {
        let program = Program::alerts(config, admin)
            .env("HOSTNAME", name)
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
    let more = STATUS.to_owned() + &people.all_channels("alerting.told", admin);
    let _ingest = site.ingest().started();
    let sink = Sink::Connections("alerting.connections".to_owned());
    let mut instance = site.instance_with("alerting", "only", &sink, &more);
    // Another program's configuration: a processor needs none of the channels' secrets.
    instance.program = instance.program.started();
    let mut alerts = people.program(&instance.config, admin, "alerts-of-a-test").started();
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

/// What is recorded as told to every channel: connection and status, in the order of the topic.
fn told(site: &Site, topic: &str) -> Vec<(String, String)> {
    let records = read_all(site.bootstrap(), topic, Isolation::ReadCommitted).into_iter();
    let values = records.map(|record| serde_json::from_slice::<Value>(&record.value.unwrap()).unwrap());
    let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    values
        .filter(|value| value["done"] == true)
        .map(|value| (text(&value, "connection"), text(&value, "status")))
        .collect()
}

fn wait_told(site: &Site, topic: &str, number: usize) {
    wait::until(&format!("{number} alerts recorded as told"), PATIENCE, || {
        (told(site, topic).len() >= number).then_some(())
    });
}

/// Sent by all channels and recorded by one: after the start, the other one sends it again under the same id.
#[test]
fn an_alert_that_was_sent_and_not_recorded_is_sent_again_under_its_id() {
    let site = Site::new("alerting-crash", Kafka::shared(), 2);
    let (people, admin) = (People::start(), ports::free_address());
    people.tickets.answers(|_| Some((200, "")));
    let topic = "alerting-crash.told";
    let more = STATUS.to_owned() + &people.two_channels(topic, admin);
    let _ingest = site.ingest().started();
    let sink = Sink::Connections("alerting-crash.connections".to_owned());
    let mut instance = site.instance_with("alerting-crash", "only", &sink, &more);
    instance.program = instance.program.started();
    let alerts = people.program(&instance.config, admin, "alerts-that-crash");
    let mut alerts = alerts.env(FAILPOINT, "alert-sent:2").started();
    let [acme, _] = CONNECTIONS;

    tells(&site, acme, "expired", "reauthorization_needed", 10);
    assert!(!alerts.wait(PATIENCE).success());
    let sent = || (people.tickets.got().len(), people.smtp.messages().len());
    assert_eq!(sent(), (1, 1));
    assert!(told(&site, topic).is_empty());
    alerts.set_env(FAILPOINT, None);
    alerts.spawn();
    wait_told(&site, topic, 1);
    // The channel that was recorded has it once.
    let (tickets, messages) = (people.tickets.got(), people.smtp.messages());
    assert_eq!((tickets.len() + messages.len(), tickets.len().abs_diff(messages.len())), (3, 1));
    let ids: BTreeSet<String> = tickets
        .iter()
        .map(|ticket| format!("<{}@hookline.example>", ticket.header("webhook-id")))
        .chain(messages.iter().map(|message| message.id.clone()))
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");

    // What is recorded is not sent again.
    alerts.kill();
    alerts.spawn();
    tells(&site, acme, "back", "online", 20);
    wait_told(&site, topic, 2);
    assert_eq!(sent(), (tickets.len() + 1, messages.len() + 1));
}

#[test]
fn two_who_tell_share_the_connections_and_one_tells_what_the_other_leaves() {
    let site = Site::new("alerting-two", Kafka::shared(), 2);
    let (people, admins) = (People::start(), [ports::free_address(), ports::free_address()]);
    people.tickets.answers(|_| Some((200, "")));
    let topic = "alerting-two.told";
    let more = STATUS.to_owned() + &people.two_channels(topic, admins[0]);
    let _ingest = site.ingest().started();
    let sink = Sink::Connections("alerting-two.connections".to_owned());
    let mut instance = site.instance_with("alerting-two", "only", &sink, &more);
    instance.program = instance.program.started();
    let text = fs::read_to_string(&instance.config).unwrap();
    let admin = |address: SocketAddr| format!("retry_for = \"4s\"\nadmin_listen = \"{address}\"");
    let second = text.replace(&admin(admins[0]), &admin(admins[1]));
    let second = site.write("second.toml", &second);
    let mut first = people.program(&instance.config, admins[0], "alerts-first").started();
    // The two are in a partition each.
    let [acme, globex] = CONNECTIONS;
    let both = |(one, other): (&str, &str), second: u32| {
        tells(&site, acme, &format!("acme-{second}"), one, second);
        tells(&site, globex, &format!("globex-{second}"), other, second);
    };
    both(("offline", "reauthorization_needed"), 10);
    wait_told(&site, topic, 2);

    let second = people.program(&second, admins[1], "alerts-second").started();
    both(("online", "online"), 20);
    wait_told(&site, topic, 4);
    let has_sent = |program: &Program| program.log_text().contains("alert sent");
    assert!(has_sent(&first) && has_sent(&second), "one of them sent nothing");
    // Nothing is under way: whoever takes over sends nothing again.
    first.kill();
    both(("revoked", "offline"), 30);
    wait_told(&site, topic, 6);
    first.spawn();
    first.wait_ready();
    both(("online", "online"), 40);
    wait_told(&site, topic, 8);

    let mut found = told(&site, topic);
    found.sort();
    let row = |connection: &str, status: &str| (connection.to_owned(), status.to_owned());
    assert_eq!(
        found,
        [
            row("acme", "active"),
            row("acme", "active"),
            row("acme", "offline"),
            row("acme", "revoked"),
            row("globex", "active"),
            row("globex", "active"),
            row("globex", "offline"),
            row("globex", "reauthorization_needed"),
        ]
    );
    let ids: Vec<String> =
        people.tickets.got().iter().map(|got| got.header("webhook-id").to_owned()).collect();
    assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (8, 8), "{ids:?}");
    assert_eq!(people.smtp.messages().len(), 8);
    assert_nothing_leaked(&[first.log_text(), second.log_text()], &[smtp::PASSWORD, "because of"]);
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
