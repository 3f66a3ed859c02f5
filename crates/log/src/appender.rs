//! One stream's write side: builds chunks out of units and hands them to the writer thread.
//!
//! It decides when a chunk is cut. While a unit is open, only the units before it are handed over; an open unit that
//! does not fit a chunk is handed over piece by piece. Nothing here waits for a disk: memory is bounded by the credit
//! that the caller takes before it receives and that leaves with each chunk.

mod tables;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Instant;

use dbstreamd_model::{Epoch, Lsn, Offset, Op, SchemaId, Timestamp};
use tokio::sync::{oneshot, watch};

use crate::chunk::{Builder, Chunk, Parts, UnitSpan};
use crate::credit::{Credit, TOKEN_BYTES as CREDIT_GRAIN};
use crate::epochs::{EpochBreak, EpochRecord};
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::read::UnitCursor;
use crate::schemas::{SchemaRegistry, StoredSchema};
use crate::shared::Shared;
use crate::store::{SourceIdentity, StoredForm};
use crate::stream::{InFlight, Stream};
use crate::tables::{TableChange, TableName};
use crate::units::UnitHasher;
use crate::writer::{ChunkCommand, Command, Durable, Space};

/// What became known of tables is remembered for this many changes until it is durable: far more than are under way.
const SENT_TABLES_MAX: usize = 4096;

/// What is known of a unit when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitHead {
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// When it was committed.
    pub commit_time: Timestamp,
    /// Its transaction id; 0 for a non-transactional message.
    pub xid: u32,
}

/// Where a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// How far the source was allowed to forget.
    pub confirmed_through: Lsn,
    /// Offset of the next event.
    pub next_offset: Offset,
    /// End of the newest stored unit of this epoch; zero when there is none.
    pub visible_lsn: Lsn,
    /// End of the newest unit of this epoch that retention removed; zero when there is none.
    pub trimmed_through: Lsn,
    /// Whose history the log is; none when nobody has said so yet.
    pub source: Option<SourceIdentity>,
    /// In which form its newest units are; none when nobody has said so yet.
    pub form: Option<StoredForm>,
    /// The stream's epoch. All positions here are of it.
    pub epoch: Epoch,
    /// How many epochs began within the last hour.
    pub epochs_last_hour: usize,
}

/// When to hand over what is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pump {
    /// When a chunk is full; and it may wait, for some milliseconds, to be written together with others. While the source
    /// is behind and more is on its way anyway, this saves the disk, and the processor, most of the syncs.
    IfFull,
    /// When a chunk is full, or when the writer has nothing of ours to do: small units then travel together while the
    /// disk is busy, and alone while it is not.
    IfIdle,
    /// At once.
    Now,
    /// At once, and with it what the open unit has so far, but for its last event. For when the caller waits for credit: what is built holds
    /// some, and gives it back only once it is durable.
    All,
}

/// What the writer answers to a new session.
#[derive(Debug)]
pub(crate) struct Restart {
    pub(crate) resume: Resume,
    pub(crate) commit_time_max: Timestamp,
    /// Of the log, in which the session is begun.
    pub(crate) life: u64,
}

/// One stream's write side. There is at most one at a time; dropping it makes room for another.
///
/// ```text
///   begin_session ─▶ ( begin_unit ─▶ append* ─▶ end_unit │ idle │ schema │ received_at │ add_credit │ pump )* ─▶ begin_session …
/// ```
pub struct Appender {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    builder: Builder,
    open: Option<OpenUnit>,
    hasher: UnitHasher,
    epoch: Epoch,
    /// Of the first event in the builder.
    next_offset: Offset,
    lsn_end: Lsn,
    commit_time_max: Timestamp,
    /// Durable schemas and those on their way.
    schemas: SchemaRegistry,
    /// Schemas that no chunk has taken along yet.
    new_schemas: Vec<StoredSchema>,
    /// What became known of tables in whole units that no chunk has taken along yet.
    new_tables: Vec<(TableName, TableChange)>,
    /// And in those that were handed over since the writer last had nothing of ours; the newest of them.
    sent_tables: VecDeque<(TableName, TableChange)>,
    /// How far the source may forget once everything handed over and every whole unit in the builder is durable.
    confirm: Lsn,
    credit: Option<Credit>,
    /// When what is appended now was received.
    received_at: Option<Instant>,
    /// When the end of the oldest whole unit in the builder was received.
    whole_since: Option<Instant>,
    /// What is handed over may wait for others, as [`Pump::IfFull`] says.
    patient: bool,
    /// Something that may wait was handed over since somebody last pressed.
    left_waiting: bool,
    /// Which life of the log the session was begun in.
    life: u64,
    /// The caller broke the order of calls: nothing more is stored, and the next `pump` says why.
    misuse: Option<&'static str>,
}

