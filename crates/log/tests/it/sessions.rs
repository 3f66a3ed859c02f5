//! Sessions: what is not visible goes, what is visible stays; units of any size; what the source may forget.

use dbstreamd_log::{CreditWindow, Log, LogError, LogOptions, Pump, StartAt};
use dbstreamd_model::{Lsn, Offset, Op, StreamId};

use crate::support::*;

fn open(dir: &std::path::Path) -> (Log, StreamId) {
    let log = Log::open(LogOptions { partition_bytes_max: 3000, ..small(dir) }).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    (log, stream)
}

#[test]
fn a_huge_unit_is_stored_in_pieces_and_becomes_visible_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(2, 10));
        let huge = writer.begin_unit(TIME + 1, &bodies(500, 100));
        writer.settle().await;
        let marks = log.watermarks(stream).unwrap();
        assert_eq!(marks.visible, Offset(2));
        assert!(marks.durable > Offset(400), "most of it is on disk before its end is known");
        assert!(marks.appended >= marks.durable);
        assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap().len(), 2);

        writer.end_unit(huge);
        writer.unit(TIME + 2, &bodies(1, 10));
        writer.settle().await;
        assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), writer.events);
        let lsn = Lsn(writer.units[1].end_lsn - 1);
        assert_eq!(read_all(&log, stream, StartAt::Lsn(lsn)).await.unwrap(), writer.events[2..]);
        let unit = writer.appender.units_after(lsn).next().unwrap().unwrap();
        assert_eq!((unit.hash, unit.events), (writer.units[1].hash, 500));
    });
}

#[test]
fn a_unit_handed_over_for_its_credit_ends_properly_even_if_no_event_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    let window = CreditWindow::new(64 * 1024);
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for count in [1, 2, 5, 60] {
            writer.unit(TIME, &bodies(1, 5));
            let open = writer.begin_unit(TIME, &bodies(count, 50));
            writer.appender.add_credit(within(window.acquire(64 * 1024)).await);
            for _ in 0..2 {
                writer.appender.pump(Pump::All).unwrap();
                within(writer.appender.writer_idle()).await;
            }
            assert_eq!(window.used(), 0);
            let whole = writer.units.last().unwrap().first;
            assert_eq!(log.watermarks(stream).unwrap().visible, Offset(whole), "the open unit is not visible");
            writer.end_unit(open);
            writer.settle().await;
            assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), writer.events);
            let unit = writer.units.last().unwrap();
            let found = writer.appender.units_after(Lsn(unit.end_lsn - 1)).next().unwrap().unwrap();
            assert_eq!((found.hash, found.events as usize), (unit.hash, count));
        }
    });
}

#[test]
fn a_new_session_removes_the_invisible_tail_across_partitions_and_offsets_go_on_densely() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(5, 100));
        for round in 0..3 {
            let visible = writer.events.len();
            writer.begin_unit(TIME, &bodies(200 + round, 90));
            writer.settle().await;
            assert!(log.watermarks(stream).unwrap().durable > Offset(visible as u64 + 100));
            let resume = within(writer.appender.begin_session()).await.unwrap();
            assert_eq!(resume.next_offset, Offset(visible as u64 + 1));
            assert_eq!(resume.confirmed_through, Lsn(writer.lsn));
            assert_eq!(resume.visible_lsn, Lsn(writer.lsn));
            writer.events.truncate(visible);
            // The unit comes again, cut differently.
            writer.unit(TIME, &bodies(7, 30));
            writer.unit(TIME, &bodies(150, 80));
            writer.settle().await;
            assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), writer.events);
        }
    });
}

#[test]
fn reopening_removes_the_invisible_tail_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..6 {
        let (log, stream) = open(dir.path());
        assert_eq!(log.watermarks(stream).unwrap().durable, log.watermarks(stream).unwrap().visible);
        runtime().block_on(async {
            assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), expected);
            let mut writer = Writer::begin(&log, stream).await;
            writer.events.clone_from(&expected);
            writer.unit(TIME + round, &bodies(3, 200));
            expected.clone_from(&writer.events);
            writer.begin_unit(TIME, &bodies(300, 50));
            writer.settle().await;
        });
        log.close().unwrap();
    }
}

#[test]
fn units_without_events_and_idle_positions_take_no_offset_and_are_confirmed_once_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let mut confirmed = writer.appender.confirmed();
        assert_eq!(confirmed.borrow().get(), Lsn::ZERO);
        writer.unit(TIME, &[]);
        let empty = writer.lsn;
        within(confirmed.wait_for(|lsn| lsn.get() == Lsn(empty))).await.unwrap();
        writer.appender.idle(Lsn(5000), false);
        within(confirmed.wait_for(|lsn| lsn.get() == Lsn(5000))).await.unwrap();
        // Beside events that wait in the builder it goes with them, and not before.
        writer.lsn = 6000;
        writer.unit(TIME, &bodies(1, 1));
        writer.appender.idle(Lsn(7000), false);
        writer.settle().await;
        assert_eq!(confirmed.borrow().get(), Lsn(7000));
        let marks = log.watermarks(stream).unwrap();
        assert_eq!((marks.visible, marks.visible_lsn, marks.confirmed_through), (Offset(1), Lsn(6020), Lsn(7000)));
    });
    log.close().unwrap();
    let (log, stream) = open(dir.path());
    assert_eq!(log.watermarks(stream).unwrap().confirmed_through, Lsn(7000));
}

