//! The PostgreSQL sink on a real server: the promises of every sink with a fence, and PostgreSQL's own.
//!
//! `tests/run sinks` has what they need; without it they fail and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test: a panic is its way to fail")]

mod opening;
#[path = "../sink_contract/mod.rs"]
mod sink_contract;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hookline_tests::postgres::Postgres;
use postgres::{Client, NoTls, Row};
use processor::position::Epoch;
use processor::sink::{self, Sink, SinkError};
use shared::config::{ColumnType, PostgresSinkConfig, SinkConfig};

use sink_contract::example;
use sink_contract::mapping::{self, Mapped, Table};
use sink_contract::relational::{self, Relational};
use sink_contract::remote::{self, Remote};
use sink_contract::statuses;
use sink_contract::{
    Owner, Place, StoredEntity, StoredEvent, Tamper, context, effect, epoch, event, halted, ids, open,
    promises, retried, rows_dropped_in_silence_halt, simple, tls,
};

promises!(Schema::new());
remote::promises!(Schema::new());
mapping::promises!(Schema::new());
relational::promises!(Schema::new());
statuses::promises!(Schema::new());
statuses::remote_promises!(Schema::new());
mapping::remote_promises!(Schema::new());

fn server_url() -> String {
    Postgres::shared().url()
}

fn admin() -> Client {
    Client::connect(&server_url(), NoTls).unwrap()
}

fn with_user(user: &str) -> String {
    format!("{}&user={user}", with_parameter("password=x"))
}

fn with_parameter(parameter: &str) -> String {
    let url = server_url();
    format!("{url}{}{parameter}", if url.contains('?') { '&' } else { '?' })
}

fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A schema of its own, with a name that only quotes can hold; gone after the test.
struct Schema {
    name: String,
    url: String,
    statement_timeout: &'static str,
    is_alias: bool,
}

impl Schema {
    fn new() -> Self {
        Self {
            name: unique("Sink \"tests\"; --"),
            url: server_url(),
            statement_timeout: "30s",
            is_alias: false,
        }
    }

    /// The schema behind another connection string.
    fn via(&self, url: String) -> Self {
        Self { name: self.name.clone(), url, statement_timeout: "1s", is_alias: true }
    }

    fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    fn read<T>(&self, sql: &str, read: impl Fn(&Row) -> T) -> Vec<T> {
        let rows = admin().query(&sql.replace("{schema}", &self.quoted()), &[]).unwrap();
        rows.iter().map(read).collect()
    }

    /// Runs SQL with the schema's name in place of `{schema}`.
    fn run(&self, sql: &str) {
        admin().batch_execute(&sql.replace("{schema}", &self.quoted())).unwrap();
    }

    fn backends(&self, and: &str) -> i64 {
        let sql =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' {and}", self.name);
        self.read(&sql, |row| row.get(0))[0]
    }

    /// Opens under an application name by which the sink's backend is found.
    fn claim_named(&self, epoch: Epoch) -> Owner {
        let glue = if self.url.contains('?') { '&' } else { '?' };
        let encoded: String = self.name.bytes().map(|b| format!("%{b:02x}")).collect();
        let url = format!("{}{glue}application_name={encoded}", self.url);
        Owner::claim(&self.via(url), 0, epoch)
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        if !self.is_alias
            && let Ok(mut admin) = Client::connect(&server_url(), NoTls)
        {
            let _ = admin.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.quoted()));
        }
    }
}

const RFC3339: &str = r#"'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'"#;

impl Place for Schema {
    fn config(&self) -> SinkConfig {
        let text =
            format!("url = \"env:UNUSED\"\nschema = 'x'\nstatement_timeout = \"{}\"", self.statement_timeout);
        let mut config: PostgresSinkConfig = toml::from_str(&text).unwrap();
        config.schema.clone_from(&self.name);
        config.url_value = Some(self.url.clone().into());
        SinkConfig::Postgres(config)
    }

