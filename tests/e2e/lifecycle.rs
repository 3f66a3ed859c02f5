//! Streams are paused, resumed and drained while they run: nothing is lost, nothing comes twice, nobody is left waiting.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};

use dbstreamd_throwaway::{Cluster, ShutdownMode};
use serde_json::Value;

use crate::ordering::wait_visible;
use crate::support::workload::{self, SCHEMA};
use crate::support::{Command, Daemon, cluster, database, eventually, http};

fn state(daemon: &Daemon) -> String {
    daemon.streams()[0]["state"].as_str().unwrap().to_owned()
}

fn slot_is_read(cluster: &Cluster) -> bool {
    cluster.psql("shop", "SELECT active FROM pg_replication_slots").unwrap().trim() == "t"
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.trim().split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

/// The connection is closed; its server process needs a moment to notice.
fn until_unread(cluster: &Cluster) {
    eventually("the slot is no longer read", || (!slot_is_read(cluster)).then_some(()));
}

fn notices(daemon: &Daemon) -> Vec<Value> {
    let said = daemon.ask(&["notices", "--json"]);
    assert!(said.status.success(), "{}", said.stderr);
    said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(notices: &[Value]) -> Vec<&str> {
    notices.iter().map(|notice| notice["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_stream_that_is_paused_and_resumed_under_load_loses_and_doubles_nothing() {
    let cluster = cluster();
    let url = database(&cluster, "shop", SCHEMA);
    let daemon = Daemon::serving(&[&url]);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| workload::write(&cluster, "shop", 1, 1, 600));
        for round in 1..=3 {
            wait_visible(&daemon, round * 100);
            let answer = daemon.ask_json(&["pause", "shop", "--why", "a test"]);
            assert_eq!(answer["stream"]["state"], "PAUSED", "{answer}");
            assert!(answer["warning"].as_str().unwrap().contains("keeps its WAL"), "{answer}");
            until_unread(&cluster);
            let paused = daemon.streams()[0].clone();
            assert_eq!((&paused["durable_offset"], &paused["appended_offset"]), {
                let visible = &paused["visible_offset"];
                (visible, visible)
            });
            let note = paused["error"].as_str().unwrap();
            assert!(note.contains("paused by") && note.contains("a test"), "{note}");
            // Once more changes nothing.
            assert_eq!(daemon.ask_json(&["pause", "shop"])["stream"]["state"], "PAUSED");
            assert_eq!(daemon.streams()[0]["error"], paused["error"]);
            let (status, health) = http::get(&daemon.http, "/health").unwrap();
            assert!(status == 200 && health.contains("PAUSED"), "a paused stream is no failure: {health}");
            assert_eq!(daemon.metric("dbstreamd_stream_state{stream=\"shop\",state=\"PAUSED\"}"), 1.0);
            assert_eq!(daemon.metric("dbstreamd_stream_state{stream=\"shop\",state=\"STREAMING\"}"), 0.0);
            assert_eq!(daemon.streams()[0]["visible_offset"], paused["visible_offset"], "nothing comes any more");
            assert_eq!(daemon.ask_json(&["resume", "shop"])["stream"]["state"], "STREAMING");
        }
        writer.join().unwrap();
    });
    wait_visible(&daemon, workload::events_of(600));
    workload::check(&daemon.everything("shop"), 1, 600);
    let notices = notices(&daemon);
    let told: Vec<_> = kinds(&notices).into_iter().filter(|kind| kind.starts_with("stream_")).collect();
    let round = ["stream_paused", "stream_resumed", "stream_streaming"];
    assert_eq!(told, [&["stream_streaming"][..], &round, &round, &round].concat());
    let sequences: Vec<_> = notices.iter().map(|notice| notice["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    assert_eq!(daemon.metric("dbstreamd_notices_total{kind=\"stream_paused\",severity=\"warning\"}"), 3.0);
}

#[test]
fn a_durable_pause_outlasts_restarts_until_it_is_resumed_and_another_does_not() {
    let cluster = cluster();
    let url = database(&cluster, "shop", SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    assert_eq!(daemon.ask_json(&["pause", "shop"])["stream"]["state"], "PAUSED");
    assert!(daemon.stop().success(), "shutdown while paused is clean: {}", daemon.stderr());
    let mut daemon = Daemon::streaming(&url, &data);
    assert_eq!(daemon.ask_json(&["pause", "shop", "--durable", "--why", "moving"])["stream"]["state"], "PAUSED");
    workload::write(&cluster, "shop", 1, 1, 20);
    daemon.kill();
    let mut daemon = Daemon::start(&[&url], &data);
    eventually("it stays paused", || (state(&daemon) == "PAUSED").then_some(()));
    assert!(daemon.streams()[0]["error"].as_str().unwrap().contains("moving"));
    until_unread(&cluster);
    assert_eq!(daemon.ask_json(&["resume", "shop"])["stream"]["state"], "STREAMING");
    wait_visible(&daemon, workload::events_of(20));
    daemon.kill();
    let daemon = Daemon::streaming(&url, &data);
    workload::check(&daemon.everything("shop"), 1, 20);

    let unknown = daemon.ask(&["pause", "nope"]);
    assert!(unknown.status.code() == Some(1) && unknown.error_line().contains("shop"), "{}", unknown.stderr);
}

#[test]
fn a_drain_under_load_has_everything_the_source_had_and_then_stops() {
    let cluster = cluster();
    let url = database(&cluster, "shop", SCHEMA);
    let daemon = Daemon::serving(&[&url]);
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut next = 1;
            while !stop.load(Ordering::Acquire) {
                workload::write(&cluster, "shop", 1, next, 50);
                next += 50;
            }
            next - 1
        });
        wait_visible(&daemon, 300);
        let before = cluster.psql("shop", "SELECT pg_current_wal_flush_lsn(), count(*) FROM ledger").unwrap();
        let (end, rows) = before.trim().split_once('|').unwrap();
        let drained = daemon.ask_json(&["drain", "shop", "--timeout", "100s"]);
        assert_eq!(drained["stream"]["state"], "PAUSED");
        let at = |name: &str| lsn(drained[name].as_str().unwrap());
        assert!(at("target_lsn") >= lsn(end) && at("reached_lsn") >= at("target_lsn"), "{drained} after {before}");
        assert_eq!(drained["stream"]["confirmed_through_lsn"], drained["reached_lsn"]);
        until_unread(&cluster);
        let here = daemon.everything("shop").iter().filter(|event| event["table"] == "ledger").count();
        assert!(here >= rows.trim().parse().unwrap(), "{here} of {rows}");
        // Once more, while it is paused: what came since is taken in, and it is paused again.
        let again = daemon.ask_json(&["drain", "shop", "--timeout", "100s"]);
        assert!(lsn(again["reached_lsn"].as_str().unwrap()) > at("reached_lsn"), "{drained} then {again}");
        assert_eq!(state(&daemon), "PAUSED");
        stop.store(true, Ordering::Release);
        writer.join().unwrap()
    });
    assert_eq!(daemon.ask_json(&["resume", "shop"])["stream"]["state"], "STREAMING");
    wait_visible(&daemon, workload::events_of(written));
    workload::check(&daemon.everything("shop"), 1, written);

    // An idle source has nothing to wait for; one that is away cannot be asked, and the stream is left as it was.
    assert_eq!(daemon.ask_json(&["drain", "shop"])["stream"]["state"], "PAUSED");
    assert_eq!(daemon.ask_json(&["resume", "shop"])["stream"]["state"], "STREAMING");
    cluster.stop(ShutdownMode::Fast).unwrap();
    let away = daemon.ask(&["drain", "shop", "--timeout", "20s"]);
    assert!(away.status.code() == Some(1) && away.error_line().contains("cannot be asked"), "{}", away.stderr);
    assert_ne!(state(&daemon), "PAUSED");
    let absurd = daemon.ask(&["drain", "shop", "--timeout", "2h"]);
    assert!(absurd.status.code() == Some(1) && absurd.error_line().contains("3600000"), "{}", absurd.stderr);
}

