//! A started ingest with librdkafka's in-process broker behind it, and a client that can misbehave.
//!
//! That broker keeps nothing and proves nothing about durability; what ingest answers, and what it hands to
//! the log, can be seen with it.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use ingest::{Running, Stopped};
use metrics_exporter_prometheus::PrometheusHandle;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Message as _, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sha2::Sha256;
use shared::config::{Broker, Config, Secrets};

pub(crate) const TOPIC: &str = "hookline.events";
pub(crate) const SECRET: &str = "It's a Secret to Everybody";
const PARTITIONS: i32 = 4;

/// The sources that every test has.
const SOURCES: &str = r#"
[sources.github]
verify.github = {}
secrets = ["file:DIR/secret"]
entity = "/repository/full_name"
deadline = "DEADLINE"

[sources.makini]
verify.hmac = { header = "x-signature" }
connection = "path"
id = "/id"
entity = "/number"
order.sequence.at = "/sequence"
array_body = "split"
deadline = "DEADLINE"
[sources.makini.connections.acme]
secrets = ["file:DIR/secret"]
[sources.makini.connections."glo/bex"]
secrets = ["file:DIR/other"]
"#;

/// What a test may ask for.
pub(crate) struct Options {
    pub(crate) ingest: &'static str,
    pub(crate) deadline: &'static str,
    /// The certificate and key, PEM, for HTTPS.
    pub(crate) tls: Option<(String, String)>,
    /// Instead of the in-process broker.
    pub(crate) bootstrap: Option<String>,
    /// Before ingest starts.
    pub(crate) prepare: fn(&MockCluster<'static, DefaultProducerContext>),
}

impl Default for Options {
    fn default() -> Self {
        Self { ingest: "", deadline: "5s", tls: None, bootstrap: None, prepare: |_| {} }
    }
}

pub(crate) struct Stand {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) webhooks: SocketAddr,
    pub(crate) admin: SocketAddr,
    running: Option<Running>,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

impl Stand {
    /// Starts, and waits until it is ready.
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let stand = Self::unready(options);
        stand.wait_until(true);
        stand
    }

    /// Starts, and does not wait.
    pub(crate) fn unready(options: Options) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
        (options.prepare)(&cluster);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), SECRET).unwrap();
        std::fs::write(dir.path().join("other"), "other secret").unwrap();
        let mut tls = String::new();
        if let Some((certificate, key)) = &options.tls {
            std::fs::write(dir.path().join("tls.crt"), certificate).unwrap();
            std::fs::write(dir.path().join("tls.key"), key).unwrap();
            tls = "tls = { certificate = \"DIR/tls.crt\", key = \"DIR/tls.key\" }\n".to_owned();
        }
        let bootstrap = options.bootstrap.clone().unwrap_or_else(|| cluster.bootstrap_servers());
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{bootstrap}\"\n[ingest]\nlisten = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\n{}{tls}{SOURCES}",
            options.ingest
        );
        let text =
            text.replace("DIR", &dir.path().display().to_string()).replace("DEADLINE", options.deadline);
        let mut config = Config::parse(&text, Path::new("test.toml"), Secrets::Sources).unwrap();
        config.kafka.broker = Broker::Embedded;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let running = runtime.block_on(ingest::serve(&config, metrics())).unwrap();
        Self {
            cluster,
            webhooks: running.webhook_address(),
            admin: running.admin_address(),
            running: Some(running),
            runtime,
            _dir: dir,
        }
    }

    pub(crate) fn wait_until(&self, ready: bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.running.as_ref().unwrap().is_ready() != ready {
            assert!(Instant::now() < end, "ready is not {ready}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn stop(&mut self) -> Stopped {
        self.runtime.block_on(self.running.take().unwrap().stop())
    }

    /// Sends a first webhook, so that the producer's connections are there. It may be too early for a short
    /// deadline.
    pub(crate) fn warm_up(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        let body = r#"{"repository":{"full_name":"octo/cat"}}"#;
        while self.send(&Request::github("first", body)).status != 200 {
            assert!(Instant::now() < end, "the log takes no record");
        }
    }

    /// Makes the broker slow, once it has a first record.
    pub(crate) fn slow_down(&self, by: Duration) {
        self.warm_up();
        self.cluster.broker_round_trip_time(1, by).unwrap();
    }

    pub(crate) fn connect(&self) -> Client {
        Client::new(self.webhooks)
    }

    /// Sends a request of its own connection, and returns the answer.
    pub(crate) fn send(&self, request: &Request) -> Answer {
        let mut client = self.connect();
        client.write(&request.bytes());
        client.read_answer().expect("an answer")
    }

    /// Asks the admin address.
    pub(crate) fn ask(&self, path: &str) -> Answer {
        let mut client = Client::new(self.admin);
        client.write(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
        client.read_answer().expect("an answer")
    }

    /// Every record of the log, partition by partition.
    pub(crate) fn log(&self) -> Vec<OwnedMessage> {
        self.cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader")
            .set("enable.partition.eof", "false")
            .create()
            .unwrap();
        let mut wanted = 0;
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            let (low, high) = consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(5)).unwrap();
            wanted += usize::try_from(high - low).unwrap();
            list.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        let end = Instant::now() + Duration::from_secs(20);
        while records.len() < wanted {
            assert!(Instant::now() < end, "the log has {wanted} records, read {}", records.len());
            if let Some(record) = consumer.poll(Duration::from_millis(50)) {
                records.push(record.unwrap().detach());
            }
        }
        records.sort_by_key(|record| (record.partition(), record.offset()));
        records
    }
}

/// One recorder for the process, as in the programs.
pub(crate) fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(shared::telemetry::init_metrics).clone()
}

