//! PostgreSQL as a source: our own replication client, setup, and the [`Source`](crate::Source) built from them.
//!
//! ```text
//!   options ─▶ socket ─▶ tls ─▶ auth ─▶ connection ─┬─▶ setup      (SQL)
//!                                                   └─▶ replication ─▶ wal ──▶ decode ──▶ source
//!                                                                      feedback ◀──────────┘
//! ```
//!
//! `wire` frames the messages of an ordinary conversation, `pacing` decides when `wal` reads, `guard` and `insurance` watch and move
//! slots, `membership` watches the publication, `kernel` holds the few
//! system calls that no safe crate offers.

mod auth;
mod capture;
mod catalog;
mod connection;
mod continuity;
mod decode;
mod error;
mod feedback;
mod guard;
mod insurance;
mod kernel;
mod membership;
mod options;
mod pacing;
mod pinned;
mod quiet;
mod replication;
mod secret;
pub mod setup;
mod socket;
mod source;
mod structure;
mod tls;
mod wal;
mod wire;

pub use capture::{REMOVE_SQL as DDL_CAPTURE_REMOVE_SQL, install_sql as ddl_capture_install_sql};
pub use connection::{Connection, Row, SessionKind};
pub use decode::{DecodeError, Decoder};
pub use error::{PgError, ServerError, SystemIdentity};
pub use feedback::FeedbackWriter;
pub use insurance::SUFFIX as INSURANCE_SUFFIX;
pub use kernel::probe_io_uring;
pub use options::{
    ChannelBinding, ConnectOptions, Endpoint, Host, Keepalive, OptionsError, RootCert, SslMode, SslNegotiation,
    TargetSession,
};
pub use replication::{CreatedSlot, Origin, Replication, quote_identifier, quote_literal};
pub use secret::Secret;
pub use setup::{SetupError, SourceSettings};
pub use source::PostgresSource;
pub use wal::{KERNEL_BUFFER_BYTES, SESSION_BYTES_MAX, WalFrame, WalReader};
