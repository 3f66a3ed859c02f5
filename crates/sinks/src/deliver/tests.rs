//! The loop against a real log and a destination that fails on purpose.

use std::collections::VecDeque;

use async_trait::async_trait;
use dbstreamd_log::{LogOptions, Pump, StoredSchema, UnitHead};
use dbstreamd_model::{Column, Lsn, Op, ReplicaIdentity, TableSchema, Timestamp};
use tokio::sync::watch;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a destination does with a write.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Accept,
    /// Stores the batch, and loses the answer.
    StoreAndFail,
    Fail,
    Refuse,
}

/// A destination that keeps offsets, and its own position if told to.
struct Destination {
    plans: VecDeque<Plan>,
    keeps_position: bool,
    prepared: usize,
    stored: watch::Sender<Vec<Offset>>,
}

#[async_trait]
impl Sink for Destination {
    async fn committed(&mut self) -> Result<Option<Offset>, SinkError> {
        self.prepared = 0;
        Ok(self.keeps_position.then(|| self.stored.borrow().last().copied().unwrap_or(Offset::NONE)))
    }

    async fn prepare(&mut self, schema: &StoredSchema) -> Result<(), SinkError> {
        assert_eq!(schema.schema.table, "orders");
        self.prepared += 1;
        Ok(())
    }

    async fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        assert_eq!(self.prepared, 1, "each attempt prepares each schema once, before its rows");
        let offsets: Vec<_> = batch.events.events().map(|event| event.offset).collect();
        assert_eq!((offsets.first(), offsets.last()), (Some(&batch.first), Some(&batch.last)));
        let plan = self.plans.pop_front().unwrap_or(Plan::Accept);
        if matches!(plan, Plan::Accept | Plan::StoreAndFail) {
            self.stored.send_modify(|stored| stored.extend(offsets));
        }
        match plan {
            Plan::Accept => Ok(()),
            Plan::StoreAndFail | Plan::Fail => Err(SinkError::Passing("the line broke".into())),
            Plan::Refuse => Err(SinkError::Stop("there is no such column: add it".into())),
        }
    }
}

