//! What ends a session, and who must act.

use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{LogError, Space};
use dbstreamd_model::Lsn;

use crate::epochs::{EPOCHS_PER_HOUR_MAX, HistoryBreak};
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
        "cannot decode the change stream: {0}; the stream is parked so that nothing is skipped, and the source keeps its WAL: report this, then restart dbstreamd with a version that can; to give it up instead, move the slot beyond it with pg_replication_slot_advance and restart dbstreamd, which then begins a new epoch that says what is missing"
    )]
    Decode(#[from] DecodeError),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The source's history does not continue the log's, and the policy is to stop.
    #[error(
        "{0}; nothing was appended; set on_gap = \"new_epoch\" for this source and restart dbstreamd to go on under a new epoch, or start a stream under another name (a new log); in either case resynchronise the stream's consumers"
    )]
    Broken(HistoryBreak),
    /// The history broke too often.
    #[error(
        "{0}; nothing was appended, since this stream began {max} new epochs within the last hour already: see to it that its url always leads to the same server and that nobody else moves or drops its slot; then restart dbstreamd or resume the stream, which begins a new epoch once the hour is over",
        max = EPOCHS_PER_HOUR_MAX
    )]
    TooManyEpochs(HistoryBreak),
    /// The history broke, and the server has no slot to go on from.
    #[error(
        "{broken}; and the server has no usable replication slot {slot} from which to go on under a new epoch; nothing was appended; create it there with pg_create_logical_replication_slot, or set on_lost_slot = \"recreate\" for this source and restart dbstreamd; then resynchronise the stream's consumers"
    )]
    BrokenWithoutSlot {
        /// How the histories differ.
        broken: HistoryBreak,
        /// Slot name.
        slot: String,
    },
    /// What was sent again differed, and the log goes on under a new epoch with the next session.
    #[error("{0}; a new epoch has begun, and the stream goes on in it")]
    NewEpoch(HistoryBreak),
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
        "the server is another cluster (system identifier {found}) than the one this log follows ({known}): nothing was changed there; point the source at the right server; if this is meant (after pg_upgrade, a dump and restore, a move), start a stream under another name (a new log) and resynchronise its consumers"
    )]
    OtherSystem {
        /// The log's system identifier.
        known: u64,
        /// The server's.
        found: u64,
    },
    /// What came lies behind what the source had said was all.
    #[error(
        "the source sent a transaction that commits at {got} after it had sent everything up to {after}: that is not the order of its own log, so something between repeats or reorders what it sends, or it is not PostgreSQL; nothing of it was stored, and the connection is made anew"
    )]
    Unordered {
        /// Where the transaction commits.
        got: Lsn,
        /// How far it had come before.
        after: Lsn,
    },
    /// The data volume is nearly full.
    #[error(
        "held: the data volume has {available_mib} MiB left, less than the {floor_mib} MiB that are kept free; nothing is read from the source, which keeps its WAL, until there is room: free some space or lower log.retention_bytes"
    )]
    ShortOfSpace {
        /// What may still be written, in MiB.
        available_mib: u64,
        /// What is kept free, in MiB.
        floor_mib: u64,
    },
    /// What a transaction made is not to be seen yet.
    #[error(
        "transaction {xid} has come, and made a type of table {table} that the source does not show to queries yet: its commit waits for a synchronous standby, or the source is very slow; the connection is made anew until it does"
    )]
    NotVisible {
        /// The table, with its namespace.
        table: String,
        /// The transaction's id.
        xid: u32,
    },
    /// The catalog did not answer.
    #[error("the source did not answer within {} s when it was asked for the types of table {table}; it is asked again", .after.as_secs())]
    CatalogSilent {
        /// The table, with its namespace.
        table: String,
        /// The limit.
        after: Duration,
    },
    /// The source has lost what says which tables are sent.
    #[error(
        "the publication {0:?} does not exist any more: without it the source would leave out changes; nothing more was confirmed, and the session was ended"
    )]
    Unpublished(Arc<str>),
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
    pub(crate) const fn short_of_space(space: Space) -> Self {
        Self::ShortOfSpace { available_mib: space.available >> 20, floor_mib: space.floor >> 20 }
    }

    /// Who must act: the one table that decides between retry, pause and operator.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Postgres(error) if error.is_transient() => Retry::Soon,
            Self::Setup(error) if error.is_transient() => Retry::Soon,
            Self::Postgres(_) | Self::Setup(_) | Self::OtherSystem { .. } => Retry::Later,
            Self::BrokenWithoutSlot { .. } => Retry::Later,
            Self::ShortOfSpace { .. }
            | Self::Unordered { .. }
            // Setup then says what to do, or the publication is back.
            | Self::Unpublished(_)
            | Self::Silent(_)
            | Self::NotVisible { .. }
            | Self::CatalogSilent { .. }
            | Self::Feedback(_)
            | Self::Replaying { .. }
            | Self::NewEpoch(_) => Retry::Soon,
            // The log takes writes again by itself.
            Self::Log(LogError::Stopped(_) | LogError::Interrupted | LogError::Reopening) => Retry::Soon,
            Self::Decode(_) | Self::Log(_) | Self::Broken(_) | Self::TooManyEpochs(_) => Retry::Never,
        }
    }
}
