//! A data directory that cannot be trusted: refused or reported by name, never served.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use dbstreamd_throwaway::Cluster;

use crate::ordering::wait_visible;
use crate::support::{Command, Daemon, Finished, cluster, daemon::run, database, eventually};

fn serve(dir: &Path) -> Finished {
    run(&[
        "serve",
        "--source",
        "postgres://127.0.0.1:1/d",
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--data-dir",
        dir.to_str().unwrap(),
    ])
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.split_whitespace().take(2).eq(["Uid:", "0"]))
}

#[test]
fn a_directory_that_belongs_to_somebody_else() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    if is_root() {
        chown(&data, Some(12_345), None).unwrap();
    } else {
        // Without root only a folder of root's own is at hand.
        fs::remove_dir(&data).unwrap();
        std::os::unix::fs::symlink("/root", &data).unwrap();
    }
    let done = serve(&data);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        done.error_line().contains(data.to_str().unwrap()) && done.error_line().contains("belongs to"),
        "{}",
        done.error_line()
    );
}

#[test]
fn a_directory_in_use_by_a_second_daemon() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let daemon = Daemon::serving(&[&url]);
    let done = serve(daemon.dir());
    assert_eq!(done.status.code(), Some(1));
    let line = done.error_line();
    assert!(line.contains(daemon.dir().to_str().unwrap()) && line.contains(&daemon.pid().to_string()), "{line}");
    // The first one does not mind.
    cluster.psql("shop", "INSERT INTO t VALUES (1)").unwrap();
    wait_visible(&daemon, 1);
}

/// What the one row of [`stopped_with_marker`] holds.
const MARKER: &str = "the-needle-in-the-chunk";

/// The source of a daemon that has stored one row with the marker in this directory and was stopped, and that daemon.
fn stopped_with_marker(cluster: &Cluster, data: &Path) -> (String, Daemon) {
    let url = database(cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY, body text)");
    let mut daemon = Daemon::streaming(&url, data);
    cluster.psql("shop", &format!("INSERT INTO t VALUES (1, '{MARKER}')")).unwrap();
    wait_visible(&daemon, 1);
    assert!(daemon.stop().success());
    (url, daemon)
}

#[test]
fn a_flipped_byte_in_a_chunk_is_detected_named_and_never_served() {
    let cluster = cluster();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (url, daemon) = stopped_with_marker(&cluster, &data);
    let flipped = flip_a_byte_behind(&data, MARKER.as_bytes(), |_| true);
    assert!(flipped > 0, "the marker is somewhere in the data directory");
    // RocksDB's own checksums may refuse to open, or ours refuse to serve: never a wrong value.
    let mut child = Command::new(&[
        "serve",
        "--source",
        &url,
        "--grpc",
        &daemon.grpc,
        "--http",
        &daemon.http,
        "--data-dir",
        data.to_str().unwrap(),
    ])
    .spawn();
    enum Outcome {
        Ended(Option<i32>),
        Serving,
    }
    let outcome = eventually("the daemon serves or refuses", || {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(Outcome::Ended(status.code()));
        }
        crate::support::http::get(&daemon.http, "/health").ok().map(|_| Outcome::Serving)
    });
    match outcome {
        Outcome::Ended(code) => {
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(code, Some(1), "{stderr}");
            assert!(stderr.to_lowercase().contains("corrupt") || stderr.contains("damaged"), "{stderr}");
        }
        Outcome::Serving => {
            let tail = run(&[
                "tail",
                "shop",
                "--server",
                &daemon.server_url(),
                "--from",
                "earliest",
                "--until-caught-up",
                "--format",
                "json",
            ]);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(tail.status.code(), Some(1), "a damaged chunk was served: {}", tail.stdout);
            assert!(
                tail.error_line().contains("damaged") || tail.error_line().contains("corrupt"),
                "{}",
                tail.error_line()
            );
            assert_eq!(tail.stdout, "");
        }
    }
}

#[test]
fn damage_that_is_found_is_a_notice_a_line_in_the_log_a_metric_and_no_longer_healthy() {
    let cluster = cluster();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (url, _) = stopped_with_marker(&cluster, &data);
    let table_file = |path: &Path| path.extension().is_some_and(|extension| extension == "sst");
    assert_eq!(flip_a_byte_behind(&data, MARKER.as_bytes(), table_file), 1);

    // The newest chunk is looked at when the log is opened; the stream itself goes on.
    let daemon = Daemon::streaming(&url, &data);
    let (_, notices) = crate::support::http::get(&daemon.http, "/v1/notices").unwrap();
    let notices: serde_json::Value = serde_json::from_str(&notices).unwrap();
    let found: Vec<_> =
        notices["notices"].as_array().unwrap().iter().filter(|notice| notice["kind"] == "damage_found").collect();
    assert_eq!((found.len(), &found[0]["stream"], &found[0]["severity"]), (1, &"shop".into(), &"error".into()));
    assert_eq!(daemon.metric("dbstreamd_notices_total{kind=\"damage_found\",severity=\"error\"}"), 1.0);
    let said = daemon.stderr();
    let line = said.lines().find(|line| line.contains("damage_found")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("ERROR") && line.contains("shop"), "{line}");
    let (status, health) = crate::support::http::get(&daemon.http, "/health").unwrap();
    assert!(status == 503 && health.contains("damaged"), "{status} {health}");
    cluster.psql("shop", "INSERT INTO t VALUES (2, 'behind it')").unwrap();
    wait_visible(&daemon, 2);
    assert_eq!(daemon.tail(&["shop", "--from", "2", "--until-caught-up"]).len(), 1);
}

/// Changes the byte before every occurrence of `needle` in every file below `dir` that is `wanted`; gives how many.
fn flip_a_byte_behind(dir: &Path, needle: &[u8], wanted: impl Fn(&Path) -> bool + Copy) -> usize {
    let mut flipped = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            flipped += flip_a_byte_behind(&path, needle, wanted);
            continue;
        }
        if !wanted(&path) {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        let places: Vec<usize> =
            bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle).map(|(at, _)| at).collect();
        for at in &places {
            bytes[*at] ^= 0x20;
        }
        if !places.is_empty() {
            fs::write(&path, bytes).unwrap();
            flipped += places.len();
        }
    }
    flipped
}