#[test]
fn idle_positions_cost_at_most_about_one_write_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let mut confirmed = writer.appender.confirmed();
        let (before, started) = (log.metrics().flushes.get(), std::time::Instant::now());
        for lsn in 1..20_000 {
            writer.appender.idle(Lsn(lsn), false);
        }
        within(confirmed.wait_for(|lsn| lsn.get() == Lsn(19_999))).await.unwrap();
        let writes = log.metrics().flushes.get() - before;
        assert!(writes <= started.elapsed().as_secs() + 1, "{writes} writes");
    });
}

#[test]
fn credit_comes_back_when_its_bytes_are_durable_or_turned_out_to_be_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    let window = CreditWindow::new(1 << 20);
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.appender.add_credit(window.acquire(40_000).await);
        writer.appender.pump(Pump::IfIdle).unwrap();
        assert_eq!(window.used(), 0, "nothing came of it");

        writer.appender.add_credit(window.acquire(100_000).await);
        writer.unit(TIME, &bodies(3, 100));
        let open = writer.begin_unit(TIME, &bodies(4, 200));
        writer.settle().await;
        assert!(window.used() > 0 && window.used() <= 2048, "{} bytes held for the open unit", window.used());
        writer.end_unit(open);
        writer.settle().await;
        assert_eq!(window.used(), 0);
        writer.appender.add_credit(window.acquire(100_000).await);
        writer.begin_unit(TIME, &bodies(4, 200));
        within(writer.appender.begin_session()).await.unwrap();
        assert_eq!(window.used(), 0);
    });
}

#[test]
fn a_stream_has_one_appender_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    let appender = log.appender(stream).unwrap();
    assert!(matches!(log.appender(stream), Err(LogError::AppenderTaken(name)) if name == "shop"));
    drop(appender);
    assert!(log.appender(stream).is_ok());
    assert!(matches!(log.appender(StreamId(99)), Err(LogError::UnknownStream(99))));
}

#[test]
fn schemas_keep_their_numbers_over_sessions_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    let (orders, items, notes) = (schema("orders"), schema("items"), schema("notes"));
    let ids = runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(1, 1));
        writer.settle().await;
        // Introduced, and the session ends before anything uses it.
        let unused = writer.appender.schema(&notes, None);
        assert_eq!(log.schemas(stream).len(), 2, "what is not durable is not shown");
        within(writer.appender.begin_session()).await.unwrap();
        assert_eq!(writer.appender.schema(&notes, None), unused);
        let ids = [&orders, &items, &notes].map(|schema| writer.appender.schema(schema, None));
        writer.unit(TIME, &bodies(1, 1));
        writer.settle().await;
        ids
    });
    log.close().unwrap();
    let (log, stream) = open(dir.path());
    let stored: Vec<_> = log.schemas(stream).into_iter().map(|stored| (stored.id, stored.schema)).collect();
    assert_eq!(stored, ids.into_iter().zip([orders.clone(), items, notes]).collect::<Vec<_>>());
    assert_eq!(log.schema(stream, orders.fingerprint()), Some(orders));
}

#[test]
fn calls_in_a_wrong_order_are_reported_and_nothing_of_them_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    runtime().block_on(async {
        let mut appender = log.appender(stream).unwrap();
        assert!(matches!(appender.pump(Pump::Now), Err(LogError::Misuse(_))), "no session yet");
        within(appender.begin_session()).await.unwrap();
        appender.append(Op::Message, None, b"no unit");
        assert!(matches!(appender.pump(Pump::Now), Err(LogError::Misuse(_))));
        within(appender.begin_session()).await.unwrap();
        assert!(appender.pump(Pump::Now).is_ok());
        assert_eq!(log.watermarks(stream).unwrap().durable, Offset::NONE);
    });
}

#[test]
fn chunks_of_a_source_that_is_behind_share_a_sync_and_need_nobody_to_ask_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = open(dir.path());
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        let (chunks, flushes) = (log.metrics().chunks.get(), log.metrics().flushes.get());
        for _ in 0..200 {
            writer.unit(TIME, &bodies(2, 500));
            writer.appender.pump(Pump::IfFull).unwrap();
        }
        // Whole chunks only; what is left in the making is not asked for.
        within(writer.appender.writer_idle()).await;
        let (chunks, flushes) = (log.metrics().chunks.get() - chunks, log.metrics().flushes.get() - flushes);
        assert!(chunks > 150, "{chunks} chunks");
        assert!(flushes < chunks / 4, "{flushes} syncs for {chunks} chunks");
        writer.settle().await;
        let marks = log.watermarks(stream).unwrap();
        assert_eq!((marks.visible, marks.durable), (Offset(400), Offset(400)));
    });
}
