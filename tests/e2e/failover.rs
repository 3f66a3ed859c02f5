//! Failover to a real standby: a base backup that streams from the primary until that is gone, is promoted, and is found
//! under the same address. It has no logical slot (PostgreSQL 17 and later can copy it): nothing is spliced.

use dbstreamd_throwaway::{Cluster, ShutdownMode};

use crate::epochs::{SLOT, Shop, consumer_is_held, epochs, has_ids};
use crate::ordering::wait_visible;
use crate::support::{Daemon, eventually, forwarder::Forwarder};

/// A shop behind an address that can follow a failover, its standby, and a daemon that streams.
fn replicated() -> (Shop, Forwarder, Cluster, Daemon) {
    let mut shop = Shop::new("");
    let address = Forwarder::to(shop.cluster.port());
    shop.url = shop.url.replace(&format!(":{}/", shop.cluster.port()), &format!(":{}/", address.port()));
    let standby = shop.cluster.standby().unwrap();
    let daemon = shop.streaming();
    shop.insert(1, 10);
    wait_visible(&daemon, 10);
    assert_eq!(daemon.tail(&["shop", "--consumer", "audit", "--until-caught-up"]).len(), 10);
    (shop, address, standby, daemon)
}

/// The standby has all that the primary has.
fn standby_has_all(shop: &Shop, standby: &Cluster) {
    let end = shop.sql("SELECT pg_current_wal_flush_lsn()");
    let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    eventually("the standby has it all", || (standby.psql("shop", &sql).unwrap() == "t").then_some(()));
}

/// The primary is gone, the standby is promoted, and the address leads to it.
fn fail_over(shop: &mut Shop, address: &Forwarder, standby: Cluster) {
    shop.cluster.stop(ShutdownMode::Immediate).unwrap();
    shop.cluster = standby;
    shop.sql("SELECT pg_promote()");
    address.point_to(shop.cluster.port());
}

/// Waits for the reason that names all of `parts`; before it come those of the failover itself.
fn stops_with(daemon: &Daemon, parts: &[&str]) -> String {
    let mut reason = String::new();
    eventually(&format!("it stops for {parts:?}"), || {
        let stream = &daemon.streams()[0];
        reason = stream["error"].as_str().unwrap_or_default().to_owned();
        (stream["state"] == "FAILED" && parts.iter().all(|part| reason.contains(part))).then_some(())
    });
    reason
}

/// The stream takes the slot that it may make there, under an epoch for this reason; `had` rows are of the old one.
fn goes_on_under_a_new_epoch(shop: &mut Shop, daemon: Daemon, reason: &str, had: u32) {
    drop(daemon);
    shop.settings = "on_lost_slot = \"recreate\"".into();
    let daemon = shop.streaming();
    shop.insert(30_000, 30_001);
    wait_visible(&daemon, u64::from(had) + 2);
    assert_eq!(epochs(&daemon, 1)[0]["reason"], reason);
    has_ids(&daemon, &[(1..=had).collect(), vec![30_000, 30_001]]);
    consumer_is_held(&daemon, u64::from(had) + 1, 2);
}

#[test]
fn a_streaming_standby_promoted_without_our_newest_changes_is_a_fork_and_never_spliced() {
    let (mut shop, address, standby, daemon) = replicated();
    standby_has_all(&shop, &standby);
    // Its stream ends, and the primary goes on for a while: asynchronous replication.
    standby.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    standby.psql("postgres", "SELECT pg_reload_conf()").unwrap();
    let receivers = || standby.psql("postgres", "SELECT count(*) FROM pg_stat_wal_receiver").unwrap();
    eventually("the standby receives no more", || (receivers() == "0").then_some(()));
    shop.insert(11, 20);
    wait_visible(&daemon, 20);
    assert_eq!(daemon.tail(&["shop", "--consumer", "audit", "--until-caught-up"]).len(), 10);
    fail_over(&mut shop, &address, standby);
    shop.insert(1001, 4000);

    // The daemon follows the address by itself, and finds another history.
    let slot = format!("no usable replication slot {SLOT}");
    stops_with(&daemon, &["timeline 2", "left timeline 1 at", &slot, "on_lost_slot"]);
    assert_eq!(shop.slot("count(*)"), "0", "nothing is created there");
    has_ids(&daemon, &[(1..=20).collect()]);
    goes_on_under_a_new_epoch(&mut shop, daemon, "other_timeline", 20);
}

#[test]
fn a_streaming_standby_promoted_with_all_our_changes_lacks_the_slot_alone_and_is_not_spliced_either() {
    let (mut shop, address, standby, daemon) = replicated();
    shop.insert(11, 20);
    wait_visible(&daemon, 20);
    assert_eq!(daemon.tail(&["shop", "--consumer", "audit", "--until-caught-up"]).len(), 10);
    standby_has_all(&shop, &standby);
    fail_over(&mut shop, &address, standby);
    // Without the slot nobody can say what came between: these rows are in the gap.
    shop.insert(1001, 1010);
    stops_with(&daemon, &[SLOT, "on_lost_slot"]);
    assert_eq!(shop.slot("count(*)"), "0", "nothing is created there");
    has_ids(&daemon, &[(1..=20).collect()]);
    goes_on_under_a_new_epoch(&mut shop, daemon, "slot_gone", 20);
}
