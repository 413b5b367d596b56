//! Folds the event log and applies each event exactly once, in order per entity, to a sink.
//!
//! The data's way, and the order to read in: [`broker`] (the log) → [`fold`] → [`sink`] → [`journal`] →
//! [`store`], driven by a lane.

#[cfg(feature = "alerts")]
pub mod alerts;
pub mod broker;
pub mod clock;
pub mod connections;
pub mod control;
pub mod defect;
pub mod failpoint;
pub mod fold;
pub mod frame;
pub mod gaps;
pub mod inspect;
pub mod journal;
pub mod kafka;
pub mod lane;
pub mod membership;
pub mod metrics;
pub mod position;
pub mod progress;
pub mod rebuild;
pub mod run;
pub mod sink;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod tickets;
pub mod traces;
pub mod verify;
