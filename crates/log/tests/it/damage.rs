//! Directories that are not as they should be: each is one clear error, and nothing damaged is ever served.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dbstreamd_log::{Log, LogError, LogOptions, StartAt};
use dbstreamd_model::{SchemaId, StreamId};

use crate::support::*;

/// A closed log with a few hundred events, all of them in table files.
fn written(dir: &Path) -> (StreamId, Vec<Seen>) {
    let log = Log::open(LogOptions { partition_bytes_max: 60_000, ..small(dir) }).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let events = runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        for n in 0..300_u128 {
            let body = format!("N{:x}{:x}", (n + 7).pow(12), (n + 3).pow(11)).into_bytes();
            writer.unit(TIME, &[body]);
            if n % 10 == 9 {
                writer.settle().await;
            }
        }
        writer.settle().await;
        writer.events
    });
    log.close().unwrap();
    (stream, events)
}

fn table_files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}

#[test]
fn a_flipped_byte_anywhere_in_the_table_files_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, events) = written(dir.path());
    let largest = table_files(dir.path()).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let original = std::fs::read(&largest).unwrap();
    let mut named = 0;
    for place in (0..original.len()).step_by(original.len() / 40) {
        let mut flipped = original.clone();
        flipped[place] ^= 0x10;
        std::fs::write(&largest, &flipped).unwrap();
        // A directory whose very index is damaged may refuse to open: with an error, not with less data.
        let Ok(log) = Log::open(small(dir.path())) else { continue };
        let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
        let mut seen = Vec::new();
        let end = runtime().block_on(async {
            loop {
                match within(reader.try_next()).await {
                    Ok(Some(slice)) => seen.extend(slice.events().map(Seen::from)),
                    Ok(None) => return None,
                    Err(error) => return Some(error),
                }
            }
        });
        assert_eq!(seen, events[..seen.len()], "byte {place}");
        match end {
            None => assert_eq!(seen.len(), events.len(), "byte {place}"),
            Some(LogError::Damaged { stream, first, last, partition: 1, .. }) => {
                assert_eq!((stream.as_str(), first.0), ("shop", seen.len() as u64 + 1));
                assert!(last >= first && last.0 <= events.len() as u64);
                named += 1;
                // Whoever asks how the log is learns of it too, and once however many run into it.
                runtime().block_on(read_all(&log, StreamId(1), StartAt::Offset(first))).unwrap_err();
                let kept = log.damage();
                let same = |kept: &LogError| matches!(kept, LogError::Damaged { last: end, .. } if *end == last);
                assert_eq!(kept.iter().filter(|kept| same(kept)).count(), 1, "{kept:?}");
                // What lies after the damage is readable.
                let after = StartAt::Offset(last.next());
                if last.0 < events.len() as u64 {
                    let rest = runtime().block_on(read_all(&log, StreamId(1), after));
                    assert_eq!(rest.unwrap(), events[last.0 as usize..]);
                }
            }
            Some(other) => panic!("byte {place}: {other}"),
        }
        log.close().unwrap();
        std::fs::write(&largest, &original).unwrap();
    }
    assert!(named > 20, "only {named} flips were found in chunks");
}

#[test]
fn damage_in_the_newest_chunk_is_reported_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, events) = written(dir.path());
    let largest = table_files(dir.path()).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    // The bodies of the newest chunk are stored as they are, or compressed; its magic comes last before the index.
    let newest = bytes.windows(3).rposition(|window| window == b"DC\x01").unwrap();
    bytes[newest + 100] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    assert!(matches!(log.damage().as_slice(), [LogError::Damaged { last, .. }] if last.0 == events.len() as u64));
    assert_eq!(log.watermarks(stream).unwrap().visible.0, events.len() as u64);
}

#[test]
fn a_directory_in_use_is_refused_with_the_other_process_id() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let error = Log::open(small(dir.path())).unwrap_err();
    assert!(matches!(error, LogError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains("locked by another dbstreamd (process "), "{error}");
    log.close().unwrap();
    Log::open(small(dir.path())).unwrap();
}

#[test]
fn a_dropped_log_gives_its_directory_free() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let reader = log.reader(stream, StartAt::Earliest).unwrap();
    let appender = log.appender(stream).unwrap();
    drop(log);
    Log::open(small(dir.path())).unwrap();
    drop((reader, appender));
}

