//! What is known of a running stream: its lifecycle and its counters. Written by the ingest loop, read by anyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use dbstreamd_log::LatencyHistogram;
use dbstreamd_model::{Lsn, Notice, NoticeSink, Offset, Severity, StreamName, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::control::PauseNote;

/// Where a stream is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The process is starting.
    Init,
    /// Connecting; checking and creating what streaming needs at the source.
    Setup,
    /// Changes flow.
    Streaming,
    /// Stopped with a reason, or between two attempts.
    Failed,
    /// Stopped because an operator wanted it; goes on when one says so.
    Paused,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Init, Self::Setup, Self::Streaming, Self::Failed, Self::Paused];

    /// Upper-case name, as in health answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Setup => "SETUP",
            Self::Streaming => "STREAMING",
            Self::Failed => "FAILED",
            Self::Paused => "PAUSED",
        }
    }
}

/// A stream's state and, when it failed or was paused, why.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    /// The state.
    pub state: State,
    /// In one line: cause and remedy while [`State::Failed`], who paused it and why while [`State::Paused`].
    pub error: Option<Arc<str>>,
    /// Since when.
    pub since: Timestamp,
    /// Whether another attempt will be made without anybody's help.
    pub retrying: bool,
}

/// What a source keeps for us, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotHealth {
    /// The oldest WAL it keeps for the slot; zero when the slot is lost.
    pub restart_lsn: Lsn,
    /// How far it was told to forget.
    pub confirmed_flush_lsn: Lsn,
    /// `reserved`, `extended`, `unreserved` (lost at the next checkpoint) or `lost`.
    pub wal_status: String,
    /// Bytes of WAL from `restart_lsn` on.
    pub retained_bytes: u64,
    /// Bytes that may be written before the slot can be lost; none without such a limit.
    pub safe_bytes: Option<u64>,
    /// Open and prepared transactions, with pid or gid, when they keep `restart_lsn` far behind what was confirmed.
    pub pinned_by: Vec<String>,
    /// The insurance slot; none when there is none, or nothing is known of it.
    pub insurance: Option<InsuranceHealth>,
    /// When this was seen.
    pub seen_at: Timestamp,
}

/// A second slot, kept behind the first so that changes can be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsuranceHealth {
    /// Its name.
    pub slot: String,
    /// As [`SlotHealth::wal_status`].
    pub wal_status: String,
    /// The oldest WAL it keeps; zero when it is lost.
    pub restart_lsn: Lsn,
    /// Bytes of WAL from there on.
    pub retained_bytes: u64,
}

/// One stream's lifecycle and counters.
#[derive(Debug)]
pub struct StreamStatus {
    name: StreamName,
    lifecycle: watch::Sender<Lifecycle>,
    pub(crate) received_lsn: AtomicU64,
    pub(crate) source_lsn: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) transactions: AtomicU64,
    pub(crate) resent_transactions: AtomicU64,
    pub(crate) keepalives: AtomicU64,
    sessions: watch::Sender<u64>,
    /// The session that must end since the publication it reads is gone, and which that is.
    unpublished: watch::Sender<Option<(u64, Arc<str>)>>,
    pub(crate) last_heard: AtomicI64,
    pub(crate) newest_commit_time: AtomicI64,
    pub(crate) send_to_receive: LatencyHistogram,
    slot: Mutex<Option<SlotHealth>>,
    ddl_capture: Mutex<Option<bool>>,
    notices: NoticeSink,
}

impl StreamStatus {
    /// A stream that has not started.
    pub fn new(name: StreamName) -> Arc<Self> {
        Self::with_notices(name, NoticeSink::default())
    }

    /// As [`new`](Self::new); what happens to the stream is put into `notices`.
    pub fn with_notices(name: StreamName, notices: NoticeSink) -> Arc<Self> {
        let init = Lifecycle { state: State::Init, error: None, since: Timestamp::now(), retrying: false };
        Arc::new(Self {
            name,
            lifecycle: watch::Sender::new(init),
            received_lsn: AtomicU64::new(0),
            source_lsn: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            events: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            resent_transactions: AtomicU64::new(0),
            keepalives: AtomicU64::new(0),
            sessions: watch::Sender::new(0),
            unpublished: watch::Sender::new(None),
            last_heard: AtomicI64::new(0),
            newest_commit_time: AtomicI64::new(0),
            send_to_receive: LatencyHistogram::for_one(),
            slot: Mutex::new(None),
            ddl_capture: Mutex::new(None),
            notices,
        })
    }

    pub(crate) fn enter(&self, state: State) {
        self.lifecycle.send_replace(Lifecycle { state, error: None, since: Timestamp::now(), retrying: false });
    }

    /// A session begins: setup has just found everything in order. Gives its number, which is never zero.
    pub(crate) fn begin_session(&self) -> u64 {
        self.sessions.send_modify(|sessions| *sessions += 1);
        *self.sessions.borrow()
    }

    /// The number of the newest session, zero before the first; to be told of each that begins.
    pub(crate) fn sessions(&self) -> watch::Receiver<u64> {
        self.sessions.subscribe()
    }

    /// The source has no publication of this name. Ends the session, if that is the one that runs: who looked before it
    /// began may have seen what its setup has mended since.
    pub(crate) fn end_unpublished(&self, session: u64, publication: &str) {
        self.unpublished.send_replace(Some((session, publication.into())));
    }

    /// Waits until this session must end since the publication it reads is gone; gives its name.
    pub(crate) async fn unpublished(&self, session: u64) -> Arc<str> {
        let mut unpublished = self.unpublished.subscribe();
        loop {
            if let Some((of, publication)) = &*unpublished.borrow_and_update()
                && *of == session
            {
                return Arc::clone(publication);
            }
            // The sender is this.
            let _ = unpublished.changed().await;
        }
    }

