//! Sends webhooks in the background, as the provider does: signed when they are sent, again and again with growing
//! pauses until they are answered with 2xx, for each connection from a queue of its own with a limit.
//!
//! The pauses are the provider's 30 s to 24 h, scaled so that tests end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use ureq::Agent;

use super::play::{Garbage, Manner, Send};
use super::urls::Urls;
use super::world::{Webhook, secret};
use crate::sign::hmac_sha256_hex;
use crate::sources::FORGED_SECRET;

/// Webhooks that wait for one connection, at most; whoever has more has to wait.
pub(crate) const QUEUE_MAX: usize = 10_000;
/// Webhooks of one connection that are on their way at once.
const SENDERS: usize = 4;
/// How long an impatient provider tries to send.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// How webhooks are sent.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The pause after the first failed attempt; it doubles each time. Default: 200 ms.
    pub backoff_min: Duration,
    /// The longest pause. Default: 10 s.
    pub backoff_max: Duration,
    /// After so many attempts a webhook is given up. Default: 50.
    pub attempts_max: u32,
    /// How long an answer is waited for. Default: 5 s.
    pub timeout: Duration,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
            attempts_max: 50,
            timeout: Duration::from_secs(5),
        }
    }
}

/// What became of the webhooks so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WebhookCounts {
    /// Attempts.
    pub attempts: u64,
    /// Answered with 2xx, duplicates one by one.
    pub answered: u64,
    /// Given up.
    pub given_up: u64,
    /// Forged, unsigned or broken ones that were sent: each once, whatever the answer.
    pub garbage: u64,
    /// That wait for their time, another attempt or an answer.
    pub waiting: u64,
    /// Answers by status; 0 where there was none.
    pub answers: BTreeMap<u16, u64>,
}

/// A webhook for which there is no place in the queue.
#[derive(Debug)]
pub(crate) struct Full(pub(crate) Box<Send>);

struct Waiting {
    due: Instant,
    /// Of those that are due, the first that came goes first.
    order: u64,
    attempts: u32,
    send: Send,
}

impl Waiting {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.order)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[derive(Default)]
struct Queue {
    due: BinaryHeap<Reverse<Waiting>>,
    /// Waiting and on their way.
    open: usize,
}

/// Where webhooks go.
#[derive(Clone, Debug)]
pub(crate) enum Receiver {
    /// The base of the addresses that ingest has for connections.
    Base(String),
    /// Each connection's own address.
    Each(Urls),
}

impl Receiver {
    fn url(&self, source: &str, connection: &str) -> Option<String> {
        match self {
            Self::Base(base) => Some(format!("{base}/webhooks/{source}/{connection}")),
            Self::Each(Urls(urls)) => urls.get(connection).cloned(),
        }
    }
}

#[derive(Default)]
struct State {
    queues: BTreeMap<String, Queue>,
    receiver: Option<Receiver>,
    order: u64,
    stopped: bool,
    counts: WebhookCounts,
    /// Deletions that were given up: nothing else tells of them.
    given_up: Vec<Webhook>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    delivery: Delivery,
    source: String,
}

