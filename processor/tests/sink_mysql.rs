//! The MySQL sink on a real server (MariaDB): the promises of every sink with a fence, and MySQL's own.
//!
//! `tests/run sinks` has what they need; without it they fail and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test: a panic is its way to fail")]

mod sink_contract;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hookline_tests::mariadb::MariaDb;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Row};
use processor::sink::{self, SinkError};
use shared::config::{ColumnType, DatabaseSinkConfig, SinkConfig};
use shared::event::Event;
use tokio::runtime::{Builder, Runtime};

use sink_contract::example;
use sink_contract::mapping::{self, Mapped, Table};
use sink_contract::relational::{self, Relational};
use sink_contract::remote::{self, Remote};
use sink_contract::statuses;
use sink_contract::{
    Owner, Place, StoredEntity, StoredEvent, Tamper, context, effect, epoch, event, halted, ids, open,
    promises, retried, simple, tls,
};

promises!(Database::new());
remote::promises!(Database::new());
mapping::promises!(Database::new());
relational::promises!(Database::new());
statuses::promises!(Database::new());
statuses::remote_promises!(Database::new());
mapping::remote_promises!(Database::new());

const PASSWORD: &str = "hunter2@:/?";
const PASSWORD_ENCODED: &str = "hunter2%40%3A%2F%3F";

/// A session of the superuser's.
struct Admin {
    conn: Conn,
    runtime: Runtime,
}

impl Admin {
    fn connect() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let port = MariaDb::shared().port();
        let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).user(Some("root"));
        let conn = runtime.block_on(Conn::new(opts.prefer_socket(false))).unwrap();
        Self { conn, runtime }
    }

    fn read<T>(&mut self, sql: &str, read: impl Fn(&Row) -> T) -> Vec<T> {
        let rows: Vec<Row> = self.runtime.block_on(self.conn.query(sql)).unwrap();
        rows.iter().map(read).collect()
    }

    fn run(&mut self, sql: &str) {
        self.runtime.block_on(self.conn.query_drop(sql)).unwrap();
    }
}

fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A database of its own, with a name that only quotes can hold, and a user of its own with a password; gone
/// after the test.
struct Database {
    name: String,
    user: String,
}

impl Database {
    fn new() -> Self {
        let database = Self { name: unique("sink \"tests\"; --"), user: unique("lesser") };
        database.admin_run(&format!("CREATE DATABASE `{}`", database.name));
        database.run(&format!("CREATE USER {} IDENTIFIED BY '{PASSWORD}'", database.user));
        database.grant("SELECT, INSERT, UPDATE, CREATE, INDEX");
        database
    }

    fn grant(&self, privileges: &str) {
        self.run(&format!("GRANT {privileges} ON `{}`.* TO {}", self.name, self.user));
    }

    fn admin(&self) -> Admin {
        let mut admin = Admin::connect();
        admin.run(&format!("USE `{}`", self.name));
        admin
    }

    fn admin_run(&self, sql: &str) {
        Admin::connect().run(sql);
    }

    fn run(&self, sql: &str) {
        self.admin().run(sql);
    }

    fn read<T>(&self, sql: &str, read: impl Fn(&Row) -> T) -> Vec<T> {
        self.admin().read(sql, read)
    }

    fn url(&self, host: &str, port: u16, parameters: &str) -> String {
        let name: String = self.name.bytes().map(|b| format!("%{b:02x}")).collect();
        format!("mysql://{}:{PASSWORD_ENCODED}@{host}:{port}/{name}{parameters}", self.user)
    }

    /// How many of the sink's sessions wait for a lock. information_schema.innodb_trx is made anew only when nobody
    /// on the server has looked for 0.1 s: so one test looks at a time, after such a pause.
    fn waiting(&self) -> i64 {
        static LOOKING: Mutex<()> = Mutex::new(());
        let _alone = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
        thread::sleep(Duration::from_millis(150));
        let sql = format!(
            "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
             ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.user = '{}'",
            self.user
        );
        self.read(&sql, |row| row.get(0).unwrap())[0]
    }