    fn events(&self) -> Vec<StoredEvent> {
        let sql = format!(
            "SELECT log_partition, effect_offset, effect_ordinal, source, connection, event_id, type, \
             entity, sequence, event_time, content_type, traceparent, \
             to_char(received_at AT TIME ZONE 'UTC', {RFC3339}), log_offset, \
             to_char(appended_at AT TIME ZONE 'UTC', {RFC3339}), body \
             FROM {{schema}}.hookline_events ORDER BY 1, 2, 3"
        );
        self.read(&sql, |row| StoredEvent {
            partition: row.get(0),
            at: (row.get(1), row.get(2)),
            source: row.get(3),
            connection: row.get(4),
            id: row.get(5),
            kind: row.get(6),
            entity: row.get(7),
            sequence: row.get(8),
            time: row.get(9),
            content_type: row.get(10),
            traceparent: row.get(11),
            received_at: row.get(12),
            log_offset: row.get(13),
            appended_at: row.get(14),
            body: row.get(15),
        })
    }

    fn entities(&self) -> Vec<StoredEntity> {
        let sql = format!(
            "SELECT source, connection, entity, event_id, type, sequence, log_partition, effect_offset, \
             effect_ordinal, to_char(updated AT TIME ZONE 'UTC', {RFC3339}), body \
             FROM {{schema}}.hookline_entities ORDER BY 7, 8, 9"
        );
        self.read(&sql, |row| StoredEntity {
            source: row.get(0),
            connection: row.get(1),
            entity: row.get(2),
            id: row.get(3),
            kind: row.get(4),
            sequence: row.get(5),
            at: (row.get(6), row.get(7), row.get(8)),
            updated: row.get(9),
            body: row.get(10),
        })
    }

    fn tamper(&self, how: Tamper) {
        self.run(&how.sql("{schema}."));
    }

    fn refuse_bad(&self) {
        self.run("ALTER TABLE {schema}.hookline_events ADD CONSTRAINT no_bad CHECK (type <> 'bad')");
    }
}

impl Remote for Schema {
    fn address(&self) -> SocketAddr {
        let config: postgres::Config = server_url().parse().unwrap();
        let host = match config.get_hosts() {
            [postgres::config::Host::Tcp(host)] => host.clone(),
            other => panic!("not one TCP host: {other:?}"),
        };
        (host, config.get_ports()[0]).to_socket_addrs().unwrap().next().unwrap()
    }

    fn config_at(&self, host: &str, port: u16) -> SinkConfig {
        let config: postgres::Config = server_url().parse().unwrap();
        let (user, database) = (config.get_user().unwrap(), config.get_dbname().unwrap());
        let url = format!("host={host} port={port} user={user} password=hunter2 dbname={database}");
        self.via(url).config()
    }

    fn wrong_credentials(&self) -> Vec<SinkConfig> {
        let refuses = opening::refusing_server(b"28P01", "password authentication failed for user \"u\"");
        [refuses, with_parameter("password=hunter2&user=hookline_nobody")]
            .map(|url| self.via(url).config())
            .into()
    }
}

impl Mapped for Schema {
    fn create(&self, table: &Table) {
        let columns = table.columns.iter().map(|(name, kind)| {
            let kind = match kind {
                ColumnType::Text => "text",
                ColumnType::Integer => "bigint",
                ColumnType::Decimal => "numeric",
                ColumnType::Boolean => "boolean",
                ColumnType::Timestamp => "timestamptz",
                ColumnType::Date => "date",
                ColumnType::Json => "jsonb",
            };
            format!("\"{name}\" {kind}")
        });
        let name = format!("{{schema}}.\"{}\"", table.name);
        self.run("CREATE SCHEMA IF NOT EXISTS {schema}");
        self.run(&mapping::create_table(table, &name, columns));
    }

