//! Readers see exactly what was appended, in order, from wherever they start, while it is being written or later.

use dbstreamd_log::{Log, LogError, LogOptions, Pump, READ_AHEAD_BYTES_MAX, Reader, StartAt};
use dbstreamd_model::{Lsn, Offset, Timestamp};
use proptest::prelude::*;

use crate::support::*;

#[derive(Debug, Clone)]
struct Plan {
    units: Vec<(Vec<usize>, i64)>,
    pumps: Vec<u8>,
    chunk_bytes_max: usize,
    tail_ring_bytes: usize,
    partition_bytes_max: u64,
}

fn plan() -> impl Strategy<Value = Plan> {
    let unit = (proptest::collection::vec(0..900_usize, 0..12), -3..10_i64);
    (
        proptest::collection::vec(unit, 1..60),
        proptest::collection::vec(0..3_u8, 60),
        prop_oneof![Just(200), Just(1024), Just(8192)],
        prop_oneof![Just(0), Just(32 * 1024), Just(1 << 20)],
        prop_oneof![Just(600_u64), Just(3000), Just(1 << 30)],
    )
        .prop_map(|(units, pumps, chunk_bytes_max, tail_ring_bytes, partition_bytes_max)| Plan {
            units,
            pumps,
            chunk_bytes_max,
            tail_ring_bytes,
            partition_bytes_max,
        })
}

async fn write(writer: &mut Writer, plan: &Plan) {
    let mut time = TIME;
    for ((lengths, step), pump) in plan.units.iter().zip(plan.pumps.iter().cycle()) {
        time += step;
        let bodies: Vec<_> = lengths.iter().enumerate().map(|(n, length)| vec![b'a' + n as u8; *length]).collect();
        writer.unit(time, &bodies);
        match pump {
            0 => {}
            1 => writer.appender.pump(Pump::IfIdle).unwrap(),
            _ => writer.settle().await,
        }
    }
    writer.settle().await;
}

async fn check_every_start(log: &Log, stream: dbstreamd_model::StreamId, writer: &Writer) {
    let all = &writer.events;
    assert_eq!(&read_all(log, stream, StartAt::Earliest).await.unwrap(), all);
    assert_eq!(read_all(log, stream, StartAt::Latest).await.unwrap(), []);
    for start in (1..=all.len() + 1).step_by(all.len() / 9 + 1) {
        let seen = read_all(log, stream, StartAt::Offset(Offset(start as u64))).await.unwrap();
        assert_eq!(seen, all[start - 1..]);
    }
    let mut running_max = i64::MIN;
    for (n, unit) in writer.units.iter().enumerate().step_by(writer.units.len() / 9 + 1) {
        let from = |first: u64| &all[first as usize - 1..];
        let seen = read_all(log, stream, StartAt::Lsn(Lsn(unit.end_lsn - 1))).await.unwrap();
        assert_eq!(seen, from(unit.first));
        let seen = read_all(log, stream, StartAt::Lsn(Lsn(unit.end_lsn))).await.unwrap();
        assert_eq!(seen, writer.units.get(n + 1).map_or(&[][..], |next| from(next.first)));
        let reached = writer.units.iter().find(|other| other.time >= unit.time).unwrap();
        let seen = read_all(log, stream, StartAt::Time(Timestamp(unit.time))).await.unwrap();
        assert_eq!(seen, from(reached.first));
        running_max = running_max.max(unit.time);
    }
    let max = writer.units.iter().map(|unit| unit.time).max().unwrap_or(running_max);
    assert_eq!(read_all(log, stream, StartAt::Time(Timestamp(max + 1))).await.unwrap(), []);

    for after in [0, 1, 2] {
        let skipped = writer.units.len() * after / 2;
        let lsn = skipped.checked_sub(1).map_or(0, |last| writer.units[last].end_lsn);
        let mut cursor = writer.appender.units_after(Lsn(lsn));
        for unit in &writer.units[skipped..] {
            let found = cursor.next().unwrap().unwrap();
            let found = (found.end_lsn.0, found.hash, found.events as usize, found.commit_time.0);
            assert_eq!(found, (unit.end_lsn, unit.hash, unit.events, unit.time));
        }
        assert_eq!(cursor.next().unwrap(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn readers_see_exactly_what_was_appended_from_every_start_before_and_after_reopening(plan in plan()) {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions {
            chunk_bytes_max: plan.chunk_bytes_max,
            tail_ring_bytes: plan.tail_ring_bytes,
            partition_bytes_max: plan.partition_bytes_max,
            ..small(dir.path())
        };
        let log = Log::open(options.clone()).unwrap();
        let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
        runtime().block_on(async {
            let mut writer = Writer::begin(&log, stream).await;
            write(&mut writer, &plan).await;
            check_every_start(&log, stream, &writer).await;
            let (events, units) = (std::mem::take(&mut writer.events), std::mem::take(&mut writer.units));
            drop(writer);
            log.close().unwrap();

            let log = Log::open(options).unwrap();
            let mut writer = Writer::begin(&log, stream).await;
            (writer.events, writer.units) = (events, units);
            check_every_start(&log, stream, &writer).await;
            log.close().unwrap();
        });
    }
}

#[test]
fn a_reader_follows_live_what_another_task_appends() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { partition_bytes_max: 20_000, tail_ring_bytes: 8 * 1024, ..small(dir.path()) };
    let log = Log::open(options).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let units = 3000;
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
                tokio::spawn(async move { follow(&mut reader, Offset(units * 2)).await })
            })
            .collect();
        for n in 0..units as i64 {
            writer.unit(TIME + n, &bodies(2, 20 + n as usize % 50));
            writer.appender.pump(Pump::IfIdle).unwrap();
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        writer.settle().await;
        for reader in readers {
            assert_eq!(within(reader).await.unwrap().unwrap(), writer.events);
        }
    });
    log.close().unwrap();
}

