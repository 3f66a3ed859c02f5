//! A source that says what a test wants it to say, over a real log.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dbstreamd_log::{CreditWindow, Log, LogOptions, Resume, StartAt, UnitHead};
use dbstreamd_model::{Column, Lsn, Op, ReplicaIdentity, StreamId, StreamName, TableSchema, Timestamp};
use dbstreamd_source::{
    Catalog, Change, Confirmer, Control, Described, Lifecycle, OnGap, Progress, RetryPolicy, Session, Source,
    SourceError, SourceReader, State, StreamStatus, run,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One unit: commit LSN and the values of its rows.
#[derive(Clone)]
pub(crate) struct Unit(pub(crate) u64, pub(crate) Vec<&'static str>);

const UNIT_BYTES: u64 = 100;

pub(crate) struct Scripted {
    name: StreamName,
    units: Vec<Unit>,
    /// After so many units it says that it has sent everything up to here.
    pub(crate) keepalives: Vec<(usize, u64)>,
    /// After so many units it says that it leaves out changes since it had no publication then.
    pub(crate) unpublished_after: Option<usize>,
    /// Whether it has one when it is asked.
    pub(crate) has_publication: bool,
    resends_from: u64,
    on_gap: OnGap,
    /// In which form values are printed.
    form: u64,
    /// The connection breaks once all was sent, and the next one sends other rows.
    pub(crate) flaps: bool,
    /// So many connections are never made.
    pub(crate) hangs: u32,
    pub(crate) opened: Arc<AtomicU32>,
    /// What its confirmers were allowed: whether anything, and whether everything was received by then.
    pub(crate) confirmers: Arc<Confirmers>,
}

/// Seen by the confirmers of all sessions.
#[derive(Default)]
pub(crate) struct Confirmers {
    received: AtomicU64,
    /// `received` when confirming was first allowed; none when it never was.
    pub(crate) allowed_at: Mutex<Option<u64>>,
}

#[async_trait]
impl Source for Scripted {
    fn name(&self) -> &StreamName {
        &self.name
    }

    fn on_gap(&self) -> OnGap {
        self.on_gap
    }

    async fn open(&mut self, _resume: &Resume) -> Result<Session, SourceError> {
        let opened = self.opened.fetch_add(1, Relaxed) + 1;
        if opened <= self.hangs {
            std::future::pending::<()>().await;
        }
        let mut units = self.units.clone();
        if self.flaps {
            units.iter_mut().for_each(|unit| unit.1 = vec![["v0", "v1", "v2"][opened as usize % 3]]);
        }
        let mut changes: VecDeque<_> = units.iter().map(changes).collect();
        for &(after, lsn) in &self.keepalives {
            changes.insert(after, vec![Change::Idle { wal_end: Lsn(lsn), reply_requested: true }]);
        }
        if let Some(after) = self.unpublished_after {
            changes.insert(after, vec![Change::Unpublished { publication: "shop_tables".into() }]);
        }
        let (flaps, confirmers) = (self.flaps, Arc::clone(&self.confirmers));
        Ok(Session {
            identity: dbstreamd_log::SourceIdentity { system_id: 1, timeline: 1 },
            form: dbstreamd_log::ValueForm(self.form),
            reader: Box::new(ScriptedReader { changes, flaps, confirmers: Arc::clone(&confirmers) }),
            confirmer: Box::new(Silent(confirmers)),
            catalog: Box::new(NoCatalog { has_publication: self.has_publication }),
            resends_from: Lsn(self.resends_from),
            source_end: Lsn(self.resends_from),
            broken: None,
            common_through: Lsn(u64::MAX),
        })
    }
}

/// Has nothing to add to what is announced.
struct NoCatalog {
    has_publication: bool,
}

#[async_trait]
impl Catalog for NoCatalog {
    async fn describe(&mut self, _relation: u32, announced: &TableSchema, _xid: u32) -> Result<Described, SourceError> {
        Ok(Described { schema: Arc::new(announced.clone()), facts: None })
    }

    async fn has_publication(&mut self, _publication: &str) -> Result<bool, SourceError> {
        Ok(self.has_publication)
    }
}

fn changes(Unit(commit, rows): &Unit) -> Vec<Change> {
    let column = Column {
        name: "v".into(),
        type_name: "text".into(),
        type_oid: 25,
        type_modifier: -1,
        in_identity: true,
        description: None,
    };
    let schema = TableSchema {
        namespace: "public".into(),
        table: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column],
    };
    let head = UnitHead {
        commit_lsn: Lsn(*commit),
        commit_time: Timestamp(1_000_000 + commit.cast_signed()),
        xid: 700 + u32::try_from(*commit).unwrap(),
    };
    let mut changes = vec![Change::Begin(head), Change::Schema { relation: 1, schema: Arc::new(schema) }];
    for value in rows {
        let mut body = b"N\0\x01t".to_vec();
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
        changes.push(Change::Event { op: Op::Insert, relation: Some(1), body: Bytes::from(body) });
    }
    changes.push(Change::Commit { end_lsn: Lsn(commit + UNIT_BYTES) });
    changes
}

/// Gives one unit a read.
struct ScriptedReader {
    changes: VecDeque<Vec<Change>>,
    flaps: bool,
    confirmers: Arc<Confirmers>,
}

#[async_trait]
impl SourceReader for ScriptedReader {
    async fn read(&mut self, changes: &mut Vec<Change>) -> Result<usize, SourceError> {
        // The confirmer gets a look between any two units.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let Some(mut next) = self.changes.pop_front() else {
            if self.flaps {
                return Err(SourceError::Silent(Duration::ZERO));
            }
            std::future::pending::<()>().await;
            return Ok(0);
        };
        if let Some(Change::Commit { end_lsn } | Change::Idle { wal_end: end_lsn, .. }) = next.last() {
            self.confirmers.received.store(end_lsn.0, Relaxed);
        }
        changes.append(&mut next);
        Ok(1000)
    }
}

