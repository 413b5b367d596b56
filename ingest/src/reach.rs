//! Whether the log can be reached: asked of Kafka again and again on a thread of its own, told to `/readyz`,
//! to a metric, and once per change to the log file.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::admin::Health;
use shared::config::Config;
use shared::kafka::Doubt;
use shared::topics::Topic;

use crate::append::{AppendError, CLIENT_ID, Log};

/// The part's name in `/readyz`.
const PART: &str = "kafka";
/// How often a log that works is asked.
const EVERY: Duration = Duration::from_secs(5);
/// How soon a log that does not work is asked again, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the thread and librdkafka's callbacks share.
pub(crate) struct Reach {
    health: Health,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The last answer; `None` until the first.
    answer: Option<Result<(), String>>,
    look_again: bool,
    stopped: bool,
    /// Trouble with records was logged since the log answered last.
    trouble_said: bool,
    /// What kept the producer out, if it was told since it was asked last.
    kept_out: Option<String>,
}

impl Reach {
    pub(crate) fn new(health: Health) -> Self {
        health.not_ready(PART, "not reached yet");
        let state =
            State { answer: None, look_again: false, stopped: false, trouble_said: false, kept_out: None };
        Self { health, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Something is wrong; the thread asks at once.
    pub(crate) fn look_again(&self) {
        self.lock().look_again = true;
        self.changed.notify_all();
    }

    /// Records do not get into the log, though it may answer. Said once, and again if it is still so after the
    /// log has answered the next time.
    pub(crate) fn trouble(&self, error: AppendError) {
        if !std::mem::replace(&mut self.lock().trouble_said, true) {
            tracing::warn!(%error, "webhooks do not get into the log and are answered with 503");
        }
    }

    /// Kafka does not let the producer in, and why.
    pub(crate) fn kept_out(&self, why: String) {
        self.lock().kept_out = Some(why);
    }

    pub(crate) fn take_kept_out(&self) -> Option<String> {
        self.lock().kept_out.take()
    }

    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn now(&self, answer: Result<(), String>) {
        let mut state = self.lock();
        let changed = state.answer.as_ref() != Some(&answer);
        match &answer {
            Ok(()) => self.health.ready(PART),
            Err(why) => self.health.not_ready(PART, why),
        }
        match &answer {
            Ok(()) if changed => tracing::info!("log reached"),
            Err(why) if changed => tracing::error!(why, "log cannot be used; webhooks are answered with 503"),
            Ok(()) | Err(_) => {}
        }
        state.trouble_said &= answer.is_err();
        state.answer = Some(answer);
    }

    /// Waits until it is time to ask again; false when there is no more to ask.
    fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.lock();
        if !state.stopped && !state.look_again {
            state = self.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.look_again = false;
        !state.stopped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the log until [`Reach::stop`]. The first time that Kafka answers, the topics are created or checked;
/// only then records are taken, since a producer's first record may create a topic with the broker's defaults.
pub(crate) fn watch(config: &Config, topics: Vec<Topic>, log: Arc<Log>) -> std::io::Result<()> {
    let (config, runtime) = (config.clone(), tokio::runtime::Handle::current());
    let watch = move || {
        let mut right = false;
        let mut retry = RETRY_MIN;
        let mut doubt = Doubt::default();
        loop {
            let mut answer = Ok(());
            if !right {
                let ensured = runtime.block_on(shared::topics::ensure(&config.kafka, &topics));
                answer = ensured.map_err(|error| error.to_string());
                right = answer.is_ok();
            }
            let answer = answer.and_then(|()| log.look(PATIENCE));
            let up = answer.is_ok();
            if up {
                log.open();
            }
            log.set_up(up);
            log.reach.now(answer);
            if up {
                doubt.reached();
            } else if doubt.client_is_lost(&config.kafka, CLIENT_ID, log.topic(), PATIENCE) {
                tracing::warn!("the producer has lost Kafka, which can be reached, and is replaced");
                if let Err(error) = log.replace(PATIENCE) {
                    tracing::error!(error, "no new producer");
                }
            }
            let pause = if up { EVERY } else { retry };
            retry = if up { RETRY_MIN } else { (retry * 2).min(RETRY_MAX) };
            if !log.reach.wait(pause) {
                return;
            }
            if !up {
                // A flood of errors must not become a flood of questions.
                std::thread::sleep(RETRY_MIN);
            }
        }
    };
    // It ends by itself, once the question that it may be at has its answer or time-out.
    std::thread::Builder::new().name("kafka-reach".to_owned()).spawn(watch).map(drop)
}
