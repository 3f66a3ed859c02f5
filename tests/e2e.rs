//! End to end: the `dbstreamd` binary against a real PostgreSQL, over real sockets, on a real disk.
//!
//! One binary for all of it. `support/` starts servers and daemons; each module under `e2e/` is one promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

#[path = "e2e/bad_config.rs"]
mod bad_config;
#[path = "e2e/bad_data_dir.rs"]
mod bad_data_dir;
#[path = "e2e/bad_requests.rs"]
mod bad_requests;
#[path = "e2e/bad_server.rs"]
mod bad_server;
#[path = "e2e/bad_slot.rs"]
mod bad_slot;
#[path = "e2e/consumers.rs"]
mod consumers;
#[path = "e2e/ddl.rs"]
mod ddl;
#[path = "e2e/demo.rs"]
mod demo;
#[path = "e2e/diverged.rs"]
mod diverged;
#[path = "e2e/epochs.rs"]
mod epochs;
#[path = "e2e/failover.rs"]
mod failover;
#[path = "e2e/failpoints.rs"]
mod failpoints;
#[path = "e2e/fan_out.rs"]
mod fan_out;
#[path = "e2e/fidelity/mod.rs"]
mod fidelity;
#[path = "e2e/foreign_client.rs"]
mod foreign_client;
#[path = "e2e/holds.rs"]
mod holds;
#[path = "e2e/huge_transaction.rs"]
mod huge_transaction;
#[path = "e2e/intake.rs"]
mod intake;
#[path = "e2e/latency.rs"]
mod latency;
#[path = "e2e/lifecycle.rs"]
mod lifecycle;
#[path = "e2e/lost_schema.rs"]
mod lost_schema;
#[path = "e2e/memory.rs"]
mod memory;
#[path = "e2e/ordering.rs"]
mod ordering;
#[path = "e2e/other_history.rs"]
mod other_history;
#[path = "e2e/resuming.rs"]
mod resuming;
#[path = "e2e/schemas.rs"]
mod schemas;
#[path = "e2e/short_of_space.rs"]
mod short_of_space;
#[path = "e2e/slot_guard.rs"]
mod slot_guard;
#[path = "e2e/tuning.rs"]
mod tuning;
#[path = "e2e/two_sources.rs"]
mod two_sources;
#[path = "e2e/typed_values.rs"]
mod typed_values;
#[path = "e2e/unpublished.rs"]
mod unpublished;
#[path = "e2e/values.rs"]
mod values;