#[test]
fn memory_and_disk_serve_the_same_and_memory_serves_first() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { tail_ring_bytes: 16 << 20, ..small(dir.path()) };
    let log = Log::open(options.clone()).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    // What nobody follows does not stay in memory.
    let follower = log.watch(stream).unwrap();
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for n in 0..200 {
            writer.unit(TIME, &bodies(n % 7, n / 2));
        }
        writer.settle().await;
        let from_memory = read_all(&log, stream, StartAt::Earliest).await.unwrap();
        assert_eq!(log.metrics().disk_chunks.get(), 0);
        assert!(log.metrics().ring_hits.get() > 0);
        drop((writer, follower));
        log.close().unwrap();

        let log = Log::open(options).unwrap();
        let from_disk = read_all(&log, stream, StartAt::Earliest).await.unwrap();
        assert_eq!(log.metrics().ring_hits.get(), 0);
        assert_eq!(from_disk, from_memory);
    });
}

#[test]
fn readers_at_the_tail_share_one_chunk_and_its_encoding() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut readers = [(); 2].map(|()| log.reader(stream, StartAt::Latest).unwrap());
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(3, 10));
        writer.settle().await;
        let [a, b] = &mut readers;
        let (a, b) = (within(a.next()).await.unwrap(), within(b.next()).await.unwrap());
        assert!(std::sync::Arc::ptr_eq(&a.chunk, &b.chunk));
    });
}

#[test]
fn readers_of_the_same_part_of_the_disk_share_what_one_of_them_has_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogOptions { tail_ring_bytes: 0, ..small(dir.path()) }).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for _ in 0..100 {
            writer.unit(TIME, &bodies(3, 5000));
            writer.settle().await;
        }
        let mut readers = [(); 8].map(|()| log.reader(stream, StartAt::Earliest).unwrap());
        // Each has the first chunk in hand before any of them goes on.
        let mut first = Vec::new();
        for reader in &mut readers {
            first.push(within(reader.next()).await.unwrap());
        }
        let read = log.metrics().disk_chunks.get();
        assert!(first.iter().all(|slice| std::sync::Arc::ptr_eq(&slice.chunk, &first[0].chunk)));
        let mut one = log.reader(stream, StartAt::Earliest).unwrap();
        assert!(std::sync::Arc::ptr_eq(&within(one.next()).await.unwrap().chunk, &first[0].chunk));
        assert_eq!(log.metrics().disk_chunks.get(), read, "it was read once for all of them");
        // What nobody has in hand is not kept.
        drop((first, readers, one));
        let mut later = log.reader(stream, StartAt::Earliest).unwrap();
        within(later.next()).await.unwrap();
        assert!(log.metrics().disk_chunks.get() > read);
        assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), writer.events);
    });
}

