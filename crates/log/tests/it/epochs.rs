//! Epochs: the log goes on under a new one where the source's history broke, and what was there stays as it was.

use std::path::Path;
use std::time::Duration;

use dbstreamd_log::{
    EpochBreak, EpochReason, EpochRecord, Log, LogError, LogOptions, Retention, Rewind, SourceIdentity, StartAt,
};
use dbstreamd_model::{Epoch, Lsn, Offset, StreamId, Timestamp};
use proptest::prelude::*;
use rust_rocksdb::{DB, Options};

use crate::support::*;

const SOURCE: SourceIdentity = SourceIdentity { system_id: 7, timeline: 3 };

fn options(dir: &Path) -> LogOptions {
    LogOptions { partition_bytes_max: 3000, tail_ring_bytes: 0, ..small(dir) }
}

fn open(options: LogOptions) -> (Log, StreamId) {
    let log = Log::open(options).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    (log, stream)
}

fn broken(source_lsn: u64) -> EpochBreak {
    EpochBreak { reason: EpochReason::ServerBehind, source_lsn: Lsn(source_lsn), source: SOURCE }
}

/// Raises the epoch and goes on in it; what was begun and not ended is forgotten.
async fn raise(writer: &mut Writer, source_lsn: u64) -> EpochRecord {
    let record = within(writer.appender.raise_epoch(broken(source_lsn))).await.unwrap();
    let resume = within(writer.appender.begin_session()).await.unwrap();
    assert_eq!((resume.next_offset, resume.epoch), (record.first_offset, record.epoch));
    assert_eq!((resume.confirmed_through, resume.visible_lsn), (Lsn(source_lsn), Lsn::ZERO));
    assert_eq!((resume.trimmed_through, resume.source), (Lsn::ZERO, Some(SOURCE)));
    writer.lsn = source_lsn;
    record
}

/// The epoch of every visible event, in order.
async fn epochs_of_events(log: &Log, stream: StreamId) -> Vec<u32> {
    let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
    let mut epochs = Vec::new();
    while let Some(slice) = within(reader.try_next()).await.unwrap() {
        epochs.extend(slice.events().map(|event| event.epoch.0));
    }
    epochs
}