struct Silent(Arc<Confirmers>);

#[async_trait]
impl Confirmer for Silent {
    async fn run(self: Box<Self>, mut progress: Progress) -> Result<(), SourceError> {
        if progress.compared.wait_for(|compared| *compared).await.is_ok() {
            self.0.allowed_at.lock().unwrap().get_or_insert(self.0.received.load(Relaxed));
        }
        progress.closing.cancelled().await;
        Ok(())
    }
}

/// A log that outlives sessions.
pub(crate) struct Stream {
    pub(crate) log: Log,
    /// In which form the next source prints values.
    pub(crate) form: AtomicU64,
    _dir: tempfile::TempDir,
}

impl Stream {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { log: Log::open(LogOptions::with_dir(dir.path())).unwrap(), form: AtomicU64::new(1), _dir: dir }
    }

    /// Plays `units` in a session of their own until `done` or FAILED; gives the reason.
    pub(crate) async fn play(&self, units: &[Unit], resends_from: u64, visible: u64) -> Option<String> {
        self.play_with(units, resends_from, visible, OnGap::Fail).await
    }

    pub(crate) fn scripted(&self, units: &[Unit], resends_from: u64, on_gap: OnGap) -> Scripted {
        Scripted {
            name: "shop".parse().unwrap(),
            units: units.to_vec(),
            resends_from,
            on_gap,
            form: self.form.load(Relaxed),
            keepalives: Vec::new(),
            unpublished_after: None,
            has_publication: true,
            flaps: false,
            hangs: 0,
            opened: Arc::default(),
            confirmers: Arc::default(),
        }
    }

    pub(crate) async fn play_with(
        &self,
        units: &[Unit],
        resends_from: u64,
        visible: u64,
        on_gap: OnGap,
    ) -> Option<String> {
        let name: StreamName = "shop".parse().unwrap();
        let id = self.log.open_stream(&name).unwrap();
        let status = StreamStatus::new(name);
        let source = self.scripted(units, resends_from, on_gap);
        let shutdown = CancellationToken::new();
        let window = CreditWindow::new(1 << 20);
        let task = run(
            Box::new(source),
            self.log.clone(),
            id,
            window,
            Arc::clone(&status),
            RetryPolicy::default(),
            shutdown.clone().into(),
        );
        let task = tokio::spawn(task);
        let (mut life, mut marks) = (status.watch(), self.log.watch(id).unwrap());
        tokio::select! {
            failed = life.wait_for(|life| life.state == State::Failed && !life.retrying) => drop(failed.unwrap()),
            _ = async {
                marks.wait_for(|marks| marks.visible.0 >= visible).await.unwrap();
                let played = units.len() as u64;
                while status.transactions_received() + status.resent_transactions() < played {
                    tokio::task::yield_now().await;
                }
            } => {}
        }
        let reason = status.lifecycle().error.map(|error| error.to_string());
        shutdown.cancel();
        task.await.unwrap();
        reason
    }

    pub(crate) fn id(&self) -> StreamId {
        self.log.open_stream(&"shop".parse().unwrap()).unwrap()
    }

    /// Runs a source until the test stops it.
    pub(crate) fn run(&self, source: Scripted, window: &CreditWindow) -> Running {
        let status = StreamStatus::new("shop".parse().unwrap());
        let shutdown = CancellationToken::new();
        let control = Control::from(shutdown.clone());
        let retry = RetryPolicy::default();
        let (log, shared) = (self.log.clone(), Arc::clone(&status));
        let task = run(Box::new(source), log, self.id(), window.clone(), shared, retry, control.clone());
        Running { status, control, shutdown, task: tokio::spawn(task) }
    }

    pub(crate) async fn until_visible(&self, offset: u64) {
        let mut marks = self.log.watch(self.id()).unwrap();
        within(marks.wait_for(|marks| marks.visible.0 >= offset)).await.unwrap();
    }

    pub(crate) async fn values(&self) -> Vec<String> {
        let id = self.log.stream_named("shop").unwrap();
        let mut reader = self.log.reader(id, StartAt::Earliest).unwrap();
        let mut values = Vec::new();
        while let Some(slice) = reader.try_next().await.unwrap() {
            let text = |body: &[u8]| String::from_utf8(body[8..].to_vec()).unwrap();
            values.extend(slice.chunk.events(slice.range.clone()).map(|event| text(event.body)));
        }
        values
    }
}

/// A stream that runs.
pub(crate) struct Running {
    pub(crate) status: Arc<StreamStatus>,
    pub(crate) control: Control,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Waits for a state; gives it as it was then.
    pub(crate) async fn until(&self, state: State) -> Lifecycle {
        let mut life = self.status.watch();
        within(life.wait_for(|life| life.state == state)).await.unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        within(self.task).await.unwrap();
    }
}

/// Nothing here takes this long; a wait that does is a failure.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("this takes too long")
}

pub(crate) fn history() -> Vec<Unit> {
    vec![Unit(100, vec!["a"]), Unit(200, vec!["b", "c"]), Unit(300, vec!["d"])]
}
