//! What all tests of the log need: a log in a temporary folder, units to append, and a way to read everything.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{
    Appender, EventRef, Log, LogError, LogOptions, Pump, Reader, Retention, StartAt, UnitHasher, UnitHead,
};
use dbstreamd_model::{
    Column, Fingerprint, Lsn, Offset, Op, ReplicaIdentity, SchemaId, StreamId, TableSchema, Timestamp,
};

/// No wait in a test may be longer: the disk or the code is stuck then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Commit time of the first unit.
pub(crate) const TIME: i64 = 1_700_000_000_000_000;

/// Small everything, so that a few events already fill chunks and partitions.
pub(crate) fn small(dir: &Path) -> LogOptions {
    LogOptions {
        chunk_bytes_max: 1024,
        memtable_budget_bytes: 8 << 20,
        block_cache_bytes: 1 << 20,
        tail_ring_bytes: 64 * 1024,
        retention: Retention { age: None, bytes: None },
        ..LogOptions::with_dir(dir)
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(crate) fn schema(table: &str) -> Arc<TableSchema> {
    let id = Column {
        name: "id".into(),
        type_name: "int8".into(),
        type_oid: 20,
        type_modifier: -1,
        in_identity: true,
        description: None,
    };
    Arc::new(TableSchema {
        namespace: "shop".into(),
        table: table.into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![id],
    })
}

/// An event as it was appended, or as a reader saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) offset: u64,
    pub(crate) op: Op,
    pub(crate) table: Option<Fingerprint>,
    pub(crate) body: Vec<u8>,
    pub(crate) ordinal: u32,
    pub(crate) last: bool,
    pub(crate) commit_lsn: u64,
    pub(crate) xid: u32,
    pub(crate) time: i64,
}

impl From<EventRef<'_>> for Seen {
    fn from(event: EventRef<'_>) -> Self {
        Self {
            offset: event.offset.0,
            op: event.op,
            table: event.schema.map(|schema| schema.fingerprint),
            body: event.body.to_vec(),
            ordinal: event.ordinal,
            last: event.last_in_unit,
            commit_lsn: event.commit_lsn.0,
            xid: event.xid,
            time: event.commit_time.0,
        }
    }
}

/// What was appended of a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unit {
    pub(crate) first: u64,
    pub(crate) end_lsn: u64,
    pub(crate) time: i64,
    pub(crate) hash: u64,
    pub(crate) events: usize,
}

/// Appends units to one stream and remembers what it appended.
pub(crate) struct Writer {
    pub(crate) appender: Appender,
    pub(crate) events: Vec<Seen>,
    pub(crate) units: Vec<Unit>,
    pub(crate) lsn: u64,
    schemas: [(SchemaId, Fingerprint); 2],
}

impl Writer {
    pub(crate) async fn begin(log: &Log, stream: StreamId) -> Self {
        let mut appender = log.appender(stream).unwrap();
        let resume = appender.begin_session().await.unwrap();
        let schemas = [schema("orders"), schema("items")].map(|s| (appender.schema(&s, None), s.fingerprint()));
        let lsn = resume.confirmed_through.0.max(1000);
        Self { appender, events: Vec::new(), units: Vec::new(), lsn, schemas }
    }

    /// Where the next event goes, when this writer started an empty stream.
    pub(crate) fn next_offset(&self) -> u64 {
        self.events.len() as u64 + 1
    }

    /// Starts a unit and appends these bodies; `end` may follow.
    pub(crate) fn begin_unit(&mut self, time: i64, bodies: &[Vec<u8>]) -> Unit {
        let head = UnitHead {
            commit_lsn: Lsn(self.lsn + 10),
            commit_time: Timestamp(time),
            xid: u32::try_from(self.lsn % 100_000).unwrap(),
        };
        self.appender.begin_unit(head);
        let mut hasher = UnitHasher::new();
        let first = self.next_offset();
        for (ordinal, body) in bodies.iter().enumerate() {
            let offset = self.next_offset();
            let op = Op::ALL[body.len() % 5];
            let schema = (op != Op::Message).then(|| self.schemas[body.len() % 2]);
            self.appender.append(op, schema.map(|s| s.0), body);
            hasher.event(op, schema.map(|s| s.1), body);
            self.events.push(Seen {
                offset,
                op,
                table: schema.map(|s| s.1),
                body: body.clone(),
                ordinal: u32::try_from(ordinal).unwrap(),
                last: ordinal + 1 == bodies.len(),
                commit_lsn: head.commit_lsn.0,
                xid: head.xid,
                time,
            });
        }
        Unit { first, end_lsn: self.lsn + 20, time, hash: hasher.finish(), events: bodies.len() }
    }

    pub(crate) fn end_unit(&mut self, unit: Unit) {
        self.lsn = unit.end_lsn;
        self.appender.end_unit(Lsn(unit.end_lsn));
        if unit.events > 0 {
            self.units.push(unit);
        }
    }

    /// A whole unit.
    pub(crate) fn unit(&mut self, time: i64, bodies: &[Vec<u8>]) {
        let unit = self.begin_unit(time, bodies);
        self.end_unit(unit);
    }

    /// Hands everything over and waits until it is durable.
    pub(crate) async fn settle(&mut self) {
        self.appender.pump(Pump::Now).unwrap();
        within(self.appender.writer_idle()).await;
    }
}

/// Bodies that tell their place; of `bytes` bytes at least.
pub(crate) fn bodies(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("N{n:-<bytes$}").into_bytes()).collect()
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes too long")
}

/// Everything visible from `start` on.
pub(crate) async fn read_all(log: &Log, stream: StreamId, start: StartAt) -> Result<Vec<Seen>, LogError> {
    let mut reader = log.reader(stream, start)?;
    let mut seen = Vec::new();
    while let Some(slice) = within(reader.try_next()).await? {
        seen.extend(slice.events().map(Seen::from));
    }
    Ok(seen)
}

/// Follows `reader` until it delivered `last`.
pub(crate) async fn follow(reader: &mut Reader, last: Offset) -> Result<Vec<Seen>, LogError> {
    let mut seen = Vec::new();
    while reader.position() <= last {
        seen.extend(within(reader.next()).await?.events().map(Seen::from));
    }
    Ok(seen)
}

/// Copies a folder with everything in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
