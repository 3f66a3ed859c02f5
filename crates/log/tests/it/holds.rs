//! Consumers hold what retention would remove, within limits, and are told when they cannot go on.

use std::time::Duration;

use dbstreamd_log::{
    Beginning, ConsumerState, EpochBreak, EpochReason, HoldChange, HoldLimits, HoldLost, Log, LogError, LogOptions,
    Retention, Rewind, SnapshotReason, SourceIdentity, StartAt,
};
use dbstreamd_model::{ConsumerName, Epoch, Lsn, Offset, StreamId};

use crate::support::*;

const NOBODY_WAITS: Retention = Retention { age: Some(Duration::ZERO), bytes: None };
const LONG: HoldLimits =
    HoldLimits { max_lag_bytes: u64::MAX, max_hold_bytes: u64::MAX, disconnected_max: Duration::from_secs(3600) };

fn open(dir: &std::path::Path, holds: HoldLimits) -> (Log, StreamId) {
    let options =
        LogOptions { partition_bytes_max: 2000, tail_ring_bytes: 0, retention: NOBODY_WAITS, holds, ..small(dir) };
    let log = Log::open(options).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    (log, stream)
}

fn name(text: &str) -> ConsumerName {
    text.parse().unwrap()
}

async fn fill(writer: &mut Writer) {
    for n in 0..60 {
        writer.unit(TIME, &bodies(2, 100 + n));
        writer.settle().await;
    }
}

fn steps(changes: &[HoldChange]) -> Vec<(&str, ConsumerState)> {
    changes.iter().map(|change| (change.consumer.as_str(), change.to)).collect()
}

#[test]
fn what_a_consumer_has_not_read_stays_until_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path(), LONG);
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let audit = name("audit");
        let commit = |offset| within(log.commit_offset(stream, &audit, Offset(offset), Rewind::Refuse));
        commit(0).await.unwrap();
        fill(&mut writer).await;
        within(log.apply_retention()).await.unwrap();
        assert_eq!(log.watermarks(stream).unwrap().trim_point, Offset::NONE, "it has read nothing yet");
        assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), writer.events);

        commit(60).await.unwrap();
        within(log.apply_retention()).await.unwrap();
        let trim = log.watermarks(stream).unwrap().trim_point;
        assert!(trim > Offset::NONE && trim <= Offset(60), "{trim}");
        assert_eq!(log.consumer(stream, &audit).unwrap().state, ConsumerState::Active);

        commit(120).await.unwrap();
        within(log.apply_retention()).await.unwrap();
        assert!(log.watermarks(stream).unwrap().trim_point > Offset(60));
        assert_eq!(log.review_consumers(), [], "it was well all the time");
    });
}

#[test]
fn a_consumer_too_far_behind_loses_its_hold_then_its_place_and_can_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let limits = HoldLimits { max_lag_bytes: 1000, max_hold_bytes: 4000, ..LONG };
    let (log, stream) = open(dir.path(), limits);
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let (audit, quick) = (name("audit"), name("quick"));
        let commit = async |who, offset, rewind| within(log.commit_offset(stream, who, Offset(offset), rewind)).await;
        commit(&audit, 0, Rewind::Refuse).await.unwrap();
        let here = log.attend(stream, &audit);
        writer.unit(TIME, &bodies(2, 100));
        writer.settle().await;
        assert_eq!(log.review_consumers(), []);
        while log.consumer(stream, &audit).unwrap().lag_bytes <= 1000 {
            writer.unit(TIME, &bodies(2, 100));
            writer.settle().await;
        }
        assert_eq!(steps(&log.review_consumers()), [("audit", ConsumerState::Lagging)]);
        fill(&mut writer).await;
        let released = ConsumerState::Released(HoldLost::Lag);
        assert_eq!(steps(&log.review_consumers()), [("audit", released)], "though it is here");
        assert_eq!(log.review_consumers(), [], "each change is told once");
        within(log.apply_retention()).await.unwrap();
        let marks = log.watermarks(stream).unwrap();
        assert!(marks.trim_point > Offset::NONE);
        let needs = ConsumerState::NeedsSnapshot(SnapshotReason::Trimmed);
        assert_eq!(steps(&log.review_consumers()), [("audit", needs)]);

        // It cannot say that it is somewhere where nobody can go on.
        let refused = commit(&audit, marks.trim_point.0 - 1, Rewind::Allow).await;
        assert!(matches!(refused, Err(LogError::CommitTrimmed { .. })), "{refused:?}");
        let refused = commit(&quick, 0, Rewind::Refuse).await;
        assert!(matches!(refused, Err(LogError::CommitTrimmed { .. })), "{refused:?}");
        commit(&audit, marks.visible.0, Rewind::Refuse).await.unwrap();
        assert_eq!(steps(&log.review_consumers()), [("audit", ConsumerState::Active)]);
        drop(here);
    });
}

