//! Sources: where changes come from, and the one loop that brings them into the log.
//!
//! [`run`] keeps one stream alive: it opens its [`Source`], runs the ingest loop (`ingest.rs`) until the
//! session ends, and decides from the error's [`Retry`] whether to come back soon, later, or never.
//! What a source must provide is drawn above [`Source`]. The only source today is [`postgres`].
//!
//! This crate knows nothing of consumers, sinks, configuration files or HTTP.

mod catalog;
mod change;
mod control;
mod epochs;
mod error;
mod ingest;
mod ledger;
pub mod postgres;
mod resent;
mod retry;
mod run;
mod status;

pub use catalog::{Catalog, Described};
pub use change::Change;
pub use control::{Control, Goal, PauseNote, Wish};
pub use epochs::{HistoryBreak, OnGap, OnLostSlot};
pub use error::{Retry, SourceError};
pub use retry::RetryPolicy;
pub use run::run;
pub use status::{InsuranceHealth, Lifecycle, SlotHealth, State, StreamStatus};

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use dbstreamd_log::{Durable, Resume, SourceIdentity, ValueForm};
use dbstreamd_model::{Lsn, StreamName, TableSchema, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A database whose changes can be read.
///
/// ```text
///   open(resume) ──▶ Session ──┬─ reader:    read() → Begin, Schema, Event…, Commit, Idle   (one task, in order)
///                              └─ confirmer: run(progress)                                  (a task of its own)
///
///   A unit is Begin … Commit. A reader hands over units whole and in commit order, and after a reconnect
///   again from some unit at or before the first one that was never confirmed. A confirmer tells the
///   database "you may forget everything up to X" only for an X that it received as `Durable`.
/// ```
#[async_trait]
pub trait Source: Send {
    /// The stream this source feeds.
    fn name(&self) -> &StreamName;

    /// Connects, brings the database into shape and starts to read.
    ///
    /// # Errors
    /// With cause and remedy, and with the advice whether trying again can help.
    async fn open(&mut self, resume: &Resume) -> Result<Session, SourceError>;

    /// What happens when what the source sends again differs from the log.
    fn on_gap(&self) -> OnGap {
        OnGap::default()
    }

    /// Watches what the source keeps for us, and says so in `status`, whether or not a session is open; until it is dropped.
    fn guard(&self, _status: Arc<StreamStatus>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// Answers about a source at any time, whether or not it is being read. Asks over a connection of its own.
#[async_trait]
pub trait Inquiry: Send + Sync + std::fmt::Debug {
    /// The end of what the source has made durable, and of what it had committed before the call: for who waits until the
    /// log has all of it.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn end(&self) -> Result<Lsn, SourceError>;

    /// The tables whose changes it sends, as they would be announced and described if they changed now: for who has
    /// lost a schema.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn tables(&self) -> Result<Vec<TableSchema>, SourceError>;
}

/// One running connection to a source.
pub struct Session {
    /// Changes, in order.
    pub reader: Box<dyn SourceReader>,
    /// Acknowledgements, on a task of their own.
    pub confirmer: Box<dyn Confirmer>,
    /// What changes do not say of their tables.
    pub catalog: Box<dyn Catalog>,
    /// The source will send again, in order, every unit that commits at or after this position.
    pub resends_from: Lsn,
    /// Whose history it is; it continues the log's, as far as can be known before reading, unless `broken` says how not.
    pub identity: SourceIdentity,
    /// In which form it prints values.
    pub form: ValueForm,
    /// The history does not continue the log's: a new epoch must begin, at `resends_from`, before anything is read.
    pub broken: Option<HistoryBreak>,
    /// Up to where its history is known to be the log's; `Lsn(u64::MAX)` when nothing speaks against it. What was
    /// confirmed beyond was another history's.
    pub common_through: Lsn,
    /// Where the source's history ended when the session was opened.
    pub source_end: Lsn,
}

/// The reading half of a session.
#[async_trait]
pub trait SourceReader: Send {
    /// Waits for bytes, appends to `changes` what is complete in them, and returns how many bytes came.
    ///
    /// Cancel-safe: nothing is lost when the future is dropped; `changes` is touched only in the poll that completes it.
    ///
    /// # Errors
    /// When the connection ended or the bytes make no sense; the session is then over.
    async fn read(&mut self, changes: &mut Vec<Change>) -> Result<usize, SourceError>;

    /// When what the last read brought arrived, and was sent.
    fn arrival(&self) -> Arrival {
        Arrival { received_at: std::time::Instant::now(), sent_at: None }
    }

    /// Whether the last read was part of catching up, so that the next one will bring more within a moment.
    fn catching_up(&self) -> bool {
        false
    }

    /// Whether a table that is in these publications is read here. With none it is not known, and taken to be.
    fn reads_publication(&self, _publications: &[String]) -> bool {
        true
    }
}

/// When something came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When it was read.
    pub received_at: std::time::Instant,
    /// When the source sent the oldest of it, by the source's own clock; none when it did not say.
    pub sent_at: Option<Timestamp>,
}

/// What a confirmer may tell the source.
pub struct Progress {
    /// End of what was received: positions in memory count.
    pub received: watch::Receiver<Lsn>,
    /// How far the source may forget.
    pub durable: watch::Receiver<Durable<Lsn>>,
    /// True once everything the source sent again was compared with the log, and it has sent everything up to where the
    /// log had confirmed it before. Until then nothing may be confirmed: the source must be able to send it once more, or
    /// the evidence of a fork would be gone; and what a rewritten history has below that position would be.
    pub compared: watch::Receiver<bool>,
    /// Fires when everything received is durable and the session shall end politely.
    pub closing: CancellationToken,
}

/// The acknowledging half of a session.
#[async_trait]
pub trait Confirmer: Send {
    /// Confirms until `progress.closing` fires (then once more, and says goodbye) or the connection breaks.
    ///
    /// # Errors
    /// When the connection broke.
    async fn run(self: Box<Self>, progress: Progress) -> Result<(), SourceError>;
}
