//! Where an effect stands, who owns a partition, and how far a sink is: the words of the protocol.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The first 16 bytes of a SHA-256.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_hash(Sha256::new_with_prefix(bytes))
    }

    /// The digest of texts, and of where each ends.
    #[must_use]
    pub fn of_texts(texts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for text in texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        Self::of_hash(hash)
    }

    fn of_hash(hash: Sha256) -> Self {
        let mut out = [0; 16];
        out.copy_from_slice(&hash.finalize()[..16]);
        Self(out)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The place of an effect: the offset of the record that caused it, and its ordinal among that record's
/// effects (one record can release several held events).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Offset in the event log's partition.
    pub offset: i64,
    /// 0 for the first effect of that record.
    pub ordinal: u32,
}

impl Position {
    /// Before every effect.
    pub const START: Self = Self { offset: -1, ordinal: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.offset, self.ordinal)
    }
}

/// As it is displayed.
impl std::str::FromStr for Position {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (offset, ordinal) = text.split_once('.').unwrap_or((text, ""));
        Ok(Self { offset: offset.parse()?, ordinal: ordinal.parse()? })
    }
}

/// Who owns a partition. The later claim is the greater epoch; a journal made anew raises the lineage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised when the journal is lost and made anew.
    pub lineage: u64,
    /// Offset of the claim record in the journal's partition.
    pub claim: i64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lineage, self.claim)
    }
}

/// What a sink stores, atomically with each batch of effects: how far it is, and by whose hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Effects up to and including this one are applied.
    pub position: Position,
    /// Digest of the input record at that offset, by which a log made anew is known.
    pub digest: Digest,
    /// The owner that wrote it.
    pub epoch: Epoch,
}

impl Fence {
    /// The fence of a sink that holds nothing of a partition.
    pub const EMPTY: Self =
        Self { position: Position::START, digest: Digest([0; 16]), epoch: Epoch { lineage: 0, claim: -1 } };
}
