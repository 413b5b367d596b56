//! A channel: a thread that sends alerts one way, and tries again what fails, each alert for itself.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use metrics::counter;
use shared::config::{ChannelConfig, HttpSinkConfig, SlackChannelConfig};

use super::AlertsError;
use super::book::{Alert, Kind, Outcome};
use super::email::Email;
use super::words::Words;
use crate::sink::SinkError;
use crate::sink::http::request::{Answer, Client};

/// Between two tries of an alert: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the thread waits for work when there is nothing to try again.
const IDLE: Duration = Duration::from_secs(60);
/// How long a request to Slack may take.
const SLACK_TIMEOUT: shared::units::Span = shared::units::Span::secs(15);

/// An alert, and its words.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) alert: Alert,
    pub(super) words: Words,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) key: String,
    pub(super) channel: String,
    pub(super) outcome: Outcome,
}

/// What came of one try.
pub(super) enum Sent {
    /// It was taken.
    Taken,
    /// There is nobody to send it to.
    NoAddress,
    /// It never will be; why.
    Never(String),
    /// It may be later; why not now, and how long the other side wants to be left alone.
    Later(String, Option<Duration>),
}

/// One way to send.
pub(super) enum Channel {
    Slack(Box<SlackChannelConfig>, Client),
    Http(Client),
    Email(Box<Email>),
}

impl Channel {
    /// Makes no connection: whether the other side is there shows when there is something to send.
    pub(super) fn open(name: &str, config: &ChannelConfig) -> Result<Self, AlertsError> {
        let place = format!("alerts.channels.{name}");
        let wrong = |error: SinkError| AlertsError::Channel(error.to_string());
        Ok(match config {
            ChannelConfig::Slack(slack) => {
                let http = HttpSinkConfig {
                    url: slack.url.clone(),
                    url_value: slack.url_value.clone(),
                    secrets: Vec::new(),
                    secret_values: Vec::new(),
                    timeout: SLACK_TIMEOUT,
                    concurrency: 1,
                };
                let client = Client::new(&http, &format!("{place}.slack")).map_err(wrong)?;
                Self::Slack(Box::new(slack.clone()), client)
            }
            ChannelConfig::Http(http) => {
                Self::Http(Client::new(http, &format!("{place}.http")).map_err(wrong)?)
            }
            ChannelConfig::Email(email) => Self::Email(Box::new(
                Email::open(email, &format!("{place}.email")).map_err(AlertsError::Channel)?,
            )),
        })
    }

    fn send(&self, Job { alert, words }: &Job) -> Sent {
        match self {
            Self::Slack(config, client) => {
                let template = match alert.kind {
                    Kind::Trouble => &config.text,
                    Kind::Recovery => &config.recovery_text,
                };
                let text = words.fill_for_slack(template.get_ref());
                posted(client, alert, &serde_json::json!({ "text": text }))
            }
            Self::Http(client) => posted(client, alert, &words.json(alert)),
            Self::Email(email) => email.send(alert, words),
        }
    }
}

fn posted(client: &Client, alert: &Alert, body: &serde_json::Value) -> Sent {
    match client.post_json(&alert.id, body.to_string().as_bytes()) {
        Answer::Taken => Sent::Taken,
        Answer::Refused(error) => Sent::Never(error.to_string()),
        Answer::Again { error, after } => Sent::Later(error.to_string(), after),
    }
}

/// An alert that waits for its next try.
struct Waiting {
    job: Job,
    /// When it is given up.
    until: Instant,
    next: Instant,
    backoff: ExponentialBackoff,
}

/// Works until nobody sends it any more.
pub(super) fn run(
    name: &str,
    channel: &Channel,
    retry_for: Duration,
    jobs: &Receiver<Job>,
    done: &Sender<Done>,
) {
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let next = waiting.iter().map(|job| job.next).min();
        let wait = next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()));
        match jobs.recv_timeout(wait) {
            Ok(job) => {
                let backoff = ExponentialBuilder::default()
                    .with_min_delay(BACKOFF.0)
                    .with_max_delay(BACKOFF.1)
                    .without_max_times()
                    .with_jitter()
                    .build();
                let now = Instant::now();
                waiting.push(Waiting { job, until: now + retry_for, next: now, backoff });
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(due) = waiting.iter().position(|job| job.next <= Instant::now()) else { continue };
        let mut job = waiting.swap_remove(due);
        let Some(outcome) = try_once(name, channel, &mut job) else {
            waiting.push(job);
            continue;
        };
        counter!(crate::metrics::ALERTS, "channel" => name.to_owned(), "outcome" => outcome.name())
            .increment(1);
        let key = job.job.alert.standing.key();
        if done.send(Done { key, channel: name.to_owned(), outcome }).is_err() {
            return;
        }
    }
}

/// `None`: it is to be tried again.
fn try_once(channel: &str, way: &Channel, waiting: &mut Waiting) -> Option<Outcome> {
    let id = &waiting.job.alert.id;
    match way.send(&waiting.job) {
        Sent::Taken => {
            tracing::info!(channel, alert = id, "alert sent");
            Some(Outcome::Sent)
        }
        Sent::NoAddress => Some(Outcome::NoAddress),
        Sent::Never(error) => {
            tracing::error!(channel, alert = id, error, "alert refused for good; passed over");
            Some(Outcome::Failed)
        }
        Sent::Later(error, after) => {
            let pause = waiting.backoff.next().unwrap_or(BACKOFF.1).max(after.unwrap_or_default());
            waiting.next = Instant::now() + pause;
            if waiting.next > waiting.until {
                tracing::error!(channel, alert = id, error, "alert not sent in time; passed over");
                return Some(Outcome::Failed);
            }
            tracing::warn!(channel, alert = id, error, "alert not sent; trying again");
            None
        }
    }
}
