//! Why ingest does not start. What goes wrong with a single webhook is in `problem.rs`.

use std::net::SocketAddr;
use std::ops::Range;

/// Something in the configuration that its types do not show, such as a secret that is not base64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct SetupError {
    /// The key, such as `sources.billing.secrets`.
    pub key: String,
    /// What is wrong and what to do. Never a secret's value.
    pub message: String,
    /// Where it stands in the file, in bytes, where that is known.
    pub span: Option<Range<usize>>,
}

impl SetupError {
    pub(crate) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), span: None }
    }

    pub(crate) fn at(mut self, span: Range<usize>) -> Self {
        // A default value has the empty range: it stands nowhere.
        self.span = (!span.is_empty()).then_some(span);
        self
    }
}

/// Why ingest does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The address is taken, or not ours.
    #[error("webhook address {0} cannot be bound: {1}")]
    Bind(SocketAddr, std::io::Error),
    /// The admin address.
    #[error("{0}")]
    Admin(std::io::Error),
    /// librdkafka refuses a setting.
    #[error("the Kafka producer cannot be made: {0}")]
    Producer(#[from] rdkafka::error::KafkaError),
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}
