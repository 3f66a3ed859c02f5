//! Settings are changed while the daemon runs: they act, absurd ones are refused with their range, durable ones last.

use std::path::Path;

use dbstreamd_throwaway::Cluster;
use serde_json::Value;

use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database, eventually};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, body text)";

/// Rows whose text does not compress well.
fn fill(cluster: &Cluster, from: u32, to: u32) {
    let noise = "SELECT string_agg(md5(g::text || n::text), '') FROM generate_series(1, 30) n";
    let sql = format!("INSERT INTO t SELECT g, ({noise}) FROM generate_series({from}, {to}) g");
    cluster.psql("shop", &sql).unwrap();
}

fn start(url: &str, dir: &Path, log: &str) -> Daemon {
    let config = dir.join("dbstreamd.toml");
    let text = format!("[log]\n{log}\n[[source]]\nname = \"shop\"\nurl = \"{url}\"\n");
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start_with(&["--config".into(), config.to_str().unwrap().into()], &dir.join("data"));
    daemon.wait_streaming();
    daemon
}

fn setting(daemon: &Daemon, name: &str) -> Value {
    let all = daemon.ask_json(&["tune"]);
    all["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap().clone()
}

fn value_and_origin(daemon: &Daemon, name: &str) -> (String, String) {
    let setting = setting(daemon, name);
    let text = |key: &str| setting[key].as_str().unwrap().to_owned();
    (text("value"), text("origin"))
}

fn pair(value: &str, origin: &str) -> (String, String) {
    (value.to_owned(), origin.to_owned())
}

#[test]
fn tuned_retention_trims_and_a_tuned_filter_shows_more_without_a_restart() {
    let cluster = cluster();
    let url = database(&cluster, "shop", TABLE);
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(&url, dir.path(), "partition_bytes = \"256KiB\"");
    for part in 0..10 {
        fill(&cluster, part * 500 + 1, part * 500 + 500);
    }
    wait_visible(&daemon, 5000);
    let stream = || daemon.streams()[0].clone();
    assert_eq!(stream()["trim_point"], 1);
    let before = stream()["log_bytes"].as_u64().unwrap();
    assert!(before > 2 << 20, "{before} bytes are too few to see anything trimmed");
    daemon.ask_json(&["tune", "retention-bytes=1MiB"]);
    let after = stream();
    assert!(after["trim_point"].as_u64() > Some(1000) && after["log_bytes"].as_u64() < Some(3 << 19), "{after}");

    assert!(!daemon.stderr().contains("DEBUG"));
    daemon.ask_json(&["tune", "log-filter=debug"]);
    eventually("a line that was not written before", || {
        daemon.ask_json(&["tune"]);
        daemon.stderr().contains("DEBUG").then_some(())
    });
    daemon.ask_json(&["tune", "--reset", "log-filter"]);
    assert_eq!(value_and_origin(&daemon, "log-filter"), pair("info", "default"));
}

#[test]
fn a_window_that_is_shrunk_under_load_bounds_what_waits_for_the_disk() {
    let cluster = cluster();
    let url = database(&cluster, "shop", TABLE);
    let daemon = Daemon::serving(&[&url]);
    let (rows, limit) = (60_000_u32, f64::from(1 << 20));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..6).for_each(|part| fill(&cluster, part * 10_000 + 1, (part + 1) * 10_000)));
        wait_visible(&daemon, 1);
        daemon.ask_json(&["tune", "credit-window=1MiB", "group-commit-bytes=64KiB", "group-commit-delay=1ms"]);
        assert_eq!(daemon.metric("dbstreamd_credit_window_limit_bytes"), limit);
        let used = || daemon.metric("dbstreamd_credit_window_used_bytes");
        eventually("what was held beyond it has come back", || (used() <= limit).then_some(()));
        while daemon.streams()[0]["visible_offset"].as_u64() < Some(rows.into()) {
            assert!(used() <= limit, "the smaller window is never exceeded again");
        }
        writer.join().unwrap();
    });
    daemon.ask_json(&["tune", "credit-window=64MiB"]);
    fill(&cluster, rows + 1, rows + 10_000);
    wait_visible(&daemon, u64::from(rows) + 10_000);
    let ids: Vec<_> = daemon.everything("shop").iter().map(|event| event["after"]["id"].clone()).collect();
    let wanted: Vec<Value> = (1..=rows + 10_000).map(|id| id.to_string().into()).collect();
    assert!(ids == wanted, "every row once, in order");
    eventually("all credit comes back", || (daemon.metric("dbstreamd_credit_window_used_bytes") == 0.0).then_some(()));
}

