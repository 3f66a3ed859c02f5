//! Values near the limits of what PostgreSQL can send.

use std::io::{BufRead, BufReader, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dbstreamd_throwaway::{Cluster, ShutdownMode};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{configured, notices, streaming};
use crate::ordering::wait_visible;
use crate::support::{Command, Daemon, cluster, database, eventually, unhex};

/// What the daemon may take for a row on its way from the socket to the disk and to a reader, in sizes of the row
/// (docs/operations.md, "Memory"), and for everything else.
const COPIES_MAX: u64 = 8;
const REST_MAX: u64 = 300 << 20;

/// Switches the test of a 600 MB value on: it takes minutes and some gigabytes.
const HUGE: &str = "DBSTREAMD_TEST_HUGE";

/// The SHA-256 of a bytea expression, by the server.
fn hash(cluster: &Cluster, sql: &str) -> Vec<u8> {
    unhex(&cluster.psql("shop", &format!("SELECT encode(sha256({sql}), 'hex')")).unwrap())
}

/// The one line that `tail` prints for an offset.
fn line(daemon: &Daemon, offset: u64) -> Vec<u8> {
    let (server, from) = (daemon.server_url(), offset.to_string());
    let args = ["tail", "shop", "--server", &server, "--format", "json", "--from", &from, "--limit", "1"];
    let mut child = Command::new(&args).spawn();
    let mut line = Vec::new();
    BufReader::new(child.stdout.take().unwrap()).read_until(b'\n', &mut line).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    line
}

/// The value of a string that follows `start` in a line; neither it nor the line is copied.
fn after<'a>(line: &'a [u8], start: &str) -> &'a [u8] {
    let at = line.windows(start.len()).position(|part| part == start.as_bytes()).expect("the value") + start.len();
    let end = line[at..].iter().position(|byte| *byte == b'"').expect("its end");
    &line[at..at + end]
}

#[test]
fn a_text_of_200_mb_arrives_whole_in_bounded_memory() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let daemon = Daemon::serving(&[&url]);
    // 200 MiB of digits that nothing can shrink to nothing.
    let sql = "INSERT INTO t SELECT 1, string_agg(md5(g::text), '') FROM generate_series(1, 6553600) g;
        INSERT INTO t VALUES (2, 'behind it')";
    cluster.psql("shop", sql).unwrap();
    wait_visible(&daemon, 2);
    let size = 200 << 20;
    let taken_in = daemon.peak_rss();
    let line = line(&daemon, 1);
    let value = after(&line, "\"v\":\"");
    assert_eq!(value.len(), size);
    let sent = hash(&cluster, "(SELECT convert_to(v, 'UTF8') FROM t WHERE id = 1)");
    assert_eq!(Sha256::digest(value).as_slice(), sent);
    let peak = daemon.peak_rss();
    eprintln!("peak RSS with a text of {} MiB: {} MiB, delivered {} MiB", size >> 20, taken_in >> 20, peak >> 20);
    assert!(peak < COPIES_MAX * size as u64 + REST_MAX, "peak RSS {} MiB", peak >> 20);
    assert_eq!(daemon.tail(&["shop", "--from", "2", "--until-caught-up"])[0]["after"]["v"], "behind it");
}

#[test]
fn values_in_binary_are_the_servers_and_changing_the_setting_is_no_other_history() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY, v text, b bytea)");
    let dir = tempfile::tempdir().unwrap();
    let mut events = Vec::new();
    // There and back: each time the server sends everything again, in the other form.
    for (round, binary) in [(1, false), (2, true), (3, true), (4, false)] {
        let daemon = streaming(&url, dir.path(), &format!("binary = {binary}"));
        cluster.psql("shop", &format!("INSERT INTO t VALUES ({round}, 'ü', '\\x00ff')")).unwrap();
        wait_visible(&daemon, round);
        events = daemon.everything("shop");
        if round > 1 {
            let again = daemon.metric("dbstreamd_stream_resent_transactions_total{stream=\"shop\"}");
            assert_eq!(again, (round - 1) as f64, "everything was sent again and recognised");
            assert_eq!(notices(&daemon, "value_form_changed").len(), usize::from(round != 3));
        }
        assert_eq!(daemon.streams()[0]["epoch"], 1);
        drop(daemon);
        cluster.restart(ShutdownMode::Immediate).unwrap();
    }
    let text = |round: u32| json!({"id": round.to_string(), "v": "ü", "b": "\\x00ff"});
    let binary = |id: &str| json!({"id": {"binary": id}, "v": {"binary": "w7w="}, "b": {"binary": "AP8="}});
    let rows: Vec<_> = events.iter().map(|event| event["after"].clone()).collect();
    assert_eq!(rows, [text(1), binary("AAAAAg=="), binary("AAAAAw=="), text(4)]);
}

#[test]
fn a_bytea_of_600_mb_stops_the_stream_with_the_remedy_and_arrives_whole_with_it() {
    if std::env::var_os(HUGE).is_none() {
        eprintln!("left out: set {HUGE}=1 to run it");
        return;
    }
    let cluster = Cluster::builder().setting("wal_sender_timeout", "600s").start().unwrap();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY, v bytea)");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = streaming(&url, dir.path(), "");
    // 600 MiB; the text of it would be 1200.
    let value = "convert_to(repeat('0123456789abcdefghijklmnopqrstuvwxyz', 600 * 1024 * 1024 / 36), 'UTF8')";
    let sql = format!(
        "INSERT INTO t VALUES (1, ''); INSERT INTO t VALUES (2, {value}); INSERT INTO t VALUES (3, 'behind it')"
    );
    cluster.psql("shop", &sql).unwrap();
    let error = daemon.wait_failed();
    assert!(error.contains("binary = true") && error.contains("too large to be sent as text"), "{error}");
    daemon.stop();
    let daemon = Daemon::start_with(&configured(&url, dir.path(), "binary = true"), &data);
    daemon.wait_streaming();
    eventually("all three rows are there", || (daemon.streams()[0]["visible_offset"] == 3).then_some(()));
    let taken_in = daemon.peak_rss();
    let line = line(&daemon, 2);
    let base64 = after(&line, "\"v\":{\"binary\":\"");
    let mut hasher = Sha256::new();
    // Whole groups of four digits at a time.
    base64.chunks(4 << 20).for_each(|part| hasher.update(BASE64.decode(part).unwrap()));
    assert_eq!(hasher.finalize().as_slice(), hash(&cluster, "(SELECT v FROM t WHERE id = 2)"));
    let (peak, digits) = (daemon.peak_rss(), base64.len());
    eprintln!("{digits} base64 digits; peak RSS {} MiB, delivered {} MiB", taken_in >> 20, peak >> 20);
    assert_eq!(daemon.streams()[0]["epoch"], 1);
}
