//! The local copy of a partition's state, so that a restart need not replay the whole journal. A cache: what
//! it holds is worth nothing unless its mark is met in the journal, and losing it loses nothing.

mod sled;
#[cfg(test)]
mod tests;

pub use self::sled::{SledStore, SledStores};

use crate::fold::{Delta, State};
use crate::journal::Mark;

/// The local copy of one partition's state.
pub trait Store: Send {
    /// The stored state and what it corresponds to; `None` where there is none.
    ///
    /// # Errors
    /// What is stored cannot be read.
    fn load(&mut self) -> Result<Option<(State, Mark)>, StoreError>;

    /// Takes note of a delta that is final. Written now or a little later, the mark last.
    ///
    /// # Errors
    /// It cannot be written.
    fn save(&mut self, delta: &Delta, mark: Mark) -> Result<(), StoreError>;

    /// Writes what has been noted for a while: called now and then, also where nothing happens.
    ///
    /// # Errors
    /// It cannot be written.
    fn tick(&mut self) -> Result<(), StoreError>;

    /// Writes what is noted, and brings it to the disk.
    ///
    /// # Errors
    /// It cannot be written.
    fn close(&mut self) -> Result<(), StoreError>;
}

/// Opens stores.
pub trait Stores: Send {
    /// What is opened.
    type Store: Store;

    /// Opens the store of a partition. A foreign, damaged or half-made one is wiped, logged and counted, and
    /// comes back empty.
    ///
    /// # Errors
    /// The directory cannot be used.
    fn open(&mut self, partition: i32) -> Result<Self::Store, StoreError>;

    /// Removes what is stored of a partition.
    ///
    /// # Errors
    /// The directory cannot be used.
    fn wipe(&mut self, partition: i32) -> Result<(), StoreError>;
}

/// Why the local copy cannot be used. Work goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database says so.
    #[error("{0}")]
    Sled(#[from] ::sled::Error),
    /// The file system says so.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// What is stored is damaged.
    #[error("stored state is damaged: {0}")]
    Damaged(String),
}

impl From<postcard::Error> for StoreError {
    fn from(error: postcard::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}
