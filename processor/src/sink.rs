//! Where events are applied. A sink stores, atomically with each batch of effects, how far it is (the
//! [`Fence`]): that makes it the truth about what was applied, and keeps a former owner out.
//!
//! Another sink is one file in `sink/`, an implementation of [`Sink`], and a variant in the configuration.

mod connections;
#[cfg(feature = "http")]
pub(crate) mod http;
#[cfg(any(
    feature = "mongodb",
    feature = "mysql",
    feature = "postgres",
    feature = "snowflake",
    feature = "sqlite"
))]
#[cfg_attr(
    not(all(
        feature = "mongodb",
        feature = "mysql",
        feature = "postgres",
        feature = "snowflake",
        feature = "sqlite"
    )),
    allow(dead_code, reason = "one database needs what another does not")
)]
mod mapping;
#[cfg(feature = "mongodb")]
mod mongodb;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg_attr(
    not(any(
        feature = "mongodb",
        feature = "mysql",
        feature = "postgres",
        feature = "snowflake",
        feature = "sqlite"
    )),
    allow(dead_code, reason = "a database needs what another sink does not")
)]
mod rows;
#[cfg(feature = "snowflake")]
mod snowflake;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg_attr(
    not(any(feature = "mysql", feature = "postgres", feature = "snowflake", feature = "sqlite")),
    allow(dead_code, reason = "a database needs what the topic of statuses does not")
)]
mod statuses;

use std::sync::Arc;

use shared::config::{SinkConfig, TablesConfig};

use crate::fold::Effect;
use crate::position::{Epoch, Fence, Position};

/// A sink with a fence of its own. Called by one lane's thread; calls may block, within the sink's time-outs.
pub trait Sink: Send {
    /// Becomes the owner of a partition: raises the epoch of its fence to `epoch`, unless it stands higher,
    /// and returns the fence as it then is.
    ///
    /// # Errors
    /// [`SinkError::Fenced`] where a later owner was quicker.
    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError>;

    /// Reads the fence of a partition ([`Fence::EMPTY`] where there is none).
    ///
    /// # Errors
    /// The sink cannot be read.
    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError>;

    /// Applies a batch and moves the fence from `batch.from` to `batch.to`, in one transaction whose first
    /// statement moves the fence.
    ///
    /// # Errors
    /// Nothing of the batch is applied, except after [`SinkError::Retry`], where that is not known, and in a sink
    /// whose batches are not transactions, which passes over what is applied when it is delivered again.
    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError>;

    /// Whether the sink stores its fence. Where it does not, the fence is the last checkpoint's, as
    /// [`Sink::resume`] is told, and nothing can be counted or compared with it.
    fn keeps_fence(&self) -> bool {
        true
    }

    /// Told before a claim: the fence in the partition's last checkpoint, and the offset of the log below which
    /// everything was applied, should the journal be lost. For a sink that stores no fence.
    fn resume(&mut self, _partition: i32, _checkpointed: Option<Fence>, _applied_below: i64) {}

    /// The partition is not the caller's any more. For a sink that holds something for it.
    fn release(&mut self, _partition: i32) {}

    /// Counts the events of a partition that are applied up to and including a position.
    ///
    /// # Errors
    /// The sink cannot be read.
    fn count(&mut self, partition: i32, up_to: Position) -> Result<u64, SinkError>;
}

/// Some effects of one partition, in their order, all beyond the sink's fence.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The event log's partition.
    pub partition: i32,
    /// The fence that the sink must stand at, with the owner's epoch.
    pub from: Fence,
    /// The fence after the batch.
    pub to: Fence,
    /// All with `Action::Apply`, positions rising.
    pub effects: &'a [Effect],
}

/// Why a sink did not do what it was told; each kind has one way to go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The connection or the server failed: the outcome is unknown. Claim again, read the fence, go on there.
    #[error("{0}")]
    Retry(String),
    /// The fence is not where it was left: another owner has the partition. Stop working on it.
    #[error("another instance owns partition {partition} (its epoch is {found}, this one's is {own})")]
    Fenced {
        /// The partition.
        partition: i32,
        /// The epoch in the sink's fence.
        found: Epoch,
        /// The epoch of the caller.
        own: Epoch,
    },
    /// The data of the batch cannot be applied, on a working connection. Alone, the event is dead-lettered.
    #[error("refused: {0}")]
    Refused(String),
    /// An event of the batch cannot be applied yet, though nothing is wrong with the sink: what it refers to is not
    /// there. What comes after it in its partition waits with it.
    #[error("{0}")]
    Waits(String),
    /// Nothing can be applied until somebody changes something: credentials, a table, another pipeline's
    /// tables. The message says what.
    #[error("{0}")]
    Halt(String),
}

