//! Kafka with TLS and SASL: webhooks go through, and a wrong password, a wrong mechanism or a certificate that is
//! not trusted is said in words, without the password.

use hookline_tests::http::Client;
use hookline_tests::kafka::{Kafka, Secured};
use hookline_tests::postgres::Postgres;
use hookline_tests::process::Program;
use hookline_tests::wait;
use sandbox::sources::CONNECTIONS;

use crate::common::{PATIENCE, Sink, Site, order, row_count};

const WRONG_PASSWORD: &str = "close-sesame-91ab";

fn lines(secured: &Secured, mechanism: &str, ca: &str) -> String {
    format!(
        r#"bootstrap_servers = "{}"
security_protocol = "sasl_ssl"
tls = {{ ca = "{ca}" }}
sasl = {{ mechanism = "{mechanism}", username = "{}", password = "env:KAFKA_PASSWORD" }}"#,
        secured.bootstrap(),
        Secured::USER
    )
}

#[test]
fn webhooks_go_through_a_kafka_with_tls_and_sasl() {
    let kafka = Kafka::start_secured();
    let secured = kafka.secured();
    for (name, mechanism) in
        [("plain", "PLAIN"), ("scram-256", "SCRAM-SHA-256"), ("scram-512", "SCRAM-SHA-512")]
    {
        let site = Site::new(name, &kafka, 1);
        let ca = site.write("ca.pem", &secured.certificate).display().to_string();
        let site = site.kafka(lines(secured, mechanism, &ca));
        let url = Postgres::shared().create_database();
        let with_password = |program: Program| program.env("KAFKA_PASSWORD", Secured::PASSWORD);
        let _ingest = with_password(site.ingest()).started();
        let processor = with_password(site.instance("only", &Sink::Postgres(url.clone())).program).started();
        let body = order("evt_secured", "1", "1");
        assert_eq!(site.post_order(&Client::new(), CONNECTIONS[0], &body).status, 200, "{mechanism}");
        wait::until("the row", PATIENCE, || (row_count(&url) == 1).then_some(()));
        site.wait_caught_up();
        assert!(!processor.log_text().contains(Secured::PASSWORD));
    }
}

#[test]
fn a_kafka_that_does_not_let_in_is_said_in_words() {
    let kafka = Kafka::start_secured();
    let secured = kafka.secured();
    let site = Site::new("not-let-in", &kafka, 1);
    let right = site.write("ca.pem", &secured.certificate).display().to_string();
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap().cert.pem();
    let other = site.write("other.pem", &other).display().to_string();
    let cases = [
        ("SCRAM-SHA-512", WRONG_PASSWORD, &right, "Authentication failed"),
        ("PLAIN", WRONG_PASSWORD, &right, "Authentication failed"),
        ("PLAIN", Secured::PASSWORD, &other, "certificate verify failed"),
    ];
    let mut site = site;
    for (mechanism, password, ca, said) in cases {
        site = site.kafka(lines(secured, mechanism, ca));
        let sink = Sink::Kafka("not-let-in.applied".to_owned());
        let mut programs = [site.ingest(), site.instance("only", &sink).program];
        for program in &mut programs {
            *program = std::mem::replace(program, site.ingest()).env("KAFKA_PASSWORD", password);
            program.spawn();
            program.wait_log(said, PATIENCE);
            let (status, text) = wait::until("/readyz", PATIENCE, || program.readyz());
            assert_eq!(status, 503);
            wait::until("why", PATIENCE, || {
                program.readyz().is_some_and(|(_, text)| text.contains(said)).then_some(())
            });
            assert!(!program.log_text().contains(password) && !text.contains(password), "{text}");
            program.kill();
        }
    }
}
