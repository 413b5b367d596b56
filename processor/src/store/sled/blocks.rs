//! Entities in packed blocks of one sled tree: what changed is added as a block; when twice as much was added as the
//! entities themselves take, they are written anew.
//!
//! Entities are divided into segments by their keys, each written anew by itself, so that no write is long. A block's
//! key is its segment, the offset of the mark with which it was written, and its number among those; its value is
//! `(key, entity)` in postcard's encoding, one after the other. In the order of keys a later one replaces an earlier
//! one. A crash before the mark leaves blocks that are newer than it: the journal's deltas after the mark, which are
//! saved again, lead to where they are.

use std::collections::HashMap;

use sled::{IVec, Tree};

use super::super::StoreError;
use super::pages;
use crate::fold::{Entity, EntityKey};

/// Into so many segments a partition's entities are divided.
const SEGMENTS: u8 = 16;
/// A segment is written anew when what was added exceeds this, and twice what was written before.
const ADDED_BYTES_MIN: usize = 64 * 1024;

/// The entities of one partition.
#[derive(Debug)]
pub(super) struct Blocks {
    tree: Tree,
    sizes: [Size; SEGMENTS as usize],
}

/// How large a segment is, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    /// When it was last written anew.
    whole: usize,
    /// What was added since.
    added: usize,
}

impl Blocks {
    /// Those of a tree; an empty one until they are read.
    pub(super) fn of(tree: Tree) -> Self {
        Self { tree, sizes: [Size::default(); SEGMENTS as usize] }
    }

    /// Reads all, a segment at a time.
    pub(super) fn read(&mut self, mut each: impl FnMut(Vec<(EntityKey, Entity)>)) -> Result<(), StoreError> {
        for segment in 0..SEGMENTS {
            let (mut entities, mut size, mut first) = (Vec::new(), Size::default(), None);
            for entry in self.tree.scan_prefix([segment]) {
                let (key, block) = entry?;
                pages::passed(&self.tree, &key)?;
                let written = key.get(..OFFSET_END).map(IVec::from);
                let is_first = *first.get_or_insert_with(|| written.clone()) == written;
                *(if is_first { &mut size.whole } else { &mut size.added }) += block.len();
                decode(&block, |key, entity| entities.push((key, entity)))?;
            }
            if let Some(known) = self.sizes.get_mut(usize::from(segment)) {
                *known = size;
            }
            each(entities);
        }
        Ok(())
    }

    /// Writes entities as they are at the mark at `offset`.
    pub(super) fn write(
        &mut self,
        entities: HashMap<EntityKey, Entity>,
        offset: i64,
    ) -> Result<(), StoreError> {
        let mut changed = [const { Vec::new() }; SEGMENTS as usize];
        for (key, entity) in entities {
            if let Some(changed) = changed.get_mut(usize::from(segment_of(&key))) {
                changed.push((key, entity));
            }
        }
        for (segment, (changed, size)) in (0..).zip(changed.into_iter().zip(&mut self.sizes)) {
            if changed.is_empty() {
                continue;
            }
            if size.added <= ADDED_BYTES_MIN.max(2 * size.whole) {
                size.added += add(&self.tree, segment, offset, changed)?;
                continue;
            }
            let mut whole = HashMap::new();
            let mut older = Vec::new();
            for entry in self.tree.scan_prefix([segment]) {
                let (key, block) = entry?;
                pages::passed(&self.tree, &key)?;
                decode(&block, |key, entity| _ = whole.insert(key, entity))?;
                older.push(key);
            }
            whole.extend(changed);
            let written = add(&self.tree, segment, offset, whole)?;
            *size = Size { whole: written, added: 0 };
            for key in older.iter().filter(|key| ***key < key_of(segment, offset, 0)[..]) {
                self.tree.remove(key)?;
            }
        }
        Ok(())
    }
}

/// Writes blocks; returns how many bytes they are.
fn add(
    tree: &Tree,
    segment: u8,
    offset: i64,
    entities: impl IntoIterator<Item = (EntityKey, Entity)>,
) -> Result<usize, StoreError> {
    let (mut block, mut number, mut written) = (Vec::new(), 0, 0);
    let mut entities = entities.into_iter().peekable();
    while let Some(pair) = entities.next() {
        block = postcard::to_extend(&pair, block)?;
        if block.len() >= pages::VALUE_BYTES || entities.peek().is_none() {
            written += block.len();
            pages::insert(tree, &key_of(segment, offset, number), std::mem::take(&mut block))?;
            number += 1;
        }
    }
    Ok(written)
}

fn decode(mut block: &[u8], mut each: impl FnMut(EntityKey, Entity)) -> Result<(), StoreError> {
    while !block.is_empty() {
        let ((key, entity), rest) = postcard::take_from_bytes(block)?;
        each(key, entity);
        block = rest;
    }
    Ok(())
}

fn segment_of(key: &[u8]) -> u8 {
    key.iter().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte)) % SEGMENTS
}

/// Where the number begins in a block's key.
const OFFSET_END: usize = 9;

fn key_of(segment: u8, offset: i64, number: u32) -> [u8; OFFSET_END + 4] {
    let mut key = [segment; OFFSET_END + 4];
    let (_, rest) = key.split_at_mut(1);
    let (at, last) = rest.split_at_mut(OFFSET_END - 1);
    at.copy_from_slice(&offset.to_be_bytes());
    last.copy_from_slice(&number.to_be_bytes());
    key
}
