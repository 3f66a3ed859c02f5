//! Crashes: a process that is killed in the middle of load, a torn write-ahead log, an interrupted removal.
//!
//! The story each time: what was reported as durable and visible is there afterwards, unchanged; what was not visible
//! is gone; nothing is there twice; and the log goes on from there.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use dbstreamd_log::{Appender, Log, LogOptions, Pump, StartAt, UnitHasher, UnitHead};
use dbstreamd_model::{Lsn, Offset, Op, StreamId, Timestamp};
use rust_rocksdb::{DB, Options};

use crate::support::*;

const CHILD_DIR: &str = "DBSTREAMD_LOG_CRASH_DIR";

fn options(dir: &Path) -> LogOptions {
    LogOptions { partition_bytes_max: 200_000, tail_ring_bytes: 0, ..small(dir) }
}

/// The event at an offset: so that a killed process can be checked, and followed by another, without a record.
fn body(offset: u64) -> Vec<u8> {
    format!("N{offset}").repeat(1 + (offset % 40) as usize).into_bytes()
}

/// A unit that starts at `first`: its length, mostly small and sometimes far larger than a chunk.
fn length(first: u64) -> u64 {
    if first.is_multiple_of(97) { 400 } else { 1 + first % 7 }
}

fn unit(appender: &mut Appender, first: u64, schema: dbstreamd_model::SchemaId) -> u64 {
    appender.begin_unit(UnitHead {
        commit_lsn: Lsn(first * 100),
        commit_time: Timestamp(TIME + first as i64),
        xid: first as u32,
    });
    let next = first + length(first);
    (first..next).for_each(|offset| appender.append(Op::Insert, Some(schema), &body(offset)));
    appender.end_unit(Lsn(next * 100 - 1));
    next
}

/// Not a test by itself: what the test below runs as another process, until it kills it.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let log = Log::open(options(Path::new(&dir))).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut appender = log.appender(stream).unwrap();
        let resume = appender.begin_session().await.unwrap();
        let schema = appender.schema(&schema("orders"), None);
        let mut next = resume.next_offset.0;
        let mut marks = log.watch(stream).unwrap();
        loop {
            for _ in 0..20 {
                next = unit(&mut appender, next, schema);
                appender.pump(Pump::IfIdle).unwrap();
            }
            if marks.has_changed().unwrap() {
                let marks = *marks.borrow_and_update();
                println!("visible {} {}", marks.visible.0, marks.confirmed_through.0);
            }
            appender.writer_idle().await;
        }
    });
}

/// Everything that must hold after a crash; returns the visible end.
fn check(log: &Log, stream: StreamId) -> u64 {
    let marks = log.watermarks(stream).unwrap();
    assert_eq!(marks.durable, marks.visible, "the invisible tail is gone");
    let seen = runtime().block_on(read_all(log, stream, StartAt::Earliest)).unwrap();
    assert_eq!(seen.len() as u64, marks.visible.0);
    let mut first = 1;
    for (n, event) in seen.iter().enumerate() {
        let offset = n as u64 + 1;
        if offset == first + length(first) {
            first = offset;
        }
        assert_eq!((event.offset, &event.body), (offset, &body(offset)));
        assert_eq!((u64::from(event.ordinal), event.last), (offset - first, offset + 1 == first + length(first)));
    }
    assert!(seen.last().is_none_or(|event| event.last), "the visible log ends with a whole unit");
    let appender = log.appender(stream).unwrap();
    let (mut units, mut first) = (appender.units_after(Lsn::ZERO), 1);
    while let Some(unit) = units.next().unwrap() {
        let mut hasher = UnitHasher::new();
        let fingerprint = schema("orders").fingerprint();
        (first..first + length(first)).for_each(|offset| hasher.event(Op::Insert, Some(fingerprint), &body(offset)));
        assert_eq!((unit.hash, u64::from(unit.events)), (hasher.finish(), length(first)));
        first += length(first);
    }
    assert_eq!(first, marks.visible.0 + 1);
    marks.visible.0
}

