//! The suite `makini` of `tests/run`: connections, polling and the whole case, on a real Kafka and PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail by panics")]

mod poller;
mod scenarios;
mod second_api;
mod stand;