    fn kill_sessions(&self) {
        let mut admin = Admin::connect();
        let sql = format!("SELECT id FROM information_schema.processlist WHERE user = '{}'", self.user);
        let sessions: Vec<u64> = admin.read(&sql, |row| row.get(0).unwrap());
        assert!(!sessions.is_empty());
        sessions.iter().for_each(|id| admin.run(&format!("KILL {id}")));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A failed test has told what is wrong.
        if !thread::panicking() {
            self.admin_run(&format!("DROP DATABASE `{}`; DROP USER {}", self.name, self.user));
        }
    }
}

fn config(url: String) -> SinkConfig {
    let mut config: DatabaseSinkConfig =
        toml::from_str("url = \"env:UNUSED\"\nstatement_timeout = \"1s\"").unwrap();
    config.url_value = Some(url.into());
    SinkConfig::Mysql(config)
}

fn rfc3339(column: &str) -> String {
    format!("concat(left(date_format({column}, '%Y-%m-%dT%H:%i:%s.%f'), 23), 'Z')")
}

impl Place for Database {
    fn config(&self) -> SinkConfig {
        let mut config = config(self.url("127.0.0.1", MariaDb::shared().port(), "?ssl-mode=disabled"));
        if let SinkConfig::Mysql(config) = &mut config {
            config.statement_timeout = shared::units::Span::secs(30);
        }
        config
    }

    fn events(&self) -> Vec<StoredEvent> {
        let sql = format!(
            "SELECT log_partition, effect_offset, effect_ordinal, source, connection, event_id, type, entity, \
             sequence, event_time, content_type, traceparent, {}, log_offset, {}, body \
             FROM hookline_events ORDER BY 1, 2, 3",
            rfc3339("received_at"),
            rfc3339("appended_at")
        );
        self.read(&sql, |row| StoredEvent {
            partition: row.get(0).unwrap(),
            at: (row.get(1).unwrap(), row.get(2).unwrap()),
            source: row.get(3).unwrap(),
            connection: row.get(4).unwrap(),
            id: row.get(5).unwrap(),
            kind: row.get(6).unwrap(),
            entity: row.get(7).unwrap(),
            sequence: row.get(8).unwrap(),
            time: row.get(9).unwrap(),
            content_type: row.get(10).unwrap(),
            traceparent: row.get(11).unwrap(),
            received_at: row.get(12).unwrap(),
            log_offset: row.get(13).unwrap(),
            appended_at: row.get(14).unwrap(),
            body: row.get(15).unwrap(),
        })
    }

    fn entities(&self) -> Vec<StoredEntity> {
        let sql = format!(
            "SELECT source, connection, entity, event_id, type, sequence, log_partition, effect_offset, \
             effect_ordinal, {}, body FROM hookline_entities ORDER BY 7, 8, 9",
            rfc3339("updated")
        );
        self.read(&sql, |row| StoredEntity {
            source: row.get(0).unwrap(),
            connection: row.get(1).unwrap(),
            entity: row.get(2).unwrap(),
            id: row.get(3).unwrap(),
            kind: row.get(4).unwrap(),
            sequence: row.get(5).unwrap(),
            at: (row.get(6).unwrap(), row.get(7).unwrap(), row.get(8).unwrap()),
            updated: row.get(9).unwrap(),
            body: row.get(10).unwrap(),
        })
    }

    fn tamper(&self, how: Tamper) {
        self.run(&how.sql(""));
    }

    fn refuse_bad(&self) {
        self.run("ALTER TABLE hookline_events ADD CONSTRAINT no_bad CHECK (type <> 'bad')");
    }
}

impl Mapped for Database {
    fn create(&self, table: &Table) {
        let columns = table.columns.iter().map(|(name, kind)| {
            let kind = match kind {
                ColumnType::Text if *name == "number" => "LONGTEXT",
                ColumnType::Text => "VARCHAR(200)",
                ColumnType::Integer => "BIGINT",
                ColumnType::Decimal => "DECIMAL(38, 10)",
                ColumnType::Boolean => "BOOLEAN",
                ColumnType::Timestamp => "DATETIME(6)",
                ColumnType::Date => "DATE",
                ColumnType::Json => "JSON",
            };
            format!("`{name}` {kind}")
        });
        let sql = mapping::create_table(table, &format!("`{}`", table.name), columns);
        self.run(&format!("{sql} DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"));
        self.grant("DELETE");
    }

