//! What a source sends again is compared with the log and dropped; a difference stops the stream, or begins a new epoch.
//!
//! The source here is scripted, because a real server cannot be made to lie; the log is the real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dbstreamd_log::{CreditWindow, EpochReason, Log, LogOptions, Resume, StartAt, UnitHead};
use dbstreamd_model::{Column, Lsn, Op, ReplicaIdentity, StreamName, TableSchema, Timestamp};
use dbstreamd_source::{
    Catalog, Change, Confirmer, Described, OnGap, Progress, RetryPolicy, Session, Source, SourceError, SourceReader,
    State, StreamStatus, run,
};
use tokio_util::sync::CancellationToken;

/// One unit: commit LSN and the values of its rows.
#[derive(Clone)]
struct Unit(u64, Vec<&'static str>);

const UNIT_BYTES: u64 = 100;

struct Scripted {
    name: StreamName,
    units: Vec<Unit>,
    resends_from: u64,
    on_gap: OnGap,
    /// The connection breaks once all was sent, and the next one sends other rows.
    flaps: bool,
    opened: u32,
    /// What its confirmers were allowed: whether anything, and whether everything was received by then.
    confirmers: Arc<Confirmers>,
}

/// Seen by the confirmers of all sessions.
#[derive(Default)]
struct Confirmers {
    received: AtomicU64,
    /// `received` when confirming was first allowed; none when it never was.
    allowed_at: Mutex<Option<u64>>,
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
        self.opened += 1;
        let mut units = self.units.clone();
        if self.flaps {
            units.iter_mut().for_each(|unit| unit.1 = vec![["v0", "v1", "v2"][self.opened as usize % 3]]);
        }
        let changes = units.iter().map(changes).collect();
        let (flaps, confirmers) = (self.flaps, Arc::clone(&self.confirmers));
        Ok(Session {
            identity: dbstreamd_log::SourceIdentity { system_id: 1, timeline: 1 },
            reader: Box::new(ScriptedReader { changes, flaps, confirmers: Arc::clone(&confirmers) }),
            confirmer: Box::new(Silent(confirmers)),
            catalog: Box::new(NoCatalog),
            resends_from: Lsn(self.resends_from),
            source_end: Lsn(self.resends_from),
            broken: None,
            common_through: Lsn(u64::MAX),
        })
    }
}

/// Has nothing to add to what is announced.
struct NoCatalog;

