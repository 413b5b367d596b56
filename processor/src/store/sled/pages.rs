//! What keeps sled's memory small, whatever was written.
//!
//! sled 0.34 (`lru.rs`) looks for pages to leave out of memory only when a queue of 64 accesses is full, and has 256
//! such queues: a page that is written once and seldom read would stay. So what is written or read is read some times
//! more, which costs a fraction of the write. A page above a quarter of a segment (128 KiB) stands in a file of its own
//! and does not count at all; a page has up to 16 values: so values are small.

use sled::Tree;

/// A value is closed when it exceeds this: pages of 16 to 32 KiB.
pub(super) const VALUE_BYTES: usize = 2 * 1024;
/// An access to each of the 8 to 16 values of a page, this often again, fills the queue.
const TOUCHES: usize = 8;
/// Half as much does an access to one of them, this often again.
const TOUCHES_ALONE: usize = 32;

/// Writes one of many values that are written in the order of their keys.
pub(super) fn insert(tree: &Tree, key: &[u8], value: Vec<u8>) -> sled::Result<()> {
    tree.insert(key, value)?;
    passed(tree, key)
}

/// One of many values was read, in the order of their keys.
pub(super) fn passed(tree: &Tree, key: &[u8]) -> sled::Result<()> {
    (0..TOUCHES).try_for_each(|_| tree.get(key).map(drop))
}

/// A value somewhere was read.
pub(super) fn visited(tree: &Tree, key: &[u8]) -> sled::Result<()> {
    (0..TOUCHES_ALONE).try_for_each(|_| tree.get(key).map(drop))
}
