//! One list of one connection: reads it page by page, appends what it finds, and keeps how far it is.
//!
//! While one page is appended, the next one is asked for. How far it is, is written behind each page that the log
//! has, so that a crash repeats a page and leaves none out.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use shared::config::{NextPage, ResourceConfig};
use shared::event::Event;
use shared::poll::{List, Progress};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::api::Failure;
use super::link::{APPEND_TIMEOUT, Link};
use super::pace::Pace;
use super::page::{Page, Reader, fill, quoted};
use super::sweep::{self, ENTITIES_MAX};
use crate::append::{AppendError, Note};
use crate::metrics::PollMetrics;

/// Pages of one list; a longer one is taken for a circle.
const PAGES_MAX: u64 = 1_000_000;
/// Records of one page.
const RECORDS_MAX: usize = 10_000;
/// What a list found last time and is remembered, so that it is not appended again: 16 bytes each.
const KNOWN_MAX: usize = 100_000;
/// How often one record is asked for, and how long between.
const ONE_TRIES: u32 = 4;
const ONE_WAIT: Duration = Duration::from_secs(1);

/// What a list is asked to do at once.
#[derive(Debug)]
pub(super) enum Ask {
    /// Read the list.
    List,
    /// Read one record: the entity's id as events have it.
    One(String),
}

/// A list, and how far it is.
pub(super) struct Line {
    link: Arc<Link>,
    name: String,
    config: ResourceConfig,
    reader: Reader,
    progress: Progress,
    asks: mpsc::Receiver<Ask>,
    pace: Pace,
    metrics: PollMetrics,
    /// Hashes of the ids that the last list had, or that were appended since.
    known: HashSet<[u8; 16]>,
    /// The entities of a list that is read whole, so far, and since when it is; none where it is not, or was begun
    /// before this program.
    swept: Option<(BTreeSet<String>, Instant)>,
    /// The list was asked for while it was read: what is new may stand on a page that was passed.
    asked_again: bool,
}

