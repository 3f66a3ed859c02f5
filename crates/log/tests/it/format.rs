//! The format on disk does not change by accident: a directory that version 1 wrote opens and reads for ever.

use std::path::Path;

use dbstreamd_log::{Log, LogOptions, Rewind, StartAt};
use dbstreamd_model::{Epoch, Lsn, Offset};

use crate::support::*;

/// What the fixture holds: two partitions, two schemas, whole units, one in pieces, one consumer.
async fn write(log: &Log, dir_is_new: bool) -> Vec<Seen> {
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let mut writer = Writer::begin(log, stream).await;
    writer.lsn = 0x16_B374_D848;
    for n in 0..12 {
        writer.unit(TIME + n, &bodies(n as usize % 4, 30 + n as usize));
        if dir_is_new && n % 3 == 2 {
            writer.settle().await;
        }
    }
    writer.unit(TIME + 20, &bodies(40, 60));
    writer.unit(TIME + 21, &bodies(2, 1));
    writer.appender.idle(Lsn(0x17_0000_0000), false);
    if dir_is_new {
        writer.settle().await;
        log.commit_offset(stream, &"audit".parse().unwrap(), Offset(17), Rewind::Refuse).await.unwrap();
    }
    writer.events
}

#[test]
fn the_golden_directory_of_version_1_opens_and_reads() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log-v1");
    let options = |dir: &Path| LogOptions { partition_bytes_max: 900, ..small(dir) };
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(options(dir.path())).unwrap();
        runtime().block_on(write(&log, true));
        log.close().unwrap();
        // RocksDB's diary and option files name the machine's paths and are not needed.
        for file in std::fs::read_dir(dir.path().join("log")).unwrap().map(|file| file.unwrap()) {
            let name = file.file_name().into_string().unwrap();
            if ["LOG", "OPTIONS", "LOCK", "IDENTITY"].iter().any(|other| name.starts_with(other)) {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
        std::fs::remove_file(dir.path().join("dbstreamd.pid")).unwrap();
        let _ = std::fs::remove_dir_all(&fixture);
        copy_dir(dir.path(), &fixture);
    }

    let dir = tempfile::tempdir().unwrap();
    copy_dir(&fixture, dir.path());
    let expected = {
        let scratch = tempfile::tempdir().unwrap();
        let log = Log::open(options(scratch.path())).unwrap();
        runtime().block_on(write(&log, false))
    };
    let log = Log::open(options(dir.path())).unwrap();
    let stream = log.stream_named("shop").unwrap();
    let marks = log.watermarks(stream).unwrap();
    assert_eq!((marks.visible, marks.confirmed_through), (Offset(60), Lsn(0x17_0000_0000)));
    assert_eq!(runtime().block_on(read_all(&log, stream, StartAt::Earliest)).unwrap(), expected);
    let consumer = &log.consumers(None)[0];
    assert_eq!((consumer.committed, consumer.epoch), (Offset(17), Some(Epoch::FIRST)), "which its record did not say");
    assert_eq!(log.schemas(stream).len(), 2);
    assert_eq!((marks.epoch, log.epochs(stream)), (Epoch::FIRST, Vec::new()), "a log from before there were epochs");
    log.close().unwrap();
}
