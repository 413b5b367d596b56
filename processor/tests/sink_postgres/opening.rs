//! What a PostgreSQL sink says of a server, a role or a connection string that it cannot work with.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use hookline_tests::postgres::Postgres;

use super::sink_contract::{Owner, epoch, halted, ids, open, retried, simple, tls};
use super::{Schema, admin, unique, with_parameter, with_user};

#[test]
fn a_server_without_a_free_connection_is_tried_again() {
    let url = refusing_server(b"53300", "sorry, too many clients already");
    assert!(retried(open(&Schema::new().via(url))).contains("53300"));
}

/// A server as it greets someone whom it refuses.
pub(super) fn refusing_server(code: &[u8], message: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fields = [b"SFATAL\0VFATAL\0C", code, b"\0M", message.as_bytes(), b"\0\0"].concat();
    let mut answer = vec![b'E'];
    answer.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
    answer.extend(fields);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(&answer);
        }
    });
    format!("postgres://u:hunter2@{address}/postgres?sslmode=disable")
}

#[test]
fn a_role_or_database_that_is_missing_halts() {
    let message = halted(open(&Schema::new().via(with_user("hookline_nobody"))));
    assert!(message.contains("SQLSTATE 28"), "{message}");
    let message = halted(open(&Schema::new().via(with_parameter("dbname=hookline_nowhere"))));
    assert!(message.contains("SQLSTATE 3D000") && message.contains("create the database"), "{message}");
}

#[test]
fn a_role_needs_no_more_than_to_read_and_write_the_tables() {
    let schema = Schema::new();
    let role = unique("hookline_role");
    schema.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'; CREATE SCHEMA {{schema}}"));
    let lesser = schema.via(with_user(&role));
    let message = halted(open(&lesser));
    assert!(message.contains("42501") && message.contains("grant"), "{message}");
    open(&schema).unwrap();
    schema.run(&format!(
        "GRANT USAGE ON SCHEMA {{schema}} TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {{schema}} TO {role}"
    ));
    Owner::claim(&lesser, 0, epoch(1)).deliver(&[simple(1)]).unwrap();
    schema.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_eq!(ids(&schema), ["e1"]);
}

#[test]
fn a_database_that_cannot_hold_every_character_halts() {
    let name = unique("hookline_latin1");
    let mut admin = admin();
    let create =
        format!("CREATE DATABASE {name} ENCODING LATIN1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    admin.batch_execute(&create).unwrap();
    let message = halted(open(&Schema::new().via(with_parameter(&format!("dbname={name}")))));
    admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
    assert!(message.contains("LATIN1"), "{message}");
}

#[test]
fn a_standby_is_tried_again_until_it_takes_writes() {
    let url = with_parameter("options=-c%20default_transaction_read_only%3Don");
    assert!(retried(open(&Schema::new().via(url))).contains("does not allow writes"));
}

#[test]
fn tls_that_the_server_does_not_offer_halts() {
    for mode in ["require", "verify-full"] {
        let message = halted(open(&Schema::new().via(with_parameter(&format!("sslmode={mode}")))));
        assert!(message.contains("offers no TLS"), "{message}");
    }
}

#[test]
fn tls_verifies_the_certificate_and_the_hosts_name() {
    let server = Postgres::start_secured();
    // The names in the certificate: localhost alone.
    for (host, mode, is_trusted, is_let_in) in [
        ("localhost", "verify-full", true, true),
        ("localhost", "require", true, true),
        ("localhost", "prefer", true, true),
        ("127.0.0.1", "verify-full", true, false),
        ("localhost", "verify-full", false, false),
        ("localhost", "require", false, false),
        ("localhost", "disable", false, true),
    ] {
        let url = server.url_by(host, &format!("sslmode={mode}"));
        let (opened, text) = tls::opens(&url, is_trusted.then(|| server.certificate()).as_deref());
        assert_eq!(opened, is_let_in, "{host} {mode} trusted {is_trusted}: {text}");
        assert!(is_let_in || text.contains("certificate"), "{host} {mode} trusted {is_trusted}: {text}");
    }
}

#[test]
fn a_connection_string_that_cannot_be_read_halts_and_is_not_repeated() {
    for url in ["postgres://u:hunter2@host:port/db", "hunter2", "postgres://u:hunter2@h/db?hunter2=1"] {
        let message = halted(open(&Schema::new().via(url.to_owned())));
        assert!(!message.contains("hunter2"), "{message}");
    }
}
