//! What the server keeps for the slot is watched, and who makes it keep more is named.

use dbstreamd_throwaway::Cluster;
use serde_json::Value;

use crate::support::{Daemon, database, eventually, http};

fn serving(cluster: &Cluster, dir: &std::path::Path) -> Daemon {
    let url = database(cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let config = dir.join("dbstreamd.toml");
    let text = format!("[[source]]\nname = \"shop\"\nurl = \"{url}\"\nslot_check_interval = \"200ms\"\n");
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start_with(&["--config".into(), config.to_str().unwrap().into()], &dir.join("data"));
    daemon.wait_streaming();
    daemon
}

fn slot(daemon: &Daemon) -> Option<Value> {
    daemon.streams().first().map(|stream| stream["slot_health"].clone()).filter(|slot| !slot.is_null())
}

#[test]
fn a_forgotten_prepared_transaction_that_pins_wal_is_named_until_it_is_gone() {
    let cluster = Cluster::builder().setting("max_prepared_transactions", "2").start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let daemon = serving(&cluster, dir.path());
    let healthy = eventually("a first look", || slot(&daemon));
    assert_eq!((&healthy["wal_status"], &healthy["pinned_by"]), (&"reserved".into(), &Value::Array(Vec::new())));

    cluster.psql("shop", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'forgotten'").unwrap();
    cluster.psql("shop", "CREATE TABLE junk AS SELECT repeat('x', 1000) FROM generate_series(1, 90000)").unwrap();
    let pinned = eventually("the culprit is named", || {
        slot(&daemon).filter(|slot| slot["pinned_by"].as_array().is_some_and(|by| !by.is_empty()))
    });
    let by = pinned["pinned_by"][0].as_str().unwrap();
    assert!(by.contains("\"forgotten\"") && by.contains("database shop"), "{by}");
    assert!(pinned["retained_bytes"].as_u64() > Some(64 << 20), "{pinned}");
    let (_, metrics) = http::get(&daemon.http, "/metrics").unwrap();
    assert!(metrics.contains("dbstreamd_slot_pinned{stream=\"shop\"} 1"), "{metrics}");
    assert!(metrics.contains("dbstreamd_slot_wal_status{stream=\"shop\",status=\"reserved\"} 1"), "{metrics}");
    eventually("a line in the log", || daemon.stderr().contains("forgotten").then_some(()));

    cluster.psql("shop", "ROLLBACK PREPARED 'forgotten'").unwrap();
    eventually("the slot is free of it", || {
        cluster.psql("shop", "CHECKPOINT").unwrap();
        slot(&daemon).filter(|slot| slot["pinned_by"].as_array().is_some_and(Vec::is_empty))
    });
}

#[test]
fn a_stopped_stream_is_watched_too() {
    let cluster = Cluster::builder().setting("max_slot_wal_keep_size", "2GB").start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let daemon = serving(&cluster, dir.path());
    // The stream cannot go on: its publication is gone. Its slot is still there, and WAL piles up behind it.
    cluster.psql("shop", "DROP PUBLICATION dbstreamd_shop; INSERT INTO t VALUES (1)").unwrap();
    daemon.wait_failed();
    let before = eventually("a look", || slot(&daemon));
    cluster.psql("shop", "CREATE TABLE junk AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)").unwrap();
    let grown = before["retained_bytes"].as_u64().unwrap() + (15 << 20);
    let after =
        eventually("what is kept grows", || slot(&daemon).filter(|s| s["retained_bytes"].as_u64() > Some(grown)));
    assert!(after["safe_bytes"].as_u64() < before["safe_bytes"].as_u64(), "{before} then {after}");
}
