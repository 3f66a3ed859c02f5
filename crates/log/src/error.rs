//! Everything that can go wrong with the log, each with its cause and what to do about it, in one line.

use std::path::PathBuf;
use std::sync::Arc;

use dbstreamd_model::{Lsn, Offset, Timestamp};

/// Why the log refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The data directory belongs to another user.
    #[error(
        "data directory {dir} belongs to user {owner}, but this process runs as {us}: run dbstreamd as {owner}, or choose another directory with --data-dir"
    )]
    NotOwner {
        /// The directory.
        dir: PathBuf,
        /// Its owner: name, or number when it has none.
        owner: String,
        /// Who we are.
        us: String,
    },
    /// The data directory cannot be created, read or written.
    #[error("cannot {action} {path}: {source}: check that the directory exists, is writable and has space left")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// Another process has the directory open.
    #[error(
        "data directory {dir} is locked by another dbstreamd{}: stop that one first, or choose another directory with --data-dir",
        pid_note(*.pid)
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The other process, when its id is known.
        pid: Option<u32>,
    },
    /// Written by another version.
    #[error(
        "data directory {dir} has format version {found}, this dbstreamd knows version {known}: use the dbstreamd that wrote it, or an empty directory"
    )]
    UnknownFormat {
        /// The directory.
        dir: PathBuf,
        /// The version found there.
        found: u32,
        /// The version this program reads and writes.
        known: u32,
    },
    /// The store's own files are damaged, or it refused an operation.
    #[error("the log's storage failed to {action}: {reason}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// What the storage engine said.
        reason: String,
    },
    /// Stored events cannot be read back as they were written. They are never served.
    #[error(
        "stream {stream}: events {first} to {last} are damaged in partition {partition} ({reason}): restore the data directory from a copy, or start the consumer after offset {last}"
    )]
    Damaged {
        /// The stream's name.
        stream: String,
        /// First offset that cannot be read.
        first: Offset,
        /// Last offset that cannot be read, as far as it is known.
        last: Offset,
        /// The partition's number.
        partition: u32,
        /// What does not fit.
        reason: String,
    },
    /// Events whose schema version is not among the log's records. They are never served: nothing says what is in them.
    #[error(
        "stream {stream}: events {first} to {last} use schema version number {schema}, whose record is damaged or gone; the source is asked for its tables, and a table that is proven to be the one puts it back; otherwise restore the data directory from a copy, or skip them with dbstreamd resume {stream} --skip-to {next}",
        next = last.next()
    )]
    SchemaUnknown {
        /// The stream's name.
        stream: String,
        /// The version's number in the stream.
        schema: u32,
        /// First offset that cannot be read.
        first: Offset,
        /// Last offset of the chunk that cannot be read.
        last: Offset,
    },
    /// A record beside the events is damaged.
    #[error("the log's record of {what} is damaged ({reason}): restore the data directory from a copy")]
    DamagedRecord {
        /// Which record.
        what: String,
        /// What does not fit.
        reason: String,
    },
    /// The wanted event was removed by retention.
    #[error(
        "offset {requested} was removed by retention, the oldest kept is offset {next}: start at earliest, or take a new snapshot",
        next = trim_point.next()
    )]
    OffsetTrimmed {
        /// The offset asked for.
        requested: Offset,
        /// Everything up to and including this offset is gone.
        trim_point: Offset,
    },
    /// The wanted units were removed by retention.
    #[error(
        "units after {requested} were removed by retention, which kept what ends after {trimmed_through}: start at earliest, or take a new snapshot"
    )]
    LsnTrimmed {
        /// The position asked for.
        requested: Lsn,
        /// End of the newest unit that is gone.
        trimmed_through: Lsn,
    },
    /// The wanted time was removed by retention.
    #[error("events of that time (unix microsecond {}) were removed by retention: start at earliest", .requested.0)]
    TimeTrimmed {
        /// The time asked for.
        requested: Timestamp,
    },
    /// The wanted event does not exist yet.
    #[error("offset {requested} is past the end of the stream: the next event will be offset {end}")]
    OffsetPastEnd {
        /// The offset asked for.
        requested: Offset,
        /// The next offset to come.
        end: Offset,
    },
    /// A consumer wants to commit what it cannot have seen.
    #[error("offset {requested} cannot be committed: the newest visible event is offset {visible}")]
    CommitPastEnd {
        /// The offset to commit.
        requested: Offset,
        /// The newest visible offset.
        visible: Offset,
    },
    /// A consumer wants to commit a position behind which the next event is gone.
    #[error(
        "offset {requested} cannot be committed: everything up to offset {trim_point} was removed by retention, so that nobody can go on from there"
    )]
    CommitTrimmed {
        /// The offset to commit.
        requested: Offset,
        /// Everything up to and including this offset is gone.
        trim_point: Offset,
    },
    /// A consumer wants to commit less than it committed before, and did not say that it means it.
    #[error("offset {requested} is before the committed offset {committed}: ask for a rewind if this is meant")]
    CommitRewinds {
        /// The offset to commit.
        requested: Offset,
        /// The offset committed before.
        committed: Offset,
    },
    /// A stream keeps no more consumers' offsets than this.
    #[error(
        "the stream has {max} named consumers already, which is the limit: delete those that are gone (dbstreamd consumers delete NAME), use one of their names, or subscribe without a name"
    )]
    TooManyConsumers {
        /// How many there may be.
        max: usize,
    },
    /// No such stream in this log.
    #[error("there is no stream number {0} in this log")]
    UnknownStream(u32),
    /// The stream has a writer already.
    #[error("stream {0} is already being written: a stream has one source")]
    AppenderTaken(String),
    /// The order of an appender's calls was broken: a defect of the caller. Nothing was stored since.
    #[error("the source's events do not fit together ({0}): this is a defect of dbstreamd, please report it")]
    Misuse(&'static str),
    /// The log does not write because of an earlier failure, until its cause is gone.
    #[error(
        "the log stopped writing: {0}: free space, or see to the disk; writing goes on by itself once the disk takes writes again, and nothing acknowledged is lost"
    )]
    Stopped(Arc<LogError>),
    /// The log does not write any more, whatever the disk does.
    #[error(
        "the log stopped writing for good: {0}: restart dbstreamd, and report this; nothing acknowledged is confirmed to the source beyond what the disk has"
    )]
    Broken(Arc<LogError>),
    /// The log stopped writing for a moment, and what this session had handed over may be lost: it must begin anew.
    #[error("the log stopped writing for a moment; the source is asked to send again what was not durable")]
    Interrupted,
    /// The log is being opened anew after a failure.
    #[error("the log is being opened again after a failed write: try again in a moment")]
    Reopening,
    /// The log was closed.
    #[error("the log is closed: the daemon is shutting down")]
    Closed,
}

fn pid_note(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl LogError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source: Arc::new(source) }
    }

    pub(crate) fn store(action: &'static str) -> impl FnOnce(rust_rocksdb::Error) -> Self {
        move |error| Self::Store { action, reason: error.into_string() }
    }
}
