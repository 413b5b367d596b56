//! Fuzz targets for every decoder of bytes from outside: whatever they are given, they answer or refuse, and what they
//! take they give back as it was.
//!
//! With `cargo test` each target takes some thousand random inputs. For hours, guided by coverage, with
//! `cargo install cargo-bolero` and a nightly toolchain: `cargo bolero test -p fuzz headers` and so on.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail"))]

#[cfg(test)]
mod config;
#[cfg(test)]
mod log;
#[cfg(test)]
mod stored;
#[cfg(test)]
mod webhook;

/// Something good, damaged from some place on.
#[cfg(test)]
fn damaged(good: &[u8], at: usize, drawn: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for (n, byte) in drawn.iter().enumerate() {
        match bytes.get_mut(at % good.len().max(1) + n) {
            Some(place) => *place = *byte,
            None => bytes.push(*byte),
        }
    }
    bytes
}
