//! What a source sends again is compared with the log and dropped; a difference stops the stream.
//!
//! The source here is scripted, because a real server cannot be made to lie; the log is the real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dbstreamd_log::{CreditWindow, Log, LogOptions, Resume, StartAt, UnitHead};
use dbstreamd_model::{Column, Lsn, Op, ReplicaIdentity, StreamName, TableSchema, Timestamp};
use dbstreamd_source::{
    Change, Confirmer, Progress, RetryPolicy, Session, Source, SourceError, SourceReader, State, StreamStatus, run,
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
}

#[async_trait]
impl Source for Scripted {
    fn name(&self) -> &StreamName {
        &self.name
    }

    async fn open(&mut self, _resume: &Resume) -> Result<Session, SourceError> {
        let changes = self.units.iter().flat_map(changes).collect();
        Ok(Session {
            identity: dbstreamd_log::SourceIdentity { system_id: 1, timeline: 1 },
            reader: Box::new(ScriptedReader(changes)),
            confirmer: Box::new(Silent),
            resends_from: Lsn(self.resends_from),
            source_end: Lsn(self.resends_from),
        })
    }
}

fn changes(Unit(commit, rows): &Unit) -> Vec<Change> {
    let column =
        Column { name: "v".into(), type_name: "text".into(), type_oid: 25, type_modifier: -1, in_identity: true };
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

struct ScriptedReader(Vec<Change>);

#[async_trait]
impl SourceReader for ScriptedReader {
    async fn read(&mut self, changes: &mut Vec<Change>) -> Result<usize, SourceError> {
        if self.0.is_empty() {
            std::future::pending::<()>().await;
        }
        changes.append(&mut self.0);
        Ok(1000)
    }
}

struct Silent;

#[async_trait]
impl Confirmer for Silent {
    async fn run(self: Box<Self>, progress: Progress) -> Result<(), SourceError> {
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
        let name: StreamName = "shop".parse().unwrap();
        let id = self.log.open_stream(&name).unwrap();
        let status = StreamStatus::new(name.clone());
        let source = Scripted { name, units: units.to_vec(), resends_from };
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
            failed = life.wait_for(|life| life.state == State::Failed) => drop(failed.unwrap()),
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
