//! THE loop of one session: read → append → hand over; durable positions flow back to the confirmer by themselves.
//!
//! What can wake it is one closed enum, [`Wake`]. Nothing here touches a disk or decodes a cell. Back-pressure is
//! the credit window: while it is exhausted this loop does not read, so the socket fills and the server's sender
//! waits; feedback goes on meanwhile because the confirmer runs on a task of its own.

mod tables;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dbstreamd_log::{Appender, Credit, CreditShare, Failpoint, Pump, Resume, Space, UnitHead};
use dbstreamd_model::{Fingerprint, Lsn, Op, SchemaId, TableSchema, Timestamp};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::SourceError;
use crate::ledger::Ledger;
use crate::postgres::DecodeError;
use crate::resent::{ResentUnit, ResentUnits};
use crate::status::{State, StreamStatus};
use crate::{Catalog, Change, Progress, Session, SourceReader};

/// How long a polite end may take: to make the rest durable, and to confirm it.
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// Changes handled between two looks at anything else; also the first capacity of the list they are read into.
const CHANGES_PER_READ: usize = 4096;

/// How long what came while catching up may wait for its chunk to fill up: a few paced reads, and about as long as full
/// chunks then wait for each other.
const HOLD_MAX: Duration = Duration::from_millis(20);

/// What can happen to the loop.
enum Wake {
    Stop,
    Received(usize),
    /// The writer has nothing of ours to do, and something is built.
    WriterIdle,
    /// What was held back has waited long enough for company.
    Held,
    ConfirmerEnded(Result<(), SourceError>),
}

/// The unit that is being received.
enum OpenUnit {
    None,
    /// New: it goes to the log.
    Fresh,
    /// The log has it already: it is only compared.
    Resent(Box<ResentUnit>),
}

/// One session's ingest.
pub(crate) struct Ingest<'a> {
    reader: Box<dyn SourceReader>,
    catalog: Box<dyn Catalog>,
    confirmer: JoinHandle<Result<(), SourceError>>,
    closing: CancellationToken,
    received: watch::Sender<Lsn>,
    compared: watch::Sender<bool>,
    appender: &'a mut Appender,
    window: &'a CreditShare,
    status: &'a StreamStatus,
    tables: Tables,
    ledger: Ledger,
    strange_document_told: bool,
    open: OpenUnit,
    /// Where the open unit was committed, and its transaction's id.
    unit_lsn: Lsn,
    unit_xid: u32,
    resent: ResentUnits,
    /// The source has sent everything below this, in this session: a commit record that begins before it comes too late.
    sent_through: Lsn,
    /// How far the log had confirmed the source when the session began.
    confirmed_before: Lsn,
    /// Until then, what is built waits for its chunk to fill up.
    hold: Option<Instant>,
}

impl<'a> Ingest<'a> {
    pub(crate) fn new(
        session: Session,
        resume: Resume,
        appender: &'a mut Appender,
        window: &'a CreditShare,
        status: &'a StreamStatus,
    ) -> Self {
        let closing = CancellationToken::new();
        let received = watch::Sender::new(resume.confirmed_through);
        let resent = ResentUnits::new(appender.units_after(session.resends_from), &resume, session.resends_from);
        let compared = watch::Sender::new(resent.done() && session.resends_from >= resume.confirmed_through);
        let progress = Progress {
            received: received.subscribe(),
            durable: appender.confirmed(),
            compared: compared.subscribe(),
            closing: closing.clone(),
        };
        let confirmer = tokio::spawn(session.confirmer.run(progress));
        let ledger = Ledger::new(appender.tables());
        Self {
            reader: session.reader,
            catalog: session.catalog,
            confirmer,
            closing,
            received,
            compared,
            appender,
            window,
            status,
            tables: Tables::default(),
            ledger,
            strange_document_told: false,
            open: OpenUnit::None,
            unit_lsn: Lsn::ZERO,
            unit_xid: 0,
            resent,
            sent_through: Lsn::ZERO,
            confirmed_before: resume.confirmed_through,
            hold: None,
        }
    }

