//! What is wrong with the replication slot: one clear line, and nothing is lost or spliced.

use std::process::{Child, Stdio};

use dbstreamd_throwaway::Cluster;

use crate::epochs::Shop;
use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database, eventually};

const SLOT: &str = "dbstreamd_shop";

fn shop(cluster: &Cluster) -> String {
    database(cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)")
}

fn reason(url: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&[url], &dir.path().join("data"));
    daemon.wait_failed()
}

#[test]
fn a_slot_of_another_plugin() {
    let cluster = cluster();
    let url = shop(&cluster);
    cluster.psql("shop", &format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'test_decoding')")).unwrap();
    let reason = reason(&url);
    assert!(reason.contains(SLOT) && reason.contains("test_decoding") && reason.contains("pgoutput"), "{reason}");
}

#[test]
fn a_slot_of_another_database() {
    let cluster = cluster();
    let url = shop(&cluster);
    cluster.create_database("elsewhere").unwrap();
    cluster.psql("elsewhere", &format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")).unwrap();
    let reason = reason(&url);
    assert!(reason.contains(SLOT) && reason.contains("elsewhere"), "{reason}");
}

#[test]
fn a_physical_slot_of_that_name() {
    let cluster = cluster();
    let url = shop(&cluster);
    cluster.psql("shop", &format!("SELECT pg_create_physical_replication_slot('{SLOT}')")).unwrap();
    let reason = reason(&url);
    assert!(reason.contains(SLOT) && reason.contains("physical"), "{reason}");
}

#[test]
fn a_slot_held_by_somebody_else_names_the_pid_and_is_taken_once_it_is_free() {
    let cluster = cluster();
    let url = shop(&cluster);
    cluster
        .psql(
            "shop",
            &format!(
                "CREATE PUBLICATION {SLOT} FOR TABLE t; SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"
            ),
        )
        .unwrap();
    let mut holder = Receiver::start(&url, SLOT);
    let active = || {
        let pid = cluster.psql("shop", "SELECT active_pid FROM pg_replication_slots WHERE active").unwrap();
        (!pid.trim().is_empty()).then(|| pid.trim().to_owned())
    };
    let pid = eventually("the other client holds the slot", active);
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&[&url], &dir.path().join("data"));
    let reason = daemon.wait_failed();
    assert!(reason.contains(SLOT) && reason.contains(&pid), "{reason}");
    holder.stop();
    daemon.wait_streaming();
}

#[test]
fn with_on_gap_fail_a_slot_that_moved_on_without_us_stops_the_stream_and_nothing_is_spliced() {
    let shop = Shop::new("on_gap = \"fail\"");
    let mut daemon = shop.streaming();
    shop.insert(1, 1);
    wait_visible(&daemon, 1);
    assert!(daemon.stop().success());
    shop.insert(2, 2);
    // Somebody advances our slot: the second row is lost to us.
    let advance = format!("SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())");
    eventually("the slot is free", || shop.cluster.psql("shop", &advance).ok());
    let daemon = shop.start();
    let reason = daemon.wait_failed();
    assert!(reason.contains(SLOT) && reason.contains("lost"), "{reason}");
    shop.insert(3, 3);
    assert_eq!(
        daemon.everything("shop").len(),
        1,
        "what was there before the gap can still be read; nothing after it is"
    );
}

#[test]
fn a_slot_that_was_dropped_is_a_gap_too() {
    let cluster = cluster();
    let url = shop(&cluster);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    cluster.psql("shop", "INSERT INTO t VALUES (1)").unwrap();
    wait_visible(&daemon, 1);
    assert!(daemon.stop().success());
    eventually("the slot is dropped", || {
        cluster.psql("shop", &format!("SELECT pg_drop_replication_slot('{SLOT}')")).ok()
    });
    cluster.psql("shop", "INSERT INTO t VALUES (2)").unwrap();
    let daemon = Daemon::start(&[&url], &data);
    let reason = daemon.wait_failed();
    assert!(reason.contains(SLOT) && reason.contains("on_lost_slot"), "{reason}");
    let slots = cluster.psql("shop", "SELECT count(*) FROM pg_replication_slots").unwrap();
    assert_eq!(slots, "0", "no new one was made in its place");
    assert_eq!(daemon.everything("shop").len(), 1);
}

/// `pg_recvlogical` holding a slot.
struct Receiver(Option<Child>);

impl Receiver {
    fn start(url: &str, slot: &str) -> Self {
        let program = dbstreamd_throwaway::binary("pg_recvlogical").expect("PostgreSQL's client programs");
        let child = std::process::Command::new(program)
            .args(["--dbname", url, "--slot", slot, "--start", "--file", "/dev/null", "--no-loop"])
            .args(["--option", "proto_version=1", "--option", &format!("publication_names={slot}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pg_recvlogical runs");
        Self(Some(child))
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it can be waited for");
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop();
    }
}
