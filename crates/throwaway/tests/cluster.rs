//! A throwaway cluster against the PostgreSQL that is installed.

use rustix::process::{Pid, Signal};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dbstreamd_throwaway::{Cluster, ShutdownMode};

fn process_exists(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}/stat")).exists()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_cluster_answers_survives_restarts_on_its_port_and_leaves_nothing() {
    let cluster = Cluster::builder().setting("application_name", "it's").start().unwrap();
    let (port, data, pid) = (cluster.port(), cluster.data_dir(), cluster.server_pid().unwrap());
    assert_eq!(cluster.psql("postgres", "SHOW wal_level; SHOW application_name").unwrap(), "logical\nthrowaway");
    cluster.create_database("shop \"1\"").unwrap();
    cluster.psql("shop \"1\"", "CREATE TABLE t (x int); INSERT INTO t VALUES (1)").unwrap();
    let refused = cluster.psql("postgres", "SELECT nonsense").unwrap_err().to_string();
    assert!(refused.contains("column \"nonsense\" does not exist"), "{refused}");

    for mode in [ShutdownMode::Smart, ShutdownMode::Fast, ShutdownMode::Immediate] {
        cluster.restart(mode).unwrap();
    }
    assert!(cluster.start_again().is_err());
    cluster.stop(ShutdownMode::Fast).unwrap();
    assert_eq!(cluster.server_pid(), None);
    cluster.start_again().unwrap();
    // Killed from outside, the way a machine loses power.
    let killed = Pid::from_raw(cluster.server_pid().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(killed, Signal::KILL).unwrap();
    wait_for("the killed server to end", || cluster.server_pid().is_none());
    cluster.start_again().unwrap();
    assert_eq!(cluster.psql("shop \"1\"", "SELECT x FROM t").unwrap(), "1");
    assert_eq!(cluster.port(), port);
    assert!(cluster.log_text().contains("database system is ready"));

    let last = cluster.server_pid().unwrap();
    drop(cluster);
    assert!(!process_exists(pid) && !process_exists(last));
    assert!(!data.parent().unwrap().exists(), "{} is still there", data.display());
}

#[test]
fn clusters_started_at_once_do_not_get_in_each_others_way() {
    let clusters: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(|| Cluster::start().unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let mut systems: Vec<_> = clusters
        .iter()
        .map(|cluster| cluster.psql("postgres", "SELECT system_identifier FROM pg_control_system()").unwrap())
        .collect();
    systems.sort();
    systems.dedup();
    assert_eq!(systems.len(), 3);
}

#[test]
fn passwords_and_certificates_are_asked_for_as_told() {
    let cluster = Cluster::builder().tls(true).hba("hostssl all all 127.0.0.1/32 scram-sha-256").start().unwrap();
    let ask = |url: String| {
        Command::new("psql")
            .args(["-XAtqc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &url])
            .output()
            .unwrap()
    };
    let trusted =
        format!("{}?sslmode=verify-full&sslrootcert={}", cluster.url("postgres"), cluster.ca_file().unwrap().display());
    assert_eq!(String::from_utf8_lossy(&ask(trusted).stdout).trim(), "t");
    let wrong = cluster.url("postgres").replace(cluster.password(), "wrong");
    assert!(String::from_utf8_lossy(&ask(wrong).stderr).contains("password authentication failed"));
    drop(cluster);

    let cluster = Cluster::builder().password_auth("md5").start().unwrap();
    assert!(
        cluster
            .psql("postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
            .unwrap()
            .starts_with("md5")
    );
}

#[test]
fn a_killed_process_leaves_neither_server_nor_folder() {
    // This very test binary, run again as the process that will be killed.
    const ROLE: &str = "THROWAWAY_TEST_VICTIM";
    if let Ok(report) = std::env::var(ROLE) {
        let cluster = Cluster::start().unwrap();
        let text = format!("{} {}\n", cluster.server_pid().unwrap(), cluster.data_dir().display());
        std::fs::write(format!("{report}.new"), text).unwrap();
        std::fs::rename(format!("{report}.new"), report).unwrap();
        std::thread::park();
    }
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_leaves_neither_server_nor_folder"])
        .env(ROLE, &report)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the victim's cluster", || report.exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let text = std::fs::read_to_string(&report).unwrap();
    let (pid, data) = text.trim().split_once(' ').unwrap();
    wait_for("the server to end", || !process_exists(pid.parse().unwrap()));
    wait_for("the folder to go", || !PathBuf::from(data).parent().unwrap().exists());
}

#[test]
fn a_folder_without_postgresql_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let error = Cluster::builder().bin_dir(folder.path()).start().unwrap_err().to_string();
    assert!(error.contains(folder.path().to_str().unwrap()) && error.contains("apt-get install postgresql"), "{error}");
}

#[test]
fn a_standby_streams_and_can_be_promoted_when_its_primary_is_gone() {
    let primary = Cluster::start().unwrap();
    primary.psql("postgres", "CREATE TABLE t (x int)").unwrap();
    let standby = primary.standby().unwrap();
    assert_ne!(standby.port(), primary.port());
    primary.psql("postgres", "INSERT INTO t VALUES (1)").unwrap();
    let count = || standby.psql("postgres", "SELECT count(*) FROM t").unwrap();
    wait_for("the row to arrive", || count() == "1");
    assert!(standby.psql("postgres", "INSERT INTO t VALUES (2)").is_err(), "it is read-only");
    drop(primary);
    standby.psql("postgres", "SELECT pg_promote()").unwrap();
    standby.psql("postgres", "INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(count(), "2");
}