#[test]
fn an_unknown_format_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let options = {
        let mut options = rust_rocksdb::Options::default();
        options.create_missing_column_families(true);
        options
    };
    let path = dir.path().join("log");
    let families = rust_rocksdb::DB::list_cf(&options, &path).unwrap();
    let mut db = rust_rocksdb::DB::open_cf(&options, &path, families).unwrap();
    let meta = db.cf_handle("meta").unwrap();
    db.put_cf(meta, [1], 77_u32.to_be_bytes()).unwrap();
    db.flush_cf(meta).unwrap();
    drop(db);
    let error = Log::open(small(dir.path())).unwrap_err();
    assert!(matches!(error, LogError::UnknownFormat { found: 77, known: 1, .. }), "{error}");

    db = rust_rocksdb::DB::open_cf(&options, &path, rust_rocksdb::DB::list_cf(&options, &path).unwrap()).unwrap();
    let meta = db.cf_handle("meta").unwrap();
    db.put_cf(meta, [1], 1_u32.to_be_bytes()).unwrap();
    db.create_cf("something-else", &options).unwrap();
    drop(db);
    assert!(matches!(Log::open(small(dir.path())).unwrap_err(), LogError::DamagedRecord { .. }));
}

#[test]
fn a_directory_of_another_user_or_without_permission_is_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let root = std::fs::metadata("/proc/self").map(|us| std::os::unix::fs::MetadataExt::uid(&us) == 0).unwrap();
    if root {
        // Only root can give a directory away.
        std::os::unix::fs::chown(&data, Some(1), None).unwrap();
        let error = Log::open(small(&data)).unwrap_err();
        assert!(matches!(&error, LogError::NotOwner { owner, us, .. } if owner == "daemon" && us == "root"), "{error}");
        assert!(error.to_string().contains("run dbstreamd as daemon"));
    } else {
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o500)).unwrap();
        assert!(matches!(Log::open(small(&data)).unwrap_err(), LogError::Io { .. }));
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// Changes the records of a log that is closed.
fn tamper(dir: &Path, change: impl FnOnce(&rust_rocksdb::DB, &rust_rocksdb::ColumnFamily)) {
    let path = dir.join("log");
    let options = rust_rocksdb::Options::default();
    let families = rust_rocksdb::DB::list_cf(&options, &path).unwrap();
    let db = rust_rocksdb::DB::open_cf(&options, &path, families).unwrap();
    let meta = db.cf_handle("meta").unwrap();
    change(&db, meta);
    db.flush_cf(meta).unwrap();
}

/// The key of a schema record of the first stream.
fn schema_key(id: u8) -> [u8; 9] {
    [5, 0, 0, 0, 1, 0, 0, 0, id]
}

#[test]
fn a_lost_or_damaged_schema_record_holds_back_its_events_until_the_right_schema_is_proven() {
    for (id, cut) in [(1, false), (2, false), (1, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (stream, events) = written(dir.path());
        tamper(dir.path(), |db, meta| {
            let record = db.get_cf(meta, schema_key(id)).unwrap().expect("two tables are written");
            if cut {
                db.put_cf(meta, schema_key(id), &record[..record.len() - 1]).unwrap();
            } else {
                db.delete_cf(meta, schema_key(id)).unwrap();
            }
        });
        let log = Log::open(small(dir.path())).unwrap();
        assert!(!log.has_schema(stream, SchemaId(id.into())));
        let tables = ["orders", "items", "other"].map(schema);
        let (right, wrong) = (tables[usize::from(id) - 1].clone(), tables[2].clone());
        runtime().block_on(async {
            let error = read_all(&log, stream, StartAt::Earliest).await.unwrap_err();
            let LogError::SchemaUnknown { schema, first, .. } = error else { panic!("{error}") };
            assert_eq!(schema, u32::from(id));
            assert!(!log.restore_schemas(stream, first, vec![(wrong, None)]).await.unwrap(), "nothing is guessed");
            assert!(log.restore_schemas(stream, first, vec![(tables[2].clone(), None), (right, None)]).await.unwrap());
            assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), events);
            // What comes next gets a number of its own.
            let mut writer = Writer::begin(&log, stream).await;
            let new = writer.appender.schema(&tables[2], None);
            assert_eq!(new.0, 3);
        });
        log.close().unwrap();
        let log = Log::open(small(dir.path())).unwrap();
        assert!(log.has_schema(stream, SchemaId(id.into())), "it is durable");
        assert_eq!(runtime().block_on(read_all(&log, stream, StartAt::Earliest)).unwrap(), events);
    }
}
