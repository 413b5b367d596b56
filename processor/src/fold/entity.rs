//! What is remembered of one entity, and its stored form.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ids::EventId;
use crate::frame::Frame;

/// What is remembered of one entity. Entities ordered by arrival have no memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entity {
    /// Ordered by a rising version.
    Version {
        /// The newest that was applied.
        newest: Version,
    },
    /// Ordered by a contiguous number.
    Sequence {
        /// The number that applies next; `None` while the first one is still looked for.
        next: Option<u64>,
        /// The event that had the number before `next`, to tell its repeat under another id;
        /// [`EventId::SNAPSHOT`] where that was no webhook.
        last: Option<EventId>,
        /// Events that wait, by number.
        held: BTreeMap<u64, Held>,
        /// The gap that they wait for; there is one exactly where something is held.
        gap: Option<Gap>,
    },
}

/// A version: all of one entity are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// An integer.
    Integer(i64),
    /// A time, in nanoseconds since 1970.
    Time(i128),
}

impl Version {
    /// Reads an integer or an RFC 3339 time.
    ///
    /// # Errors
    /// A short reason.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Self::Integer).map_err(|_| "version is not an integer below 2^63");
        }
        text.parse::<jiff::Timestamp>()
            .map(|t| Self::Time(t.as_nanosecond()))
            .map_err(|_| "version is neither an integer nor an RFC 3339 time")
    }
}

/// A gap in an entity's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The offset of the record that opened it.
    pub opened_at: i64,
    /// When the wait for it ends, in the log's time.
    pub deadline_ms: i64,
    /// How long gaps of this entity are waited for.
    pub wait_ms: i64,
}

impl Gap {
    /// The deadline of a parked gap, which does not expire.
    pub const NEVER_MS: i64 = i64::MAX;

    /// Whether the wait was over, and the entity stands still until the gap is closed.
    #[must_use]
    pub const fn is_parked(&self) -> bool {
        self.deadline_ms == Self::NEVER_MS
    }
}

/// An event that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its offset.
    pub offset: i64,
    /// When the broker appended it.
    pub time_ms: i64,
    /// Its identity.
    pub id: EventId,
    /// The whole record.
    #[serde(with = "frame_bytes")]
    pub frame: Frame,
}

mod frame_bytes {
    use bytes::Bytes;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::frame::Frame;

    pub(super) fn serialize<S: Serializer>(frame: &Frame, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(frame.as_bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Frame, D::Error> {
        let bytes = <&[u8]>::deserialize(d)?;
        Frame::from_bytes(Bytes::copy_from_slice(bytes)).map_err(D::Error::custom)
    }
}

impl Entity {
    /// About how many bytes the entity's stored form takes.
    #[must_use]
    pub fn stored_len(&self) -> usize {
        match self {
            Self::Version { .. } => 24,
            Self::Sequence { held, .. } => 64 + held.values().map(|h| h.frame.len() + 48).sum::<usize>(),
        }
    }

    /// Bytes of the held events.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Version { .. } => 0,
            Self::Sequence { held, .. } => held.values().map(|h| h.frame.len()).sum(),
        }
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing to memory cannot fail, and every field has a stored form.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// An entity from its stored form.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}
