//! A publication that is dropped while its stream runs: the stream ends by itself, before it confirms what is left out.

use std::path::Path;

use dbstreamd_throwaway::Cluster;

use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database, eventually, major_version};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";
const CREATE: &str = "CREATE PUBLICATION dbstreamd_shop FOR TABLE t";

/// A daemon that streams a database so prepared, has its one row, and looks at the publication so often.
fn streaming(cluster: &Cluster, dir: &Path, prepare: &str, slot_check_interval: &str) -> Daemon {
    let url = database(cluster, "shop", prepare);
    let config = dir.join("dbstreamd.toml");
    let text =
        format!("[[source]]\nname = \"shop\"\nurl = \"{url}\"\nslot_check_interval = \"{slot_check_interval}\"\n");
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start_with(&["--config".into(), config.display().to_string()], &dir.join("data"));
    daemon.wait_streaming();
    cluster.psql("shop", "INSERT INTO t VALUES (1)").unwrap();
    wait_visible(&daemon, 1);
    daemon
}

/// Waits until the stream has stopped for its publication, and says which and what to do.
fn wait_unpublished(daemon: &Daemon) {
    eventually("the stream is FAILED for its publication", || {
        let reason = daemon.wait_failed();
        let says = |part: &str| reason.contains(part);
        (says("\"dbstreamd_shop\"") && says("create the publication again")).then_some(())
    });
}

/// The notices of this kind and severity.
fn notices(daemon: &Daemon, severity: &str) -> Vec<String> {
    let all = daemon.ask(&["notices", "--json"]).stdout;
    let all = all.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let of = all.filter(|notice| notice["kind"] == "publication_changed" && notice["severity"] == severity);
    of.map(|notice| notice["text"].as_str().unwrap().to_owned()).collect()
}

fn confirmed(cluster: &Cluster) -> u64 {
    let sql = "SELECT pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::bigint FROM pg_replication_slots";
    cluster.psql("shop", sql).unwrap().trim().parse().unwrap()
}

fn ids(daemon: &Daemon) -> Vec<String> {
    let events = daemon.everything("shop");
    events.iter().map(|event| event["after"]["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_stream_without_changes_ends_when_its_publication_is_dropped_and_goes_on_when_it_is_back() {
    let cluster = cluster();
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&cluster, dir.path(), TABLE, "100ms");
    cluster.psql("shop", "DROP PUBLICATION dbstreamd_shop").unwrap();
    // Nothing is written and nobody cuts the connection: it is the daemon that looks.
    wait_unpublished(&daemon);
    let gone = eventually("a notice", || notices(&daemon, "error").first().cloned());
    assert!(gone.contains("the publication is gone") && gone.contains("create it again"), "{gone}");
    // WAL goes on, and nothing of it is confirmed; the guard's looks show that it would have had the time.
    let before = confirmed(&cluster);
    let looked = |daemon: &Daemon| daemon.streams()[0]["slot_health"]["retained_bytes"].as_u64();
    let kept = looked(&daemon);
    // No row of any table, which versions before 18 could not come over.
    cluster.psql("shop", "SELECT pg_switch_wal(); CREATE TABLE empty (id int)").unwrap();
    eventually("a look", || (looked(&daemon) > kept).then_some(()));
    assert_eq!(confirmed(&cluster), before);

    cluster.psql("shop", CREATE).unwrap();
    assert_eq!(daemon.ask_json(&["resume", "shop"])["stream"]["state"], "STREAMING");
    cluster.psql("shop", "INSERT INTO t VALUES (2)").unwrap();
    wait_visible(&daemon, 2);
    assert_eq!(ids(&daemon), ["1", "2"]);
    eventually("that it is another one is told", || {
        notices(&daemon, "warning").iter().any(|text| text.contains("dropped and created again")).then_some(())
    });
    assert_eq!(notices(&daemon, "error").len(), 1, "and nothing is said to be missing, as nothing is");
}

#[test]
fn a_change_that_the_server_leaves_out_ends_the_stream_before_it_is_confirmed_whenever_somebody_looks() {
    let cluster = cluster();
    let dir = tempfile::tempdir().unwrap();
    // Nobody looks after the session's beginning: what the server says between the changes is enough.
    let daemon = streaming(&cluster, dir.path(), TABLE, "1h");
    cluster.psql("shop", "DROP PUBLICATION dbstreamd_shop").unwrap();
    let before: u64 = cluster
        .psql("shop", "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    cluster.psql("shop", "INSERT INTO t VALUES (2)").unwrap();
    wait_unpublished(&daemon);
    assert!(confirmed(&cluster) <= before, "{} is behind {before}", confirmed(&cluster));

    cluster.psql("shop", CREATE).unwrap();
    if major_version(&cluster) < 18 {
        // The server never comes over the change without a publication: that is said, and nothing is lost unseen.
        let refused = |reason: &String| reason.contains("\"dbstreamd_shop\" does not exist [42704]");
        daemon.ask(&["resume", "shop"]);
        eventually("the server refuses", || Some(daemon.wait_failed()).filter(refused));
        assert!(confirmed(&cluster) <= before);
        assert_eq!(ids(&daemon), ["1"]);
        return;
    }
    assert_eq!(daemon.ask_json(&["resume", "shop"])["stream"]["state"], "STREAMING");
    cluster.psql("shop", "INSERT INTO t VALUES (3)").unwrap();
    wait_visible(&daemon, 2);
    assert_eq!(ids(&daemon), ["1", "3"]);
    let missing = eventually("what is missing is told", || {
        notices(&daemon, "error").into_iter().find(|text| text.contains("may be missing from the stream"))
    });
    assert!(missing.contains("\"dbstreamd_shop\"") && missing.contains("compare or reload"), "{missing}");
}

#[test]
fn a_server_that_is_told_to_say_nothing_still_says_what_it_leaves_out_of_a_publication_of_everything() {
    let cluster = cluster();
    let dir = tempfile::tempdir().unwrap();
    cluster.psql("postgres", "ALTER ROLE postgres SET client_min_messages = error").unwrap();
    let everything = format!("{TABLE}; CREATE PUBLICATION dbstreamd_shop FOR ALL TABLES");
    let daemon = streaming(&cluster, dir.path(), &everything, "1h");
    cluster.psql("shop", "DROP PUBLICATION dbstreamd_shop; INSERT INTO t VALUES (2)").unwrap();
    wait_unpublished(&daemon);
    assert_eq!(ids(&daemon), ["1"]);
}

#[test]
fn rows_written_between_a_drop_and_a_new_publication_that_nobody_saw_are_never_missing_in_silence() {
    let cluster = cluster();
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&cluster, dir.path(), TABLE, "1h");
    let between =
        format!("DROP PUBLICATION dbstreamd_shop; INSERT INTO t VALUES (2); {CREATE}; INSERT INTO t VALUES (3)");
    // As single transactions.
    for statement in between.split("; ") {
        cluster.psql("shop", statement).unwrap();
    }
    if major_version(&cluster) < 18 {
        let reason = daemon.wait_failed();
        assert!(reason.contains("\"dbstreamd_shop\" does not exist [42704]"), "{reason}");
        return;
    }
    wait_visible(&daemon, 2);
    assert_eq!(ids(&daemon), ["1", "3"]);
    let missing = eventually("what is missing is told", || notices(&daemon, "error").first().cloned());
    assert!(missing.contains("may be missing from the stream"), "{missing}");
}
