//! What ends a session, and who must act.

use std::time::Duration;

use dbstreamd_log::LogError;
use dbstreamd_model::Lsn;

use crate::postgres::{DecodeError, PgError, SetupError};

/// Whether trying again can help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// A passing fault: come back with exponential backoff.
    Soon,
    /// An operator must change something at the source, which can be seen without a restart: look again now and then.
    Later,
    /// Going on could lose or alter changes: stay stopped until somebody has decided.
    Never,
}

/// Why a stream does not stream.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection or the server.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// The database is not ready to be streamed from.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The server sent what we cannot decode.
    #[error(
        "cannot decode the change stream: {0}; the stream is parked so that nothing is skipped, and the source keeps its WAL: report this, then restart dbstreamd with a version that can"
    )]
    Decode(#[from] DecodeError),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The slot moved on without us.
    #[error(
        "the slot {slot} has been confirmed up to {slot_lsn} but this log ends at {log_lsn}: the changes between are lost to this log; start a stream under another name (a new log) and resynchronise its consumers"
    )]
    Gap {
        /// Slot name.
        slot: String,
        /// Its `confirmed_flush_lsn`.
        slot_lsn: Lsn,
        /// Our `confirmed_through`.
        log_lsn: Lsn,
    },
    /// The server's WAL ends before ours does.
    #[error(
        "the server's WAL ends at {server_lsn} but this log already holds changes up to {log_lsn}: it was restored from a backup, failed over to a lagging standby, or is another server; start a stream under another name (a new log)"
    )]
    Behind {
        /// The server's flush position.
        server_lsn: Lsn,
        /// Our `confirmed_through`.
        log_lsn: Lsn,
    },
    /// A standby that was restarted and has not yet replayed what it had sent.
    #[error("the standby has replayed its WAL up to {server_lsn}, this log already has {log_lsn}: waiting for it")]
    Replaying {
        /// The standby's replay position.
        server_lsn: Lsn,
        /// Our `confirmed_through`.
        log_lsn: Lsn,
    },
    /// Another cluster.
    #[error(
        "the server is another cluster (system identifier {found}) than the one this log follows ({known}): nothing was changed there; point the source at the right server, or start a stream under another name (a new log)"
    )]
    OtherSystem {
        /// The log's system identifier.
        known: u64,
        /// The server's.
        found: u64,
    },
    /// A promoted or recovered server that lacks changes the log has.
    #[error(
        "the server is on timeline {found}, {}, but this log follows timeline {known} up to {log_lsn}: a standby was promoted without the newest changes, or the server was recovered to a point in time; nothing was appended; start a stream under another name (a new log) and resynchronise its consumers",
        left_note(*.known, *.left_at)
    )]
    OtherTimeline {
        /// The log's timeline.
        known: u32,
        /// The server's.
        found: u32,
        /// Where the server's history left the log's timeline; none when it never was on it.
        left_at: Option<Lsn>,
        /// How far the log's goes.
        log_lsn: Lsn,
    },
    /// A unit was sent again and differs from what the log has.
    #[error(
        "the source sent a transaction again that differs from the log ({detail}): its history was rewritten (restored volume, other server); nothing was appended; start a stream under another name (a new log)"
    )]
    Fork {
        /// What differs, with LSNs.
        detail: String,
    },
    /// No byte for too long.
    #[error(
        "nothing was received from the server for {} s although it was asked; the connection is taken for dead and made anew", .0.as_secs()
    )]
    Silent(Duration),
    /// The task that confirms positions ended unasked.
    #[error("the feedback task ended unexpectedly: {0}")]
    Feedback(String),
}

impl SourceError {
    /// Who must act: the one table that decides between retry, pause and operator.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Postgres(error) if error.is_transient() => Retry::Soon,
            Self::Setup(error) if error.is_transient() => Retry::Soon,
            Self::Postgres(_) | Self::Setup(_) | Self::OtherSystem { .. } => Retry::Later,
            Self::Silent(_) | Self::Feedback(_) | Self::Replaying { .. } => Retry::Soon,
            // The log takes writes again by itself.
            Self::Log(LogError::Stopped(_) | LogError::Interrupted | LogError::Reopening) => Retry::Soon,
            Self::Decode(_) | Self::Log(_) => Retry::Never,
            Self::Gap { .. } | Self::Behind { .. } | Self::OtherTimeline { .. } | Self::Fork { .. } => Retry::Never,
        }
    }
}

fn left_note(known: u32, left_at: Option<Lsn>) -> String {
    left_at.map_or_else(
        || format!("which does not come from timeline {known}"),
        |lsn| format!("which left timeline {known} at {lsn}"),
    )
}