/// Why a list was not read to its end.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("{0}")]
    Provider(#[from] Failure),
    /// What it answered is no page, or leads nowhere: it is begun anew.
    #[error("{0}")]
    Page(String),
    #[error("the log does not take what was found: {0}")]
    Log(#[from] AppendError),
    #[error("what the list had before cannot be read: {0}")]
    Kept(String),
}

/// A page that is to be appended, and how far the list is then.
struct Step {
    events: Vec<(Event, Bytes)>,
    progress: Progress,
}

impl Line {
    pub(super) fn new(
        link: Arc<Link>,
        name: &str,
        config: &ResourceConfig,
        progress: Progress,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        let poll = &link.source.config;
        Self {
            reader: Reader::new(config),
            config: config.clone(),
            pace: Pace::new(poll.interval_min.0, poll.interval.0),
            metrics: PollMetrics::new(&link.source.series, &link.source.name, &link.connection, name),
            name: name.to_owned(),
            link,
            progress,
            asks,
            known: HashSet::new(),
            swept: None,
            asked_again: false,
        }
    }

    /// Reads the list again and again, and when it is asked to or has a new token. Until it is dropped.
    pub(super) async fn run(mut self) {
        let mut token = self.link.token.clone();
        let is_under_way = self.progress.list.is_some();
        let mut due = Instant::now() + if is_under_way { Duration::ZERO } else { self.pace.first() };
        loop {
            tokio::select! {
                biased;
                changed = token.changed() => match changed {
                    Ok(()) => due = Instant::now(),
                    Err(_) => return,
                },
                ask = self.asks.recv() => match ask {
                    Some(Ask::List) => due = Instant::now(),
                    Some(Ask::One(entity)) => self.one(&entity).await,
                    None => return,
                },
                () = sleep_until(due.max(self.link.not_before())) => {
                    // While this list slept, another one may have been asked to wait.
                    if Instant::now() < self.link.not_before() {
                        continue;
                    }
                    self.asked_again = false;
                    let wait = self.poll().await;
                    due = Instant::now() + if self.asked_again { Duration::ZERO } else { wait };
                }
            }
        }
    }

    /// Does between two pages what cannot wait for the list's end.
    async fn serve_asks(&mut self) {
        while let Ok(ask) = self.asks.try_recv() {
            match ask {
                Ask::List => self.asked_again = true,
                Ask::One(entity) => self.one(&entity).await,
            }
        }
    }

    /// Reads the list, or what is left of it; says how long until the next time.
    async fn poll(&mut self) -> Duration {
        let link = Arc::clone(&self.link);
        // Never closed.
        let _permit = link.source.permits.acquire().await;
        match self.list().await {
            Ok(found_new) => {
                self.metrics.succeeded();
                self.pace.succeeded(found_new)
            }
            Err(stop) => self.stopped(&stop).await,
        }
    }

    /// Notes why the list stopped, once for each reason; says how long until the next try.
    async fn stopped(&mut self, stop: &Stop) -> Duration {
        let wait = match stop {
            Stop::Provider(Failure::Unauthorized(_)) => self.pace.hopeless(),
            Stop::Provider(Failure::Wait { after: Some(after), .. } | Failure::Paused(after)) => *after,
            Stop::Provider(_) | Stop::Page(_) | Stop::Log(_) | Stop::Kept(_) => self.pace.failed(),
        };
        if matches!(stop, Stop::Provider(Failure::Wait { .. })) {
            self.link.wait_until(Instant::now() + wait);
        }
        let is_refused = matches!(stop, Stop::Provider(Failure::Refused(_)));
        if matches!(stop, Stop::Page(_)) || is_refused && self.progress.list.is_some() {
            self.progress.list = None;
        }
        let message = stop.to_string();
        let (source, connection, resource) = (&self.link.source.name, &self.link.connection, &self.name);
        if self.progress.last_error.as_ref() != Some(&message) {
            tracing::warn!(
                source,
                connection,
                resource,
                error = message,
                next_try_s = wait.as_secs(),
                "not polled"
            );
        }
        self.progress.unauthorized |= matches!(stop, Stop::Provider(Failure::Unauthorized(_)));
        self.progress.failures = self.progress.failures.saturating_add(1);
        self.progress.last_error = Some(message);
        match self.save(self.progress.clone()).await {
            Ok(progress) => self.progress = progress,
            Err(error) => tracing::debug!(%error, "the progress of a poll was not written"),
        }
        wait
    }

    /// Reads the list to its end. True where it had something that the last one had not.
    async fn list(&mut self) -> Result<bool, Stop> {
        // What a list had is in memory until its end: one that another program began is begun anew.
        let mut list = self.progress.list.clone().filter(|list| !list.sweep || self.swept.is_some());
        if list.is_none() {
            let is_due = sweep::is_due(self.config.sweep.as_ref(), &self.progress);
            self.swept = is_due.then(|| (BTreeSet::new(), Instant::now()));
        }
        let mut passed = HashSet::new();
        let (mut step, mut listed, mut found_new) = (None, HashSet::new(), false);
        loop {
            self.serve_asks().await;
            let (fetched, taken) = tokio::join!(self.fetch(list.as_ref()), self.take(step.take()));
            if let Some(progress) = taken? {
                self.progress = progress;
            }
            let (page, mut at) = fetched?;
            let events = self.events(&page.records, &mut listed)?;
            found_new |= !events.is_empty();
            let count = page.records.len();
            at.pages += 1;
            at.records += count as u64;
            at.total = page.total.or(at.total);
            let next = self.next(&at, &page, count);
            let is_circle = next
                .as_ref()
                .is_some_and(|next| !passed.insert(hash(next)) || at.next.as_ref() == Some(next));
            if is_circle || at.pages > PAGES_MAX {
                return Err(Stop::Page(format!(
                    "after {} pages the list leads to a page that it had already; it is begun anew",
                    at.pages
                )));
            }
            let mut progress = self.progress.clone();
            if next.is_some() {
                at.next = next;
                progress.list = Some(at.clone());
                step = Some(Step { events, progress });
                list = Some(at);
                continue;
            }
            if let Some(deleted) = self.conclude(&at.started).await? {
                progress.swept = Some(at.started.clone());
                found_new |= deleted;
            }
            progress = Progress {
                list: None,
                complete_until: Some(at.started),
                last_success: Some(now()),
                records: at.records,
                failures: 0,
                last_error: None,
                unauthorized: false,
                ..progress
            };
            if let Some(progress) = self.take(Some(Step { events, progress })).await? {
                self.progress = progress;
            }
            self.known = listed;
            return Ok(found_new);
        }
    }

    /// Asks for a page. For the first one, the list is begun.
    async fn fetch(&self, list: Option<&List>) -> Result<(Page, List), Stop> {
        let after = match list {
            Some(list) => list.after.clone(),
            None if self.swept.is_some() => None,
            None => self.after(),
        };
        let next = list.and_then(|list| list.next.as_deref());
        let url = match (&self.config.next, next) {
            (Some(NextPage::Link {}), Some(next)) => self.link.source.api.next_url(next),
            _ => self.url(after.as_deref(), next),
        };
        let answer = self.link.get(url.map_err(Stop::Page)?, &self.metrics).await?;
        let mut page = self.reader.page(&answer.body).map_err(Stop::Page)?;
        if page.records.len() > RECORDS_MAX {
            return Err(Stop::Page(format!("a page has more than {RECORDS_MAX} records; set page_size")));
        }
        if matches!(self.config.next, Some(NextPage::Link {})) {
            page.cursor = answer.next;
        }
        let begun = || List {
            after,
            sweep: self.swept.is_some(),
            started: answer.date.unwrap_or_else(Timestamp::now).to_string(),
            ..List::default()
        };
        Ok((page, list.cloned().unwrap_or_else(begun)))
    }

    fn url(&self, after: Option<&str>, next: Option<&str>) -> Result<url::Url, String> {
        let mut query: Vec<(&str, &str)> =
            self.config.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let size = self.config.page_size.as_ref().map(|size| (size.param.as_str(), size.value.to_string()));
        query.extend(size.as_ref().map(|(param, value)| (*param, value.as_str())));
        query.extend(self.config.modified_after.as_deref().zip(after));
        let first;
        match &self.config.next {
            Some(NextPage::Cursor { param, .. }) => query.extend(next.map(|next| (param.as_str(), next))),
            Some(NextPage::Page { param, first: number }) => {
                first = number.to_string();
                query.push((param, next.unwrap_or(&first)));
            }
            Some(NextPage::Link {}) | None => {}
        }
        self.link.source.api.url(&self.config.path, None, &query)
    }

    /// What is asked for: what was modified since the last list was begun, and somewhat before.
    fn after(&self) -> Option<String> {
        self.config.modified_after.as_ref()?;
        let until: Timestamp = self.progress.complete_until.as_ref()?.parse().ok()?;
        let after = until.checked_sub(self.link.source.config.overlap.0).ok()?;
        Some(format!("{after:.3}"))
    }

    /// The page after this one.
    fn next(&self, at: &List, page: &Page, count: usize) -> Option<String> {
        match &self.config.next {
            Some(NextPage::Cursor { .. } | NextPage::Link {}) => page.cursor.clone(),
            Some(NextPage::Page { first, .. }) => {
                let size = self.config.page_size.as_ref().map_or(1, |size| size.value as usize);
                let this: u64 = at.next.as_ref().map_or(Some(u64::from(*first)), |next| next.parse().ok())?;
                (count >= size).then(|| (this + 1).to_string())
            }
            None => None,
        }
    }

    /// Appends what a list that was read whole had before and has no more, after asking for each by itself. Whether
    /// there was any; none where the list was not read whole.
    async fn conclude(&mut self, begun: &str) -> Result<Option<bool>, Stop> {
        let Some(((mut swept, since), config)) = self.swept.take().zip(self.config.sweep.clone()) else {
            return Ok(None);
        };
        // Now, by the provider's clock, which told whole seconds: later than any change of what is gone.
        let begun: Timestamp = begun.parse().unwrap_or_else(|_| Timestamp::now());
        let now = begun + since.elapsed() + Duration::from_secs(1);
        let key = self.progress.key();
        let before = sweep::before(&self.link, &key).await.map_err(Stop::Kept)?;
        let mut deletions = Vec::new();
        for id in before {
            if swept.contains(&id) {
                continue;
            }
            match self.get_one(&id).await {
                Err(Stop::Provider(Failure::Refused(404 | 410))) => {
                    deletions.push(sweep::deletion(&self.link, &self.name, &config, &id, now));
                }
                // It came back, or the list left it out.
                Ok(_) => drop(swept.insert(id)),
                Err(stop) => return Err(stop),
            }
        }
        let count = deletions.len();
        // First the deletions, so that a crash finds them again.
        self.link.append(deletions).await?;
        self.metrics.appended(count);
        sweep::keep(&self.link, &key, &swept).await?;
        Ok(Some(count > 0))
    }

    /// The events of those records that are not known.
    fn events(
        &mut self,
        records: &[Bytes],
        listed: &mut HashSet<[u8; 16]>,
    ) -> Result<Vec<(Event, Bytes)>, Stop> {
        let at_ms = Timestamp::now().as_millisecond();
        let mut events = Vec::new();
        for record in records {
            let (event, body) = self.event(record, at_ms);
            self.note_swept(&event)?;
            let id = hash(&event.id);
            if listed.len() < KNOWN_MAX {
                listed.insert(id);
            }
            if !self.known.contains(&id) {
                events.push((event, body));
            }
        }
        self.metrics.unchanged(records.len() - events.len());
        Ok(events)
    }

    /// Notes what a list that is read whole has.
    fn note_swept(&mut self, event: &Event) -> Result<(), Stop> {
        let Some((swept, _)) = &mut self.swept else { return Ok(()) };
        let prefix = self.link.source.plan.entity_prefix(&event.kind);
        let id = event.entity.as_ref().and_then(|entity| entity.strip_prefix(prefix));
        let id = id
            .ok_or_else(|| Stop::Page("a record has no id, so what is deleted cannot be found".to_owned()))?;
        swept.insert(id.to_owned());
        if swept.len() > ENTITIES_MAX {
            let message =
                format!("a list with more than {ENTITIES_MAX} records cannot be swept for deletions");
            return Err(Stop::Page(message));
        }
        Ok(())
    }

    /// The event that a record becomes.
    fn event(&self, record: &Bytes, at_ms: i64) -> (Event, Bytes) {
        let body = fill(self.config.body.get_ref(), |name| match name {
            "record" => std::str::from_utf8(record).ok().map(str::to_owned),
            "connection" => Some(quoted(&self.link.connection)),
            _ => Some(quoted(&self.config.kind)),
        });
        let mut event = self.link.event(Some(&self.name), &body, at_ms);
        let max = self.link.source.body_bytes_max;
        if body.len() as u64 <= max {
            return (event, body);
        }
        // One that the log cannot take must not hold up the others: a dead letter, whose id says which it is.
        let length = body.len();
        event.problem =
            Some(format!("the record's event has {length} bytes, above {max} bytes (ingest.body_limit)"));
        (event, Bytes::from_static(b"null"))
    }

    /// Appends a page, and then writes how far the list is.
    async fn take(&self, step: Option<Step>) -> Result<Option<Progress>, Stop> {
        let Some(Step { events, progress }) = step else { return Ok(None) };
        let count = events.len();
        self.link.append(events).await?;
        self.metrics.appended(count);
        Ok(Some(self.save(progress).await?))
    }

    /// Writes how far the list is, and by whom and when; returns it as written.
    async fn save(&self, progress: Progress) -> Result<Progress, AppendError> {
        let progress = Progress { by: self.link.source.instance.clone(), time: now(), ..progress };
        let value = serde_json::to_vec(&progress).unwrap_or_default();
        let key = progress.key();
        let note = Note {
            topic: &self.link.source.shared.progress,
            partition: Some(self.link.partition),
            key: &key,
            value: &value,
        };
        self.link.source.log.put(&note, APPEND_TIMEOUT).await?;
        Ok(progress)
    }

    /// Reads one record and appends it, for whom its entity's gap waits.
    async fn one(&mut self, entity: &str) {
        let (source, connection, resource) = (&self.link.source.name, &self.link.connection, &self.name);
        for n in 1..=ONE_TRIES {
            match self.try_one(entity).await {
                Ok(()) => return,
                Err(stop) => {
                    tracing::warn!(source, connection, resource, entity, error = %stop, "one record was not polled");
                    let is_final = matches!(
                        stop,
                        Stop::Page(_) | Stop::Provider(Failure::Refused(_) | Failure::Unauthorized(_))
                    );
                    if is_final || n == ONE_TRIES {
                        return;
                    }
                    let asked = match stop {
                        Stop::Provider(Failure::Wait { after, .. }) => after,
                        Stop::Provider(Failure::Paused(after)) => Some(after),
                        Stop::Provider(_) | Stop::Page(_) | Stop::Log(_) | Stop::Kept(_) => None,
                    };
                    sleep(asked.unwrap_or(ONE_WAIT * n)).await;
                }
            }
        }
    }

    /// Asks for one record, by its id without prefix.
    async fn get_one(&self, id: &str) -> Result<Bytes, Stop> {
        let path = self.config.one.as_deref().unwrap_or_default();
        let url = self.link.source.api.url(path, Some(id), &[]).map_err(Stop::Page)?;
        let answer = self.link.get(url, &self.metrics).await?;
        self.reader.one(&answer.body).map_err(Stop::Page)
    }

    async fn try_one(&self, entity: &str) -> Result<(), Stop> {
        let prefix = self.link.source.plan.entity_prefix(&self.config.kind);
        let Some(id) = entity.strip_prefix(prefix) else { return Ok(()) };
        let record = self.get_one(id).await?;
        let event = self.event(&record, Timestamp::now().as_millisecond());
        self.link.append(vec![event]).await?;
        self.metrics.appended(1);
        Ok(())
    }
}

fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

fn hash(text: &str) -> [u8; 16] {
    Sha256::digest(text).first_chunk().copied().unwrap_or_default()
}
