//! `PostgresSource`: setup, connection, decoder and feedback put together as a [`Source`].

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dbstreamd_log::{Durable, Failpoint, Resume, ValueForm};
use dbstreamd_model::{Lsn, StreamName, TableSchema, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::catalog::PgCatalog;
use super::continuity::{self, Verdict};
use super::decode::Decoder;
use super::{
    Connection, FeedbackWriter, PgError, SessionKind, SourceSettings, WalFrame, WalReader, capture, guard, setup,
};
use crate::epochs::{EPOCHS_PER_HOUR_MAX, HistoryBreak, permit};
use crate::error::SourceError;
use crate::{
    Arrival, Change, Confirmer, Inquiry, OnGap, OnLostSlot, Progress, Session, Source, SourceReader, StreamStatus,
};

/// Shortest time between two status updates that nobody asked for: durable positions move thousands of times a
/// second, and each update wakes the walsender.
const CONFIRM_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Shortest time between a status update and one that takes up a keepalive. A walsender that has sent all there is says
/// so at every wake-up until it hears that its last position has arrived (`WalSndWaitForWal` in PostgreSQL's
/// walsender.c): to say it soon saves both sides the repetitions.
const TAKE_UP_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// How many silent thirds of the server's timeout pass before the server is asked to answer.
const STATUS_PER_TIMEOUT: u32 = 3;

/// A PostgreSQL database read through logical replication.
#[derive(Debug)]
pub struct PostgresSource {
    settings: SourceSettings,
}

impl PostgresSource {
    /// A source with these settings; nothing is connected yet.
    pub fn new(settings: SourceSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn name(&self) -> &StreamName {
        &self.settings.name
    }

    fn on_gap(&self) -> OnGap {
        self.settings.on_gap
    }

    fn guard(&self, status: Arc<StreamStatus>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let settings = self.settings.clone();
        if !settings.ddl_capture {
            return Box::pin(guard::watch(settings, status));
        }
        let capture = capture::watch(settings.clone(), Arc::clone(&status));
        let slot = guard::watch(settings, status);
        Box::pin(async {
            tokio::join!(slot, capture);
        })
    }

    async fn open(&mut self, resume: &Resume) -> Result<Session, SourceError> {
        let settings = &self.settings;
        // A log that got something already is not served by a new slot: whatever lies between is lost to it.
        let known = !resume.confirmed_through.is_zero();
        let (mut broken, mut looked) = (None, false);
        if known || resume.source.is_some() {
            // Nothing is created on a server that turns out to be a stranger, or to have another history.
            match Connection::connect(&settings.connect, SessionKind::Replication).await {
                Ok(mut connection) => {
                    let server = connection.identify_system().await?;
                    broken = continuity::check(&mut connection, &server, resume).await?.broken;
                    connection.close().await;
                    looked = true;
                }
                Err(error) if error.is_transient() => return Err(error.into()),
                // What is missing there, setup says better; it refuses before it changes anything.
                Err(_) => {}
            }
        }
        let broken = broken.map(|broken| permit(broken, settings.on_gap, resume)).transpose()?;
        let (slot_lsn, lost) = self.slot(resume, known, looked, broken).await?;
        let mut connection = Connection::connect(&settings.connect, SessionKind::Replication).await?;
        let server = connection.identify_system().await?;
        let Verdict { identity, broken, common_through } = continuity::check(&mut connection, &server, resume).await?;
        // A log that never got anything adopts the slot where it stands.
        let log_lsn = resume.confirmed_through.min(common_through);
        let gap = (known && slot_lsn > log_lsn).then(|| {
            let slot = settings.slot.clone();
            HistoryBreak::SlotAhead { slot, slot_lsn, log_lsn }
        });
        let broken = broken.or(lost).or(gap).map(|broken| permit(broken, settings.on_gap, resume)).transpose()?;
        let server_timeout = wal_sender_timeout(&mut connection).await?;
        // 0/0: from the slot's own position, so that what is resent overlaps the log and can be compared.
        let form = ValueForm(xxh3_64(connection.decode_profile(settings.binary).as_bytes()));
        let (wal, feedback) = connection.start_replication(&settings.replication(), Lsn::ZERO).await?;
        let keepalives = Arc::new(Keepalives::default());
        let status_interval = match server_timeout {
            None => settings.status_interval,
            Some(timeout) => settings.status_interval.min(timeout / STATUS_PER_TIMEOUT),
        };
        Ok(Session {
            reader: Box::new(PgReader {
                wal,
                frames: Vec::new(),
                charged: 0,
                sent_at: None,
                decoder: Decoder::default(),
                heard: false,
                keepalives: Arc::clone(&keepalives),
                silence_max: settings.receive_timeout,
                publication: settings.publication.clone(),
            }),
            confirmer: Box::new(PgConfirmer { feedback, keepalives, status_interval }),
            catalog: Box::new(PgCatalog::new(settings.name.clone(), settings.connect.clone())),
            resends_from: slot_lsn,
            identity,
            form,
            broken,
            common_through,
            source_end: server.flush_lsn,
        })
    }
}

impl PostgresSource {
    /// Makes the slot exist as far as that is allowed: where it stands, and what the log lost when it was made anew.
    async fn slot(
        &self,
        resume: &Resume,
        known: bool,
        looked: bool,
        broken: Option<HistoryBreak>,
    ) -> Result<(Lsn, Option<HistoryBreak>), SourceError> {
        let settings = &self.settings;
        if !known {
            let prepared = setup::prepare(settings).await?;
            if !prepared.created.slot {
                tracing::warn!(stream = %settings.name, slot = settings.slot, from = %prepared.slot_confirmed_flush, "the slot was there already, and this log is new: what was confirmed before is not in it; if a log was lost, consumers that keep offsets of their own must begin anew");
            }
            return Ok((prepared.slot_confirmed_flush, None));
        }
        // Nothing is replaced on a server of which it is not known whose history it has.
        let recreate = looked && settings.on_lost_slot == OnLostSlot::Recreate;
        // A slot that the stream then may not use would only hold back the server's WAL.
        let too_many = resume.epochs_last_hour >= EPOCHS_PER_HOUR_MAX;
        let prepared = if recreate && !too_many {
            setup::prepare_anew(settings).await
        } else {
            setup::prepare_to_resume(settings).await
        };
        match prepared {
            Ok(prepared) => Ok((prepared.slot_confirmed_flush, prepared.slot_lost)),
            Err(error) => Err(match (error.lost_slot(), broken) {
                (Some(lost), _) if recreate && too_many => SourceError::TooManyEpochs(lost),
                (Some(_), Some(broken)) => SourceError::BrokenWithoutSlot { broken, slot: settings.slot.clone() },
                _ => error.into(),
            }),
        }
    }
}

/// How often, and with what pauses, the server is asked whether it has flushed what it had written when first asked:
/// the WAL writer does so for commits that did not wait for it.
const FLUSH_LOOKS_MAX: u32 = 8;
const FLUSH_LOOK_INTERVAL: Duration = Duration::from_millis(250);

#[async_trait]
impl Inquiry for PostgresSource {
    async fn end(&self) -> Result<Lsn, SourceError> {
        let mut connection = Connection::connect(&self.settings.connect, SessionKind::Ordinary).await?;
        let (mut flushed, written) = wal_ends(&mut connection).await?;
        for _ in 0..FLUSH_LOOKS_MAX {
            if flushed >= written {
                break;
            }
            tokio::time::sleep(FLUSH_LOOK_INTERVAL).await;
            flushed = wal_ends(&mut connection).await?.0;
        }
        connection.close().await;
        Ok(flushed)
    }

    async fn tables(&self) -> Result<Vec<TableSchema>, SourceError> {
        let mut catalog = PgCatalog::new(self.settings.name.clone(), self.settings.connect.clone());
        let tables = catalog.tables(&self.settings.publication).await?;
        catalog.close().await;
        Ok(tables)
    }
}

/// The ends of the server's flushed and of its written WAL; of what a standby has replayed for both.
async fn wal_ends(connection: &mut Connection) -> Result<(Lsn, Lsn), PgError> {
    let sql = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
               ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
               CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
               ELSE pg_catalog.pg_current_wal_insert_lsn() END";
    let rows = connection.simple_query(sql).await?;
    let lsn = |index: usize| rows.first()?.get(index)?.as_deref()?.parse().ok();
    lsn(0).zip(lsn(1)).ok_or_else(|| PgError::protocol("the server did not say where its WAL ends"))
}

/// The server's `wal_sender_timeout`; none when it is switched off.
async fn wal_sender_timeout(connection: &mut Connection) -> Result<Option<Duration>, PgError> {
    let rows =
        connection.simple_query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'").await?;
    let millis = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok()).unwrap_or(0);
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}

/// What the reader tells the confirmer of the server's keepalives.
#[derive(Default)]
struct Keepalives {
    /// One came, and what it says is counted as received as far as it can be.
    heard: Notify,
    /// One came that requests a reply.
    asked: Notify,
}

struct PgReader {
    wal: WalReader,
    frames: Vec<WalFrame>,
    /// Bytes that were reported as received; a read that was cancelled may have brought more.
    charged: u64,
    /// When the server sent the first piece of WAL that the last read brought.
    sent_at: Option<Timestamp>,
    decoder: Decoder,
    /// The last read brought a keepalive.
    heard: bool,
    keepalives: Arc<Keepalives>,
    silence_max: Duration,
    publication: String,
}

#[async_trait]
impl SourceReader for PgReader {
    async fn read(&mut self, changes: &mut Vec<Change>) -> Result<usize, SourceError> {
        // Who reads on has dealt with what was read before.
        if std::mem::take(&mut self.heard) {
            self.keepalives.heard.notify_one();
        }
        match tokio::time::timeout(self.silence_max, self.wal.read(&mut self.frames)).await {
            Ok(read) => read?,
            // The confirmer asks for an answer well within this time, so even an idle server has spoken.
            Err(_) => return Err(SourceError::Silent(self.silence_max)),
        }
        let mut newest_sent = None;
        self.sent_at = None;
        for frame in self.frames.drain(..) {
            match frame {
                WalFrame::XLogData { wal_start, data, sent_at, .. } => {
                    newest_sent = Some(sent_at);
                    self.sent_at = self.sent_at.or(newest_sent);
                    self.decoder.decode(wal_start, data, changes)?;
                }
                WalFrame::Keepalive { wal_end, reply_requested, .. } => {
                    self.heard = true;
                    if reply_requested {
                        self.keepalives.asked.notify_one();
                    }
                    changes.push(Change::Idle { wal_end, reply_requested });
                }
                WalFrame::Notice(said) if said.skips_publication(&self.publication) => {
                    changes.push(Change::Unpublished { publication: self.publication.as_str().into() });
                }
                WalFrame::Notice(said) => tracing::debug!(notice = %said, "server notice"),
            }
        }
        if let Some((sent, committed)) = newest_sent.zip(self.decoder.newest_commit_time()) {
            self.wal.note_lag(Duration::from_micros(u64::try_from(sent.0.saturating_sub(committed.0)).unwrap_or(0)));
        }
        let total = self.wal.bytes_read_total();
        let new = total - std::mem::replace(&mut self.charged, total);
        Ok(usize::try_from(new).unwrap_or(usize::MAX))
    }

    fn arrival(&self) -> Arrival {
        Arrival { received_at: self.wal.last_read(), sent_at: self.sent_at }
    }

    fn catching_up(&self) -> bool {
        self.wal.is_catching_up()
    }

    fn reads_publication(&self, publications: &[String]) -> bool {
        publications.is_empty() || publications.contains(&self.publication)
    }
}

struct PgConfirmer {
    feedback: FeedbackWriter,
    keepalives: Arc<Keepalives>,
    status_interval: Duration,
}

#[async_trait]
impl Confirmer for PgConfirmer {
    async fn run(mut self: Box<Self>, mut progress: Progress) -> Result<(), SourceError> {
        let mut ask = true;
        loop {
            let reported = self.send(&progress, ask).await?;
            let sent = Instant::now();
            let mut due = pin!(self.due(&mut progress.durable, sent));
            let next = loop {
                tokio::select! {
                    () = progress.closing.cancelled() => break None,
                    next = &mut due => break next,
                    () = self.heard(sent) => {
                        // Within a long transaction nothing new is received in whole: no answer, or the two sides would
                        // wake each other for nothing.
                        if *progress.received.borrow() > reported {
                            break Some(false);
                        }
                    }
                }
            };
            match next {
                Some(next) => ask = next,
                None => break,
            }
        }
        self.send(&progress, false).await?;
        Ok(self.feedback.copy_done().await?)
    }
}

impl PgConfirmer {
    /// Waits until an update is due that no keepalive is the reason of: whether it shall ask for an answer, or none when
    /// there will be no more to report.
    async fn due(&self, durable: &mut watch::Receiver<Durable<Lsn>>, sent: Instant) -> Option<bool> {
        tokio::time::sleep_until(sent + CONFIRM_INTERVAL_MIN).await;
        tokio::select! {
            () = self.keepalives.asked.notified() => Some(false),
            moved = durable.changed() => moved.ok().map(|()| false),
            // Nothing happened: let the server show that it is there.
            () = tokio::time::sleep_until(sent + self.status_interval) => Some(true),
        }
    }

    /// Waits until there is a keepalive to take up.
    async fn heard(&self, sent: Instant) {
        tokio::time::sleep_until(sent + TAKE_UP_INTERVAL_MIN).await;
        self.keepalives.heard.notified().await;
    }

    /// `write` is what was received; `flush` and `apply` are what is durable here, once the source's history was seen to
    /// be the log's. Zero moves nothing at the server. Gives what was reported as received.
    async fn send(&mut self, progress: &Progress, ask: bool) -> Result<Lsn, PgError> {
        let durable = if *progress.compared.borrow() { progress.durable.borrow().get() } else { Lsn::ZERO };
        let received = (*progress.received.borrow()).max(durable);
        Failpoint::Confirming.reach();
        self.feedback.status_update(received, durable, durable, ask).await?;
        Failpoint::Confirmed.reach();
        Ok(received)
    }
}