#[test]
fn a_new_epoch_goes_on_behind_the_last_visible_event_wherever_its_lsns_start() {
    // From disk, from memory, and from both.
    for tail_ring_bytes in [0, 4000, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { tail_ring_bytes, ..options(dir.path()) };
        let (log, stream) = open(options.clone());
        let (expected, record, units) = runtime().block_on(async {
            let mut writer = Writer::begin(&log, stream).await;
            writer.lsn = 900_000;
            for n in 0..20 {
                writer.unit(TIME + n, &bodies(3, 100));
            }
            writer.settle().await;
            let visible = writer.events.len();
            let ended = writer.lsn;
            let mut following = log.reader(stream, StartAt::Latest).unwrap();
            within(log.commit_offset(stream, &"audit".parse().unwrap(), Offset(17), Rewind::Refuse)).await.unwrap();
            writer.begin_unit(TIME, &bodies(300, 90));
            writer.settle().await;
            assert!(log.watermarks(stream).unwrap().durable > Offset(visible as u64));
            writer.events.truncate(visible);

            let record = raise(&mut writer, 5000).await;
            assert_eq!(
                (record.epoch, record.first_offset, record.reason),
                (Epoch(2), Offset(visible as u64 + 1), EpochReason::ServerBehind)
            );
            assert_eq!((record.log_lsn, record.source_lsn, record.source), (Lsn(ended), Lsn(5000), SOURCE));
            let marks = log.watermarks(stream).unwrap();
            assert_eq!((marks.epoch, marks.visible), (Epoch(2), Offset(visible as u64)));
            assert_eq!((marks.durable, marks.confirmed_through), (marks.visible, Lsn(5000)));
            assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), writer.events);
            assert_eq!(log.epoch_at(stream, marks.visible), Epoch::FIRST);
            assert_eq!(log.epoch_at(stream, marks.visible.next()), Epoch(2));

            let units = writer.units.len();
            for n in 0..20 {
                writer.unit(TIME + 5 + n, &bodies(2, 80));
            }
            writer.unit(TIME + 40, &bodies(200, 70));
            writer.settle().await;
            let last = Offset(writer.events.len() as u64);
            let new = follow(&mut following, last).await.unwrap();
            assert_eq!(new, writer.events[visible..], "a reader that waited at the boundary crosses it");
            (writer.events.clone(), record, writer.units[units..].to_vec())
        });
        let check = |log: &Log| {
            runtime().block_on(async {
                assert_eq!(read_all(log, stream, StartAt::Earliest).await.unwrap(), expected);
                let boundary = record.first_offset.0 as usize - 1;
                let epochs = epochs_of_events(log, stream).await;
                assert_eq!(epochs, [vec![1; boundary], vec![2; expected.len() - boundary]].concat());
                for start in (1..=expected.len()).step_by(7).chain([boundary, boundary + 1, boundary + 2]) {
                    let seen = read_all(log, stream, StartAt::Offset(Offset(start as u64))).await.unwrap();
                    assert_eq!(seen, expected[start - 1..]);
                }
                // An LSN means the newest epoch, also one that the older epoch had too.
                for (lsn, unit) in [(0, 0), (5000, 0), (units[4].end_lsn, 5), (units[20].end_lsn - 1, 20)] {
                    let seen = read_all(log, stream, StartAt::Lsn(Lsn(lsn))).await.unwrap();
                    assert_eq!(seen, expected[units[unit].first as usize - 1..], "from {lsn}");
                }
                assert_eq!(read_all(log, stream, StartAt::Lsn(Lsn(900_100))).await.unwrap(), []);
                // A time means the whole log: the old epoch reached TIME + 19, the new one goes past it.
                for (time, offset) in [(TIME, 1), (TIME + 19, 58), (TIME + 20, 61 + 30), (TIME + 40, 101)] {
                    let seen = read_all(log, stream, StartAt::Time(Timestamp(time))).await.unwrap();
                    assert_eq!(seen[0].offset, offset, "from {time}");
                }
                assert_eq!(log.epochs(stream), [record]);
                assert_eq!(log.consumers(None)[0].committed, Offset(17));
            });
        };
        check(&log);
        log.close().unwrap();
        let (log, _) = open(options);
        check(&log);
        let appender = log.appender(stream).unwrap();
        let mut cursor = appender.units_after(Lsn::ZERO);
        for unit in &units {
            let found = cursor.next().unwrap().unwrap();
            assert_eq!((found.end_lsn, found.hash), (Lsn(unit.end_lsn), unit.hash), "only the newest epoch's units");
        }
        assert_eq!(cursor.next().unwrap(), None);
    }
}

#[test]
fn epochs_without_events_are_kept_and_the_newest_of_them_gets_the_next_event() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(options(dir.path()));
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(2, 10));
        writer.settle().await;
        for expected in 0..3 {
            let resume = within(writer.appender.begin_session()).await.unwrap();
            assert_eq!(resume.epochs_last_hour, expected);
            assert_eq!(resume.epoch, Epoch(expected as u32 + 1));
            let record = raise(&mut writer, 100 + expected as u64).await;
            assert_eq!(record.first_offset, Offset(3));
        }
        assert_eq!(read_all(&log, stream, StartAt::Lsn(Lsn(0))).await.unwrap(), []);
    });
    log.close().unwrap();
    let (log, stream) = open(options(dir.path()));
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        assert_eq!(within(writer.appender.begin_session()).await.unwrap().epochs_last_hour, 3);
        assert_eq!(writer.appender.units_after(Lsn::ZERO).next().unwrap(), None);
        writer.unit(TIME, &bodies(1, 10));
        writer.settle().await;
        assert_eq!(epochs_of_events(&log, stream).await, [1, 1, 4]);
    });
}

#[test]
fn an_idle_position_of_the_old_epoch_is_not_confirmed_in_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(options(dir.path()));
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for round in 0..20 {
            writer.appender.idle(Lsn(1_000_000 + round), false);
            raise(&mut writer, 500).await;
            writer.appender.idle(Lsn(600), true);
            let mut confirmed = writer.appender.confirmed();
            within(confirmed.wait_for(|lsn| lsn.get() != Lsn(500))).await.unwrap();
            assert_eq!(confirmed.borrow().get(), Lsn(600));
        }
    });
}

