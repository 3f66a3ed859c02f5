//! What comes out is what PostgreSQL holds: the text of values, what identifies a row, and what a publication can do.
//!
//! `make test-matrix` runs these modules on every supported version of PostgreSQL.

mod encodings;
mod identifiers;
mod large_values;
mod membership;
mod old_rows;
mod origins;
mod partitions;
mod publications;
mod session_settings;
mod text_forms;

use std::path::Path;

use dbstreamd_throwaway::Cluster;
use serde_json::Value;

use crate::ordering::wait_visible;
use crate::support::{Daemon, database, major_version};

/// Whether the server is too old for a test, which is then said.
fn older_than(cluster: &Cluster, major: u32, what: &str) -> bool {
    let found = major_version(cluster);
    if found < major {
        eprintln!("left out: {what} needs PostgreSQL {major}, and this is {found}");
    }
    found < major
}

/// Writes a configuration of one source, `shop`, with these settings of its own; gives the daemon's arguments.
fn configured(url: &str, dir: &Path, settings: &str) -> [String; 2] {
    let config = dir.join("dbstreamd.toml");
    let text = format!("[[source]]\nname = \"shop\"\nurl = \"{url}\"\nslot_check_interval = \"100ms\"\n{settings}\n");
    std::fs::write(&config, text).expect("a configuration");
    ["--config".to_owned(), config.display().to_string()]
}

/// A daemon on a folder of its own that streams `url` with these settings.
pub(crate) fn streaming(url: &str, dir: &Path, settings: &str) -> Daemon {
    let daemon = Daemon::start_with(&configured(url, dir, settings), &dir.join("data"));
    daemon.wait_streaming();
    daemon
}

/// All events of some work, which are `count`, in a database that is prepared before the daemon comes.
fn events_of(cluster: &Cluster, prepare: &str, settings: &str, work: &str, count: u64) -> Vec<Value> {
    let url = database(cluster, "shop", prepare);
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = streaming(&url, dir.path(), settings);
    cluster.psql("shop", work).expect("the work");
    wait_visible(&daemon, count);
    let events = daemon.everything("shop");
    assert_eq!(events.len() as u64, count, "{events:#?}");
    events
}

/// The rows that were inserted into a table, in order.
fn inserted<'a>(events: &'a [Value], table: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["op"] == "insert" && event["table"] == table).collect()
}

/// One field of every event, in order.
fn all<'a>(events: &'a [Value], field: &str) -> Vec<&'a str> {
    events.iter().map(|event| event[field].as_str().unwrap_or_default()).collect()
}

/// The texts of the notices of a kind, oldest first.
fn notices(daemon: &Daemon, kind: &str) -> Vec<String> {
    let answer = daemon.ask(&["notices", "--json"]);
    assert!(answer.status.success(), "{}", answer.stderr);
    let all: Vec<Value> = answer.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_kind = all.iter().filter(|notice| notice["kind"] == kind);
    of_kind.map(|notice| notice["text"].as_str().expect("a text").to_owned()).collect()
}
