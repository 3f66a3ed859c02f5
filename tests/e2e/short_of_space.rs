//! A data volume that is nearly full holds the sources, and lets them go by itself.

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database, eventually, http};

#[test]
fn a_volume_that_is_nearly_full_holds_the_source_until_there_is_room_and_nothing_is_lost() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id bigserial PRIMARY KEY, note text)");
    let dir = tempfile::tempdir().unwrap();
    let volume = statvfs(dir.path()).unwrap();
    let available = volume.f_bavail * volume.f_frsize;
    // Other tests use the same volume: what they write meanwhile must not be what makes it nearly full.
    let others = (available / 4).min(3 << 30);
    let config = dir.path().join("dbstreamd.toml");
    std::fs::write(&config, format!("[log]\nfree_space_min = {}\n", available - others)).unwrap();
    let args = ["--config", config.to_str().unwrap(), "--source", &url].map(str::to_owned);
    let mut daemon = Daemon::start_with(&args, &dir.path().join("data"));
    daemon.wait_streaming();
    cluster.psql("shop", "INSERT INTO t (note) SELECT 'before' FROM generate_series(1, 10)").unwrap();
    wait_visible(&daemon, 10);

    let ballast = std::fs::File::create(dir.path().join("ballast")).unwrap();
    fallocate(&ballast, FallocateFlags::empty(), 0, others / 3 * 4).unwrap();
    let reason = daemon.wait_failed();
    assert!(reason.contains("MiB left") && reason.contains("log.retention_bytes"), "{reason}");
    assert_eq!(http::get(&daemon.http, "/health").unwrap().0, 503);
    cluster.psql("shop", "INSERT INTO t (note) SELECT 'meanwhile' FROM generate_series(1, 1000)").unwrap();
    // What is there can be read, and acknowledged.
    assert_eq!(daemon.tail(&["shop", "--consumer", "audit", "--until-caught-up"]).len(), 10);
    let received = daemon.streams()[0]["events_received"].as_u64();
    assert_eq!(received, Some(10), "nothing is read");

    drop(ballast);
    std::fs::remove_file(dir.path().join("ballast")).unwrap();
    eventually("the stream goes on", || (daemon.streams()[0]["state"] == "STREAMING").then_some(()));
    wait_visible(&daemon, 1010);
    assert_eq!(daemon.streams()[0]["reconnects"], 0, "the connection was kept");
    let (_, notices) = http::get(&daemon.http, "/v1/notices").unwrap();
    assert!(notices.contains("space_low") && notices.contains("space_back"), "{notices}");
    assert!(daemon.stop().success());
}