#[test]
fn a_drain_that_is_out_of_time_says_how_far_it_got_and_leaves_the_stream_as_it_was() {
    let cluster = cluster();
    let url = database(&cluster, "shop", SCHEMA);
    let daemon = Daemon::serving(&[&url]);
    workload::write(&cluster, "shop", 1, 1, 10);
    wait_visible(&daemon, workload::events_of(10));
    // The server still answers, and its sender stands still: what is written now does not come.
    let sender = cluster.psql("shop", "SELECT active_pid FROM pg_replication_slots").unwrap();
    let sender = rustix::process::Pid::from_raw(sender.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(sender, rustix::process::Signal::STOP).unwrap();
    workload::write(&cluster, "shop", 1, 11, 10);
    let late = daemon.ask(&["drain", "shop", "--timeout", "1s"]);
    assert_eq!(late.status.code(), Some(1), "{}", late.stdout);
    for part in ["did not have everything up to", "within 1 s; it got to", "goes on as before", "--timeout"] {
        assert!(late.error_line().contains(part), "{part} is not in {}", late.error_line());
    }
    assert_eq!(state(&daemon), "STREAMING", "it was not paused");
    assert_eq!(daemon.streams()[0]["visible_offset"], workload::events_of(10));
    rustix::process::kill_process(sender, rustix::process::Signal::CONT).unwrap();
    assert_eq!(daemon.ask_json(&["drain", "shop", "--timeout", "100s"])["stream"]["state"], "PAUSED");
    workload::check(&daemon.everything("shop"), 1, 20);
}

#[test]
fn a_pause_while_the_slot_is_being_created_stops_at_once_and_a_resume_misses_nothing() {
    let cluster = cluster();
    let url = database(&cluster, "shop", SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        // A slot is not made before all transactions that are open in the cluster have ended.
        let blocker = "BEGIN; SELECT txid_current(); SELECT pg_sleep(200)";
        scope.spawn(|| cluster.psql("postgres", blocker).unwrap_err());
        let sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let pid = eventually("a transaction is open", || {
            cluster.psql("postgres", sleeping).ok().filter(|pid| !pid.is_empty())
        });
        let daemon = Daemon::start(&[&url], &dir.path().join("data"));
        let creating =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT lsn%create_logical_replication_slot%'";
        eventually("the slot is being created", || (cluster.psql("postgres", creating).unwrap() == "1").then_some(()));
        assert_eq!(state(&daemon), "SETUP");
        assert_eq!(daemon.ask_json(&["pause", "shop"])["stream"]["state"], "PAUSED");
        workload::write(&cluster, "shop", 1, 1, 10);
        assert_eq!(state(&daemon), "PAUSED");
        cluster.psql("postgres", &format!("SELECT pg_terminate_backend({pid})")).unwrap();
        daemon.ask(&["resume", "shop"]);
        daemon.wait_streaming();
        workload::write(&cluster, "shop", 2, 1, 10);
        // What was written before there was a slot need not be part of the stream; all that came after it is.
        let writer = |event: &Value| event["after"]["writer"] == "2";
        eventually("all that was written since", || {
            (daemon.everything("shop").iter().filter(|event| writer(event)).count() as u64 == workload::events_of(10))
                .then_some(())
        });
        assert_eq!(daemon.streams()[0]["epoch"], 1);
    });
}

