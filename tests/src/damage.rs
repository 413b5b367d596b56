//! What disks and half-done copies do to files.

use std::fs;
use std::path::{Path, PathBuf};

/// A stretch that is zeroed, in bytes: a sector.
const SECTOR: usize = 512;

/// What is done to a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It ends early.
    CutOff,
    /// A sector of it holds zeros.
    Zeroed,
    /// A bit is the other way round.
    Flipped,
}

impl Damage {
    /// Does it at a place among the bytes.
    ///
    /// # Panics
    /// When the place is beyond them.
    pub fn apply(self, bytes: &mut Vec<u8>, at: usize) {
        match self {
            Self::CutOff => bytes.truncate(at),
            Self::Zeroed => bytes.iter_mut().skip(at).take(SECTOR).for_each(|byte| *byte = 0),
            Self::Flipped => bytes[at] ^= 1 << (at % 8),
        }
    }
}

/// The files below a directory that are not empty, in the order of their names; none where it is not there.
#[must_use]
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0) {
            found.push(path);
        }
    }
    found.sort();
    found
}
