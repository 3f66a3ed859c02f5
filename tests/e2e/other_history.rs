//! The server behind the URL is no longer the one whose changes are in the log: nothing is spliced, and a server that
//! really continues them is taken.

use dbstreamd_throwaway::{Cluster, ShutdownMode};

use crate::epochs::{Shop, has_ids};
use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database, eventually};

const SLOT: &str = "dbstreamd_shop";

fn shop(cluster: &Cluster) -> String {
    database(cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)")
}

fn insert(cluster: &Cluster, from: u32, to: u32) {
    cluster.psql("shop", &format!("INSERT INTO t SELECT generate_series({from}, {to})")).unwrap();
}

/// Starts the stopped server as a standby of nobody and promotes it: a new timeline that begins where its WAL ended.
fn promote(cluster: &Cluster) {
    std::fs::write(cluster.data_dir().join("standby.signal"), "").unwrap();
    cluster.start_again().unwrap();
    cluster.psql("shop", "SELECT pg_promote()").unwrap();
    eventually("the promotion", || (cluster.psql("shop", "SELECT pg_is_in_recovery()").unwrap() == "f").then_some(()));
}

#[test]
fn another_cluster_is_refused_before_anything_is_created_there() {
    let (first, second) = (cluster(), cluster());
    let url = shop(&first);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    insert(&first, 1, 10);
    wait_visible(&daemon, 10);
    assert!(daemon.stop().success());

    let daemon = Daemon::start(&[&shop(&second)], &data);
    let reason = daemon.wait_failed();
    assert!(reason.contains("another cluster") && reason.contains("system identifier"), "{reason}");
    assert!(reason.contains("pg_upgrade"), "it says what to do when this is meant: {reason}");
    let created = "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)";
    assert_eq!(second.psql("shop", created).unwrap(), "0");
    assert_eq!(daemon.everything("shop").len(), 10, "what the log has can still be read");
}

#[test]
fn a_promoted_standby_that_has_everything_is_followed() {
    let cluster = cluster();
    let url = shop(&cluster);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let daemon = Daemon::streaming(&url, &data);
    insert(&cluster, 1, 10);
    wait_visible(&daemon, 10);
    cluster.stop(ShutdownMode::Fast).unwrap();
    promote(&cluster);
    assert_eq!(cluster.psql("shop", "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)").unwrap(), "00000002");
    insert(&cluster, 11, 20);
    wait_visible(&daemon, 20);
    let ids: Vec<_> = daemon.everything("shop").iter().map(|event| event["after"]["id"].clone()).collect();
    assert_eq!(ids, (1..=20).map(|id| id.to_string()).collect::<Vec<_>>());
    drop(daemon);
    // The new timeline is now the log's own.
    let daemon = Daemon::start(&[&url], &data);
    insert(&cluster, 21, 21);
    wait_visible(&daemon, 21);
    assert_eq!(daemon.streams()[0]["epoch"], 1, "one history");
}

#[test]
fn with_on_gap_fail_a_promoted_standby_that_lacks_the_newest_changes_stops_the_stream_and_nothing_is_spliced() {
    let shop = Shop::new("on_gap = \"fail\"");
    let mut daemon = shop.streaming();
    shop.insert(1, 10);
    wait_visible(&daemon, 10);
    assert!(daemon.stop().success());
    let behind = shop.snapshot();
    let mut daemon = shop.streaming();
    shop.insert(11, 20);
    wait_visible(&daemon, 20);
    assert!(daemon.stop().success());
    shop.put_back(&behind);
    shop.promote();
    // Its WAL overtakes our position: neither its end nor the slot shows that it is another history.
    shop.insert(1000, 20_000);
    let slot = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
    assert_eq!(shop.sql(&slot), "1");
    let daemon = shop.start();
    let reason = daemon.wait_failed();
    assert!(reason.contains("timeline 2") && reason.contains("left timeline 1 at"), "{reason}");
    has_ids(&daemon, &[(1..=20).collect()]);
}
