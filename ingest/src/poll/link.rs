//! A connection as its lists share it: the token, the rate limit, and whether the provider takes the token.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use secrecy::SecretString;
use shared::config::{PollConfig, PollStatusConfig, Secret};
use shared::event::Event;
use shared::series::Series;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use url::Url;

use super::api::{Answer, Api, Failure};
use super::page::{fill, quoted};
use super::share::Shared;
use crate::append::{AppendError, Log};
use crate::extract::{Extracted, Plan, Polled, polled};
use crate::metrics::PollMetrics;

/// How long the log may take for a page.
pub(super) const APPEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A source that is polled.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) config: PollConfig,
    pub(super) plan: Plan,
    pub(super) api: Api,
    pub(super) log: Arc<Log>,
    /// The topics of polling.
    pub(super) shared: Shared,
    /// Lists that may be read at once.
    pub(super) permits: Semaphore,
    /// The largest body that the log takes.
    pub(super) body_bytes_max: u64,
    /// Who this is, for those who look at the progress.
    pub(super) instance: String,
    /// The connections with metrics of their own, of all sources.
    pub(super) series: Arc<Series>,
}

/// One connection.
pub(super) struct Link {
    pub(super) source: Arc<Source>,
    pub(super) connection: String,
    /// The partition of the progress topic that it belongs to.
    pub(super) partition: i32,
    pub(super) token: watch::Receiver<Option<Secret>>,
    limiter: DefaultDirectRateLimiter,
    is_authorized: AtomicBool,
    /// The provider asked to wait until then. It counts requests by token, not by list.
    not_before: Mutex<Instant>,
}

impl Link {
    pub(super) fn new(
        source: Arc<Source>,
        connection: &str,
        partition: i32,
        token: watch::Receiver<Option<Secret>>,
        is_authorized: bool,
    ) -> Self {
        let rate = NonZeroU32::new(source.config.requests_per_second).unwrap_or(NonZeroU32::MIN);
        Self {
            source,
            connection: connection.to_owned(),
            partition,
            token,
            // One at once: a provider's limits are seldom meant for a burst.
            limiter: RateLimiter::direct(Quota::per_second(rate).allow_burst(NonZeroU32::MIN)),
            is_authorized: AtomicBool::new(is_authorized),
            not_before: Mutex::new(Instant::now()),
        }
    }

    /// Before then no list is begun or gone on with.
    pub(super) fn not_before(&self) -> Instant {
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The provider asks to wait.
    pub(super) fn wait_until(&self, then: Instant) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = then.max(*not_before);
    }

    /// Asks the provider, as often as it may be asked, and notes whether it takes the token. While the provider is to
    /// be left alone, that is the answer.
    pub(super) async fn get(&self, url: Url, metrics: &PollMetrics) -> Result<Answer, Failure> {
        let token: Option<SecretString> = self.token.borrow().as_ref().map(|token| token.value.clone());
        let Some(token) = token else {
            return Err(Failure::Passing("the connection has no token; set it in the registry".to_owned()));
        };
        self.limiter.until_ready().await;
        let left = self.not_before().saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Err(Failure::Paused(left));
        }
        let answer = self.source.api.get(url, &token).await;
        metrics.requested(answer.as_ref().map_or_else(Failure::name, |_| "answered"));
        match &answer {
            Ok(_) => self.authorized().await,
            Err(failure @ Failure::Unauthorized(_)) => self.unauthorized(failure).await,
            Err(Failure::Wait { after: Some(after), .. }) => self.wait_until(Instant::now() + *after),
            Err(_) => {}
        }
        answer
    }

    async fn authorized(&self) {
        if !self.is_authorized.load(Ordering::Acquire)
            && let Some(status) = &self.source.config.status
        {
            let told = self.tell(&status.authorized, status, "the provider takes the token").await;
            self.note(told, true, "the provider takes the token again");
        } else {
            self.is_authorized.store(true, Ordering::Release);
        }
    }

    async fn unauthorized(&self, failure: &Failure) {
        if self.is_authorized.load(Ordering::Acquire)
            && let Some(status) = &self.source.config.status
        {
            let told = self.tell(&status.unauthorized, status, &failure.to_string()).await;
            self.note(told, false, "the provider refuses the token; a new one in the registry is taken over");
        } else {
            self.is_authorized.store(false, Ordering::Release);
        }
    }

    /// What was told is told once; what was not, by the next answer.
    fn note(&self, told: Result<(), AppendError>, is_authorized: bool, message: &str) {
        let (source, connection) = (&self.source.name, &self.connection);
        match told {
            Ok(()) => {
                self.is_authorized.store(is_authorized, Ordering::Release);
                tracing::warn!(source, connection, message);
            }
            Err(error) => {
                tracing::warn!(source, connection, %error, "the connection's status was not appended")
            }
        }
    }

    /// Appends an event like those by which the provider tells how the connection is.
    async fn tell(&self, kind: &str, status: &PollStatusConfig, reason: &str) -> Result<(), AppendError> {
        let now = jiff::Timestamp::now();
        let body = fill(status.body.get_ref(), |name| {
            Some(match name {
                "type" => quoted(kind),
                "connection" => quoted(&self.connection),
                "time" => quoted(&format!("{now:.3}")),
                _ => quoted(reason),
            })
        });
        let event = self.event(None, &body, now.as_millisecond());
        self.append(vec![(event, body)]).await
    }

    /// The event of what was found.
    pub(super) fn event(&self, resource: Option<&str>, body: &Bytes, at_ms: i64) -> Event {
        polled(&self.source.plan, &Polled { connection: &self.connection, resource, body, at_ms })
    }

    /// Appends events and waits until the log has them.
    pub(super) async fn append(&self, events: Vec<(Event, Bytes)>) -> Result<(), AppendError> {
        if events.is_empty() {
            return Ok(());
        }
        self.source.log.append(&Extracted::polled(events), APPEND_TIMEOUT).await
    }
}
