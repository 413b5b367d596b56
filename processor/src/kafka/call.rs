//! Calls of a transactional producer that may never come back.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use super::producer::Deliveries;
use super::retry;
use crate::broker::BrokerError;

/// How long a transactional call may take: longer than the transaction's own time-out, after which its outcome
/// is decided.
pub(super) const TRANSACTION: Duration = Duration::from_secs(20);

/// After how long such calls, together, are given up where they do not keep their time-out: the transaction's own is
/// over by then. The lane holds its tickets meanwhile, so that the whole group waits for it.
pub(super) const TRANSACTION_GIVEN_UP: Duration = Duration::from_secs(22);

/// Calls of librdkafka in a thread of their own: a client that has lost every broker keeps some of them for
/// ever, whatever their time-out. What is given up has an unknown outcome, as what failed has: the next producer
/// fences it.
pub(super) struct Call<T> {
    outcome: mpsc::Receiver<T>,
    begun: Instant,
}

impl<T: Send + 'static> Call<T> {
    pub(super) fn begin(call: impl FnOnce() -> T + Send + 'static) -> Result<Self, BrokerError> {
        let (done, outcome) = mpsc::channel();
        let caller = std::thread::Builder::new().name("transaction".to_owned());
        let called = caller.spawn(move || {
            let _ = done.send(call());
        });
        called.map_err(|e| BrokerError::Retry(format!("no thread: {e}")))?;
        Ok(Self { outcome, begun: Instant::now() })
    }

    /// What came of them, if it comes in time; `None` where they go on.
    pub(super) fn end(&self, wait: Duration) -> Result<Option<T>, BrokerError> {
        let left = TRANSACTION_GIVEN_UP.saturating_sub(self.begun.elapsed());
        match self.outcome.recv_timeout(wait.min(left)) {
            Ok(outcome) => Ok(Some(outcome)),
            Err(mpsc::RecvTimeoutError::Timeout) if wait < left => Ok(None),
            Err(_) => {
                let limit = TRANSACTION_GIVEN_UP.as_secs();
                Err(BrokerError::Retry(format!("no end of a transaction's request for {limit} s")))
            }
        }
    }

    /// As [`Call::end`], until they end or are given up.
    pub(super) fn wait(&self) -> Result<T, BrokerError> {
        loop {
            if let Some(outcome) = self.end(TRANSACTION_GIVEN_UP)? {
                return Ok(outcome);
            }
        }
    }
}

/// Calls librdkafka, and waits as long as a [`Call`] may take.
pub(super) fn in_time(
    producer: &Arc<BaseProducer<Deliveries>>,
    call: impl FnOnce(&BaseProducer<Deliveries>) -> Result<(), KafkaError> + Send + 'static,
) -> Result<(), BrokerError> {
    let producer = Arc::clone(producer);
    Call::begin(move || call(&producer))?.wait()?.map_err(|e| retry(&e))
}