#[test]
fn binding_a_source_takes_back_what_only_another_history_had_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(options(dir.path()));
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(1, 10));
        let end = writer.lsn;
        writer.appender.idle(Lsn(end + 500), true);
        writer.settle().await;
        let mut confirmed = writer.appender.confirmed();
        within(confirmed.wait_for(|lsn| lsn.get() == Lsn(end + 500))).await.unwrap();
        for (bound, expected) in [(u64::MAX, end + 500), (end + 300, end + 300), (end + 400, end + 300), (5, end)] {
            within(writer.appender.bind_source(SOURCE, Lsn(bound))).await.unwrap();
            assert_eq!(confirmed.borrow().get(), Lsn(expected), "bound to {bound}");
        }
    });
    log.close().unwrap();
    let (log, stream) = open(options(dir.path()));
    let resume =
        runtime().block_on(async { Writer::begin(&log, stream).await.appender.begin_session().await.unwrap() });
    assert_eq!(
        (resume.confirmed_through, resume.source, resume.epoch),
        (resume.visible_lsn, Some(SOURCE), Epoch::FIRST)
    );
}

#[test]
fn retention_goes_over_the_boundary_and_old_lsns_do_not_count_in_the_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let keep = LogOptions { partition_bytes_max: 2000, ..options(dir.path()) };
    let (log, stream) = open(keep.clone());
    let (events, units, first) = runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.lsn = 700_000;
        for n in 0..30 {
            writer.unit(TIME + n, &bodies(3, 100 + n as usize));
            writer.settle().await;
        }
        let record = raise(&mut writer, 5000).await;
        let units = writer.units.len();
        for n in 0..30 {
            writer.unit(TIME + 100 + n, &bodies(3, 100 + n as usize));
            writer.settle().await;
        }
        (writer.events.clone(), writer.units[units..].to_vec(), record.first_offset)
    });
    log.close().unwrap();
    // From keeping nearly everything to keeping nearly nothing: the trim point passes the boundary on the way.
    let (mut before, mut after) = (0, 0);
    for bytes in (1000..40_000).rev().step_by(1500) {
        let retention = Retention { age: None, bytes: Some(bytes) };
        let (log, _) = open(LogOptions { retention, ..keep.clone() });
        runtime().block_on(async {
            within(log.apply_retention()).await.unwrap();
            let trim = log.watermarks(stream).unwrap().trim_point;
            let left = read_all(&log, stream, StartAt::Earliest).await.unwrap();
            assert_eq!(left, events[trim.0 as usize..]);
            let error = log.reader(stream, StartAt::Time(Timestamp(TIME))).err();
            assert_eq!(error.is_some(), trim > Offset::NONE);
            let from_zero = read_all(&log, stream, StartAt::Lsn(Lsn(0))).await;
            if trim < first {
                before += usize::from(trim > Offset::NONE);
                assert_eq!(from_zero.unwrap(), events[first.0 as usize - 1..], "all of the new epoch is there");
            } else {
                after += 1;
                let gone = units.iter().rfind(|unit| unit.first <= trim.0).unwrap();
                assert!(matches!(from_zero, Err(LogError::LsnTrimmed { trimmed_through, .. }) if trimmed_through == Lsn(gone.end_lsn)));
                assert_eq!(read_all(&log, stream, StartAt::Lsn(Lsn(gone.end_lsn))).await.unwrap(), left);
            }
            let mut appender = log.appender(stream).unwrap();
            let resume = within(appender.begin_session()).await.unwrap();
            assert_eq!(resume.trimmed_through > Lsn::ZERO, trim >= first);
            assert_eq!(log.epochs(stream).len(), 1, "the record outlives the events");
        });
        log.close().unwrap();
    }
    assert!(before > 2 && after > 2, "{before} and {after}");
}

