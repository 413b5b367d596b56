//! Damages the local state of a stopped processor, in each of its files.

use std::fs;
use std::path::Path;

use hookline_tests::damage::{Damage, files};
use sandbox::rng::Rng;

/// Bits that are flipped, by file.
const FLIPS: usize = 8;

/// Does it at places that are drawn.
pub(crate) fn damage(kind: Damage, state_dir: &Path, rng: &mut Rng) {
    for file in files(state_dir) {
        let mut bytes = fs::read(&file).expect("a file of the local state");
        for _ in 0..if kind == Damage::Flipped { FLIPS } else { 1 } {
            let at = rng.below(bytes.len());
            kind.apply(&mut bytes, at);
        }
        fs::write(&file, bytes).expect("a file of the local state");
    }
}

/// Leaves a file that sled makes while it opens, and that stays when it dies then.
pub(crate) fn leave_half_made(state_dir: &Path) {
    for file in files(state_dir) {
        let bytes = fs::read(&file).expect("a file of the local state");
        let half = file.with_file_name("snap.0000000000000000.generating");
        fs::write(half, &bytes[..bytes.len() / 2]).expect("a file in the local state");
    }
}
