//! Setup against a real PostgreSQL: what it makes, what it refuses, and what it says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail like the test itself"
)]

#[path = "setup/database.rs"]
mod database;
#[path = "setup/preparing.rs"]
mod preparing;
#[path = "setup/privileges.rs"]
mod privileges;
#[path = "setup/publications.rs"]
mod publications;
#[path = "setup/refusals.rs"]
mod refusals;
#[path = "setup/slots.rs"]
mod slots;
#[path = "setup/tables.rs"]
mod tables;