struct OpenUnit {
    head: UnitHead,
    events: u32,
    fragmented: bool,
    /// What became known of tables in it.
    tables: Vec<(TableName, TableChange)>,
}

impl Appender {
    pub(crate) fn new(shared: Arc<Shared>, stream: Arc<Stream>) -> Self {
        let watermarks = stream.published.watermarks();
        Self {
            shared,
            stream,
            builder: Builder::default(),
            open: None,
            hasher: UnitHasher::new(),
            epoch: watermarks.epoch,
            next_offset: watermarks.visible.next(),
            lsn_end: watermarks.visible_lsn,
            commit_time_max: Timestamp(i64::MIN),
            schemas: SchemaRegistry::default(),
            new_schemas: Vec::new(),
            new_tables: Vec::new(),
            sent_tables: VecDeque::new(),
            confirm: Lsn::ZERO,
            credit: None,
            received_at: None,
            whole_since: None,
            patient: false,
            left_waiting: false,
            life: 0,
            misuse: Some("a session must be begun before anything is appended"),
        }
    }

    /// Begins anew where the visible log ends: durably deletes everything that is not visible, and forgets what is
    /// being built. Must be called before anything is appended, and again after the source's connection was lost.
    ///
    /// # Errors
    /// When the log does not write any more.
    pub async fn begin_session(&mut self) -> Result<Resume, LogError> {
        (self.builder, self.open, self.credit) = (Builder::default(), None, None);
        self.whole_since = None;
        self.new_tables.clear();
        self.sent_tables.clear();
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Reset { stream: Arc::clone(&self.stream), reply })?;
        let Restart { resume, commit_time_max, life } = self.shared.answer(answer).await?;
        (self.epoch, self.next_offset, self.lsn_end) = (resume.epoch, resume.next_offset, resume.visible_lsn);
        (self.commit_time_max, self.confirm, self.misuse) = (commit_time_max, Lsn::ZERO, None);
        self.stream.appended.store(resume.next_offset.previous().0, Relaxed);
        if std::mem::replace(&mut self.life, life) != life {
            // What was handed over may be lost, and with it the numbers before these.
            self.new_schemas.clear();
        }
        // Otherwise everything handed over is durable by now, and what was not handed over keeps its id.
        self.schemas = SchemaRegistry::clone(&self.stream.schemas.read());
        for schema in &self.new_schemas {
            self.schemas.insert(schema.clone());
        }
        Ok(resume)
    }

    /// Makes durable whose history this stream is. To be called once it is certain that `source` continues it, before
    /// anything of it is appended.
    ///
    /// `confirmed_max` is up to where its history is known to be the log's (`Lsn(u64::MAX)`: no bound). In the same write
    /// `confirmed_through` is lowered to it, though never below the end of the newest unit: what was confirmed beyond
    /// it said that another history had nothing for us there.
    ///
    /// # Errors
    /// When the log does not write any more.
    pub async fn bind_source(&mut self, source: SourceIdentity, confirmed_max: Lsn) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Bind { stream: Arc::clone(&self.stream), source, confirmed_max, reply })?;
        self.shared.answer(answer).await
    }

    /// Makes durable in which form values come from now on. To be called after [`bind_source`](Self::bind_source), before
    /// anything is appended.
    ///
    /// # Errors
    /// When the log does not write any more.
    pub async fn bind_form(&mut self, form: StoredForm) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Form { stream: Arc::clone(&self.stream), form, reply })?;
        self.shared.answer(answer).await
    }

    /// Begins a new epoch, durably: the source's history does not continue the log's. What is not visible is deleted,
    /// what is visible stays as it is, and positions start over at `broken.source_lsn`. A session must be begun again
    /// before anything is appended.
    ///
    /// # Errors
    /// When the log does not write any more; whether there is a new epoch is then seen after the next start.
    pub async fn raise_epoch(&mut self, broken: EpochBreak) -> Result<EpochRecord, LogError> {
        (self.builder, self.open, self.credit) = (Builder::default(), None, None);
        self.whole_since = None;
        self.misuse = Some("a session must be begun in the new epoch before anything is appended");
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::RaiseEpoch { stream: Arc::clone(&self.stream), broken, reply })?;
        self.shared.answer(answer).await
    }

    /// A unit begins.
    pub fn begin_unit(&mut self, head: UnitHead) {
        if self.open.is_some() {
            self.misuse = Some("a unit must end before the next one begins");
        }
        self.open = Some(OpenUnit { head, events: 0, fragmented: false, tables: Vec::new() });
        self.hasher.reset();
    }

    /// The offset that the next event gets.
    pub fn next_offset(&self) -> Offset {
        self.next_offset.advance(self.builder.len())
    }

    /// Adds an event to the open unit; copies `body`, whose layout is `dbstreamd_model::EventBody`'s.
    #[inline]
    pub fn append(&mut self, op: Op, schema: Option<SchemaId>, body: &[u8]) {
        let chunk_bytes_max = self.shared.options.chunk_bytes_max;
        while !self.builder.is_empty()
            && (self.builder.weight().saturating_add(body.len()) > chunk_bytes_max || self.builder.schemas_full())
        {
            self.cut();
        }
        let Some(open) = &mut self.open else {
            self.misuse = Some("an event must belong to a unit");
            return;
        };
        let stored = schema.and_then(|id| self.schemas.get(id));
        if stored.is_none() && schema.is_some() {
            self.misuse = Some("an event's schema must have been introduced in this session");
            return;
        }
        if self.builder.needs_unit() {
            self.builder.begin_unit(open.span());
        }
        open.events = open.events.saturating_add(1);
        self.hasher.event(op, stored.map(|schema| schema.fingerprint), body);
        self.builder.push(op, stored, body);
    }

    /// The open unit ends. One without events takes no offset, but the source may forget it all the same.
    pub fn end_unit(&mut self, end_lsn: Lsn) {
        let Some(open) = self.open.take() else {
            self.misuse = Some("a unit must begin before it ends");
            return;
        };
        // They come with the next chunk, or with this very unit.
        self.new_tables.extend(open.tables);
        if open.events == 0 {
            return self.idle(end_lsn, false);
        }
        self.builder.end_unit(end_lsn, self.hasher.finish());
        self.whole_since = self.whole_since.or(self.received_at);
        self.confirm = self.confirm.max(end_lsn);
        if open.fragmented {
            // The last piece of a large unit is a chunk of its own, like the ones before.
            self.hand_over_whole();
        }
    }

    /// The source has nothing for us below `lsn`, and no unit is open: it may forget up to there once everything
    /// before is durable. Costs no fsync of its own more than once a second, unless it is `urgent`: somebody waits.
    pub fn idle(&mut self, lsn: Lsn, urgent: bool) {
        if self.open.is_some() {
            self.misuse = Some("no position is idle while a unit is open");
            return;
        }
        self.confirm = self.confirm.max(lsn);
        if self.builder.is_empty() && self.misuse.is_none() {
            self.shared.queue.note_idle(&self.stream, self.confirm, urgent, self.life);
        }
    }

    /// What is appended from here on was received then; for the metrics.
    pub fn received_at(&mut self, at: Instant) {
        self.received_at = Some(at);
    }

    /// Credit for bytes that were received. It leaves with the chunk that holds them.
    pub fn add_credit(&mut self, credit: Credit) {
        match &mut self.credit {
            Some(held) => held.merge(credit),
            none => *none = Some(credit),
        }
    }

    /// Hands over whole units that are built, if it is time. To be called after every read from the source.
    ///
    /// # Errors
    /// When the log does not write any more; nothing that was appended since the last session is then certain.
    pub fn pump(&mut self, pump: Pump) -> Result<(), LogError> {
        self.shared.writing()?;
        if self.life != self.shared.queue.life() {
            return Err(LogError::Interrupted);
        }
        if let Some(reason) = self.misuse {
            return Err(LogError::Misuse(reason));
        }
        self.patient = pump == Pump::IfFull;
        // While a unit is open its pieces still have time, unless it is the caller who waits.
        let presses = matches!(pump, Pump::Now | Pump::All) || (pump == Pump::IfIdle && self.open.is_none());
        if presses && std::mem::take(&mut self.left_waiting) {
            self.shared.queue.hurry();
        }
        let due = matches!(pump, Pump::Now | Pump::All)
            || (pump == Pump::IfIdle && self.stream.flow.is_idle())
            || self.builder.weight() >= self.shared.options.chunk_bytes_max;
        if due && self.builder.has_whole_units() {
            self.hand_over_whole();
        }
        if pump == Pump::All
            && let Some(open) = &mut self.open
            && let Some(parts) = self.builder.take_all_but_last()
        {
            open.fragmented = true;
            self.hand_over(parts, Vec::new(), Lsn::ZERO, 0);
        }
        if self.builder.is_empty() || pump == Pump::All {
            // What was received became no event, so that nothing will ever take its credit along; or the caller
            // waits for credit, and must get it even if the one event that stays here holds all of it.
            self.credit = None;
        }
        self.stream.appended.store(self.next_offset.advance(self.builder.len()).previous().0, Relaxed);
        Ok(())
    }

    /// Resolves once the writer has nothing of ours in flight, so that the rest can be pumped; also after a failure,
    /// which the next `pump` reports. Cancel-safe.
    pub async fn writer_idle(&self) {
        self.stream.flow.idle().await;
    }

    /// The room on the data volume: while it is low, nothing more should be received.
    pub fn space(&self) -> watch::Receiver<Space> {
        self.shared.space.subscribe()
    }

    /// Whether something is built and not handed over.
    pub fn has_pending(&self) -> bool {
        self.builder.has_whole_units()
    }

    /// How far the source may forget: for the task that tells it.
    pub fn confirmed(&self) -> watch::Receiver<Durable<Lsn>> {
        self.stream.published.watch_confirmed()
    }

    /// The stored units of the newest epoch that end after `lsn`, in order; to recognise what the source sends again.
    pub fn units_after(&self, lsn: Lsn) -> UnitCursor {
        UnitCursor::new(Arc::clone(&self.shared), Arc::clone(&self.stream), lsn)
    }

    /// Makes room: hands over the whole units, or if there is none a piece of the open one.
    fn cut(&mut self) {
        if self.builder.has_whole_units() {
            return self.hand_over_whole();
        }
        if let Some(open) = &mut self.open {
            open.fragmented = true;
        }
        let parts = self.builder.take_all();
        self.hand_over(parts, Vec::new(), Lsn::ZERO, 0);
    }

    fn hand_over_whole(&mut self) {
        let parts = self.builder.take_whole();
        let tables = std::mem::take(&mut self.new_tables);
        if self.stream.flow.is_idle() {
            self.sent_tables.clear();
        }
        self.sent_tables.extend(tables.iter().cloned());
        self.sent_tables.drain(..self.sent_tables.len().saturating_sub(SENT_TABLES_MAX));
        // What stays is the open unit: its bytes' credit stays with it.
        self.hand_over(parts, tables, self.confirm, self.builder.open_body_bytes());
    }

    /// `stays` is how many bytes of credit are kept back.
    fn hand_over(&mut self, parts: Parts, tables: Vec<(TableName, TableChange)>, confirm: Lsn, stays: usize) {
        if self.misuse.is_some() {
            return;
        }
        for unit in parts.units.iter().filter(|unit| unit.finished) {
            self.lsn_end = unit.end_lsn;
            self.commit_time_max = self.commit_time_max.max(unit.commit_time);
        }
        let chunk = Chunk {
            stream: self.stream.id,
            epoch: self.epoch,
            first_offset: self.next_offset,
            lsn_end: self.lsn_end,
            commit_time_max: self.commit_time_max,
            events: parts.events,
            units: parts.units,
            schemas: parts.schemas,
            body_start: 0,
            bytes: parts.bodies,
            encoded: OnceLock::new(),
            encoded_bytes: None,
            visible_at: None,
        };
        // A piece of an open unit has no end that somebody waits for: it counts from its newest event.
        let received_at = self.whole_since.take().or(self.received_at);
        let appended_at = Instant::now();
        if let Some(received_at) = received_at {
            self.shared.metrics.receive_to_append.observe(appended_at.saturating_duration_since(received_at));
        }
        self.next_offset = chunk.last_offset().next();
        let stays = stays.next_multiple_of(CREDIT_GRAIN);
        let credit = self.credit.as_mut().map(|credit| credit.split(credit.bytes().saturating_sub(stays)));
        // A piece of an open unit is not to be seen yet.
        let patient = self.patient || !chunk.finished();
        self.left_waiting |= patient;
        let command = ChunkCommand {
            stream: Arc::clone(&self.stream),
            framed: self.shared.framer.frame(&chunk),
            chunk,
            schemas: std::mem::take(&mut self.new_schemas),
            tables,
            confirm,
            credit,
            in_flight: InFlight::start(&self.stream),
            appended_at,
            life: self.life,
            patient,
        };
        // A log that has ended refuses: the next `pump` says so.
        let _ = self.shared.send(Command::Chunk(Box::new(command)));
        Failpoint::HandedOver.reach();
    }
}

impl OpenUnit {
    fn span(&self) -> UnitSpan {
        UnitSpan {
            commit_lsn: self.head.commit_lsn,
            end_lsn: Lsn::ZERO,
            commit_time: self.head.commit_time,
            hash: 0,
            xid: self.head.xid,
            first_ordinal: self.events,
            first_event: 0,
            events: 0,
            finished: false,
        }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.stream.appender_taken.store(false, Release);
    }
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender")
            .field("stream", &self.stream.name)
            .field("next_offset", &self.next_offset)
            .finish_non_exhaustive()
    }
}