struct Bench {
    delivery: Delivery,
    stored: watch::Sender<Vec<Offset>>,
    appender: dbstreamd_log::Appender,
    lsn: u64,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(LogOptions::with_dir(dir.path().join("data"))).unwrap();
        let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
        let mut appender = log.appender(stream).unwrap();
        appender.begin_session().await.unwrap();
        let retry = RetryPolicy { first: Duration::from_millis(1), longest: Duration::from_millis(5) };
        let delivery = Delivery { log, stream, consumer: "warehouse".parse().unwrap(), retry, status: Arc::default() };
        Self { delivery, stored: watch::Sender::default(), appender, lsn: 100, _dir: dir }
    }

    async fn commit(&mut self, events: usize) {
        let column = Column {
            name: "id".into(),
            type_name: "text".into(),
            type_oid: 25,
            type_modifier: -1,
            in_identity: true,
            description: None,
        };
        let schema = TableSchema {
            namespace: "shop".into(),
            table: "orders".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column],
        };
        let wanted = self.delivery.log.watermarks(self.delivery.stream).unwrap().visible.advance(events as u64);
        let schema = self.appender.schema(&Arc::new(schema), None);
        self.lsn += 10;
        self.appender.begin_unit(UnitHead { commit_lsn: Lsn(self.lsn), commit_time: Timestamp(1), xid: 1 });
        for _ in 0..events {
            self.appender.append(Op::Insert, Some(schema), b"N\0\x01t\0\0\0\x01a");
        }
        self.appender.end_unit(Lsn(self.lsn + 5));
        self.appender.pump(Pump::Now).unwrap();
        let mut marks = self.delivery.log.watch(self.delivery.stream).unwrap();
        tokio::time::timeout(PATIENCE, marks.wait_for(|marks| marks.visible >= wanted)).await.unwrap().unwrap();
    }

    fn run(&self, plans: &[Plan], keeps_position: bool) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let sink = Destination {
            plans: plans.iter().copied().collect(),
            keeps_position,
            prepared: 0,
            stored: self.stored.clone(),
        };
        let shutdown = CancellationToken::new();
        (shutdown.clone(), tokio::spawn(deliver(self.delivery.clone(), Box::new(sink), shutdown)))
    }

    async fn committed(&self, offset: u64) {
        let mut committed = self.delivery.status.committed();
        tokio::time::timeout(PATIENCE, committed.wait_for(|&at| at >= Offset(offset))).await.unwrap().unwrap();
        let record = self.delivery.log.consumer(self.delivery.stream, &self.delivery.consumer).unwrap();
        assert!(record.committed >= Offset(offset));
    }

    fn stored(&self) -> Vec<u64> {
        self.stored.borrow().iter().map(|offset| offset.0).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_in_order_and_a_restart_goes_on_where_it_was() {
    let mut bench = Bench::new().await;
    bench.commit(3).await;
    let (shutdown, task) = bench.run(&[], false);
    bench.committed(3).await;
    bench.commit(2).await;
    bench.committed(5).await;
    shutdown.cancel();
    task.await.unwrap();
    bench.commit(4).await;
    let (shutdown, task) = bench.run(&[], false);
    bench.committed(9).await;
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(bench.stored(), (1..=9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_moves_only_after_the_write_and_faults_lose_nothing() {
    let mut bench = Bench::new().await;
    for _ in 0..4 {
        bench.commit(2).await;
    }
    let (shutdown, task) = bench.run(&[Plan::Fail, Plan::Fail, Plan::Accept, Plan::Fail, Plan::Accept], false);
    bench.committed(8).await;
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(bench.stored(), (1..=8).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_doubles_the_batch_unless_the_destination_keeps_the_position() {
    for keeps_position in [false, true] {
        let mut bench = Bench::new().await;
        bench.commit(2).await;
        let (shutdown, task) = bench.run(&[Plan::StoreAndFail], keeps_position);
        if keeps_position {
            // Nothing is left to write, so the next events bring the position along.
            bench.commit(1).await;
            bench.committed(3).await;
            assert_eq!(bench.stored(), [1, 2, 3]);
        } else {
            bench.committed(2).await;
            assert_eq!(bench.stored(), [1, 2, 1, 2]);
        }
        shutdown.cancel();
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_destination_refuses_stops_the_delivery_with_the_reason_and_skips_nothing() {
    let mut bench = Bench::new().await;
    bench.commit(2).await;
    let (shutdown, task) = bench.run(&[Plan::Refuse], false);
    let mut state = bench.delivery.status.state();
    let stopped = state.wait_for(|state| matches!(state, DeliveryState::Stopped(reason) if reason.contains("add it")));
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap();
    assert!(bench.stored().is_empty());
    assert!(bench.delivery.log.consumer(bench.delivery.stream, &bench.delivery.consumer).is_none());
    shutdown.cancel();
    task.await.unwrap();

    // A destination that is ahead of this log was written from another one.
    bench.stored.send_replace(vec![Offset(17)]);
    let (shutdown, task) = bench.run(&[], true);
    let mut state = bench.delivery.status.state();
    let stopped = state.wait_for(|state| matches!(state, DeliveryState::Stopped(reason) if reason.contains("17")));
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap();
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_is_not_delivered_onto_what_was_made_of_the_one_before() {
    let mut bench = Bench::new().await;
    bench.commit(3).await;
    let source = dbstreamd_log::SourceIdentity { system_id: 1, timeline: 1 };
    let reason = dbstreamd_log::EpochReason::ServerBehind;
    bench.appender.raise_epoch(dbstreamd_log::EpochBreak { reason, source_lsn: Lsn(50), source }).await.unwrap();
    bench.appender.begin_session().await.unwrap();
    bench.commit(2).await;
    // In one go, and again from where it is committed.
    for _ in 0..2 {
        let (shutdown, task) = bench.run(&[], false);
        let mut state = bench.delivery.status.state();
        let new = "new epoch, 2, since offset 4";
        let stopped = state.wait_for(|state| matches!(state, DeliveryState::Stopped(reason) if reason.contains(new)));
        tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap();
        assert_eq!(bench.stored(), [1, 2, 3]);
        shutdown.cancel();
        task.await.unwrap();
        bench.delivery.status = Arc::default();
    }
}
