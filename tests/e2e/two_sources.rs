//! Several databases in one daemon.

use crate::support::workload::{self, SCHEMA};
use crate::support::{Daemon, cluster, database, eventually};

#[test]
fn two_databases_stream_side_by_side_and_do_not_mix() {
    let cluster = cluster();
    let east = database(&cluster, "east", SCHEMA);
    let west = database(&cluster, "west", SCHEMA);
    let daemon = Daemon::serving(&[&east, &west]);
    std::thread::scope(|scope| {
        scope.spawn(|| workload::write(&cluster, "east", 1, 1, 200));
        scope.spawn(|| workload::write(&cluster, "west", 1, 1, 100));
    });
    eventually("both streams are complete", || {
        let visible = |name: &str| daemon.streams().iter().find(|s| s["name"] == name)?["visible_offset"].as_u64();
        (visible("east")? == workload::events_of(200) && visible("west")? == workload::events_of(100)).then_some(())
    });
    workload::check(&daemon.everything("east"), 1, 200);
    workload::check(&daemon.everything("west"), 1, 100);
}

#[test]
fn one_broken_source_leaves_the_other_and_the_control_api_alone() {
    let cluster = cluster();
    let good = database(&cluster, "good", SCHEMA);
    let broken = cluster.url("missing");
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&[&good, &broken], &dir.path().join("data"));
    let reason = daemon.wait_failed();
    assert!(reason.contains("missing"), "{reason}");
    let good_streams = |at_least: u64| {
        let streams = daemon.streams();
        let stream = streams.iter().find(|s| s["name"] == "good")?;
        (stream["state"] == "STREAMING" && stream["visible_offset"].as_u64()? >= at_least).then_some(())
    };
    // What is written before its slot is made would be no part of the stream.
    eventually("the good stream began", || good_streams(0));
    workload::write(&cluster, "good", 1, 1, 20);
    eventually("the good stream goes on", || good_streams(workload::events_of(20)));
    assert_eq!(daemon.health()["status"], "FAILED");
    // Once its cause is gone, the broken one comes back by itself.
    cluster.create_database("missing").unwrap();
    cluster.psql("missing", "CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    daemon.wait_streaming();
}
