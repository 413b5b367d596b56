//! The ids seen within the window, in buckets of stream time: expiry drops a whole bucket.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};

use crate::position::Digest;

/// An event's identity: a digest of source, connection and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId(pub [u8; 16]);

impl std::hash::Hash for EventId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A SHA-256's bytes are spread evenly already: eight of them are the hash.
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl EventId {
    /// What stands for the event of a number whose place a snapshot took: no event's identity.
    pub const SNAPSHOT: Self = Self([0; 16]);

    /// The identity of an event. The separator cannot stand in a source's name, and lengths are part of the
    /// digest, so no two different triples share one.
    #[must_use]
    pub fn new(source: &str, connection: &str, id: &str) -> Self {
        let mut bytes = Vec::with_capacity(source.len() + connection.len() + id.len() + 16);
        for part in [source, connection, id] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part.as_bytes());
        }
        Self(Digest::of(&bytes).0)
    }
}

/// A bucket: from when, for how long, in milliseconds of stream time. The length is part of it, since the
/// window may be configured anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketKey {
    /// The earliest stream time in it.
    pub start_ms: i64,
    /// How much time it spans.
    pub span_ms: i64,
}

/// A window holds this many buckets, and one more that is being filled.
const BUCKETS: i64 = 8;

impl BucketKey {
    /// The bucket that a stream time falls into.
    #[must_use]
    pub fn at(stream_time_ms: i64, window_ms: i64) -> Self {
        let span_ms = (window_ms / BUCKETS).max(1);
        Self { start_ms: stream_time_ms.div_euclid(span_ms) * span_ms, span_ms }
    }

    /// Whether the whole bucket is older than the window, which reaches back to `ids_from_ms`.
    #[must_use]
    pub fn is_expired(self, ids_from_ms: i64) -> bool {
        self.start_ms.saturating_add(self.span_ms) <= ids_from_ms
    }
}

/// Ids of one bucket, in the order in which they were seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdBlock {
    /// The bucket.
    pub bucket: BucketKey,
    /// Its new ids, packed.
    #[serde(with = "packed")]
    pub ids: Vec<EventId>,
}

mod packed {
    use serde::de::{Error as _, Visitor};
    use serde::{Deserializer, Serializer};

    use super::EventId;

    pub(super) fn serialize<S: Serializer>(ids: &[EventId], s: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(ids.len() * 16);
        for id in ids {
            bytes.extend(id.0);
        }
        s.serialize_bytes(&bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<EventId>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<EventId>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("ids of 16 bytes each")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                let (ids, rest) = bytes.as_chunks::<16>();
                if !rest.is_empty() {
                    return Err(E::custom("a block of ids is torn"));
                }
                Ok(ids.iter().map(|id| EventId(*id)).collect())
            }
        }
        d.deserialize_bytes(Bytes).map_err(D::Error::custom)
    }
}

/// Takes the hash as it is.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

pub(super) type IdSet = HashSet<EventId, BuildHasherDefault<AsIs>>;

/// All ids of a partition, as of the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct Ids {
    buckets: BTreeMap<BucketKey, IdSet>,
}

impl Ids {
    /// Whether an id is in a bucket that has not expired.
    pub(super) fn contains(&self, id: EventId, ids_from_ms: i64) -> bool {
        // The newest first: most repeats come soon.
        self.buckets.iter().rev().any(|(bucket, ids)| !bucket.is_expired(ids_from_ms) && ids.contains(&id))
    }

    pub(super) fn add(&mut self, block: &IdBlock) {
        self.buckets.entry(block.bucket).or_default().extend(&block.ids);
    }

    /// Drops the buckets that have expired.
    pub(super) fn expire(&mut self, ids_from_ms: i64) {
        self.buckets.retain(|bucket, _| !bucket.is_expired(ids_from_ms));
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.values().map(HashSet::len).sum()
    }

    /// All ids, sorted: the same for equal contents.
    pub(super) fn sorted(&self) -> Vec<IdBlock> {
        let sorted = |(bucket, ids): (&BucketKey, &IdSet)| {
            let mut ids: Vec<_> = ids.iter().copied().collect();
            ids.sort_unstable();
            IdBlock { bucket: *bucket, ids }
        };
        self.buckets.iter().map(sorted).collect()
    }
}