/// The queues, and the threads that empty them.
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Outbox {
    pub(crate) fn start(source: &str, connections: &[String], delivery: Delivery) -> Self {
        let queues = connections.iter().map(|id| (id.clone(), Queue::default())).collect();
        let state = Mutex::new(State { queues, ..State::default() });
        let source = source.to_owned();
        let shared = Arc::new(Shared { state, changed: Condvar::new(), delivery, source });
        let threads = connections.iter().flat_map(|id| std::iter::repeat_n(id, SENDERS));
        let threads = threads.map(|id| {
            let (shared, id) = (Arc::clone(&shared), id.clone());
            std::thread::spawn(move || Sender::new(&shared).run(&id))
        });
        let threads = Mutex::new(threads.collect());
        Self { shared, threads }
    }

    /// Where webhooks go from now on; until it is known, they wait.
    pub(crate) fn set_receiver(&self, receiver: Receiver) {
        self.shared.lock().receiver = Some(receiver);
        self.shared.changed.notify_all();
    }

    /// Sends a webhook after its time.
    pub(crate) fn send(&self, send: Send) -> Result<(), Full> {
        let mut state = self.shared.lock();
        let due = Instant::now() + send.after;
        state.order += 1;
        let order = state.order;
        let Some(queue) = state.queues.get_mut(&send.webhook.connection) else { return Ok(()) };
        if queue.open >= QUEUE_MAX {
            return Err(Full(Box::new(send)));
        }
        queue.open += 1;
        queue.due.push(Reverse(Waiting { due, order, attempts: 0, send }));
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    pub(crate) fn counts(&self) -> WebhookCounts {
        let state = self.shared.lock();
        let waiting = state.queues.values().map(|queue| queue.open as u64).sum();
        WebhookCounts { waiting, ..state.counts.clone() }
    }

    /// The deletions that were given up since the last call.
    pub(crate) fn take_given_up(&self) -> Vec<Webhook> {
        std::mem::take(&mut self.shared.lock().given_up)
    }

    /// Ends the threads; what waits is not sent.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a webhook of a connection is due, and for where it goes; none when it is over.
    fn next(&self, connection: &str) -> Option<(Waiting, String)> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let url = state.receiver.as_ref().and_then(|receiver| receiver.url(&self.source, connection));
            let queue = state.queues.get_mut(connection)?;
            let due = queue.due.peek().map(|Reverse(waiting)| waiting.due);
            let pause = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match (url, pause) {
                (Some(url), Some(Duration::ZERO)) => {
                    let Reverse(waiting) = queue.due.pop()?;
                    return Some((waiting, url));
                }
                (Some(_), Some(pause)) => {
                    self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
                }
                (None, _) | (_, None) => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// An attempt has ended: with a status, or without.
    fn ended(&self, connection: &str, mut waiting: Waiting, status: Option<u16>) {
        let mut state = self.lock();
        let counts = &mut state.counts;
        counts.attempts += 1;
        *counts.answers.entry(status.unwrap_or(0)).or_default() += 1;
        waiting.attempts += 1;
        let answered = status.is_some_and(|status| (200..300).contains(&status));
        let again = if matches!(waiting.send.manner, Manner::Garbage(_)) {
            counts.garbage += 1;
            false
        } else if answered {
            counts.answered += 1;
            false
        } else if waiting.attempts >= self.delivery.attempts_max {
            counts.given_up += 1;
            if waiting.send.webhook.deletes.is_some() {
                state.given_up.push(waiting.send.webhook.clone());
            }
            false
        } else {
            true
        };
        if let Some(queue) = state.queues.get_mut(connection) {
            if again {
                let doubled = self.delivery.backoff_min.saturating_mul(1 << (waiting.attempts - 1).min(20));
                waiting.due = Instant::now() + doubled.min(self.delivery.backoff_max);
                queue.due.push(Reverse(waiting));
            } else {
                queue.open -= 1;
            }
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// One thread's connection to the receiver.
struct Sender<'a> {
    shared: &'a Shared,
    agent: Agent,
}

impl<'a> Sender<'a> {
    fn new(shared: &'a Shared) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(shared.delivery.timeout));
        Self { shared, agent: Agent::new_with_config(config.build()) }
    }

    fn run(&self, connection: &str) {
        while let Some((waiting, url)) = self.shared.next(connection) {
            let status = self.attempt(&waiting, &url);
            self.shared.ended(connection, waiting, status);
        }
    }

    /// The status, where there was an answer.
    fn attempt(&self, waiting: &Waiting, url: &str) -> Option<u16> {
        let Send { webhook, manner, .. } = &waiting.send;
        let key = match manner {
            Manner::Patient | Manner::Impatient | Manner::Garbage(Garbage::BrokenJson) => {
                Some(secret(&webhook.connection))
            }
            Manner::Garbage(Garbage::Forged) => Some(FORGED_SECRET.to_owned()),
            Manner::Garbage(Garbage::Unsigned) => None,
        };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let mut headers = vec![("content-type", "application/json".to_owned())];
        headers.extend(key.iter().flat_map(|key| signature(key, &webhook.body, now_s)));
        let in_the_clear = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
        if let (Manner::Impatient, 0, Some((host, path))) = (manner, waiting.attempts, in_the_clear) {
            // Where it does not get through, the next attempt will see.
            let _ = send_and_leave(host, path, &headers, &webhook.body);
            return None;
        }
        let mut request = self.agent.post(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut response = request.send(&webhook.body[..]).ok()?;
        // Read to the end, so that the connection can be used again. What it says does not matter.
        let _ = response.body_mut().read_to_vec();
        Some(response.status().as_u16())
    }
}

/// Sends a request and closes the connection, whatever the answer will be: no client offers that.
fn send_and_leave(host: &str, path: &str, headers: &[(&str, String)], body: &[u8]) -> io::Result<()> {
    let mut head = format!("POST /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let mut stream = TcpStream::connect(host)?;
    stream.set_write_timeout(Some(LEAVE_TIMEOUT))?;
    stream.write_all(&[head.as_bytes(), body].concat())
}

/// The headers of a signature: HMAC-SHA256 in hex over `{timestamp}.{body}`, the timestamp in Unix seconds.
fn signature(secret: &str, body: &[u8], now_s: u64) -> [(&'static str, String); 2] {
    let timestamp = now_s.to_string();
    let signature = hmac_sha256_hex(secret, &[timestamp.as_bytes(), b".", body]);
    [("x-makini-timestamp", timestamp), ("x-makini-signature", format!("sha256={signature}"))]
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_webhook_is_signed_as_the_provider_says() {
        // From Python's hmac.new(secret, timestamp + b"." + body, "sha256").
        let body = br#"{"id":"evt_acme_000001"}"#;
        let [(_, timestamp), (_, signature)] = super::signature("sandbox-acme-secret", body, 1_767_600_000);
        let expected = "sha256=59fd406c377515b712afabe82087b777b0a9f105d724202c50d17348e676bb34";
        assert_eq!((timestamp.as_str(), signature.as_str()), ("1767600000", expected));
    }
}