#[test]
fn a_process_killed_in_the_middle_of_load_loses_nothing_that_was_visible() {
    let dir = tempfile::tempdir().unwrap();
    let mut visible = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_appends_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = (0, 0);
        let mut note = |line: String| {
            // The test harness's own first line ends where ours begins.
            let numbers: Vec<u64> = line
                .split_once("visible ")
                .map(|(_, rest)| rest.split(' ').filter_map(|n| n.parse().ok()).collect())
                .unwrap_or_default();
            if let [visible, confirmed] = numbers[..] {
                told = (visible, confirmed);
            }
            told.0
        };
        while note(lines.next().expect("the child ended by itself").unwrap()) < visible + 2000 + round * 700 {}
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts as well; only a whole line can be read.
        lines.map_while(Result::ok).filter(|line| line.split(' ').count() == 3).for_each(|line| {
            note(line);
        });

        let log = Log::open(options(dir.path())).unwrap();
        let stream = log.stream_named("shop").unwrap();
        visible = check(&log, stream);
        assert!(visible >= told.0, "{visible} visible after {told:?} was reported");
        assert!(log.watermarks(stream).unwrap().confirmed_through.0 >= told.1);
        log.close().unwrap();
    }
}

#[test]
fn a_copy_taken_while_the_log_is_open_and_torn_at_its_end_is_a_whole_beginning_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(options(dir.path())).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut appender = log.appender(stream).unwrap();
        appender.begin_session().await.unwrap();
        let schema = appender.schema(&schema("orders"), None);
        let mut next = 1;
        for _ in 0..300 {
            next = unit(&mut appender, next, schema);
            appender.pump(Pump::Now).unwrap();
            within(appender.writer_idle()).await;
        }
    });
    let visible = log.watermarks(stream).unwrap().visible.0;
    let mut shortest = visible;
    for torn in [0, 1, 7, 100, 1000, 4000, 20_000, 60_000] {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let files = std::fs::read_dir(copy.path().join("log")).unwrap().map(|file| file.unwrap().path());
        let wal = files.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap();
        let length = wal.metadata().unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(length.saturating_sub(torn)).unwrap();
        let log = Log::open(options(copy.path())).unwrap();
        let found = log.stream_named("shop").map_or(0, |stream| check(&log, stream));
        assert!(found <= shortest, "a shorter file holds no more");
        assert!(torn > 0 || found == visible, "what was reported is there");
        shortest = found;
        log.close().unwrap();
    }
    assert!(shortest < visible);
}

#[test]
fn a_removal_that_was_interrupted_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogOptions { partition_bytes_max: 3000, ..options(dir.path()) }).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let events = runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for n in 0..60 {
            writer.unit(TIME + n, &bodies(3, 100 + n as usize));
            writer.settle().await;
        }
        writer.events
    });
    log.close().unwrap();

    // As retention leaves it when the process dies between its two steps; and a partition without a record, as a
    // crash just after its creation leaves it.
    let path = dir.path().join("log");
    let families = DB::list_cf(&Options::default(), &path).unwrap();
    let mut db = DB::open_cf(&Options::default(), &path, &families).unwrap();
    let meta = db.cf_handle("meta").unwrap();
    let entry = db.get_cf(meta, [8, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap().unwrap();
    let first = u64::from_be_bytes(entry[1..9].try_into().unwrap());
    let trim = [&[1], (first - 1).to_be_bytes().as_slice(), &entry[9..25]].concat();
    let partition = [db.get_cf(meta, [7, 0, 0, 0, 1]).unwrap().unwrap()[..9].to_vec(), vec![1]].concat();
    db.put_cf(meta, [9, 0, 0, 0, 1], trim).unwrap();
    db.put_cf(meta, [7, 0, 0, 0, 1], partition).unwrap();
    db.delete_cf(meta, [8, 0, 0, 0, 1, 0, 0, 0, 1]).unwrap();
    db.create_cf("p-000000ff", &Options::default()).unwrap();
    drop(db);

    for _ in 0..2 {
        let log = Log::open(options(dir.path())).unwrap();
        assert_eq!(log.watermarks(stream).unwrap().trim_point, Offset(first - 1));
        let left = runtime().block_on(read_all(&log, stream, StartAt::Earliest)).unwrap();
        assert_eq!(left, events[first as usize - 1..]);
        log.close().unwrap();
        let now = DB::list_cf(&Options::default(), &path).unwrap();
        assert!(!now.contains(&"p-00000001".into()) && !now.contains(&"p-000000ff".into()), "{now:?}");
        assert_eq!(now.len(), families.len() - 1);
    }
}
