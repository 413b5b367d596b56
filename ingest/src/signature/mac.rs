//! HMAC keys with their first block already hashed, and tags that are compared in constant time.

use hmac::{Hmac, KeyInit};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use shared::config::Hash;
use subtle::{Choice, ConstantTimeEq};

/// The longest tag: SHA-512's.
const TAG_LEN_MAX: usize = 64;

/// A key, ready to sign. Its `Debug` shows no key material.
#[derive(Clone)]
pub(super) enum Mac {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
}

/// A signature, decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    bytes: [u8; TAG_LEN_MAX],
    len: usize,
}

impl Mac {
    /// `None` cannot happen: HMAC takes keys of any length.
    pub(super) fn new(hash: Hash, key: &[u8]) -> Option<Self> {
        Some(match hash {
            Hash::Sha1 => Self::Sha1(Hmac::new_from_slice(key).ok()?),
            Hash::Sha256 => Self::Sha256(Hmac::new_from_slice(key).ok()?),
            Hash::Sha512 => Self::Sha512(Hmac::new_from_slice(key).ok()?),
        })
    }

    /// Signs the parts, one after the other.
    pub(super) fn sign<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> Tag {
        fn run<'a, M: hmac::Mac>(mut mac: M, parts: impl Iterator<Item = &'a [u8]>) -> Tag {
            for part in parts {
                mac.update(part);
            }
            Tag::new(&mac.finalize().into_bytes())
        }
        match self {
            Self::Sha1(mac) => run(mac.clone(), parts),
            Self::Sha256(mac) => run(mac.clone(), parts),
            Self::Sha512(mac) => run(mac.clone(), parts),
        }
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mac")
    }
}

impl Tag {
    /// The first 64 bytes; no tag is longer.
    pub(super) fn new(from: &[u8]) -> Self {
        let mut bytes = [0; TAG_LEN_MAX];
        let len = from.len().min(TAG_LEN_MAX);
        for (to, from) in bytes.iter_mut().zip(from) {
            *to = *from;
        }
        Self { bytes, len }
    }
}

impl ConstantTimeEq for Tag {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.bytes.ct_eq(&other.bytes) & (self.len as u64).ct_eq(&(other.len as u64))
    }
}