    /// Runs until `shutdown` fires (`Ok`) or the session breaks.
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) -> Result<(), SourceError> {
        let outcome = self.flow(shutdown).await;
        if outcome.is_ok() {
            self.close().await;
        }
        outcome
    }

    async fn flow(&mut self, shutdown: &CancellationToken) -> Result<(), SourceError> {
        let mut changes = Vec::with_capacity(CHANGES_PER_READ);
        let mut space = self.appender.space();
        loop {
            if space.borrow_and_update().low && !self.wait_for_space(&mut space, shutdown).await? {
                return Ok(());
            }
            let wake = tokio::select! {
                biased;
                () = shutdown.cancelled() => Wake::Stop,
                ended = &mut self.confirmer => Wake::ConfirmerEnded(flatten(ended)),
                () = self.appender.writer_idle(), if self.hold.is_none() && self.appender.has_pending() => Wake::WriterIdle,
                () = until(self.hold) => Wake::Held,
                received = self.reader.read(&mut changes) => Wake::Received(received?),
            };
            match wake {
                Wake::Stop => return Ok(()),
                Wake::ConfirmerEnded(Err(error)) => return Err(error),
                Wake::ConfirmerEnded(Ok(())) => return Err(SourceError::Feedback("it returned early".into())),
                Wake::WriterIdle => self.appender.pump(Pump::IfIdle)?,
                Wake::Held => {
                    self.hold = None;
                    self.appender.pump(Pump::IfIdle)?;
                }
                Wake::Received(bytes) => {
                    let arrival = self.reader.arrival();
                    self.note(bytes, arrival.sent_at);
                    let Some(credit) = self.credit_for(bytes, shutdown).await? else { return Ok(()) };
                    self.appender.received_at(arrival.received_at);
                    self.appender.add_credit(credit);
                    Failpoint::Received.reach();
                    self.apply(&mut changes).await?;
                    Failpoint::Appended.reach();
                    self.hand_over()?;
                }
            }
        }
    }

    /// Waits, with the socket unread and feedback going on, until the data volume has room again. False when it is to stop.
    async fn wait_for_space(
        &mut self,
        space: &mut watch::Receiver<Space>,
        shutdown: &CancellationToken,
    ) -> Result<bool, SourceError> {
        let short = SourceError::short_of_space(*space.borrow());
        if matches!(self.open, OpenUnit::Fresh) {
            // What there is of it would keep its partition, and so perhaps the room that is waited for: it is given up, and
            // sent again.
            return Err(short);
        }
        // What is built is received already, and small.
        self.appender.pump(Pump::All)?;
        self.status.hold(&short.to_string());
        let ended = tokio::select! {
            () = shutdown.cancelled() => return Ok(false),
            ended = &mut self.confirmer => Some(flatten(ended)),
            // The log lives as long as its appender.
            _ = space.wait_for(|space| !space.low) => None,
        };
        match ended {
            None => {
                self.status.enter(State::Streaming);
                Ok(true)
            }
            Some(Err(error)) => Err(error),
            Some(Ok(())) => Err(SourceError::Feedback("it returned early".into())),
        }
    }

    /// Counts what was just received.
    fn note(&self, bytes: usize, sent_at: Option<Timestamp>) {
        let now = Timestamp::now();
        self.status.bytes.fetch_add(bytes as u64, Relaxed);
        self.status.last_heard.store(now.0, Relaxed);
        if let Some(sent_at) = sent_at {
            // The server's clock may be ahead of ours: that counts as no time at all.
            let micros = u64::try_from(now.0.saturating_sub(sent_at.0)).unwrap_or(0);
            self.status.send_to_receive.observe(Duration::from_micros(micros));
        }
    }

    /// Credit for what was just received; waits, with the socket unread, while the process-wide window or this stream's
    /// share of it is full. A message larger than the share was received already, so it takes all there is.
    async fn credit_for(&mut self, bytes: usize, shutdown: &CancellationToken) -> Result<Option<Credit>, SourceError> {
        if let Some(credit) = self.window.acquire(bytes).now_or_never() {
            return Ok(Some(credit));
        }
        // What the window waits for must be on its way to the disk, also a unit that is still open.
        self.appender.pump(Pump::All)?;
        tokio::select! {
            credit = self.window.acquire(bytes) => Ok(Some(credit)),
            () = shutdown.cancelled() => Ok(None),
        }
    }

    /// Hands over what was built from a read: at once when the writer is free, or in full chunks while catching up.
    fn hand_over(&mut self) -> Result<(), SourceError> {
        let catching_up = self.reader.catching_up();
        self.appender.pump(if catching_up { Pump::IfFull } else { Pump::IfIdle })?;
        self.hold = match self.hold {
            held if catching_up && self.appender.has_pending() => held.or_else(|| Some(Instant::now() + HOLD_MAX)),
            _ => None,
        };
        Ok(())
    }

    async fn apply(&mut self, changes: &mut Vec<Change>) -> Result<(), SourceError> {
        let (mut events, mut units, mut keepalives) = (0, 0, 0);
        let mut reached = None;
        for change in changes.drain(..) {
            match change {
                Change::Event { op, relation, body } => {
                    let table = match relation {
                        Some(relation) => match self.tables.find(relation) {
                            Some(table) => Some(table),
                            None => Some(self.first_use(relation).await?),
                        },
                        None => None,
                    };
                    if !op.is_row() {
                        self.look_into(op, relation, table.map(|t| t.id), &body);
                    }
                    match &mut self.open {
                        OpenUnit::Fresh => {
                            self.appender.append(op, table.map(|t| t.id), &body);
                            events += 1;
                        }
                        OpenUnit::Resent(unit) => unit.event(op, table.map(|t| t.fingerprint), &body),
                        OpenUnit::None => return Err(outside_unit(op)),
                    }
                }
                Change::Begin(head) => self.begin(head).await?,
                Change::Commit { end_lsn } => {
                    self.advance(end_lsn)?;
                    match std::mem::replace(&mut self.open, OpenUnit::None) {
                        OpenUnit::Fresh => {
                            self.appender.end_unit(end_lsn);
                            units += 1;
                        }
                        OpenUnit::Resent(unit) => {
                            self.resent.check(*unit, end_lsn).await?;
                            self.status.resent_transactions.fetch_add(1, Relaxed);
                        }
                        OpenUnit::None => {}
                    }
                    reached = Some(end_lsn);
                }
                Change::Schema { relation, schema } => self.tables.announce(relation, schema),
                Change::Unpublished { publication } => self.unpublished(publication).await?,
                Change::Idle { wal_end, reply_requested } => {
                    keepalives += 1;
                    raise(&self.status.source_lsn, wal_end);
                    self.sent_through = self.sent_through.max(wal_end);
                    if self.may_idle(wal_end).await? {
                        self.appender.idle(wal_end, reply_requested);
                        reached = Some(wal_end);
                    }
                    self.catalog.rest().await;
                }
            }
        }
        self.status.events.fetch_add(events, Relaxed);
        self.status.transactions.fetch_add(units, Relaxed);
        if keepalives > 0 {
            self.status.keepalives.fetch_add(keepalives, Relaxed);
        }
        if let Some(lsn) = reached {
            raise(&self.status.received_lsn, lsn);
            raise(&self.status.source_lsn, lsn);
            self.may_confirm(lsn);
            // The confirmer looks when it sends; it need not wake for this.
            self.received.send_if_modified(|received| {
                *received = lsn.max(*received);
                false
            });
        }
        Ok(())
    }

    /// The first event of a table since it was announced: only now is that a version in use. Where a partitioned table is
    /// published as one, PostgreSQL announces each partition too, and sends nothing under its name.
    async fn first_use(&mut self, relation: u32) -> Result<Table, SourceError> {
        let unknown = DecodeError::UnknownRelation { relation, lsn: self.unit_lsn };
        let schema = self.tables.announced(relation).ok_or(unknown)?;
        let table = self.table(relation, &schema).await?;
        self.tables.learn(relation, table);
        self.compare(relation, &schema, table.id);
        Ok(table)
    }

    /// The schema version that is announced: one the stream has, or a new one, which the catalog is asked about once.
    async fn table(&mut self, relation: u32, announced: &TableSchema) -> Result<Table, SourceError> {
        if let Some(known) = self.appender.announced(announced) {
            return Ok(Table { id: known.id, fingerprint: known.fingerprint });
        }
        let described = self.catalog.describe(relation, announced, self.unit_xid).await?;
        let fingerprint = described.schema.fingerprint();
        // What was told along with the change is what was true of it.
        let facts = self.ledger.facts(relation, announced).or(described.facts);
        let id = self.appender.schema(&described.schema, facts);
        Ok(Table { id, fingerprint })
    }

    /// Whether the source may forget its history up to `wal_end`, below which it has nothing for us.
    async fn may_idle(&mut self, wal_end: Lsn) -> Result<bool, SourceError> {
        if !matches!(self.open, OpenUnit::None) || self.resent.begins_after(wal_end) {
            return Ok(false);
        }
        if self.resent.ends_by(wal_end) {
            self.finish_comparison().await?;
        }
        Ok(self.resent.done())
    }

    /// What the source sent again is all there was.
    async fn finish_comparison(&mut self) -> Result<(), SourceError> {
        if !self.resent.done() {
            self.resent.finish().await?;
        }
        Ok(())
    }

    /// Positions are confirmed from here on, once all was compared and this session has reached what was confirmed before.
    ///
    /// `confirmed_through` may be an idle position, far beyond the newest unit. It says that the source's history had
    /// nothing for us there; should that history have been rewritten (by an older copy that has overtaken us), it may
    /// have units there now, which nobody could miss. To confirm the old position before they came would lose them.
    fn may_confirm(&mut self, reached: Lsn) {
        if !*self.compared.borrow() && self.resent.done() && reached >= self.confirmed_before {
            self.compared.send_replace(true);
        }
    }

    /// The source has sent everything up to `lsn`; an error when it had come further before.
    fn advance(&mut self, lsn: Lsn) -> Result<(), SourceError> {
        if lsn < self.sent_through {
            return Err(SourceError::Unordered { got: lsn, after: self.sent_through });
        }
        self.sent_through = lsn;
        Ok(())
    }

    async fn begin(&mut self, head: UnitHead) -> Result<(), SourceError> {
        self.advance(head.commit_lsn)?;
        (self.unit_lsn, self.unit_xid) = (head.commit_lsn, head.xid);
        self.open = if self.resent.covers(&head) {
            OpenUnit::Resent(Box::new(ResentUnit::new(head)))
        } else {
            self.finish_comparison().await?;
            self.appender.begin_unit(head);
            self.status.newest_commit_time.fetch_max(head.commit_time.0, Relaxed);
            OpenUnit::Fresh
        };
        Ok(())
    }

    /// Makes every complete unit durable and lets the confirmer say so. A unit still open is left to the next
    /// session, to which the source sends it again.
    async fn close(&mut self) {
        let durable = async {
            self.appender.pump(Pump::Now)?;
            self.appender.writer_idle().await;
            self.appender.pump(Pump::Now)
        };
        match tokio::time::timeout(CLOSING_MAX, durable).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(stream = %self.status.name(), %error, "what was received last is not durable")
            }
            Err(_) => {
                tracing::warn!(stream = %self.status.name(), "the log did not become durable in time; the rest will be sent again")
            }
        }
        self.closing.cancel();
        if tokio::time::timeout(CLOSING_MAX, &mut self.confirmer).await.is_err() {
            tracing::warn!(stream = %self.status.name(), "the server did not take the last confirmation in time");
        }
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        self.confirmer.abort();
    }
}

