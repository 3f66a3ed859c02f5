//! Servers that cannot be used at all, and settings that will hurt later.

use dbstreamd_throwaway::Cluster;

use crate::database::{Database, STREAM, check, prepare, refused, says, warned};

#[test]
fn nobody_there_wrong_password_and_missing_database_are_one_line_each() {
    let database = Database::with("");
    let (host, port, password) = (Cluster::host(), database.cluster.port(), database.cluster.password());
    let closed = {
        let listener = std::net::TcpListener::bind((host, 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    for (url, words) in [
        (format!("postgres://postgres:x@{host}:{closed}/a"), ["cannot connect", "check that PostgreSQL runs there"]),
        (
            format!("postgres://postgres:wrong@{host}:{port}/{}", database.name),
            ["password authentication failed", "check user and password"],
        ),
        (
            format!("postgres://postgres:{password}@{host}:{port}/nowhere"),
            ["\"nowhere\" does not exist", "create the database"],
        ),
    ] {
        let settings = dbstreamd_source::postgres::SourceSettings::new(STREAM.parse().unwrap(), url.parse().unwrap());
        let line = refused(&settings, "connection");
        says(&line, &words);
        assert!(!line.contains(password), "{line:?} shows the password");
    }
}

#[test]
fn a_server_that_does_not_log_logical_changes_is_told_what_to_set() {
    let database =
        Database::on_own(Cluster::builder().setting("wal_level", "replica"), "CREATE TABLE t (id int PRIMARY KEY)");
    let settings = database.settings();
    says(&refused(&settings, "wal_level"), &["\"replica\"", "ALTER SYSTEM SET wal_level = logical", "restart"]);
    assert_eq!(database.sql("SELECT count(*) FROM pg_publication"), "0", "something was made before all was checked");
}

#[test]
fn several_problems_are_reported_together() {
    let database = Database::on_own(Cluster::builder().setting("wal_level", "replica"), "CREATE TABLE log (line text)");
    database.sql("CREATE ROLE app LOGIN PASSWORD 'secret'; SELECT pg_create_physical_replication_slot('slot_x')");
    let mut settings = database.settings_as("app");
    settings.slot = "slot_x".into();
    settings.tables.push("shop.*".parse().unwrap());
    let report = check(&settings);
    for code in ["wal_level", "replication_privilege", "pattern_matches_nothing", "slot_not_usable"] {
        crate::database::finding(&report, code);
    }
    assert_eq!(prepare(&settings).unwrap_err().code(), "wal_level");
}

#[test]
fn settings_that_will_hurt_are_warned_about() {
    let cluster = Cluster::builder()
        .setting("synchronous_standby_names", "FIRST 1 (dbstreamd, other)")
        .setting("synchronous_commit", "local");
    let database = Database::on_own(cluster, "CREATE TABLE t (id int PRIMARY KEY)");
    let mut settings = database.settings();
    settings.connect.application_name = "dbstreamd".into();
    let report = check(&settings);
    says(&warned(&report, "synchronous_standby"), &["dbstreamd", "application_name"]);
    says(&warned(&report, "max_slot_wal_keep_size"), &["-1", "ALTER SYSTEM"]);
    assert!(!report.has_errors());
    settings.connect.application_name = "another".into();
    assert!(!check(&settings).findings.iter().any(|finding| finding.code == "synchronous_standby"));
}

#[test]
fn a_replication_connection_that_pg_hba_refuses_is_found_by_check() {
    let cluster = Cluster::builder().hba("host replication all 127.0.0.1/32 reject");
    // A logical replication connection uses the database's line, so that this alone does no harm.
    let database = Database::on_own(cluster, "CREATE TABLE t (id int PRIMARY KEY)");
    assert!(!check(&database.settings()).has_errors());
    database.sql("CREATE ROLE far LOGIN REPLICATION PASSWORD 'secret'");
    let settings = database.settings_as("far:wrong");
    assert!(check(&settings).has_errors());
}