#[test]
fn absurd_values_are_refused_with_the_range_and_change_nothing() {
    let cluster = cluster();
    let url = database(&cluster, "shop", TABLE);
    let daemon = Daemon::serving(&[&url]);
    let before = daemon.ask_json(&["tune"]);
    for (args, says) in [
        (&["group-commit-bytes=8MB", "credit-window=0"][..], "1MiB to 64GiB"),
        (&["group-commit-bytes=-1"], "4KiB to 256MiB"),
        (&["group-commit-delay=2s"], "0us to 1s"),
        (&["retention-age=0s"], "1s to 3650d, or off"),
        (&["retention-bytes=99999999999999999999"], "64KiB to 1024TiB, or off"),
        (&["log-filter=,,==,,"], "a level such as info"),
        (&["colour=blue"], "group-commit-bytes"),
        (&["retention-age=1d", "retention-age=2d"], "twice"),
        (&["--reset", "colour"], "group-commit-bytes"),
    ] {
        let refused = daemon.ask(&[&["tune", "--durable"], args].concat());
        assert_eq!(refused.status.code(), Some(1), "{args:?}: {}", refused.stdout);
        let line = refused.error_line();
        assert!(line.contains("nothing was changed") && line.contains(says), "{args:?}: {line}");
    }
    assert_eq!(daemon.ask_json(&["tune"]), before);
}

#[test]
fn durable_tuning_lasts_over_a_restart_over_the_configuration_and_the_rest_does_not() {
    let cluster = cluster();
    let url = database(&cluster, "shop", TABLE);
    let dir = tempfile::tempdir().unwrap();
    let restart = || start(&url, dir.path(), "group_commit_bytes = \"2MiB\"");
    let mut daemon = restart();
    assert_eq!(value_and_origin(&daemon, "group-commit-bytes"), pair("2MiB", "config"));
    assert_eq!(value_and_origin(&daemon, "retention-age"), pair("7d", "default"));
    daemon.ask_json(&["tune", "--durable", "group-commit-bytes=8MB", "retention-age=off", "credit-window=8MiB"]);
    daemon.ask_json(&["tune", "group-commit-delay=2ms", "max-hold-bytes=0", "disconnected-hold=90m"]);
    assert_eq!(value_and_origin(&daemon, "disconnected-hold"), pair("90m", "run-time"));
    assert_eq!(value_and_origin(&daemon, "group-commit-delay"), pair("2ms", "run-time"));
    daemon.kill();

    let mut daemon = restart();
    assert_eq!(value_and_origin(&daemon, "group-commit-bytes"), pair("8MB", "durable"));
    assert_eq!(value_and_origin(&daemon, "retention-age"), pair("off", "durable"));
    assert_eq!(value_and_origin(&daemon, "group-commit-delay"), pair("500us", "default"));
    assert_eq!(daemon.metric("dbstreamd_credit_window_limit_bytes"), f64::from(8 << 20));
    let shown = setting(&daemon, "group-commit-bytes");
    assert_eq!((&shown["configured"], &shown["stored"]), (&"2MiB".into(), &"8MB".into()));
    daemon.ask_json(&["tune", "--reset", "group-commit-bytes", "--reset", "retention-age"]);
    assert_eq!(value_and_origin(&daemon, "group-commit-bytes"), pair("2MiB", "config"));
    assert!(daemon.stop().success());

    let daemon = restart();
    assert_eq!(value_and_origin(&daemon, "group-commit-bytes"), pair("2MiB", "config"));
    assert_eq!(value_and_origin(&daemon, "retention-age"), pair("7d", "default"));
    assert_eq!(value_and_origin(&daemon, "credit-window"), pair("8MiB", "durable"));
    let table = daemon.ask(&["tune"]);
    assert!(table.status.success() && table.stdout.contains("credit-window"), "{}", table.stdout);
}
