//! The log on a real disk: one binary, so that RocksDB is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that meets the unexpected shall fail there"
)]

mod consumers;
mod crash;
mod damage;
mod epochs;
mod failing;
mod format;
mod holds;
mod reading;
mod retention;
mod sessions;
mod support;
mod tables;
