//! The harness of the end-to-end tests: real servers, real programs, and what a test asks them.
//!
//! `tests/run` finds or installs what is needed, builds the programs and says where all is through the
//! environment (see [`setup`]). Nothing is skipped: what is missing is a panic that says how to get it.
//! All that a test starts dies with the test's process, however that ends (see [`child`]).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test harness: a panic is its way to fail")]

pub mod child;
pub mod collector;
pub mod damage;
pub mod fakesnow;
pub mod ferretdb;
pub mod http;
pub mod json_server;
pub mod kafka;
pub mod kafka_read;
pub mod kafka_topics;
pub mod kafka_write;
pub mod load;
pub mod mariadb;
pub mod metrics;
pub mod octokit;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod setup;
pub mod site;
pub mod smtp;
pub mod tls;
pub mod wait;