#[async_trait]
impl Catalog for NoCatalog {
    async fn describe(&mut self, _relation: u32, announced: &TableSchema) -> Result<Described, SourceError> {
        Ok(Described { schema: Arc::new(announced.clone()), facts: None })
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
struct Stream {
    log: Log,
    _dir: tempfile::TempDir,
}

impl Stream {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { log: Log::open(LogOptions::with_dir(dir.path())).unwrap(), _dir: dir }
    }

    /// Plays `units` in a session of their own until `done` or FAILED; gives the reason.
    async fn play(&self, units: &[Unit], resends_from: u64, visible: u64) -> Option<String> {
        self.play_with(units, resends_from, visible, OnGap::Fail).await
    }

    fn scripted(&self, units: &[Unit], resends_from: u64, on_gap: OnGap) -> Scripted {
        Scripted {
            name: "shop".parse().unwrap(),
            units: units.to_vec(),
            resends_from,
            on_gap,
            flaps: false,
            opened: 0,
            confirmers: Arc::default(),
        }
    }

    async fn play_with(&self, units: &[Unit], resends_from: u64, visible: u64, on_gap: OnGap) -> Option<String> {
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

    async fn values(&self) -> Vec<String> {
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

fn history() -> Vec<Unit> {
    vec![Unit(100, vec!["a"]), Unit(200, vec!["b", "c"]), Unit(300, vec!["d"])]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_unchanged_is_dropped_whole_and_new_units_follow() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let again = [&history()[1..], &[Unit(400, vec!["e"])]].concat();
    assert_eq!(stream.play(&again, 200, 5).await, None);
    assert_eq!(stream.values().await, ["a", "b", "c", "d", "e"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_transactions_may_be_sent_again_or_not() {
    let stream = Stream::new();
    let with_empty = vec![Unit(100, vec!["a"]), Unit(200, vec![]), Unit(300, vec!["b"]), Unit(400, vec![])];
    assert_eq!(stream.play(&with_empty, 0, 2).await, None);
    let again = vec![Unit(200, vec![]), Unit(300, vec!["b"]), Unit(500, vec!["c"])];
    assert_eq!(stream.play(&again, 200, 3).await, None);
    assert_eq!(stream.values().await, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_differs_in_content_alone_is_a_fork_and_nothing_is_appended() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let forked = vec![Unit(200, vec!["b", "X"]), Unit(300, vec!["d"]), Unit(400, vec!["e"])];
    let reason = stream.play(&forked, 200, 5).await.expect("it stops");
    assert!(reason.contains("differs") && reason.contains("0/C8"), "{reason}");
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_the_log_has_and_the_source_skips_is_a_fork() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let skipping = vec![Unit(200, vec!["b", "c"]), Unit(500, vec!["e"])];
    let reason = stream.play(&skipping, 200, 5).await.expect("it stops");
    assert!(reason.contains("did not send again"), "{reason}");
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_the_log_never_had_where_it_had_others_is_a_fork() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let reason = stream.play(&[Unit(250, vec!["z"])], 200, 5).await.expect("it stops");
    assert!(reason.contains("differs"), "{reason}");
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_history_is_taken_whole_under_a_new_epoch() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    // Half of it is as before, half is not; the new epoch has all of it, and goes on.
    let rewritten = vec![Unit(200, vec!["b", "c"]), Unit(310, vec!["x"]), Unit(420, vec!["y"])];
    assert_eq!(stream.play_with(&rewritten, 200, 8, OnGap::NewEpoch).await, None);
    assert_eq!(stream.values().await, ["a", "b", "c", "d", "b", "c", "x", "y"]);
    let id = stream.log.stream_named("shop").unwrap();
    let epochs = stream.log.epochs(id);
    let [record] = epochs.as_slice() else { panic!("{epochs:?}") };
    assert_eq!((record.reason, record.first_offset.0), (EpochReason::HistoryRewritten, 5));
    assert_eq!((record.log_lsn, record.source_lsn), (Lsn(400), Lsn(200)));
    // What is sent again later is compared with the new epoch alone.
    assert_eq!(stream.play_with(&rewritten[1..], 250, 8, OnGap::NewEpoch).await, None);
    assert_eq!((stream.values().await.len(), stream.log.epochs(id).len()), (8, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_changes_again_and_again_stops_the_stream_after_three_epochs() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let id = stream.log.stream_named("shop").unwrap();
    let status = StreamStatus::new("shop".parse().unwrap());
    let source = Scripted { flaps: true, ..stream.scripted(&history()[1..], 200, OnGap::NewEpoch) };
    let (window, retry, shutdown) = (CreditWindow::new(1 << 20), RetryPolicy::default(), CancellationToken::new());
    let task =
        run(Box::new(source), stream.log.clone(), id, window, Arc::clone(&status), retry, shutdown.clone().into());
    let task = tokio::spawn(task);
    status.watch().wait_for(|life| life.state == State::Failed && !life.retrying).await.unwrap();
    let reason = status.lifecycle().error.unwrap().to_string();
    assert!(reason.contains("differs") && reason.contains("began 3 new epochs within the last hour"), "{reason}");
    assert_eq!(stream.log.epochs(id).len(), 3);
    // Four of the old epoch, and two of each session that came through.
    assert_eq!(stream.values().await.len(), 4 + 3 * 2);
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_confirmed_before_the_source_has_sent_all_up_to_where_it_was_confirmed_before() {
    let stream = Stream::new();
    assert_eq!(stream.play(&history(), 0, 4).await, None);
    let id = stream.log.stream_named("shop").unwrap();
    // An idle position far beyond the newest unit, which ends at 400.
    let mut appender = stream.log.appender(id).unwrap();
    appender.begin_session().await.unwrap();
    appender.idle(Lsn(1000), true);
    stream.log.watch(id).unwrap().wait_for(|marks| marks.confirmed_through == Lsn(1000)).await.unwrap();
    drop(appender);

    // A copy of the source has overtaken us meanwhile: it has units where there was nothing.
    let units = [Unit(500, vec!["e"]), Unit(600, vec!["f"]), Unit(980, vec!["g"]), Unit(1200, vec!["h"])];
    let status = StreamStatus::new("shop".parse().unwrap());
    let source = stream.scripted(&units, 450, OnGap::NewEpoch);
    let confirmers = Arc::clone(&source.confirmers);
    let (window, retry, shutdown) = (CreditWindow::new(1 << 20), RetryPolicy::default(), CancellationToken::new());
    let task = run(Box::new(source), stream.log.clone(), id, window, status, retry, shutdown.clone().into());
    let task = tokio::spawn(task);
    stream.log.watch(id).unwrap().wait_for(|marks| marks.visible.0 == 8).await.unwrap();
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(stream.values().await, ["a", "b", "c", "d", "e", "f", "g", "h"]);
    let allowed_at = *confirmers.allowed_at.lock().unwrap();
    assert!(allowed_at.is_some_and(|lsn| lsn >= 1080), "allowed when {allowed_at:?} was received");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_behind_what_was_said_to_be_all_is_refused_and_nothing_of_it_is_stored() {
    // Three units in order, and then one that commits before the last: the source lies, or something reorders.
    let stream = Stream::new();
    let late = [history(), vec![Unit(250, vec!["late"])]].concat();
    let id = stream.log.open_stream(&"shop".parse().unwrap()).unwrap();
    let status = StreamStatus::new("shop".parse().unwrap());
    let (window, shutdown) = (CreditWindow::new(1 << 20), CancellationToken::new());
    let source = Box::new(stream.scripted(&late, 0, OnGap::Fail));
    let (log, control) = (stream.log.clone(), shutdown.clone().into());
    let task = run(source, log, id, window, Arc::clone(&status), RetryPolicy::default(), control);
    let task = tokio::spawn(task);
    let failed = status.watch().wait_for(|life| life.state == State::Failed).await.unwrap().clone();
    let reason = failed.error.unwrap().to_string();
    assert!(failed.retrying && reason.contains("not the order of its own log"), "{reason}");
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(stream.values().await, ["a", "b", "c", "d"]);
}