/// A fence's place in the order of effects.
#[must_use]
pub fn is_beyond(effect: &Effect, fence: Position) -> bool {
    effect.position > fence
}

/// What every sink is told when it is opened.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The pipeline's name: a sink's tables belong to one pipeline.
    pub pipeline: String,
    /// The Kafka cluster's id, by which a sink fed from another cluster is known.
    pub cluster_id: String,
    /// The event log's topic.
    pub topic: String,
    /// The user's own tables, checked when the sink is opened.
    pub tables: Arc<TablesConfig>,
}

/// Opens the sink of a pipeline: connects, creates its tables where they are missing, and checks the user's.
///
/// # Errors
/// As [`SinkError`] says.
pub fn open(config: &SinkConfig, context: &Context) -> Result<Option<Box<dyn Sink>>, SinkError> {
    // Unused where every sink is left out.
    let _ = context;
    match config {
        #[cfg(feature = "postgres")]
        SinkConfig::Postgres(config) => Ok(Some(Box::new(postgres::Postgres::open(config, context)?))),
        #[cfg(not(feature = "postgres"))]
        SinkConfig::Postgres(_) => Err(left_out("postgres")),
        #[cfg(feature = "mysql")]
        SinkConfig::Mysql(config) => Ok(Some(Box::new(mysql::Mysql::open(config, context)?))),
        #[cfg(not(feature = "mysql"))]
        SinkConfig::Mysql(_) => Err(left_out("mysql")),
        #[cfg(feature = "mongodb")]
        SinkConfig::Mongodb(config) => Ok(Some(Box::new(mongodb::Mongodb::open(config, context)?))),
        #[cfg(not(feature = "mongodb"))]
        SinkConfig::Mongodb(_) => Err(left_out("mongodb")),
        #[cfg(feature = "http")]
        SinkConfig::Http(config) => Ok(Some(Box::new(http::Http::open(config, context)?))),
        #[cfg(not(feature = "http"))]
        SinkConfig::Http(_) => Err(left_out("http")),
        #[cfg(feature = "snowflake")]
        SinkConfig::Snowflake(config) => Ok(Some(Box::new(snowflake::Snowflake::open(config, context)?))),
        #[cfg(not(feature = "snowflake"))]
        SinkConfig::Snowflake(_) => Err(left_out("snowflake")),
        #[cfg(feature = "sqlite")]
        SinkConfig::Sqlite(config) => Ok(Some(Box::new(sqlite::Sqlite::open(config, context)?))),
        #[cfg(not(feature = "sqlite"))]
        SinkConfig::Sqlite(_) => Err(left_out("sqlite")),
        SinkConfig::Connections(config) => {
            Ok(Some(Box::new(connections::Connections::open(config, context)?)))
        }
        // Its effects are part of the checkpoint's transaction; there is no fence but the checkpoint.
        SinkConfig::Kafka(_) => Ok(None),
    }
}

/// Names the Cargo feature that the program was built without.
///
/// # Errors
/// The sink of this configuration is not in the program.
pub fn check_built_in(config: &SinkConfig) -> Result<(), SinkError> {
    let (feature, is_built_in) = match config {
        SinkConfig::Postgres(_) => ("postgres", cfg!(feature = "postgres")),
        SinkConfig::Mysql(_) => ("mysql", cfg!(feature = "mysql")),
        SinkConfig::Mongodb(_) => ("mongodb", cfg!(feature = "mongodb")),
        SinkConfig::Http(_) => ("http", cfg!(feature = "http")),
        SinkConfig::Snowflake(_) => ("snowflake", cfg!(feature = "snowflake")),
        SinkConfig::Sqlite(_) => ("sqlite", cfg!(feature = "sqlite")),
        SinkConfig::Kafka(_) | SinkConfig::Connections(_) => return Ok(()),
    };
    if is_built_in { Ok(()) } else { Err(left_out(feature)) }
}

fn left_out(feature: &str) -> SinkError {
    SinkError::Halt(format!(
        "this program was built without the {feature} sink; build with --features {feature}"
    ))
}
