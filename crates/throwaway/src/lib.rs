//! A throwaway PostgreSQL: one cluster in a temporary folder, gone with the value that holds it.
//!
//! For the demo, the tests and the benchmarks. It uses the PostgreSQL that is installed, never the
//! machine's own clusters: own folder, own port, own socket, own password. Called by root it runs
//! the server as an unprivileged user, because PostgreSQL refuses root.
//!
//! Nothing survives: dropping a [`Cluster`] stops the server at once and removes the folder, and when
//! the process ends without that (a signal, `kill -9`), a small watching shell does it (`warden.rs`).
//!
//! All calls block; call them from blocking code.

mod account;
mod binaries;
mod builder;
mod cluster;
mod error;
mod standby;
mod tls;
mod warden;

pub use binaries::binary;
pub use builder::Builder;
pub use cluster::{Cluster, ShutdownMode};
pub use error::ThrowawayError;
