//! What Hookline is measured against: programs that people would write instead, below `benches/peers`, built by
//! `benches/run`, or, in Rust, here. And what both sides are looked at with, from outside and in the same way.

pub(crate) mod axum_receiver;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod receivers;
pub(crate) mod streams;

use std::env;
use std::path::PathBuf;

/// Where `benches/run` puts a peer that it has built.
fn built(name: &str) -> PathBuf {
    PathBuf::from(env::var_os("HOOKLINE_PEERS").expect("HOOKLINE_PEERS: run benches/run")).join(name)
}
