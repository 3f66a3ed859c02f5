//! Daemons that record schema changes, and what they recorded.

use std::path::Path;

use dbstreamd_throwaway::Cluster;
use serde_json::Value;
use tempfile::TempDir;

use super::{Daemon, cluster, database, eventually};

/// A daemon of one source with `ddl_capture` and further lines of its `[[source]]`.
pub(crate) fn capturing(url: &str, more: &str, dir: &Path) -> Daemon {
    let config = dir.with_extension("toml");
    std::fs::write(&config, format!("[[source]]\nurl = \"{url}\"\nddl_capture = true\n{more}")).unwrap();
    let daemon = Daemon::start_with(&["--config".into(), config.display().to_string()], dir);
    daemon.wait_streaming();
    daemon
}

/// Runs SQL, and gives everything in the stream once all of it is there.
pub(crate) fn after(cluster: &Cluster, daemon: &Daemon, sql: &str) -> Vec<Value> {
    cluster.psql("shop", sql).unwrap();
    let mark = cluster.psql("shop", "SELECT pg_logical_emit_message(true, 'mark', gen_random_uuid()::text)").unwrap();
    let lsn = |text: &str| {
        let (high, low) = text.split_once('/').unwrap();
        u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
    };
    let mark = lsn(mark.trim());
    eventually("all of it is visible", || {
        let visible = daemon.streams()[0]["visible_lsn"].as_str().map(lsn)?;
        (visible >= mark).then_some(())
    });
    let mut events = daemon.everything("shop");
    events.retain(|event| event["prefix"] != "mark");
    events
}

/// The schema changes among events.
pub(crate) fn changes(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["op"] == "schema_change").map(|event| &event["schema_change"]).collect()
}

/// A daemon that captures `p`, a table of one partition `p1` for 0 to 9, through its root, and what `more` makes; the server
/// and the folder of its data, which must outlive it.
pub(crate) fn partitioned(more: &str) -> (Cluster, TempDir, Daemon) {
    let cluster = cluster();
    let table = "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)";
    let url = database(&cluster, "shop", &format!("{table}; {more}"));
    let dir = tempfile::tempdir().unwrap();
    let daemon = capturing(&url, "publish_via_partition_root = true\n", &dir.path().join("data"));
    (cluster, dir, daemon)
}
