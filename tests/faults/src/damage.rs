//! Damages the local state of a stopped processor, as disks and half-done copies do.

use std::fs;
use std::path::{Path, PathBuf};

use sandbox::rng::Rng;

/// A stretch that is zeroed, in bytes: a sector.
const SECTOR: usize = 512;
/// Bits that are flipped, by file.
const FLIPS: usize = 8;

/// What is done.
#[derive(Clone, Copy)]
pub(crate) enum Damage {
    /// Files end early.
    Truncated,
    /// A sector of each file holds zeros.
    Zeroed,
    /// Some bits of each file are the other way round.
    Flipped,
    /// A file lies there that sled makes while it opens, and leaves when it dies then.
    HalfMade,
}

/// Does it to the state of each partition.
pub(crate) fn damage(kind: Damage, state_dir: &Path, rng: &mut Rng) {
    for file in files(state_dir) {
        let Ok(mut bytes) = fs::read(&file) else { continue };
        if bytes.is_empty() {
            continue;
        }
        match kind {
            Damage::Truncated => bytes.truncate(rng.below(bytes.len())),
            Damage::Zeroed => {
                let from = rng.below(bytes.len());
                let to = bytes.len().min(from + SECTOR);
                bytes[from..to].fill(0);
            }
            Damage::Flipped => {
                for _ in 0..FLIPS {
                    let at = rng.below(bytes.len());
                    bytes[at] ^= 1 << rng.below(8);
                }
            }
            Damage::HalfMade => {
                let half = file.with_file_name("snap.0000000000000000.generating");
                fs::write(half, &bytes[..bytes.len() / 2]).expect("a file in the local state");
                continue;
            }
        }
        fs::write(&file, bytes).expect("a file of the local state");
    }
}

/// Whether there is anything to damage.
pub(crate) fn has_files(state_dir: &Path) -> bool {
    files(state_dir).iter().any(|file| fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