    fn rows(&self, table: &Table) -> Vec<Vec<String>> {
        let columns = table.columns.iter().map(|(name, kind)| match kind {
            ColumnType::Timestamp => format!("date_format(`{name}`, '%Y-%m-%dT%H:%i:%s.%fZ')"),
            ColumnType::Boolean => format!("CASE `{name}` WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"),
            ColumnType::Text
            | ColumnType::Integer
            | ColumnType::Decimal
            | ColumnType::Date
            | ColumnType::Json => format!("CAST(`{name}` AS CHAR)"),
        });
        let sql = format!("SELECT {} FROM `{}`", columns.collect::<Vec<_>>().join(", "), table.name);
        self.read(&sql, |row| {
            let value = |n| row.get::<Option<String>, _>(n).unwrap().unwrap_or_else(|| "null".to_owned());
            (0..table.columns.len()).map(value).collect()
        })
    }

    fn insert(&self, table: &Table, values: &[&str]) {
        self.run(&format!("INSERT INTO `{}` VALUES ('{}')", table.name, values.join("', '")));
    }
}

impl Relational for Database {
    fn sql(&self, sql: &str) {
        let sql = sql.replace(['{', '}'], "`");
        let collation = " DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
        self.run(&format!("{sql}{}", if sql.starts_with("CREATE TABLE") { collation } else { "" }));
        self.grant("DELETE");
    }
}

impl Remote for Database {
    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, MariaDb::shared().port()).into()
    }

    fn config_at(&self, host: &str, port: u16) -> SinkConfig {
        config(self.url(host, port, "?ssl-mode=disabled"))
    }

    fn wrong_credentials(&self) -> Vec<SinkConfig> {
        let SocketAddr::V4(address) = self.address() else { panic!("not IPv4") };
        let user = &self.user;
        [format!("{user}:hunter2"), "hookline_nobody:hunter2".to_owned(), user.clone()]
            .map(|who| config(format!("mysql://{who}@{address}/x?ssl-mode=disabled")))
            .into()
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "{what} did not come about");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_example_of_purchase_orders_runs() {
    let database = Database::new();
    database.run(&example::file("mysql", "tables.sql"));
    database.grant("DELETE");
    example::runs(&database, "mysql", true);
}

#[test]
fn a_crash_before_the_commit_leaves_nothing() {
    let database = Database::new();
    let mut owner = Owner::claim(&database, 0, epoch(1));
    owner.deliver(&[simple(1)]).unwrap();
    // The batch's events are written when it comes to the entities, one of which somebody has locked.
    let mut other = database.admin();
    other.run("START TRANSACTION; SELECT * FROM hookline_entities FOR UPDATE");
    thread::scope(|scope| {
        let delivery = scope.spawn(|| owner.deliver(&[simple(2), simple(3)]));
        wait_until("a delivery in the middle", || database.waiting() == 1);
        database.kill_sessions();
        retried(delivery.join().unwrap());
    });
    other.run("ROLLBACK");
    assert_eq!(owner.sink.claim(0, epoch(2)).unwrap().position, owner.fence.position);
    assert_eq!(ids(&database), ["e1"]);
    owner.fence.epoch = epoch(2);
    owner.deliver(&[simple(2), simple(3)]).unwrap();
    assert_eq!(ids(&database), ["e1", "e2", "e3"]);
}

#[test]
fn a_lock_that_nobody_lets_go_is_tried_again_after_the_statement_timeout() {
    let database = Database::new();
    let mut owner = Owner::claim(&database, 0, epoch(1));
    let SocketAddr::V4(address) = database.address() else { panic!("not IPv4") };
    let mut hasty =
        sink::open(&database.config_at("127.0.0.1", address.port()), &context()).unwrap().unwrap();
    let mut other = database.admin();
    other.run("START TRANSACTION; SELECT * FROM hookline_fence FOR UPDATE");
    assert!(retried(hasty.claim(0, epoch(2))).contains("1205"));
    other.run("ROLLBACK");
    owner.deliver(&[simple(1)]).unwrap();
    assert_eq!(hasty.claim(0, epoch(2)).unwrap().position, owner.fence.position);
}

