//! The local copy of a partition's state, so that a restart need not replay the whole journal; and of ids, those for
//! which there is no room in memory. A cache: what it holds is worth nothing unless its mark is met in the journal, and
//! losing it loses nothing.

mod sled;
#[cfg(test)]
mod tests;

pub use self::sled::{SledStore, SledStores};

use std::ops::RangeInclusive;

use crate::fold::{Delta, EventId, Run, RunKey, State};
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

    /// Takes all ids that are in memory, those of the last delta included, and brings them to the disk.
    ///
    /// # Errors
    /// They cannot be written; all that were saved are there as before.
    fn spill(&mut self, runs: &[Run]) -> Result<(), StoreError>;

    /// Whether a run that was spilled holds an id.
    ///
    /// # Errors
    /// It cannot be read.
    fn holds(&mut self, run: RunKey, id: EventId) -> Result<bool, StoreError>;

    /// The ids of a run whose first two bytes are in a range; sorted.
    ///
    /// # Errors
    /// They cannot be read.
    fn part(&mut self, run: RunKey, range: RangeInclusive<u16>) -> Result<Vec<EventId>, StoreError>;

    /// Writes what is noted, and brings it to the disk.
    ///
    /// # Errors
    /// It cannot be written.
    fn close(&mut self) -> Result<(), StoreError>;
}

/// Asks the store for what the state is unsure of: whether an id is among the spilled ones.
///
/// # Errors
/// It cannot be read.
pub fn look_up(state: &mut State, store: &mut impl Store, id: EventId) -> Result<(), StoreError> {
    let mut holding = Vec::new();
    for run in state.runs_that_may_hold(id) {
        if store.holds(run, id)? {
            holding.push(run.bucket);
        }
    }
    state.tell(id, holding.into_iter().max_by_key(|bucket| bucket.end_ms()));
    Ok(())
}

/// Brings all spilled ids back into memory, for those who compare.
///
/// # Errors
/// They cannot be read.
pub fn unspill(state: &mut State, store: &mut impl Store) -> Result<(), StoreError> {
    state.unspill(|run| store.part(run, 0..=u16::MAX))
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
