//! Fuzz targets for every decoder of bytes from outside: whatever they are given, they answer or refuse, and what they
//! take they give back as it was.
//!
//! With `cargo test` each target takes some thousand random inputs. For hours, guided by coverage, with
//! `cargo install cargo-bolero` and a nightly toolchain: `cargo bolero test -p fuzz headers` and so on.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail"))]

#[cfg(test)]
mod log;
#[cfg(test)]
mod stored;
#[cfg(test)]
mod webhook;