/// A claim waits for what a former owner has under way, and then sees it.
#[test]
fn a_claim_counts_what_the_former_owner_commits_meanwhile() {
    let database = Database::new();
    let mut old = Owner::claim(&database, 0, epoch(1));
    old.deliver(&[simple(1)]).unwrap();
    let mut other = database.admin();
    other.run("START TRANSACTION; SELECT * FROM hookline_entities FOR UPDATE");
    thread::scope(|scope| {
        let delivery = scope.spawn(|| old.deliver(&[simple(2)]));
        wait_until("a delivery in the middle", || database.waiting() == 1);
        let claim = scope.spawn(|| Owner::claim(&database, 0, epoch(2)));
        wait_until("a claim that waits", || database.waiting() == 2);
        other.run("ROLLBACK");
        delivery.join().unwrap().unwrap();
        let mut new = claim.join().unwrap();
        assert_eq!(new.fence.position, simple(2).position);
        new.deliver(&[simple(3)]).unwrap();
    });
    assert!(matches!(old.deliver(&[simple(3)]), Err(SinkError::Fenced { .. })));
    assert_eq!(ids(&database), ["e1", "e2", "e3"]);
}

#[test]
fn entities_are_told_apart_by_every_byte() {
    sink_contract::entities_are_told_apart_by_every_byte(&Database::new());
}

#[test]
fn what_does_not_fit_is_refused_and_not_cut_off() {
    let database = Database::new();
    let mut owner = Owner::claim(&database, 0, epoch(1));
    let long = "hunter2".repeat(200);
    let refused = |outcome| match outcome {
        Err(SinkError::Refused(message)) => assert!(!message.contains("hunter2"), "{message}"),
        other => panic!("not refused: {other:?}"),
    };
    refused(owner.deliver(&[effect(1, 0, &event(&long, None), b"{}")]));
    refused(owner.deliver(&[effect(1, 0, &event("x", Some(&long)), b"{}")]));
    // MariaDB's max_allowed_packet.
    refused(owner.deliver(&[effect(1, 0, &event("x", None), &vec![b'x'; 16 << 20])]));
    // The year 10000.
    let late = Event { received_at_ms: 253_402_300_800_000, ..event("hunter2", None) };
    refused(owner.deliver(&[effect(1, 0, &late, b"{}")]));
    owner.deliver(&[effect(1, 0, &event(&"x".repeat(1024), Some(&"\u{1F980}".repeat(256))), b"{}")]).unwrap();
    assert_eq!(database.events().len(), 1);
}