/// HMAC-SHA256 in hex.
pub(crate) fn sign(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// A request, to be written as it is.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A well-signed delivery of GitHub's.
    pub(crate) fn github(id: &str, body: &str) -> Self {
        let signature = format!("sha256={}", sign(SECRET, body.as_bytes()));
        Self::post("/webhooks/github", body)
            .with("x-github-delivery", id)
            .with("x-github-event", "push")
            .with("x-hub-signature-256", &signature)
    }

    /// A well-signed delivery for a connection.
    pub(crate) fn makini(connection: &str, secret: &str, body: &str) -> Self {
        Self::post(&format!("/webhooks/makini/{connection}"), body)
            .with("x-signature", &sign(secret, body.as_bytes()))
    }

    pub(crate) fn post(path: &str, body: &str) -> Self {
        let length = body.len().to_string();
        Self { line: format!("POST {path} HTTP/1.1"), headers: vec![], body: body.into() }
            .with("host", "localhost")
            .with("content-length", &length)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self.with(name, value)
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self
    }

    pub(crate) fn line(mut self, line: &str) -> Self {
        self.line = line.to_owned();
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        out.extend(&self.body);
        out
    }
}

/// A connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: vec![] }
    }

    /// What the other side does not want any more is not an error here.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn finish_writing(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next answer; `None` when the connection was closed instead.
    pub(crate) fn read_answer(&mut self) -> Option<Answer> {
        read_answer(&mut self.stream, &mut self.buffer)
    }
}

pub(crate) fn read_answer(stream: &mut impl std::io::Read, buffer: &mut Vec<u8>) -> Option<Answer> {
    loop {
        if let Some((answer, length)) = Answer::parse(buffer) {
            buffer.drain(..length);
            return Some(answer);
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend(&piece[..n]),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().unwrap();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |text| text.trim().parse().unwrap());
        let body = bytes.get(end..end + length)?;
        Some((Self { status, head, body: String::from_utf8(body.to_vec()).unwrap() }, end + length))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The problem document's type, after checking its form.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(document["status"], u64::from(self.status));
        assert!(document["title"].is_string() && document["detail"].is_string());
        document["type"].as_str().unwrap().to_owned()
    }
}
