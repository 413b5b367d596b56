//! The identity of an event, and the buckets of stream time in which ids are remembered: a whole bucket expires.

use serde::{Deserialize, Serialize};

use crate::position::Digest;

/// An event's identity: a digest of source, connection and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// A SHA-256's bytes are spread evenly already: eight of them are its hash.
    pub(super) fn hash(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// The first two bytes as a number: those of many ids are spread evenly.
    #[must_use]
    pub fn first_two(self) -> u16 {
        let [a, b, ..] = self.0;
        u16::from_be_bytes([a, b])
    }

    /// Ids one after the other, 16 bytes each.
    #[must_use]
    pub fn pack(ids: &[Self]) -> Vec<u8> {
        ids.iter().map(|id| id.0).collect::<Vec<_>>().into_flattened()
    }

    /// What [`EventId::pack`] made; `None` where the bytes are torn.
    #[must_use]
    pub fn unpack(packed: &[u8]) -> Option<Vec<Self>> {
        Some(Self::packed(packed)?.iter().map(|id| Self(*id)).collect())
    }

    /// The same in place: the bytes of each.
    #[must_use]
    pub fn packed(packed: &[u8]) -> Option<&[[u8; 16]]> {
        let (ids, rest) = packed.as_chunks();
        rest.is_empty().then_some(ids)
    }

    /// What stands for the event of a number whose place a snapshot took: no event's identity.
    pub const SNAPSHOT: Self = Self([0; 16]);

    /// The identity of an event. Lengths are part of the digest, so no two different triples share one.
    #[must_use]
    pub fn new(source: &str, connection: &str, id: &str) -> Self {
        Self(Digest::of_texts(&[source, connection, id]).0)
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

    /// The first stream time behind it.
    #[must_use]
    pub fn end_ms(self) -> i64 {
        self.start_ms.saturating_add(self.span_ms)
    }

    /// Whether the whole bucket is older than the window, which reaches back to `ids_from_ms`.
    #[must_use]
    pub fn is_expired(self, ids_from_ms: i64) -> bool {
        self.end_ms() <= ids_from_ms
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
        s.serialize_bytes(&EventId::pack(ids))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<EventId>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<EventId>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("ids of 16 bytes each")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                EventId::unpack(bytes).ok_or_else(|| E::custom("a block of ids is torn"))
            }
        }
        d.deserialize_bytes(Bytes).map_err(D::Error::custom)
    }
}