#[test]
fn a_stream_whose_events_are_all_gone_can_get_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention { age: Some(Duration::ZERO), bytes: None };
    let (log, stream) = open(LogOptions { retention, ..options(dir.path()) });
    let other = log.open_stream(&"other".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(4, 100));
        writer.settle().await;
        let mut noise = Writer::begin(&log, other).await;
        for _ in 0..40 {
            noise.unit(TIME, &bodies(4, 100));
            noise.settle().await;
        }
        within(log.apply_retention()).await.unwrap();
        assert_eq!(log.watermarks(stream).unwrap().trim_point, Offset(4));
        assert_eq!(raise(&mut writer, 40).await.first_offset, Offset(5));
        writer.unit(TIME, &bodies(1, 10));
        writer.settle().await;
        assert_eq!(read_all(&log, stream, StartAt::Lsn(Lsn(0))).await.unwrap(), writer.events[4..]);
    });
    log.close().unwrap();
    let (log, stream) = open(options(dir.path()));
    assert_eq!(log.watermarks(stream).unwrap().visible, Offset(5));
}

#[test]
fn a_crash_around_the_raise_leaves_the_old_epoch_or_the_new_one_and_nothing_between() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(options(dir.path()));
    let copy = |log_dir: &Path| {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(log_dir, copy.path());
        copy
    };
    let wal = |dir: &Path| {
        let files = std::fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap()
    };
    let (events, lengths) = runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for n in 0..5 {
            writer.unit(TIME + n, &bodies(3, 50));
        }
        writer.settle().await;
        let visible = writer.events.len();
        writer.begin_unit(TIME, &bodies(60, 90));
        writer.settle().await;
        writer.events.truncate(visible);
        let before = wal(dir.path()).metadata().unwrap().len();
        raise(&mut writer, 77).await;
        (writer.events.clone(), before..=wal(dir.path()).metadata().unwrap().len())
    });
    // The log is dropped only at the end: each copy is what a crash leaves, with the raise's write torn at some byte.
    let (mut old, mut new) = (0, 0);
    assert!(lengths.end() - lengths.start() > 100, "one write of a few hundred bytes: {lengths:?}");
    for length in lengths.clone().step_by(13).chain([*lengths.end()]) {
        let copy = copy(dir.path());
        std::fs::OpenOptions::new().write(true).open(wal(copy.path())).unwrap().set_len(length).unwrap();
        let (log, stream) = open(options(copy.path()));
        let marks = log.watermarks(stream).unwrap();
        assert_eq!((marks.durable, marks.visible), (Offset(15), Offset(15)), "the tail is gone in either");
        let records = log.epochs(stream);
        assert_eq!(marks.epoch.0 as usize, records.len() + 1);
        if records.is_empty() {
            old += 1;
            assert_eq!(marks.confirmed_through, marks.visible_lsn);
        } else {
            new += 1;
            assert_eq!((marks.confirmed_through, marks.visible_lsn), (Lsn(77), Lsn::ZERO));
        }
        runtime().block_on(async {
            assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), events);
            let mut writer = Writer::begin(&log, stream).await;
            writer.events.clone_from(&events);
            writer.unit(TIME, &bodies(4, 20));
            writer.settle().await;
            assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), writer.events);
            let epochs = epochs_of_events(&log, stream).await;
            assert_eq!(epochs[15..], [marks.epoch.0; 4]);
        });
        log.close().unwrap();
    }
    assert!(old > 0 && new > 0, "{old} and {new}");
}

