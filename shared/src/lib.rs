//! What `ingest` and `processor` both speak.
//!
//! The data's way through this crate: [`config`] says what is expected, [`event`] is what travels
//! through the log, [`json`] reads its body, [`kafka`] and [`topics`] reach the log, [`telemetry`], [`series`] and
//! [`admin`] let people see it.

pub mod admin;
pub mod config;
pub mod event;
pub mod json;
pub mod kafka;
pub mod poll;
pub mod secret;
pub mod selector;
pub mod series;
pub mod spans;
pub mod telemetry;
pub mod topics;
pub mod units;

/// `hookline.toml` is read from this environment variable's path where `--config` is not given.
pub const CONFIG_ENV: &str = "HOOKLINE_CONFIG";