#[test]
fn who_is_away_too_long_loses_its_hold_and_has_it_again_when_it_comes_back_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path(), HoldLimits { disconnected_max: Duration::ZERO, ..LONG });
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let audit = name("audit");
        within(log.commit_offset(stream, &audit, Offset(0), Rewind::Refuse)).await.unwrap();
        let state = || log.consumer(stream, &audit).unwrap().state;
        assert_eq!(state(), ConsumerState::Active, "there is nothing to hold");
        let here = log.attend(stream, &audit);
        fill(&mut writer).await;
        within(log.apply_retention()).await.unwrap();
        assert_eq!(log.watermarks(stream).unwrap().trim_point, Offset::NONE);
        drop(here);
        assert_eq!(state(), ConsumerState::Released(HoldLost::Absence));
        let here = log.attend(stream, &audit);
        assert_eq!(state(), ConsumerState::Active, "nothing was trimmed meanwhile");
        drop(here);
        within(log.apply_retention()).await.unwrap();
        assert_eq!(state(), ConsumerState::NeedsSnapshot(SnapshotReason::Trimmed));
        let back = log.attend(stream, &audit);
        assert_eq!(
            state(),
            ConsumerState::NeedsSnapshot(SnapshotReason::Trimmed),
            "what is trimmed does not come back"
        );
        drop(back);
    });
}

#[test]
fn a_consumer_in_the_middle_of_a_transaction_keeps_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path(), LONG);
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let audit = name("audit");
        let commit = |offset| within(log.commit_offset(stream, &audit, Offset(offset), Rewind::Refuse));
        commit(0).await.unwrap();
        // One transaction over many partitions, and something behind it.
        let noisy: Vec<_> = (0..400_u32)
            .map(|n| format!("{:x}", u128::from(n).pow(9).wrapping_mul(0x9E37_79B9)).into_bytes())
            .collect();
        writer.unit(TIME, &noisy);
        writer.settle().await;
        fill(&mut writer).await;
        for offset in (1..400).step_by(23) {
            commit(offset).await.unwrap();
            within(log.apply_retention()).await.unwrap();
            assert_eq!(log.consumer(stream, &audit).unwrap().state, ConsumerState::Active, "at {offset}");
            let left = read_all(&log, stream, StartAt::Offset(Offset(offset + 1))).await.unwrap();
            assert_eq!(left, writer.events[usize::try_from(offset).unwrap()..], "at {offset}");
        }
        commit(400).await.unwrap();
        within(log.apply_retention()).await.unwrap();
        assert!(log.watermarks(stream).unwrap().trim_point >= Offset(400), "whole, it goes");
    });
}

#[test]
fn what_a_consumer_holds_does_not_cost_other_streams_their_history() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention { age: Some(Duration::from_secs(3600)), bytes: Some(20_000) };
    let options =
        LogOptions { partition_bytes_max: 2000, tail_ring_bytes: 0, retention, holds: LONG, ..small(dir.path()) };
    let log = Log::open(options).unwrap();
    let [held, other] = ["held", "other"].map(|name| log.open_stream(&name.parse().unwrap()).unwrap());
    log.keep_for(other, None).unwrap();
    runtime().block_on(async {
        let (mut first, mut second) = (Writer::begin(&log, held).await, Writer::begin(&log, other).await);
        fill(&mut first).await;
        within(log.commit_offset(held, &name("audit"), Offset(0), Rewind::Ignore)).await.unwrap();
        fill(&mut second).await;
        let all = log.stream_bytes(held) + log.stream_bytes(other);
        within(log.apply_retention()).await.unwrap();
        assert_eq!(
            log.stream_bytes(held) + log.stream_bytes(other),
            all,
            "the oldest has to stay, and so what is newer"
        );
        within(log.commit_offset(held, &name("audit"), Offset(120), Rewind::Ignore)).await.unwrap();
        within(log.apply_retention()).await.unwrap();
        assert!(log.stream_bytes(held) + log.stream_bytes(other) < 25_000);
        assert_eq!(read_all(&log, other, StartAt::Offset(Offset(110))).await.unwrap(), second.events[109..]);
    });
}

#[test]
fn the_epoch_a_consumer_goes_on_in_outlasts_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path(), LONG);
    let of = |log: &Log, who| {
        let record = log.consumer(stream, &name(who)).unwrap();
        (record.committed.0, record.epoch.map(|epoch| epoch.0), record.state)
    };
    let needs = ConsumerState::NeedsSnapshot(SnapshotReason::NewEpoch);
    let check = |log: &Log| {
        assert_eq!(of(log, "audit"), (2, Some(1), needs));
        assert_eq!(of(log, "blank"), (2, None, ConsumerState::Active), "it has had nothing");
        assert_eq!(of(log, "knows"), (2, Some(2), ConsumerState::Active), "it has said that it knows");
        assert_eq!(of(log, "reads"), (1, Some(1), ConsumerState::Active), "it may have the rest of its epoch");
    };
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(2, 10));
        writer.settle().await;
        within(log.commit_offset(stream, &name("audit"), Offset(2), Rewind::Refuse)).await.unwrap();
        within(log.commit_offset(stream, &name("reads"), Offset(1), Rewind::Refuse)).await.unwrap();
        let source = SourceIdentity { system_id: 1, timeline: 1 };
        let broken = EpochBreak { reason: EpochReason::SlotGone, source_lsn: Lsn(9), source };
        let raised = within(writer.appender.raise_epoch(broken)).await.unwrap();
        assert_eq!((raised.epoch, raised.first_offset), (Epoch(2), Offset(3)));
        let begin = [("blank", Beginning::Blank), ("knows", Beginning::Knowing), ("audit", Beginning::Blank)];
        for (who, beginning) in begin {
            within(log.begin_consumer(stream, &name(who), Offset(2), beginning)).await.unwrap();
        }
        let past = within(log.begin_consumer(stream, &name("other"), Offset(3), Beginning::Knowing)).await;
        assert!(matches!(past, Err(LogError::CommitPastEnd { .. })), "{past:?}");
        check(&log);
    });
    log.close().unwrap();
    check(&open(dir.path(), LONG).0);
}