    pub(crate) fn stream(&self, confirmed_through: Lsn, next_offset: Offset) {
        self.enter(State::Streaming);
        let text = format!("streaming on from {confirmed_through}, next offset {next_offset}");
        self.notice(Severity::Info, "stream_streaming", text);
    }

    pub(crate) fn fail(&self, error: &str, retrying: bool) {
        let now = Lifecycle { state: State::Failed, error: Some(error.into()), since: Timestamp::now(), retrying };
        let before = self.lifecycle.send_replace(now);
        // An attempt that fails like the one before it is no news.
        if before.state == State::Failed && before.retrying == retrying && before.error.as_deref() == Some(error) {
            return;
        }
        if retrying {
            self.notice(Severity::Warning, "stream_failed", format!("interrupted, and tried again: {error}"));
        } else {
            self.notice(Severity::Error, "stream_failed", format!("stopped until somebody has decided: {error}"));
        }
    }

    /// The session is alive, and nothing is read from it for this reason; ends with the next state.
    pub(crate) fn hold(&self, reason: &str) {
        let now =
            Lifecycle { state: State::Failed, error: Some(reason.into()), since: Timestamp::now(), retrying: true };
        self.lifecycle.send_replace(now);
    }

    pub(crate) fn pause(&self, note: &PauseNote) {
        let text = note.to_string();
        let now = Lifecycle {
            state: State::Paused,
            error: Some(text.as_str().into()),
            since: Timestamp::now(),
            retrying: false,
        };
        let before = self.lifecycle.send_replace(now);
        if before.state != State::Paused || before.error.as_deref() != Some(&text) {
            self.notice(Severity::Warning, "stream_paused", text);
        }
    }

    /// Something happened to this stream.
    pub(crate) fn notice(&self, severity: Severity, kind: &'static str, text: String) {
        self.notices.push(Notice::new(severity, kind, text).of_stream(&self.name));
    }

    /// Forgets positions and times of a history that does not go on: those to come may lie before them.
    pub(crate) fn start_over(&self) {
        self.received_lsn.store(0, Relaxed);
        self.source_lsn.store(0, Relaxed);
        self.newest_commit_time.store(0, Relaxed);
    }

    pub(crate) fn set_slot(&self, slot: Option<SlotHealth>) {
        *self.slot.lock() = slot;
    }

    /// What the source keeps for us, as last seen; none when there is no slot, or nobody has looked yet.
    pub fn slot(&self) -> Option<SlotHealth> {
        self.slot.lock().clone()
    }

    pub(crate) fn set_ddl_capture(&self, active: bool) {
        *self.ddl_capture.lock() = Some(active);
    }

    /// Whether the source records schema changes, as last seen; none when that is not wanted, or nobody has looked yet.
    pub fn ddl_capture(&self) -> Option<bool> {
        *self.ddl_capture.lock()
    }

    /// The stream's name.
    pub fn name(&self) -> &StreamName {
        &self.name
    }

    /// The state now.
    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle.borrow().clone()
    }

    /// To be told of every change of state.
    pub fn watch(&self) -> watch::Receiver<Lifecycle> {
        self.lifecycle.subscribe()
    }

    /// End of the newest unit or idle position received.
    pub fn received_lsn(&self) -> Lsn {
        Lsn(self.received_lsn.load(Relaxed))
    }

    /// The end of the source's WAL as last told: by the server when the session was opened, by its keepalives since.
    pub fn source_lsn(&self) -> Lsn {
        Lsn(self.source_lsn.load(Relaxed))
    }

    /// Bytes received since the process started.
    pub fn bytes_received(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Events received since the process started, resent ones not counted.
    pub fn events_received(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// Units received since the process started, resent ones not counted.
    pub fn transactions_received(&self) -> u64 {
        self.transactions.load(Relaxed)
    }

    /// Units that the source sent again and that matched the log.
    pub fn resent_transactions(&self) -> u64 {
        self.resent_transactions.load(Relaxed)
    }

    /// Keepalives received since the process started: how often the source said where it is between transactions. Many a
    /// second mean that feedback and source answer each other.
    pub fn keepalives_received(&self) -> u64 {
        self.keepalives.load(Relaxed)
    }

    /// How often the stream was opened again after its first session.
    pub fn reconnects(&self) -> u64 {
        self.sessions.borrow().saturating_sub(1)
    }

    /// From when the source sent something, by its own clock, to when it was received; one for each read, of the oldest it
    /// brought. A clock that is ahead of ours makes it zero.
    pub fn send_to_receive(&self) -> &LatencyHistogram {
        &self.send_to_receive
    }

    /// When bytes last came; `Timestamp(0)` for never.
    pub fn last_heard(&self) -> Timestamp {
        Timestamp(self.last_heard.load(Relaxed))
    }

    /// Commit time of the newest transaction received; `Timestamp(0)` for none.
    pub fn newest_received_commit_time(&self) -> Timestamp {
        Timestamp(self.newest_commit_time.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn only_the_session_that_ran_when_somebody_looked_is_ended_for_its_publication() {
        let status = StreamStatus::new("shop".parse().unwrap());
        // Nothing was set up yet: what is missing is about to be made.
        let looked_at = *status.sessions().borrow();
        let first = status.begin_session();
        status.end_unpublished(looked_at, "tables");
        assert_eq!(status.unpublished(first).now_or_never(), None);
        status.end_unpublished(first, "tables");
        assert_eq!(status.unpublished(first).now_or_never().as_deref(), Some("tables"));
        // Its setup has found a publication.
        let second = status.begin_session();
        assert_eq!((status.unpublished(second).now_or_never(), status.reconnects()), (None, 1));
    }
}
