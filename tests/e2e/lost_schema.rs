//! A schema record that is gone: its events are not served, not guessed at, and not dropped.

use std::path::Path;

use serde_json::json;

use crate::ordering::wait_visible;
use crate::support::daemon::run;
use crate::support::{Daemon, cluster, database};

/// Deletes a schema's record out of a data directory that nobody has open.
fn lose_schema(data: &Path, id: u8) {
    let path = data.join("log");
    let options = rust_rocksdb::Options::default();
    let families = rust_rocksdb::DB::list_cf(&options, &path).unwrap();
    let db = rust_rocksdb::DB::open_cf(&options, &path, families).unwrap();
    let meta = db.cf_handle("meta").unwrap();
    // docs/format.md: `05`, stream, schema.
    let key = [5, 0, 0, 0, 1, 0, 0, 0, id];
    assert!(db.get_cf(meta, key).unwrap().is_some(), "there is such a schema");
    db.delete_cf(meta, key).unwrap();
    db.flush_cf(meta).unwrap();
}

#[test]
fn a_lost_schema_that_the_source_still_has_comes_back_by_itself() {
    let cluster = cluster();
    let setup = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN small AS int CHECK (VALUE < 100);
                 CREATE TABLE other (id int PRIMARY KEY);
                 CREATE TABLE t (id small PRIMARY KEY, m mood[], v varchar(10), twice int GENERATED ALWAYS AS (2) STORED)";
    let url = database(&cluster, "shop", setup);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    cluster.psql("shop", "INSERT INTO other VALUES (1); INSERT INTO t (id, m, v) VALUES (1, '{ok,sad}', 'x')").unwrap();
    wait_visible(&daemon, 2);
    let (before, schemas) = (daemon.everything("shop"), daemon.schemas("shop"));
    assert!(daemon.stop().success());
    lose_schema(&data, 2);
    let daemon = Daemon::streaming(&url, &data);
    assert_eq!(daemon.everything("shop"), before);
    let restored = daemon.schemas("shop");
    assert_eq!((restored[1].fingerprint.clone(), restored[1].version), (schemas[1].fingerprint.clone(), 1));
    let notices = daemon.ask(&["notices", "--json"]).stdout;
    assert!(notices.contains("schema_restored"), "{notices}");
    assert_eq!(daemon.streams()[0]["parked"], json!([]));
}

#[test]
fn a_lost_schema_that_nobody_has_parks_its_readers_until_an_operator_skips_it() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    cluster.psql("shop", "INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b')").unwrap();
    wait_visible(&daemon, 2);
    assert!(daemon.stop().success());
    cluster.psql("shop", "ALTER TABLE t DROP v; ALTER TABLE t ADD n int; INSERT INTO t VALUES (3, 3)").unwrap();
    daemon = Daemon::streaming(&url, &data);
    wait_visible(&daemon, 3);
    assert!(daemon.stop().success());
    lose_schema(&data, 1);
    daemon = Daemon::streaming(&url, &data);

    let tail = ["tail", "shop", "--from", "earliest", "--until-caught-up", "--format", "json"];
    let parked = daemon.ask(&tail);
    assert!(!parked.status.success() && parked.stdout.is_empty(), "{}", parked.stdout);
    assert!(
        parked.error_line().contains("use schema version number 1, whose record is damaged or gone"),
        "{}",
        parked.stderr
    );
    let place = &daemon.streams()[0]["parked"][0];
    assert_eq!((&place["offset"], &place["reason"]), (&json!(1), &json!("SCHEMA_UNKNOWN")));
    assert!(daemon.ask(&["notices", "--json"]).stdout.contains("schema_unknown"));
    // What can be read is served, and the source is read on.
    let readable = daemon.tail(&["shop", "--from", "3", "--until-caught-up"]);
    assert_eq!(readable[0]["after"], json!({"id": "3", "n": "3"}));

    let beyond = daemon.ask(&["resume", "shop", "--skip-to", "5"]);
    assert!(beyond.error_line().contains("past the end"), "{}", beyond.stderr);
    let skip = daemon.ask(&["resume", "shop", "--skip-to", "3", "--why", "copied anew"]);
    assert!(skip.status.success(), "{}", skip.stderr);
    assert!(daemon.ask(&["notices", "--json"]).stdout.contains("events_skipped"));
    for _ in 0..2 {
        let lines = daemon.everything("shop");
        assert_eq!((lines.len(), &lines[0]["skipped"]["next_offset"]), (2, &json!(3)), "{lines:?}");
        assert!(lines[0]["skipped"]["note"].as_str().unwrap().ends_with(": copied anew"));
        assert_eq!(lines[1]["offset"], 3);
        // It is recorded, not remembered.
        assert!(daemon.stop().success());
        daemon = Daemon::streaming(&url, &data);
    }
    let nothing = daemon.ask(&["resume", "shop", "--skip-to", "2"]);
    assert!(nothing.error_line().contains("parked nowhere"), "{}", nothing.stderr);
    let help = run(&["resume", "--help"]);
    assert!(help.stdout.contains("--skip-to <OFFSET>"));
}