#[test]
fn whoever_takes_small_chunks_together_misses_none_of_them() {
    for tail_ring_bytes in [0, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(LogOptions { tail_ring_bytes, ..small(dir.path()) }).unwrap();
        let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
        runtime().block_on(async {
            let mut writer = Writer::begin(&log, stream).await;
            for n in 0..120 {
                writer.unit(TIME, &bodies(1 + n % 3, 20));
                writer.settle().await;
            }
            let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
            let mut seen: Vec<Seen> = Vec::new();
            let mut waits = 0;
            while seen.len() < writer.events.len() {
                let slice = within(reader.next()).await.unwrap();
                seen.extend(slice.events().map(Seen::from));
                waits += 1;
                let mut taken = 0;
                reader.take_following(|chunk| {
                    taken += 1;
                    // Refuses now and then; the refused one comes next.
                    let take = taken < 20;
                    if take {
                        seen.extend(chunk.events(0..chunk.len()).map(Seen::from));
                    }
                    take
                });
                if let Some(slice) = reader.following(slice.chunk.epoch()) {
                    seen.extend(slice.events().map(Seen::from));
                }
            }
            assert_eq!(seen, writer.events);
            assert!(waits < 30, "{waits} waits for 120 chunks");
        });
    }
}

#[test]
fn two_streams_are_read_apart_though_they_are_written_together() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogOptions { partition_bytes_max: 5000, tail_ring_bytes: 0, ..small(dir.path()) }).unwrap();
    let ids = ["shop", "bank"].map(|name| log.open_stream(&name.parse().unwrap()).unwrap());
    assert_eq!(log.streams().len(), 2);
    assert_eq!(log.open_stream(&"shop".parse().unwrap()).unwrap(), ids[0]);
    runtime().block_on(async {
        let mut a = Writer::begin(&log, ids[0]).await;
        let mut b = Writer::begin(&log, ids[1]).await;
        for n in 0..300 {
            a.unit(TIME + n, &bodies(1, 100));
            b.unit(TIME - n, &bodies(3, 10));
            a.appender.pump(Pump::Now).unwrap();
            b.appender.pump(Pump::Now).unwrap();
        }
        a.settle().await;
        b.settle().await;
        assert_eq!(read_all(&log, ids[0], StartAt::Earliest).await.unwrap(), a.events);
        assert_eq!(read_all(&log, ids[1], StartAt::Earliest).await.unwrap(), b.events);
        let all = log.stream_bytes(ids[0]);
        let half = log.bytes_between(ids[0], Offset(150), Offset(300));
        assert!(half > all / 3 && half < all * 2 / 3, "{half} of {all}");
        assert_eq!(log.bytes_between(ids[0], Offset(300), Offset(300)), 0);
    });
}

#[test]
fn a_start_past_the_end_is_refused_and_the_end_itself_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    assert!(log.reader(stream, StartAt::Offset(Offset(1))).is_ok());
    let error = log.reader(stream, StartAt::Offset(Offset(2))).unwrap_err();
    assert!(matches!(error, LogError::OffsetPastEnd { requested: Offset(2), end: Offset(1) }));
    assert_eq!(error.to_string(), "offset 2 is past the end of the stream: the next event will be offset 1");
}

#[test]
fn a_crowd_that_is_not_woken_by_every_commit_gets_every_event_the_last_one_too() {
    let (readers, units) = (1000, 60_u64);
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let stream = log.open_stream(&"crowd".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..readers {
            let mut reader = log.reader(stream, StartAt::Latest).unwrap();
            crowd.spawn(async move { follow(&mut reader, Offset(units)).await.unwrap().len() as u64 });
        }
        for time in 1..=units {
            writer.unit(TIME + time.cast_signed(), &bodies(1, 100));
            writer.settle().await;
        }
        while let Some(seen) = within(crowd.join_next()).await {
            assert_eq!(seen.unwrap(), units);
        }
    });
    log.close().unwrap();
}

#[test]
fn a_waiting_reader_learns_that_the_log_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
        let waiting = tokio::spawn(async move { reader.next().await.map(drop) });
        tokio::task::spawn_blocking(move || log.close()).await.unwrap().unwrap();
        assert!(matches!(within(waiting).await.unwrap(), Err(LogError::Closed)));
    });
}

#[test]
fn a_dropped_wait_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { tail_ring_bytes: 0, ..small(dir.path()) };
    let log = Log::open(options).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        (0..200).for_each(|n| writer.unit(TIME, &bodies(3, n)));
        writer.settle().await;
        let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
        let mut seen = Vec::new();
        while seen.len() < writer.events.len() {
            // Polled once and dropped, again and again: a read that was begun is not lost and not begun anew.
            tokio::select! {
                biased;
                slice = reader.next() => seen.extend(slice.unwrap().events().map(Seen::from)),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(seen, writer.events);
    });
}

