//! What is wrong with the server or the login: one clear line, exit 1 from `check`, FAILED from `serve`, API up.

use dbstreamd_throwaway::Cluster;

use crate::support::{Daemon, cluster, daemon::run, database};

/// Both `check` and `serve` name all of `words`.
fn refused(url: &str, words: &[&str]) {
    let check = run(&["check", "--source", url]);
    assert_eq!(check.status.code(), Some(1), "{}\n{}", check.stdout, check.stderr);
    let said = format!("{}{}", check.stdout, check.stderr);
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&[url], &dir.path().join("data"));
    let reason = daemon.wait_failed();
    for word in words {
        assert!(said.contains(word), "check does not say {word:?}: {said}");
        assert!(reason.contains(word), "serve does not say {word:?}: {reason}");
    }
    assert_eq!(reason.lines().count(), 1, "one line: {reason}");
    assert_eq!(daemon.health()["status"], "FAILED");
    assert!(!daemon.stderr().contains("hunter2") && !reason.contains("hunter2") && !said.contains("hunter2"));
}

#[test]
fn no_server_there() {
    let address = crate::support::daemon::free_address();
    refused(&format!("postgres://u:hunter2@{address}/shop"), &[&address]);
}

#[test]
fn wrong_password() {
    let cluster = cluster();
    cluster.create_database("shop").unwrap();
    let url = format!("postgres://postgres:hunter2@127.0.0.1:{}/shop", cluster.port());
    refused(&url, &["password", "postgres"]);
}

#[test]
fn database_missing() {
    let cluster = cluster();
    refused(&cluster.url("nowhere"), &["nowhere", "does not exist"]);
}

#[test]
fn wal_level_not_logical() {
    let cluster = Cluster::builder().setting("wal_level", "replica").start().unwrap();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    refused(&url, &["wal_level", "logical", "restart"]);
}

#[test]
fn no_replication_privilege() {
    let cluster = cluster();
    database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE plain LOGIN PASSWORD 'hunter2'");
    let url = format!("postgres://plain:hunter2@127.0.0.1:{}/shop", cluster.port());
    refused(&url, &["REPLICATION", "plain", "ALTER ROLE"]);
}

#[test]
fn no_slot_free() {
    let cluster = Cluster::builder().setting("max_replication_slots", "1").start().unwrap();
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE t (id int PRIMARY KEY); SELECT pg_create_physical_replication_slot('taken')",
    );
    refused(&url, &["max_replication_slots"]);
}

#[test]
fn a_pattern_that_matches_nothing() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("dbstreamd.toml");
    std::fs::write(&config, format!("[[source]]\nname = \"shop\"\nurl = \"{url}\"\ntables = [\"public.nothing\"]\n"))
        .unwrap();
    let config = config.to_str().unwrap();
    let check = run(&["check", "--config", config]);
    assert_eq!(check.status.code(), Some(1));
    assert!(format!("{}{}", check.stdout, check.stderr).contains("public.nothing"));
    let daemon = Daemon::start_with(&["--config".into(), config.into()], &dir.path().join("data"));
    assert!(daemon.wait_failed().contains("public.nothing"));
}

#[test]
fn a_publication_with_other_tables() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY);
        CREATE PUBLICATION dbstreamd_shop FOR TABLE t, other",
    );
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("dbstreamd.toml");
    std::fs::write(&config, format!("[[source]]\nname = \"shop\"\nurl = \"{url}\"\ntables = [\"public.t\"]\n"))
        .unwrap();
    let daemon = Daemon::start_with(&["--config".into(), config.to_str().unwrap().into()], &dir.path().join("data"));
    let reason = daemon.wait_failed();
    assert!(reason.contains("dbstreamd_shop") && reason.contains("public.other"), "{reason}");
}
