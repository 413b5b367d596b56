//! A receiver of webhooks for the tests of the provider: it verifies, and keeps of each record the newest. And a client
//! of its API. Neither shares any code with the provider.

#![allow(dead_code, reason = "each test binary uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sandbox::provider::{self, Change, ChangeKind, Delivery, Options, Resource, Row, Running};
use serde_json::Value;
use ureq::Agent;

/// One webhook, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) signed: bool,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn connection(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }

    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Status for the nth request of all, and how long it takes; `None` hangs up.
type Answer = Box<dyn FnMut(usize, &Got) -> Option<(u16, Duration)> + Send>;

#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    /// One that refuses what is not well signed and takes everything else.
    pub(crate) fn strict() -> Self {
        Self::new(|_, got| Some((if got.signed { 200 } else { 401 }, Duration::ZERO)))
    }

    pub(crate) fn new(answer: impl FnMut(usize, &Got) -> Option<(u16, Duration)> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let got = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(answer)));
        let receiver = Self { url, got: Arc::clone(&got) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (got, answer) = (Arc::clone(&got), Arc::clone(&answer));
                std::thread::spawn(move || serve(&stream.unwrap(), &got, &answer));
            }
        });
        receiver
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// The webhooks of a type, which may end with `*`.
    pub(crate) fn of_type(&self, pattern: &str) -> Vec<Value> {
        let fits =
            |kind: &str| pattern.strip_suffix('*').map_or(kind == pattern, |start| kind.starts_with(start));
        let mut all: Vec<Value> = self.got().iter().filter(|got| got.signed).filter_map(Got::json).collect();
        all.retain(|body| fits(body["type"].as_str().unwrap()));
        all
    }

    /// What was well signed, of each record the newest revision.
    pub(crate) fn newest(&self) -> Rows {
        let mut rows = Rows::default();
        for got in self.got().iter().filter(|got| got.signed) {
            let Some(body) = got.json() else { continue };
            let kind = body["type"].as_str().unwrap().split_once('.').unwrap().0;
            let Some(resource) = Resource::ALL.into_iter().find(|resource| resource.kind() == kind) else {
                continue;
            };
            let entity = format!("{}{}", resource.entity_prefix(), body["data"]["id"].as_str().unwrap());
            rows.take(Row::of_entity(got.connection(), &entity, &got.body).unwrap().unwrap());
        }
        rows
    }
}

/// Of each record the newest revision.
#[derive(Default)]
pub(crate) struct Rows(BTreeMap<(String, Resource, String), Row>);

impl Rows {
    pub(crate) fn take(&mut self, row: Row) {
        let key = (row.connection.clone(), row.resource.unwrap(), row.id.clone());
        let newer = self.0.get(&key).is_none_or(|known| known.revision < row.revision);
        if newer {
            self.0.insert(key, row);
        }
    }

    /// What a list shows: as it was polled.
    pub(crate) fn take_listed(&mut self, connection: &str, resource: Resource, records: &[Value]) {
        for record in records {
            self.take(Row {
                connection: connection.to_owned(),
                resource: Some(resource),
                id: record["id"].as_str().unwrap().to_owned(),
                revision: record["revision"].as_u64().unwrap(),
                updated_at: record["updated_at"].as_str().unwrap().to_owned(),
                record: Some(record.clone()),
                ..Row::default()
            });
        }
    }

    pub(crate) fn all(&self) -> Vec<Row> {
        self.0.values().cloned().collect()
    }
}

fn serve(mut stream: &TcpStream, all: &Mutex<Vec<Got>>, answer: &Mutex<Answer>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let connection = path.rsplit('/').next().unwrap();
        let got = Got { signed: is_signed(connection, &headers, &body), path, body };
        let answer = {
            let mut all = all.lock().unwrap();
            all.push(got.clone());
            answer.lock().unwrap()(all.len() - 1, &got)
        };
        let Some((status, pause)) = answer else { return };
        std::thread::sleep(pause);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok");
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn is_signed(connection: &str, headers: &BTreeMap<String, String>, body: &[u8]) -> bool {
    let Some(timestamp) = headers.get("x-makini-timestamp") else { return false };
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(provider::secret(connection).as_bytes()).unwrap();
    mac.update(format!("{timestamp}.").as_bytes());
    mac.update(body);
    headers["x-makini-signature"] == format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).proxy(None);
    Agent::new_with_config(config.timeout_global(Some(Duration::from_secs(30))).build())
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Answered {
    let headers = response.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let status = response.status().as_u16();
    Answered { status, headers, text: response.body_mut().read_to_string().unwrap() }
}

pub(crate) fn get(url: &str, token: Option<&str>) -> Answered {
    let mut request = agent().get(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    read(request.call().unwrap())
}

pub(crate) fn post(url: &str, body: &Value) -> Answered {
    read(agent().post(url).send(body.to_string()).unwrap())
}

/// A provider whose pauses are short, with webhooks to `receiver`.
pub(crate) fn start(receiver: &Receiver) -> Running {
    let delivery = Delivery {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(40),
        timeout: Duration::from_secs(2),
        ..Delivery::default()
    };
    let epoch_ms = Some(1_767_600_000_000);
    let running = provider::start(&Options { delivery, epoch_ms, ..Options::default() }).unwrap();
    running.set_receiver(&receiver.url);
    running
}

pub(crate) fn change(
    running: &Running,
    connection: &str,
    resource: Resource,
    kind: ChangeKind,
    id: Option<&str>,
) -> String {
    let id = id.map(str::to_owned);
    running.change(&Change { connection: connection.to_owned(), resource, kind, id, lost: false }).unwrap()
}

/// Reads a list to its end, `limit` records a page.
pub(crate) fn list(running: &Running, connection: &str, resource: Resource, limit: usize) -> Vec<Value> {
    let token = &running.tokens()[connection];
    let base = format!("{}/api/v1/{}?limit={limit}", running.url(), resource.path());
    let (mut records, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = get(&format!("{base}{cursor}"), Some(token));
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        records.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { return records };
        cursor = format!("&cursor={next}");
    }
}

/// Waits until `what` holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("30 s long not: {what}");
}
