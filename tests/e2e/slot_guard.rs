//! What the server keeps for the slot is watched, and who makes it keep more is named.

use dbstreamd_throwaway::Cluster;
use serde_json::Value;

use crate::support::{Command, Daemon, database, eventually, http};
use std::path::Path;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

/// A configuration file with one source and these settings of its own.
fn config(url: &str, dir: &Path, settings: &str) -> String {
    let config = dir.join("dbstreamd.toml");
    let text = format!("[[source]]\nname = \"shop\"\nurl = \"{url}\"\nslot_check_interval = \"200ms\"\n{settings}\n");
    std::fs::write(&config, text).unwrap();
    config.to_str().unwrap().to_owned()
}

fn serving(cluster: &Cluster, dir: &Path) -> Daemon {
    let url = database(cluster, "shop", TABLE);
    let daemon = Daemon::start_with(&["--config".into(), config(&url, dir, "")], &dir.join("data"));
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
    let shown = Command::new(&["streams", "--server", &daemon.server_url()]).run().stdout;
    assert!(shown.contains("shop: slot dbstreamd_shop: ") && shown.contains("\"forgotten\""), "{shown}");
    let listed = Command::new(&["streams", "--format", "json", "--server", &daemon.server_url()]).run().stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let over_grpc = &listed["streams"][0]["slot_health"];
    assert_eq!((&over_grpc["wal_status"], &over_grpc["safe_bytes"]), (&"reserved".into(), &Value::Null), "{listed}");
    assert!(over_grpc["pinned_by"][0].as_str().is_some_and(|by| by.contains("\"forgotten\"")), "{listed}");
    assert!(over_grpc["retained_bytes"].as_u64() > Some(64 << 20), "{listed}");
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

/// What the insurance slot may keep in the next test, and what is written in all.
const CAP: u64 = 96 << 20;
const ROUNDS: u32 = 30;

#[test]
fn an_insurance_slot_keeps_what_the_cap_allows_and_no_more_and_changes_can_be_read_from_it_again() {
    let cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = database(&cluster, "shop", TABLE);
    let insured = format!("wal_insurance = \"{CAP}\"");
    let mut daemon =
        Daemon::start_with(&["--config".into(), config(&url, dir.path(), &insured)], &dir.path().join("data"));
    daemon.wait_streaming();
    let ask = |sql: &str| cluster.psql("shop", sql).unwrap().trim().to_owned();
    let kept = |slot: &str| -> u64 {
        let sql = format!(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        ask(&sql).parse().unwrap_or(u64::MAX)
    };
    eventually("the insurance slot exists", || slot(&daemon).filter(|slot| !slot["insurance"].is_null()));

    let mut sessions_most = 0;
    for round in 0..ROUNDS {
        ask(&format!("INSERT INTO t SELECT {round} * 1000 + g, repeat('x', 4000) FROM generate_series(1, 1000) g"));
        // A segment of 16 MiB each; the checkpoint records where decoding can start anew.
        ask("SELECT pg_switch_wal()");
        ask("CHECKPOINT");
        eventually("the insurance slot keeps no more than the cap", || {
            (kept("dbstreamd_shop_insurance") <= CAP).then_some(())
        });
        let sessions: u32 =
            ask("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dbstreamd%'").parse().unwrap();
        sessions_most = sessions.max(sessions_most);
        // It is in use for a moment each time it is moved on, but by no walsender.
        let streams =
            "SELECT count(*) FROM pg_replication_slots JOIN pg_stat_replication ON pid = active_pid WHERE slot_name =";
        assert_eq!(ask(&format!("{streams} 'dbstreamd_shop_insurance'")), "0", "somebody streams from it");
        eventually("the stream itself streams", || (ask(&format!("{streams} 'dbstreamd_shop'")) == "1").then_some(()));
    }
    // The stream itself, one look at a time, and for ten seconds after its first change the catalog.
    assert!(sessions_most <= 3, "{sessions_most} sessions");
    // More than the last segments: it is insurance, not a second slot at the end.
    let insurance = kept("dbstreamd_shop_insurance");
    assert!(insurance > CAP / 2 && insurance <= CAP, "{insurance}");
    assert!(kept("dbstreamd_shop") < CAP / 2, "the stream's own slot goes on as ever");
    let seen = eventually("it is in /v1/streams", || {
        slot(&daemon).filter(|slot| slot["insurance"]["retained_bytes"].as_u64() > Some(CAP / 2))
    });
    assert_eq!(seen["insurance"]["slot"], "dbstreamd_shop_insurance");
    let (_, metrics) = http::get(&daemon.http, "/metrics").unwrap();
    assert!(metrics.contains("dbstreamd_slot_insurance_retained_wal_bytes{stream=\"shop\"} "), "{metrics}");

    // Without the setting it is left, and reported.
    let check = |settings: &str| {
        let file = config(&url, dir.path(), settings);
        Command::new(&["check", "--config", &file]).run().stdout
    };
    assert!(check(&insured).contains("the insurance slot keeps "), "{}", check(&insured));
    let left = check("");
    assert!(left.contains("SELECT pg_drop_replication_slot('dbstreamd_shop_insurance')"), "{left}");

    // The data directory is lost: a new one begins where the insurance slot is, and has the newest changes again.
    daemon.kill();
    let file = config(&url, dir.path(), "slot = \"dbstreamd_shop_insurance\"");
    let again = Daemon::start_with(&["--config".into(), file], &dir.path().join("another"));
    again.wait_streaming();
    let newest = ((ROUNDS - 1) * 1000 + 1000).to_string();
    let events = eventually("the newest change is there", || {
        let events = again.everything("shop");
        events.last().is_some_and(|event| event["after"]["id"] == newest.as_str()).then_some(events)
    });
    assert!(events.len() >= 2000 && events.len() < ROUNDS as usize * 1000, "{} events", events.len());
}

#[test]
fn a_stream_whose_slot_was_dropped_goes_on_from_the_insurance_slot_without_a_gap() {
    let cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = database(&cluster, "shop", TABLE);
    let data = dir.path().join("data");
    let start = |settings: &str| {
        let daemon = Daemon::start_with(&["--config".into(), config(&url, dir.path(), settings)], &data);
        daemon.wait_streaming();
        daemon
    };
    let mut daemon = start("wal_insurance = \"1GB\"");
    eventually("the insurance slot exists", || slot(&daemon).filter(|slot| !slot["insurance"].is_null()));
    for id in 1..=50 {
        cluster.psql("shop", &format!("INSERT INTO t VALUES ({id})")).unwrap();
    }
    crate::ordering::wait_visible(&daemon, 50);
    daemon.stop();
    cluster.psql("shop", "SELECT pg_drop_replication_slot('dbstreamd_shop'); INSERT INTO t VALUES (51)").unwrap();

    // It is behind what the log has: everything is sent again, compared, and dropped; then comes what is new.
    let daemon = start("slot = \"dbstreamd_shop_insurance\"");
    crate::ordering::wait_visible(&daemon, 51);
    let events = daemon.everything("shop");
    let ids: Vec<_> = events.iter().map(|event| event["after"]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (1..=51).map(|id| id.to_string()).collect::<Vec<_>>());
    assert_eq!(daemon.streams()[0]["epoch"], 1, "continuity was not broken");
}