/// A table as this session knows it.
#[derive(Clone, Copy)]
struct Table {
    id: SchemaId,
    fingerprint: Fingerprint,
}

/// The source's table numbers, valid for this session only.
#[derive(Default)]
struct Tables {
    newest: HashMap<u32, Newest>,
    /// Rows come in runs of one table.
    last: Option<(u32, Table)>,
}

/// A table's newest version.
enum Newest {
    /// Nothing has come of it yet.
    Announced(Arc<TableSchema>),
    Known(Table),
}

impl Tables {
    fn announce(&mut self, relation: u32, schema: Arc<TableSchema>) {
        self.newest.insert(relation, Newest::Announced(schema));
        self.last = None;
    }

    /// What is to be looked into before its first event.
    fn announced(&self, relation: u32) -> Option<Arc<TableSchema>> {
        match self.newest.get(&relation)? {
            Newest::Announced(schema) => Some(Arc::clone(schema)),
            Newest::Known(_) => None,
        }
    }

    fn learn(&mut self, relation: u32, table: Table) {
        self.newest.insert(relation, Newest::Known(table));
        self.last = Some((relation, table));
    }

    /// None when its newest version is yet to be looked into, or was never announced.
    #[inline]
    fn find(&mut self, relation: u32) -> Option<Table> {
        match self.last {
            Some((last, table)) if last == relation => return Some(table),
            _ => {}
        }
        let Newest::Known(table) = self.newest.get(&relation)? else { return None };
        self.last = Some((relation, *table));
        Some(*table)
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn raise(cell: &AtomicU64, lsn: Lsn) {
    cell.fetch_max(lsn.0, Relaxed);
}

fn outside_unit(op: Op) -> SourceError {
    DecodeError::OutsideTransaction(op.name()).into()
}

fn flatten(ended: Result<Result<(), SourceError>, tokio::task::JoinError>) -> Result<(), SourceError> {
    ended.unwrap_or_else(|join| Err(SourceError::Feedback(join.to_string())))
}
