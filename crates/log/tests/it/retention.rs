//! Retention drops whole partitions, never a piece of a transaction, never what is unfinished.

use std::time::Duration;

use dbstreamd_log::{Log, LogError, LogOptions, Retention, StartAt};
use dbstreamd_model::{Lsn, Offset, StreamId, Timestamp};

use crate::support::*;

fn open(dir: &std::path::Path, retention: Retention) -> (Log, StreamId) {
    let options = LogOptions { partition_bytes_max: 2000, tail_ring_bytes: 0, retention, ..small(dir) };
    let log = Log::open(options).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    (log, stream)
}

const KEEP: Retention = Retention { age: None, bytes: None };

#[test]
fn the_oldest_partitions_go_and_what_is_left_reads_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path(), Retention { age: None, bytes: Some(6000) });
    let quiet = log.open_stream(&"quiet".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut silent = Writer::begin(&log, quiet).await;
        silent.unit(TIME, &bodies(4, 10));
        silent.settle().await;
        let mut writer = Writer::begin(&log, stream).await;
        for n in 0..100 {
            writer.unit(TIME + n, &bodies(3, 100 + n as usize));
            writer.settle().await;
        }
        let before = log.stream_bytes(stream);
        within(log.apply_retention()).await.unwrap();
        assert!(log.metrics().partitions_dropped.get() > 0);
        assert!(log.stream_bytes(stream) < before);

        let trim = log.watermarks(stream).unwrap().trim_point;
        assert!(trim > Offset::NONE && trim < Offset(300));
        let left = read_all(&log, stream, StartAt::Earliest).await.unwrap();
        assert_eq!(left, writer.events[trim.0 as usize..]);
        assert_eq!(left[0].ordinal, 0, "it starts with a whole unit");
        let error = log.reader(stream, StartAt::Offset(trim)).unwrap_err();
        assert!(matches!(error, LogError::OffsetTrimmed { trim_point, .. } if trim_point == trim));
        let last_gone = writer.units.iter().rfind(|unit| unit.first <= trim.0).unwrap().clone();
        let error = log.reader(stream, StartAt::Lsn(Lsn(last_gone.end_lsn - 1))).unwrap_err();
        assert!(
            matches!(error, LogError::LsnTrimmed { trimmed_through, .. } if trimmed_through == Lsn(last_gone.end_lsn))
        );
        assert_eq!(read_all(&log, stream, StartAt::Lsn(Lsn(last_gone.end_lsn))).await.unwrap(), left);
        let error = log.reader(stream, StartAt::Time(Timestamp(last_gone.time))).unwrap_err();
        assert!(matches!(error, LogError::TimeTrimmed { .. }));
        let resume = within(writer.appender.begin_session()).await.unwrap();
        assert_eq!(resume.trimmed_through, Lsn(last_gone.end_lsn));

        // A stream that said something once and then nothing: all of it is gone, and it goes on where it was.
        let marks = log.watermarks(quiet).unwrap();
        assert_eq!((marks.trim_point, marks.visible), (Offset(4), Offset(4)));
        assert_eq!(log.stream_bytes(quiet), 0);
        silent.unit(TIME, &bodies(2, 10));
        silent.settle().await;
        assert_eq!(read_all(&log, quiet, StartAt::Earliest).await.unwrap(), silent.events[4..]);
    });
    let (trim, visible) = (log.watermarks(stream).unwrap().trim_point, log.watermarks(stream).unwrap().visible);
    log.close().unwrap();
    let (log, stream) = open(dir.path(), KEEP);
    assert_eq!(log.watermarks(stream).unwrap().trim_point, trim);
    assert_eq!(log.watermarks(stream).unwrap().visible, visible);
    let left = runtime().block_on(read_all(&log, stream, StartAt::Earliest)).unwrap();
    assert_eq!(left.len() as u64, visible.0 - trim.0);
}

#[test]
fn an_unfinished_unit_holds_its_partitions_and_a_finished_one_goes_whole() {
    // In two partitions, and in so many that the trim point passes several of them at once.
    for events in [200, 600] {
        a_unit_of_this_size_goes_whole(events);
    }
}

