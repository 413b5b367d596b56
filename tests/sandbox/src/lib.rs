//! The sandbox sender: plays the parts of Makini and GitHub over real HTTP, and knows what must come of it.
//!
//! A [`plan`] is made from a seed: every delivery in the order in which it is sent, with the status that it
//! must be answered with and the verdict that it must end in, and the rows that must be there afterwards. The
//! plan is made forwards: each story ("sends 3 before 2") writes down its own outcome while it is told.
//! Nothing here folds a log, and nothing here uses a crate of Hookline's: what checks the product must not
//! share its mistakes.
//!
//! The [`provider`] stands beside it: the other side of a unified API as a server that has something to poll, and
//! webhooks that miss things.
//!
//! Reading order: `rng`, [`sources`], [`sign`], `bodies`, [`delivery`], `story`, [`plan`] ⇒ [`send`] ⇒ [`check`].

mod bodies;
pub mod check;
pub mod delivery;
pub mod plan;
pub mod provider;
pub mod rng;
#[cfg(feature = "sqlite")]
pub mod rows;
pub mod send;
pub mod sign;
pub mod sources;
mod story;