#[test]
fn readers_of_the_disk_take_turns_when_memory_allows_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    // Less than one turn: there is always one.
    let options = LogOptions { tail_ring_bytes: 0, read_ahead_bytes: 1, ..small(dir.path()) };
    let log = Log::open(options).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        (0..400).for_each(|n| writer.unit(TIME, &bodies(3, n)));
        writer.settle().await;
        assert_eq!(log.memory().read_ahead, 0);

        // Who got something and does not come back keeps the turn, until it lets go.
        let mut first = log.reader(stream, StartAt::Earliest).unwrap();
        let slice = within(first.next()).await.unwrap();
        assert!(first.holds_read_ahead());
        assert_eq!(log.memory().read_ahead, READ_AHEAD_BYTES_MAX);
        let mut second = log.reader(stream, StartAt::Earliest).unwrap();
        let waits = tokio::time::timeout(std::time::Duration::from_millis(100), second.next()).await;
        assert!(waits.is_err(), "there is one turn, and it is taken");
        // A place in the line is given up as well: nobody asks for it any more when the turn comes.
        let mut third = log.reader(stream, StartAt::Earliest).unwrap();
        let waits = tokio::time::timeout(std::time::Duration::from_millis(100), third.next()).await;
        assert!(waits.is_err() && third.holds_read_ahead());
        second.let_go(Offset(1));
        drop(slice);
        first.let_go(Offset(1));
        within(third.next()).await.unwrap();
        third.let_go(Offset(1));
        assert!(!first.holds_read_ahead());
        within(second.next()).await.unwrap();
        second.let_go(Offset(1));

        // Both at once: neither starves, and each sees all of it.
        let last = writer.events.last().unwrap().offset;
        let all = |mut reader: Reader| async move { follow(&mut reader, Offset(last)).await };
        let (first, second) = tokio::join!(tokio::spawn(all(first)), tokio::spawn(all(second)));
        assert_eq!(first.unwrap().unwrap(), writer.events);
        assert_eq!(second.unwrap().unwrap(), writer.events);
        assert_eq!(log.memory().read_ahead, 0);
    });
}

/// A log in which a reader finds nothing in memory, and how many chunks one read from its disk brings.
async fn on_disk(dir: &std::path::Path, turns: usize) -> (Log, dbstreamd_model::StreamId, Writer) {
    let options = LogOptions { tail_ring_bytes: 0, read_ahead_bytes: turns * READ_AHEAD_BYTES_MAX, ..small(dir) };
    let log = Log::open(options).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let mut writer = Writer::begin(&log, stream).await;
    for _ in 0..100 {
        writer.unit(TIME, &bodies(3, 5000));
        writer.settle().await;
    }
    (log, stream, writer)
}

#[test]
fn while_what_was_read_is_delivered_the_next_is_read_and_not_the_one_after() {
    let (alone, crowded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    runtime().block_on(async {
        // The only turn is taken: somebody may be waiting for it, so there is no reading on.
        let (log, stream, _) = on_disk(crowded.path(), 1).await;
        let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
        within(reader.next()).await.unwrap();
        let one_read = log.metrics().disk_chunks.get();
        assert!((2..50).contains(&one_read), "{one_read} chunks in a read");
        for _ in 1..one_read {
            within(reader.next()).await.unwrap();
            assert_eq!(log.metrics().disk_chunks.get(), one_read);
        }

        let (log, stream, writer) = on_disk(alone.path(), 2).await;
        let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
        let mut seen: Vec<Seen> = within(reader.next()).await.unwrap().events().map(Seen::from).collect();
        // Nobody asks for it.
        let read_on = async {
            while log.metrics().disk_chunks.get() < 2 * one_read {
                tokio::task::yield_now().await;
            }
        };
        within(read_on).await;
        for _ in 1..one_read {
            seen.extend(within(reader.next()).await.unwrap().events().map(Seen::from));
            assert_eq!(log.metrics().disk_chunks.get(), 2 * one_read);
        }
        seen.extend(follow(&mut reader, Offset(writer.events.last().unwrap().offset)).await.unwrap());
        assert_eq!(seen, writer.events);
        reader.let_go(Offset(1));
        assert_eq!(log.memory().read_ahead, 0);
    });
}