fn a_unit_of_this_size_goes_whole(events: u32) {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path(), Retention { age: Some(Duration::ZERO), bytes: None });
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(2, 10));
        let noisy: Vec<_> = (0..events)
            .map(|n| format!("{:x}", u128::from(n).pow(9).wrapping_mul(0x9E37_79B9_7F4A)).into_bytes())
            .collect();
        let huge = writer.begin_unit(TIME, &noisy);
        writer.settle().await;
        within(log.apply_retention()).await.unwrap();
        assert_eq!(log.watermarks(stream).unwrap().trim_point, Offset::NONE, "the open unit started in there");
        writer.end_unit(huge);
        writer.unit(TIME, &bodies(1, 10));
        writer.settle().await;
        within(log.apply_retention()).await.unwrap();
        let trim = log.watermarks(stream).unwrap().trim_point;
        let gone = events + 2;
        assert_eq!(trim, Offset(u64::from(gone)), "the whole unit went, though its end is in a kept partition");
        let left = writer.events.get(usize::try_from(gone).unwrap()..).unwrap();
        assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), left);
    });
}

#[test]
fn a_reader_that_retention_overtakes_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path(), Retention { age: Some(Duration::ZERO), bytes: None });
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for n in 0..60 {
            writer.unit(TIME, &bodies(2, 100 + n));
            writer.settle().await;
        }
        let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
        within(reader.next()).await.unwrap();
        within(log.apply_retention()).await.unwrap();
        assert!(matches!(within(reader.next()).await, Err(LogError::OffsetTrimmed { .. })));
    });
}

#[test]
fn retention_that_is_tuned_holds_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path(), KEEP);
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for n in 0..100 {
            writer.unit(TIME + n, &bodies(3, 100));
            writer.settle().await;
        }
        within(log.apply_retention()).await.unwrap();
        assert_eq!(log.watermarks(stream).unwrap().trim_point, Offset::NONE);
        log.tunables().set_retention_bytes(Some(6000));
        within(log.apply_retention()).await.unwrap();
        assert!(log.watermarks(stream).unwrap().trim_point > Offset::NONE);
        assert!(log.metrics().partitions_dropped.get() > 0);
    });
}

#[test]
fn a_stream_that_is_kept_longer_keeps_nothing_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (log, short) = open(dir.path(), Retention { age: Some(Duration::ZERO), bytes: None });
    let long = log.open_stream(&"audit".parse().unwrap()).unwrap();
    log.keep_for(long, None).unwrap();
    let later = runtime().block_on(async {
        let mut first = Writer::begin(&log, short).await;
        let mut second = Writer::begin(&log, long).await;
        for n in 0..60 {
            for writer in [&mut first, &mut second] {
                writer.unit(TIME + n, &bodies(2, 100 + n as usize));
                writer.settle().await;
            }
        }
        let before = (log.stream_bytes(short), log.stream_bytes(long));
        within(log.apply_retention()).await.unwrap();
        assert!(log.stream_bytes(short) < before.0 / 3, "{} of {}", log.stream_bytes(short), before.0);
        assert_eq!(log.stream_bytes(long), before.1);
        assert_eq!(read_all(&log, long, StartAt::Earliest).await.unwrap(), second.events);
        // What it is kept for changes: what was written before goes first, and nothing of it is in the way.
        log.keep_for(long, Some(Duration::ZERO)).unwrap();
        for n in 0..20 {
            second.unit(TIME + 100 + n, &bodies(2, 100 + n as usize));
            second.settle().await;
        }
        within(log.apply_retention()).await.unwrap();
        let left = read_all(&log, long, StartAt::Earliest).await.unwrap();
        assert!(left.len() < second.events.len() && left == second.events[second.events.len() - left.len()..]);
        log.keep_for(long, None).unwrap();
        for n in 0..20 {
            second.unit(TIME + 200 + n, &bodies(2, 100 + n as usize));
            second.settle().await;
        }
        read_all(&log, long, StartAt::Earliest).await.unwrap()
    });
    log.close().unwrap();
    let (log, _) = open(dir.path(), KEEP);
    assert_eq!(runtime().block_on(read_all(&log, long, StartAt::Earliest)).unwrap(), later, "and over a restart");
}