#[test]
fn epochs_that_do_not_fit_the_stream_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(options(dir.path()));
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(4, 100));
        writer.settle().await;
        raise(&mut writer, 40).await;
    });
    log.close().unwrap();
    let path = dir.path().join("log");
    let change = |change: &dyn Fn(&DB, &rust_rocksdb::ColumnFamily)| {
        let families = DB::list_cf(&Options::default(), &path).unwrap();
        let db = DB::open_cf(&Options::default(), &path, &families).unwrap();
        change(&db, db.cf_handle("meta").unwrap());
    };
    let key = |epoch: u8| [4, 0, 0, 0, 1, 0, 0, 0, epoch];
    let value = std::cell::RefCell::new(Vec::new());
    change(&|db, meta| *value.borrow_mut() = db.get_cf(meta, key(2)).unwrap().unwrap());
    let value = value.into_inner();
    let late = [&value[..1], 6_u64.to_be_bytes().as_slice(), &value[9..]].concat();
    // Missing, of another number, further than the log, not a record, as no version ever wrote it.
    let wrong: [&[(u8, Option<&[u8]>)]; 5] = [
        &[(2, None)],
        &[(2, None), (3, Some(&value))],
        &[(2, Some(&late))],
        &[(2, Some(b"x"))],
        &[(2, Some(&5_u64.to_be_bytes()))],
    ];
    for entries in wrong {
        change(&|db, meta| {
            for (epoch, value) in entries {
                match value {
                    Some(value) => db.put_cf(meta, key(*epoch), value).unwrap(),
                    None => db.delete_cf(meta, key(*epoch)).unwrap(),
                }
            }
        });
        assert!(matches!(Log::open(options(dir.path())), Err(LogError::DamagedRecord { .. })), "{entries:?}");
        change(&|db, meta| {
            db.delete_cf(meta, key(3)).unwrap();
            db.put_cf(meta, key(2), &value).unwrap();
        });
        Log::open(options(dir.path())).unwrap().close().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_the_epochs_hold_everything_reads_back_and_every_seek_finds_its_unit(
        epochs in proptest::collection::vec((1000..9000_u64, proptest::collection::vec((0..40_usize, 0..9_i64), 0..9)), 1..6),
        chunk_bytes_max in prop_oneof![Just(200_usize), Just(1024)],
        partition_bytes_max in prop_oneof![Just(600_u64), Just(3000), Just(1 << 30)],
        tail_ring_bytes in prop_oneof![Just(0_usize), Just(3000), Just(1 << 20)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { chunk_bytes_max, partition_bytes_max, tail_ring_bytes, ..small(dir.path()) };
        let (log, stream) = open(options.clone());
        let (events, units, starts) = runtime().block_on(async {
            let mut writer = Writer::begin(&log, stream).await;
            let mut starts = vec![(1, 0)];
            for (n, (lsn, plan)) in epochs.iter().enumerate() {
                if n > 0 {
                    let visible = writer.events.len();
                    writer.begin_unit(TIME, &bodies(n * 9, 30));
                    if n % 2 == 0 {
                        writer.settle().await;
                    }
                    writer.events.truncate(visible);
                    starts.push((raise(&mut writer, *lsn).await.first_offset.0, writer.units.len()));
                }
                for (count, step) in plan {
                    writer.unit(TIME + 10 * n as i64 + step, &bodies(*count, 40));
                }
                writer.settle().await;
            }
            (writer.events.clone(), writer.units.clone(), starts)
        });
        for reopened in [false, true] {
            let log = if reopened { open(options.clone()).0 } else { log.clone() };
            runtime().block_on(async {
                assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), events);
                let expected: Vec<u32> = events
                    .iter()
                    .map(|event| starts.iter().filter(|(first, _)| *first <= event.offset).count() as u32)
                    .collect();
                assert_eq!(epochs_of_events(&log, stream).await, expected);
                for event in events.iter().step_by(events.len() / 5 + 1) {
                    let seen = read_all(&log, stream, StartAt::Offset(Offset(event.offset))).await.unwrap();
                    assert_eq!(seen, events[event.offset as usize - 1..]);
                    assert_eq!(log.epoch_at(stream, Offset(event.offset)).0, expected[event.offset as usize - 1]);
                }
                let newest = &units[starts.last().unwrap().1..];
                for lsn in newest.iter().flat_map(|unit| [unit.end_lsn - 1, unit.end_lsn]).chain([0, 20_000]) {
                    let from = newest.iter().find(|unit| unit.end_lsn > lsn).map_or(events.len(), |unit| unit.first as usize - 1);
                    assert_eq!(read_all(&log, stream, StartAt::Lsn(Lsn(lsn))).await.unwrap(), events[from..]);
                }
                let mut highest = i64::MIN;
                for unit in &units {
                    if unit.time > highest {
                        highest = unit.time;
                        let seen = read_all(&log, stream, StartAt::Time(Timestamp(highest))).await.unwrap();
                        assert_eq!(seen, events[unit.first as usize - 1..]);
                    }
                }
            });
            if !reopened {
                log.close().unwrap();
            }
        }
    }
}