#[test]
fn a_large_transaction_that_a_pause_cuts_is_nowhere_half_visible_and_comes_whole_later() {
    let rows = 400_000;
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE big (id int PRIMARY KEY, body text)");
    let daemon = Daemon::serving(&[&url]);
    let sql = format!("INSERT INTO big SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, {rows}) g");
    cluster.psql("shop", &sql).unwrap();
    eventually("part of it is on disk, and nothing visible", || {
        let stream = &daemon.streams()[0];
        assert_eq!(stream["visible_offset"], 0, "it was too small to be caught in the middle");
        (stream["durable_offset"].as_u64() > Some(0)).then_some(())
    });
    assert_eq!(daemon.ask_json(&["pause", "shop"])["stream"]["state"], "PAUSED");
    let paused = daemon.streams()[0].clone();
    assert_eq!((&paused["visible_offset"], &paused["durable_offset"]), (&0.into(), &0.into()), "{paused}");
    assert_eq!(daemon.metric("dbstreamd_credit_window_used_bytes"), 0.0, "a paused stream holds no credit");
    assert_eq!(daemon.ask_json(&["resume", "shop"])["stream"]["state"], "STREAMING");
    wait_visible(&daemon, rows);
    let last = daemon.tail(&["shop", "--from", &rows.to_string(), "--until-caught-up"]);
    assert_eq!((last.len(), &last[0]["ordinal"]), (1, &(rows - 1).into()));
}

#[test]
fn a_failed_stream_that_is_resumed_tries_again_at_once_and_a_pause_ends_its_waiting() {
    let cluster = cluster();
    let url = database(&cluster, "shop", SCHEMA);
    let daemon = Daemon::serving(&[&url]);
    let cut = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    cluster.psql("shop", &format!("DROP PUBLICATION dbstreamd_shop; {cut}")).unwrap();
    let failed = || {
        let failed = daemon.wait_failed();
        failed.contains("publication").then_some(failed)
    };
    eventually("it fails since its publication is gone", failed);

    // Still broken: the answer is the reason.
    let again = daemon.ask(&["resume", "shop"]);
    assert!(again.status.code() == Some(1) && again.error_line().contains("publication"), "{}", again.stderr);
    assert_eq!(daemon.ask_json(&["pause", "shop"])["stream"]["state"], "PAUSED");
    cluster.psql("shop", "CREATE PUBLICATION dbstreamd_shop FOR TABLE ledger, counter").unwrap();
    // By itself it would stay paused, and before that have waited for many seconds.
    assert_eq!(daemon.ask_json(&["resume", "shop"])["stream"]["state"], "STREAMING");
    workload::write(&cluster, "shop", 1, 1, 20);
    wait_visible(&daemon, workload::events_of(20));
    workload::check(&daemon.everything("shop"), 1, 20);
    let notices = notices(&daemon);
    let failure = notices.iter().find(|notice| notice["kind"] == "stream_failed").unwrap();
    assert_eq!((&failure["stream"], &failure["severity"]), (&"shop".into(), &"warning".into()), "{failure}");
    assert!(daemon.stderr().contains("paused by"), "a notice is a log line too");
}

#[test]
fn notices_can_be_followed_and_a_position_in_them_holds_over_a_restart() {
    let cluster = cluster();
    let url = database(&cluster, "shop", SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    let mut follower = Command::new(&["notices", "--follow", "--json", "--server", &daemon.server_url()]).spawn();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["kind"], "stream_streaming");
    daemon.ask_json(&["pause", "shop"]);
    let paused = next();
    assert_eq!(paused["kind"], "stream_paused");
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert!(daemon.stop().success());
    let daemon = Daemon::streaming(&url, &data);
    let after = paused["sequence"].to_string();
    let (_, body) = http::get(&daemon.http, &format!("/v1/notices?after={after}")).unwrap();
    let listed: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(kinds(listed["notices"].as_array().unwrap()), ["stream_streaming"], "{listed}");
}