#[test]
fn a_value_in_the_servers_message_is_not_repeated() {
    let database = Database::new();
    let mut owner = Owner::claim(&database, 0, epoch(1));
    database.run("CREATE UNIQUE INDEX one_id ON hookline_events (event_id)");
    let twice = |offset| effect(offset, 0, &event("hunter2", None), b"hunter2");
    match owner.deliver(&[twice(1), twice(2)]) {
        Err(SinkError::Refused(message)) => {
            assert!(message.contains("one_id") && !message.contains("hunter2"), "{message}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_database_or_table_that_is_missing_halts() {
    let database = Database::new();
    let mut owner = Owner::claim(&database, 0, epoch(1));
    database.run("DROP TABLE hookline_events");
    assert!(halted(owner.deliver(&[simple(1)])).contains("1146"));
    database.run("DROP TABLE hookline_fence");
    assert!(halted(open(&database)).contains("not as Hookline made them"));
    let port = MariaDb::shared().port();
    let nowhere = config(format!("mysql://root@127.0.0.1:{port}/hookline_nowhere?ssl-mode=disabled"));
    assert!(halted(sink::open(&nowhere, &context())).contains("create the database"));
    let none = config(format!("mysql://root@127.0.0.1:{port}?ssl-mode=disabled"));
    assert!(halted(sink::open(&none, &context())).contains("names no database"));
}

#[test]
fn tables_without_transactions_halt() {
    let database = Database::new();
    open(&database).unwrap();
    database.run("ALTER TABLE hookline_fence ENGINE = MyISAM");
    assert!(halted(open(&database)).contains("hookline_fence is not an InnoDB table"));
}

#[test]
fn a_user_needs_no_more_than_to_read_and_write_the_tables() {
    let database = Database::new();
    open(&database).unwrap();
    let revoke = format!("REVOKE ALL ON `{}`.* FROM {}", database.name, database.user);
    database.run(&revoke);
    database.grant("SELECT");
    let mut reader = open(&database).unwrap();
    let message = halted(reader.claim(0, epoch(1)));
    assert!(message.contains("1142") && message.contains("grant"), "{message}");
    database.run(&revoke);
    database.grant("SELECT, INSERT, UPDATE");
    Owner::claim(&database, 0, epoch(1)).deliver(&[simple(1)]).unwrap();
    assert_eq!(ids(&database), ["e1"]);
}

/// A session that the server ended for having been idle is not a failure.
#[test]
fn an_idle_session_is_replaced_before_the_server_ends_it() {
    let database = Database::new();
    let SocketAddr::V4(address) = database.address() else { panic!("not IPv4") };
    // A call may take 7 s: after half of that, another session is begun.
    let config = database.config_at("127.0.0.1", address.port());
    let mut sink = sink::open(&config, &context()).unwrap().unwrap();
    sink.claim(0, epoch(1)).unwrap();
    database.kill_sessions();
    thread::sleep(Duration::from_secs(4));
    sink.claim(0, epoch(2)).unwrap();
}

#[test]
fn a_certificate_that_nobody_vouches_for_halts() {
    let database = Database::new();
    for parameters in ["", "?ssl-mode=required", "?ssl-mode=VERIFY_CA"] {
        let config = config(database.url("localhost", MariaDb::shared().port(), parameters));
        let message = halted(sink::open(&config, &context()));
        assert!(message.contains("no safe TLS") && message.contains("SSL_CERT_FILE"), "{message}");
    }
}

#[test]
fn tls_verifies_the_certificate_and_the_hosts_name() {
    let (database, server) = (Database::new(), MariaDb::shared());
    // The names in the certificate: localhost alone.
    for (host, is_let_in) in [("localhost", true), ("127.0.0.1", false)] {
        let url = database.url(host, server.port(), "");
        let (opened, text) = tls::opens(&url, Some(&server.certificate()));
        assert_eq!(opened, is_let_in, "{host}: {text}");
        assert_eq!(text.contains("no safe TLS"), !is_let_in, "{host}: {text}");
    }
}

#[test]
#[ignore = "the test before this one runs it, in another environment"]
fn a_sink_opens_by_tls() {
    let opened = sink::open(&config(tls::place()), &context());
    opened.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_mapped_table_by_which_two_entities_could_be_one_halts() {
    let database = Database::new();
    database.run(
        "CREATE TABLE orders (connection VARCHAR(99), id VARCHAR(99), number VARCHAR(3) UNIQUE, \
         total DECIMAL(10, 2), PRIMARY KEY (connection, id)) ENGINE = InnoDB COLLATE utf8mb4_general_ci",
    );
    let message = halted(sink_contract::open_with(&database, &mapping::with(mapping::ORDERS)));
    assert!(message.contains("another unique index than its key"), "{message}");
    assert!(message.contains("column `id` cannot be in the key: its collation"), "{message}");
    database.run("DROP TABLE orders");
    database.run(
        "CREATE TABLE orders (n BIGINT AUTO_INCREMENT PRIMARY KEY, connection VARCHAR(99), id VARCHAR(99), \
         number VARCHAR(3), total DECIMAL(10, 2), UNIQUE (connection, id)) ENGINE = MyISAM COLLATE utf8mb4_bin",
    );
    let message = halted(sink_contract::open_with(&database, &mapping::with(mapping::ORDERS)));
    assert!(message.contains("ENGINE = InnoDB") && !message.contains("unique index"), "{message}");
    database.run("ALTER TABLE orders ENGINE = InnoDB");
    let mut owner = mapping::owner(&database, mapping::ORDERS, 1);
    let message = mapping::refused(owner.deliver(&[mapping::order(1, "o1 ", "a")]));
    assert!(message.contains("ends with a space"), "{message}");
    assert!(mapping::refused(owner.deliver(&[mapping::order(1, "o1", "hunter2")])).contains("Data too long"));
    let fine = mapping::of(1, "order.x", "o1", r#"{"total":1.005}"#);
    assert!(mapping::refused(owner.deliver(&[fine])).contains("more digits after the point than 2"));
    owner.deliver(&[mapping::order(1, "o1", "a"), mapping::order(2, "O1", "b")]).unwrap();
    assert_eq!(mapping::rows(&database, &mapping::orders()), ["acme|O1|b|2.5", "acme|o1|a|1.5"]);
}
