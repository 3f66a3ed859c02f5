//! Named consumers are kept until somebody deletes them.

use crate::ordering::wait_visible;
use crate::support::{Command, Daemon, cluster, daemon::run, database, eventually, http};

#[test]
fn a_consumer_that_left_can_be_deleted_for_good_and_a_connected_one_cannot() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Daemon::streaming(&url, &data);
    cluster.psql("shop", "INSERT INTO t SELECT generate_series(1, 10)").unwrap();
    wait_visible(&daemon, 10);
    let names = |daemon: &Daemon| http::get(&daemon.http, "/v1/consumers").unwrap().1;
    let delete = |daemon: &Daemon, name: &str| run(&["consumers", "delete", name, "--server", &daemon.server_url()]);

    assert_eq!(daemon.tail(&["shop", "--consumer", "audit", "--until-caught-up"]).len(), 10);
    let server = daemon.server_url();
    let mut live = Command::new(&["tail", "shop", "--consumer", "live", "--server", &server]).spawn();
    eventually("the live consumer is there", || names(&daemon).contains("\"live\"").then_some(()));
    let refused = delete(&daemon, "live");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.error_line().contains("is connected"), "{}", refused.error_line());
    live.kill().unwrap();
    live.wait().unwrap();

    let deleted = delete(&daemon, "audit");
    assert!(deleted.status.success() && deleted.stdout.contains("committed offset 10"), "{}", deleted.stdout);
    assert!(!names(&daemon).contains("\"audit\""));
    let missing = delete(&daemon, "audit");
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.error_line().contains("no consumer audit"), "{}", missing.error_line());
    assert!(daemon.stop().success());
    let daemon = Daemon::start(&[&url], &data);
    assert!(!names(&daemon).contains("\"audit\""), "it stays deleted over a restart");
    assert_eq!(
        daemon.tail(&["shop", "--consumer", "audit", "--from", "earliest", "--until-caught-up"]).len(),
        10,
        "the name is free for one that begins anew"
    );
}
