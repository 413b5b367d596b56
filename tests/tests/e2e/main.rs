//! The suite `e2e` of `tests/run`: the built programs on a real Kafka and PostgreSQL.
//!
//! One binary, so that its tests share servers (`Kafka::shared`, `Postgres::shared`) and link once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail by panics")]

mod alerts;
mod bad_body;
mod bad_config;
mod broken_log;
mod common;
mod connections;
mod foreign_records;
mod harness;
mod ingest;
mod outages;
mod parked;
mod pipeline;
mod readers;
mod rebuild;
mod secured_kafka;
mod senders;
mod sink_http;
mod sink_tables;
mod snapshots;
mod topics;
mod traces;
mod wire;
