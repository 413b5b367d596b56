//! Sends a plan over HTTP, as a sender would: keeps connections open, and tries again after a 5xx answer or a
//! broken connection, with the same event.
//!
//! A lane's deliveries go one after the other through one thread. Nothing here judges the answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ureq::Agent;

use crate::delivery::{Delivery, Gap};
use crate::plan::Plan;

/// The first pause before another attempt; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause, and the longest `Retry-After` that is obeyed.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Where to send, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Such as `http://127.0.0.1:8080`, without a path.
    pub base_url: String,
    /// Threads, each with a connection of its own; at least 1.
    pub concurrency: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long to try again with one delivery.
    pub patience: Duration,
}

impl Options {
    /// Eight threads, ten seconds an attempt, a minute a delivery.
    #[must_use]
    pub fn to(base_url: &str) -> Self {
        Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            concurrency: 8,
            timeout: Duration::from_secs(10),
            patience: Duration::from_secs(60),
        }
    }
}

/// What became of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its place in [`Plan::deliveries`].
    pub delivery: usize,
    /// The last answer: its status, or why there was none.
    pub answer: Result<u16, String>,
    /// Attempts, at least 1.
    pub attempts: usize,
    /// When the first attempt began, after the beginning of the phase.
    pub began: Duration,
    /// When the last attempt ended, after the beginning of the phase.
    pub ended: Duration,
}

/// What became of a phase, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By place in the plan.
    pub outcomes: Vec<Outcome>,
    /// How long sending took.
    pub took: Duration,
}

impl Report {
    /// How many deliveries were answered with which status.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut statuses = BTreeMap::new();
        for status in self.outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().ok()) {
            *statuses.entry(*status).or_default() += 1;
        }
        statuses
    }

    /// Attempts beyond each delivery's first. What such an attempt repeats may be in the log already.
    #[must_use]
    pub fn retries(&self) -> usize {
        self.outcomes.iter().map(|outcome| outcome.attempts - 1).sum()
    }

    /// Gaps that took longer than `limit` from the first event ahead to the last one missing: where Hookline
    /// gave them up, the plan's verdicts do not hold.
    #[must_use]
    pub fn slow_gaps(&self, plan: &Plan, limit: Duration) -> usize {
        let mut opened = BTreeMap::new();
        let mut slow = 0;
        for outcome in &self.outcomes {
            match plan.deliveries.get(outcome.delivery).and_then(|delivery| delivery.gap) {
                Some(Gap::Opens(gap)) => {
                    opened.insert(gap, outcome.began);
                }
                Some(Gap::Closes(gap)) => {
                    let began = opened.remove(&gap).unwrap_or(outcome.began);
                    slow += usize::from(outcome.ended.saturating_sub(began) > limit);
                }
                None => {}
            }
        }
        slow
    }

    /// Adds a later phase's report.
    pub fn extend(&mut self, later: Self) {
        self.outcomes.extend(later.outcomes);
        self.took += later.took;
    }
}

/// Sends one phase of a plan, and returns when each delivery is answered or given up. `progress` is told how
/// many are done, from several threads.
pub fn phase(plan: &Plan, phase: usize, options: &Options, progress: &(dyn Fn(usize) + Sync)) -> Report {
    let begin = Instant::now();
    let threads = options.concurrency.max(1);
    let mut queues = vec![Vec::new(); threads];
    for (n, delivery) in plan.deliveries.iter().enumerate().filter(|(_, delivery)| delivery.phase == phase) {
        let thread = usize::try_from(delivery.lane % threads as u64).unwrap_or(0);
        queues[thread].push((n, delivery));
    }
    let done = AtomicUsize::new(0);
    let work = |queue: Vec<(usize, &Delivery)>| {
        let sender = Sender::new(options, begin);
        let send = |(n, delivery)| {
            let outcome = sender.deliver(n, delivery);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            outcome
        };
        queue.into_iter().map(send).collect::<Vec<_>>()
    };
    let mut outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = queues.into_iter().map(|queue| scope.spawn(|| work(queue))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    outcomes.sort_by_key(|outcome| outcome.delivery);
    Report { outcomes, took: begin.elapsed() }
}

/// One thread's connection.
struct Sender<'a> {
    agent: Agent,
    options: &'a Options,
    begin: Instant,
}

impl<'a> Sender<'a> {
    fn new(options: &'a Options, begin: Instant) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(options.timeout))
            .build();
        Self { agent: Agent::new_with_config(config), options, begin }
    }

    fn deliver(&self, n: usize, delivery: &Delivery) -> Outcome {
        let began = self.begin.elapsed();
        let mut pause = PAUSE_MIN;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (answer, retry_after) = self.attempt(delivery);
            let again = answer.as_ref().map_or(true, |status| *status >= 500);
            let ended = self.begin.elapsed();
            let wait = retry_after.unwrap_or(pause).min(PAUSE_MAX);
            if !again || ended + wait > began + self.options.patience {
                return Outcome { delivery: n, answer, attempts, began, ended };
            }
            std::thread::sleep(wait);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One request: the status, and how long the answer asks to wait.
    fn attempt(&self, delivery: &Delivery) -> (Result<u16, String>, Option<Duration>) {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let mut request = self.agent.post(format!("{}{}", self.options.base_url, delivery.path));
        let signature = delivery.signer.headers(&delivery.body, now_s.cast_signed());
        for (name, value) in delivery.headers.iter().chain(&signature) {
            request = request.header(*name, value);
        }
        let mut response = match request.send(&delivery.body[..]) {
            Ok(response) => response,
            Err(error) => return (Err(error.to_string()), None),
        };
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| value.parse().ok()).map(Duration::from_secs);
        // Read to the end, so that the connection can be used again. What it says does not matter.
        let _ = response.body_mut().read_to_vec();
        (Ok(response.status().as_u16()), retry_after)
    }
}

#[cfg(test)]
mod tests;