    fn rows(&self, table: &Table) -> Vec<Vec<String>> {
        let columns = table.columns.iter().map(|(name, kind)| match kind {
            ColumnType::Timestamp => {
                format!("to_char(\"{name}\" AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
            }
            ColumnType::Text
            | ColumnType::Integer
            | ColumnType::Decimal
            | ColumnType::Boolean
            | ColumnType::Date
            | ColumnType::Json => format!("\"{name}\"::text"),
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        self.read(&format!("SELECT {columns} FROM {{schema}}.\"{}\"", table.name), |row| {
            let value = |n| row.get::<_, Option<String>>(n).unwrap_or_else(|| "null".to_owned());
            (0..table.columns.len()).map(value).collect()
        })
    }

    fn insert(&self, table: &Table, values: &[&str]) {
        self.run(&format!("INSERT INTO {{schema}}.\"{}\" VALUES ('{}')", table.name, values.join("', '")));
    }
}

impl Relational for Schema {
    fn sql(&self, sql: &str) {
        self.run("CREATE SCHEMA IF NOT EXISTS {schema}");
        self.run(&sql.replace('{', "\u{1}").replace('}', "\"").replace('\u{1}', "{schema}.\""));
    }
}

#[test]
fn the_example_of_purchase_orders_runs() {
    let schema = Schema::new();
    schema.run("CREATE SCHEMA {schema}");
    // As psql does it for a role whose search_path is the schema.
    schema.run(&format!("SET search_path = {{schema}}; {}", example::file("postgres", "tables.sql")));
    example::runs(&schema, "postgres", true);
}

#[test]
fn a_trigger_that_drops_rows_in_silence_halts() {
    let schema = Schema::new();
    rows_dropped_in_silence_halt(&schema, || {
        schema.run(
            "CREATE FUNCTION {schema}.swallow() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN IF new.type = 'bad' THEN RETURN NULL; END IF; RETURN new; END $$; \
             CREATE TRIGGER swallow BEFORE INSERT ON {schema}.hookline_events FOR EACH ROW \
             EXECUTE FUNCTION {schema}.swallow()",
        );
    });
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "{what} did not come about");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_session_ended_by_the_server_is_tried_again_and_then_claimed() {
    let schema = Schema::new();
    let mut owner = schema.claim_named(epoch(1));
    owner.deliver(&[simple(1)]).unwrap();
    let terminate = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
        schema.name
    );
    assert_eq!(schema.read(&terminate, |row| row.get::<_, bool>(0)), [true]);
    wait_until("the backend's end", || schema.backends("") == 0);
    retried(owner.deliver(&[simple(2)]));
    assert_eq!(owner.sink.claim(0, epoch(2)).unwrap().position, owner.fence.position);
    owner.fence.epoch = epoch(2);
    owner.deliver(&[simple(2)]).unwrap();
    assert_eq!(ids(&schema), ["e1", "e2"]);
}

#[test]
fn a_crash_before_the_commit_leaves_nothing() {
    let schema = Schema::new();
    let mut owner = schema.claim_named(epoch(1));
    owner.deliver(&[simple(1)]).unwrap();
    // The batch's events are written when it comes to the entities, which somebody has locked.
    let mut other = admin();
    let mut lock = other.transaction().unwrap();
    lock.batch_execute(&format!("LOCK TABLE {}.hookline_entities", schema.quoted())).unwrap();
    thread::scope(|scope| {
        let delivery = scope.spawn(|| owner.deliver(&[simple(2), simple(3)]));
        wait_until("a delivery in the middle", || schema.backends("AND wait_event_type = 'Lock'") == 1);
        schema.run(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            schema.name
        ));
        retried(delivery.join().unwrap());
    });
    lock.rollback().unwrap();
    assert_eq!(owner.sink.claim(0, epoch(2)).unwrap().position, owner.fence.position);
    assert_eq!(ids(&schema), ["e1"]);
    owner.fence.epoch = epoch(2);
    owner.deliver(&[simple(2), simple(3)]).unwrap();
    assert_eq!(ids(&schema), ["e1", "e2", "e3"]);
}

#[test]
fn a_lock_that_nobody_lets_go_is_tried_again_after_the_statement_timeout() {
    let schema = Schema::new();
    let mut owner = schema.claim_named(epoch(1));
    let mut other = admin();
    let mut lock = other.transaction().unwrap();
    lock.batch_execute(&format!("SELECT FROM {}.hookline_fence FOR UPDATE", schema.quoted())).unwrap();
    let started = Instant::now();
    assert!(retried(owner.deliver(&[simple(1)])).contains("57014"));
    assert!(retried(owner.sink.claim(0, epoch(2))).contains("57014"));
    assert!(started.elapsed() < Duration::from_secs(6));
    lock.rollback().unwrap();
    owner.fence = owner.sink.claim(0, epoch(2)).unwrap();
    owner.deliver(&[simple(1)]).unwrap();
}

/// A claim waits for what a former owner has under way, and then sees it.
#[test]
fn a_claim_counts_what_the_former_owner_commits_meanwhile() {
    let schema = Schema::new();
    let mut old = Owner::claim(&schema, 0, epoch(1));
    old.deliver(&[simple(1)]).unwrap();
    let mut other = admin();
    let mut lock = other.transaction().unwrap();
    lock.batch_execute(&format!("LOCK TABLE {}.hookline_entities", schema.quoted())).unwrap();
    thread::scope(|scope| {
        let delivery = scope.spawn(|| old.deliver(&[simple(2)]));
        let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                       JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT l.granted AND n.nspname = ";
        let waiting = format!("{waiting}'{}'", schema.name);
        wait_until("a delivery in the middle", || schema.read(&waiting, |row| row.get::<_, i64>(0)) == [1]);
        let claim = scope.spawn(|| Owner::claim(&schema, 0, epoch(2)));
        thread::sleep(Duration::from_millis(300));
        assert!(!claim.is_finished(), "the claim did not wait");
        lock.rollback().unwrap();
        delivery.join().unwrap().unwrap();
        let mut new = claim.join().unwrap();
        assert_eq!(new.fence.position, simple(2).position);
        new.deliver(&[simple(3)]).unwrap();
    });
    assert!(matches!(old.deliver(&[simple(3)]), Err(SinkError::Fenced { .. })));
    assert_eq!(ids(&schema), ["e1", "e2", "e3"]);
}

#[test]
#[ignore = "`opening::tls_verifies_the_certificate_and_the_hosts_name` runs it, in another environment"]
fn a_sink_opens_by_tls() {
    // Not `Schema::new`: it would start a server in this process, too.
    let name = unique("tls");
    let opened = open(&Schema { name, url: tls::place(), statement_timeout: "30s", is_alias: true });
    opened.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn commits_wait_for_the_disk_whatever_the_databases_default_is() {
    let schema = Schema::new();
    let url = with_parameter("options=-c%20synchronous_commit%3Doff");
    let mut owner = Owner::claim(&schema.via(url), 0, epoch(1));
    schema.run(
        "CREATE FUNCTION {schema}.noted() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN new.traceparent := current_setting('synchronous_commit'); RETURN new; END $$; \
         CREATE TRIGGER noted BEFORE INSERT ON {schema}.hookline_events FOR EACH ROW \
         EXECUTE FUNCTION {schema}.noted()",
    );
    owner.deliver(&[simple(1)]).unwrap();
    assert_eq!(schema.events()[0].traceparent.as_deref(), Some("on"));
}

/// What an error's DETAIL holds, a row's values, stays out of messages.
#[test]
fn no_message_repeats_what_a_row_holds() {
    let schema = Schema::new();
    let mut owner = Owner::claim(&schema, 0, epoch(1));
    schema.run("CREATE UNIQUE INDEX ON {schema}.hookline_events (source, event_id)");
    let twice = |offset| effect(offset, 0, &event("hunter2", None), b"hunter2");
    match owner.deliver(&[twice(1), twice(2)]) {
        Err(SinkError::Refused(message)) => {
            assert!(message.contains("23505") && !message.contains("hunter2"), "{message}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_sink_works_on_any_thread_and_closes_its_session() {
    let schema = Schema::new();
    let mut owner = schema.claim_named(epoch(1));
    let owner = thread::spawn(move || {
        owner.deliver(&[simple(1)]).unwrap();
        owner
    });
    let mut owner = owner.join().unwrap();
    owner.deliver(&[simple(2)]).unwrap();
    drop(owner);
    wait_until("the session's end", || schema.backends("") == 0);
    let opened: Box<dyn Sink> = sink::open(&schema.config(), &context()).unwrap().unwrap();
    drop(opened);
}

#[test]
fn what_a_mapped_column_would_cut_or_round_is_refused() {
    let schema = Schema::new();
    schema.run(
        "CREATE SCHEMA {schema}; CREATE TABLE {schema}.orders (connection text, id text, number varchar(3), \
         total numeric(10, 2), PRIMARY KEY (connection, id))",
    );
    let mut owner = mapping::owner(&schema, mapping::ORDERS, 1);
    let long = mapping::order(1, "o1", "hunter2");
    assert!(
        mapping::refused(owner.deliver(&[long]))
            .ends_with("a text is longer than its column (SQLSTATE 22001)")
    );
    let body = |total: &str| format!(r#"{{"number":"1","total":{total}}}"#);
    let fine = mapping::of(1, "order.x", "o1", &body("1.005"));
    let message = mapping::refused(owner.deliver(&[fine]));
    assert!(message.ends_with("column `total`: it has more digits after the point than 2"), "{message}");
    let large = mapping::of(1, "order.x", "o1", &body("1e9"));
    assert!(mapping::refused(owner.deliver(&[large])).contains("beyond its column's range"));
    owner.deliver(&[mapping::of(1, "order.x", "o1", &body("1.5000"))]).unwrap();
    assert_eq!(mapping::rows(&schema, &mapping::orders()), ["acme|o1|1|1.5"]);
}

#[test]
fn a_mapped_table_may_stand_in_another_schema_and_needs_its_rights() {
    let (schema, other) = (Schema::new(), Schema::new());
    other.run(
        "CREATE SCHEMA {schema}; CREATE TABLE {schema}.orders (connection text, id text, number text, \
         total numeric, PRIMARY KEY (connection, id))",
    );
    let name = toml::Value::String(format!("{}.orders", other.name)).to_string();
    let tables = mapping::deleting(mapping::ORDERS).replace("[orders", &format!("[{name}"));
    let role = unique("hookline_role");
    open(&schema).unwrap();
    schema.run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA {{schema}} TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {{schema}} TO {role}"
    ));
    other.run(&format!(
        "GRANT USAGE ON SCHEMA {{schema}} TO {role}; GRANT SELECT, INSERT, UPDATE ON {{schema}}.orders TO {role}"
    ));
    let lesser = schema.via(with_user(&role));
    let message = halted(sink_contract::open_with(&lesser, &mapping::with(&tables)));
    assert!(message.contains("lacks a right for this role: grant DELETE"), "{message}");
    other.run(&format!("GRANT DELETE ON {{schema}}.orders TO {role}"));
    let mut owner = mapping::owner(&lesser, &tables, 1);
    let deleted = mapping::of(2, "order.deleted", "o1", "");
    owner.deliver(&[mapping::order(1, "o1", "a")]).unwrap();
    assert_eq!(mapping::rows(&other, &mapping::orders()), ["acme|o1|a|1.5"]);
    owner.deliver(&[deleted]).unwrap();
    assert!(mapping::rows(&other, &mapping::orders()).is_empty());
    schema.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn one_table_under_two_names_is_refused() {
    let schema = Schema::new();
    schema.create(&mapping::orders());
    let name = toml::Value::String(format!("{}.orders", schema.name)).to_string();
    let twice = format!("{}{}", mapping::ORDERS, mapping::ORDERS.replace("[orders", &format!("[{name}")));
    assert!(
        halted(sink_contract::open_with(&schema, &mapping::with(&twice))).contains("are one: map it once")
    );
}
