//! Who we are, and what the server says when it does not believe it.

use std::os::unix::fs::PermissionsExt;

use dbstreamd_source::postgres::{ConnectOptions, Connection, PgError, Secret, SessionKind};
use dbstreamd_throwaway::{Cluster, ThrowawayError};

use crate::{connect, login, options, refusal, server};

#[tokio::test]
async fn every_kind_of_login_works_without_encryption_except_a_password_in_clear() {
    for role in ["by_scram", "by_md5", "trusted"] {
        connect(&login(role, "sslmode=disable")).await.unwrap();
    }
    let in_clear = login("in_clear", "sslmode=disable");
    let error = refusal(&in_clear).await;
    assert!(matches!(error, PgError::CleartextRefused { .. }), "{error}");
    connect(&ConnectOptions { allow_cleartext_password: true, ..in_clear }).await.unwrap();
}

#[tokio::test]
async fn a_password_in_clear_is_fine_inside_tls() {
    let connection = connect(&login("in_clear", "sslmode=require")).await.unwrap();
    assert!(connection.is_encrypted());
}

#[tokio::test]
async fn a_unix_socket_works_and_is_never_encrypted() {
    let (server, directory) = (server(), server().socket_dir().display());
    let connection = connect(&options(&format!(
        "host={directory} port={} user=postgres password={} dbname=postgres sslmode=require",
        server.port(),
        server.password()
    )))
    .await
    .unwrap();
    assert!(!connection.is_encrypted());
}

#[tokio::test]
async fn a_wrong_password_is_named_as_such_and_waits_for_an_operator() {
    for role in ["by_scram", "by_md5"] {
        let wrong = ConnectOptions { password: Some(Secret::new("not-this-one")), ..login(role, "") };
        let error = refusal(&wrong).await;
        assert_eq!(error.sqlstate(), Some("28P01"), "{error}");
        assert!(!error.is_transient());
        assert!(error.to_string().contains("check user and password"), "{error}");
    }
}

#[tokio::test]
async fn a_missing_password_is_asked_for_and_the_password_file_gives_it() {
    let without = ConnectOptions { password: None, ..login("by_scram", "") };
    let error = refusal(&without).await;
    assert!(matches!(error, PgError::PasswordMissing { .. }), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgpass");
    std::fs::write(&file, format!("127.0.0.1:{}:*:by_scram:by_scram_pw\n", server().port())).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    connect(&ConnectOptions { passfile: Some(file), ..without }).await.unwrap();
}

#[tokio::test]
async fn what_the_server_refuses_is_told_with_what_to_do() {
    let port = server().port();
    let password = server().password();
    for (conninfo, state, remedy) in [
        (format!("host=127.0.0.1 port={port} user=by_scram password=by_scram_pw dbname=nowhere"), "3D000", "database"),
        (
            format!("host=127.0.0.1 port={port} user=locked_out password=locked_out_pw dbname=postgres"),
            "28000",
            "pg_hba.conf",
        ),
        (format!("host=127.0.0.1 port={port} user=trusted dbname=postgres options='-c nonsense=1'"), "42704", ""),
        (
            format!(
                "host={} port={port} user=ghost password={password} dbname=postgres",
                server().socket_dir().display()
            ),
            "28P01",
            "user",
        ),
    ] {
        let error = refusal(&options(&conninfo)).await;
        assert_eq!(error.sqlstate(), Some(state), "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
        assert!(!error.is_transient(), "{error}");
    }
}

#[tokio::test]
async fn a_way_to_log_in_that_we_do_not_have_is_named() {
    let cluster = match Cluster::builder().hba("host all by_gss 127.0.0.1/32 gss").start() {
        Ok(cluster) => cluster,
        Err(ThrowawayError::EndedAtStart { log, .. }) if log.contains("\"gss\": not supported by this build") => {
            eprintln!("left out: GSSAPI needs a server that was built with it");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    cluster.psql("postgres", "CREATE ROLE by_gss LOGIN").unwrap();
    let port = cluster.port();
    let error =
        refusal(&options(&format!("host=127.0.0.1 port={port} user=by_gss dbname=postgres sslmode=disable"))).await;
    assert!(matches!(error, PgError::AuthMethod { .. }), "{error}");
}

#[tokio::test]
async fn a_full_server_is_a_passing_fault() {
    let cluster = Cluster::builder()
        .setting("max_connections", "2")
        .setting("superuser_reserved_connections", "0")
        .setting("max_wal_senders", "0")
        .start()
        .unwrap();
    let options = options(&cluster.url("postgres"));
    let first = connect(&options).await.unwrap();
    let second = connect(&options).await.unwrap();
    let error = refusal(&options).await;
    assert_eq!(error.sqlstate(), Some("53300"), "{error}");
    assert!(error.is_transient());
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn text_output_is_pinned_whatever_the_role_and_database_prefer() {
    let cluster = Cluster::start().unwrap();
    for setting in [
        "TimeZone = 'Asia/Tokyo'",
        "DateStyle = 'German'",
        "IntervalStyle = 'iso_8601'",
        "bytea_output = 'escape'",
        "extra_float_digits = 0",
        "search_path = 'pg_catalog'",
        "client_encoding = 'LATIN1'",
        "statement_timeout = '1ms'",
    ] {
        cluster
            .psql("postgres", &format!("ALTER ROLE postgres SET {setting}; ALTER DATABASE postgres SET {setting}"))
            .unwrap();
    }
    for kind in [SessionKind::Ordinary, SessionKind::Replication] {
        let options = options(&format!("{}?options=-c%20datestyle%3Dsql", cluster.url("postgres")));
        let mut connection = Connection::connect(&options, kind).await.unwrap();
        let sql = "SELECT '2024-01-31 12:00+00'::timestamptz, '1 day 2 hours'::interval, '\\x00ff'::bytea, 0.3::float4, 'pg_class'::regclass";
        let rows = connection.simple_query(sql).await.unwrap();
        let cells: Vec<_> = rows[0].iter().map(|cell| cell.as_deref().unwrap()).collect();
        assert_eq!(cells, ["2024-01-31 12:00:00+00", "1 day 02:00:00", "\\x00ff", "0.3", "pg_class"], "{kind:?}");
        assert_eq!(connection.parameter("TimeZone"), Some("UTC"));
        assert!(connection.server_version_num() >= 140_000);
    }
}

#[tokio::test]
async fn the_role_of_the_server_can_be_demanded() {
    for (wanted, fits) in
        [("any", true), ("read-write", true), ("primary", true), ("standby", false), ("read-only", false)]
    {
        let outcome = connect(&login("by_scram", &format!("target_session_attrs={wanted}"))).await;
        assert_eq!(outcome.is_ok(), fits, "{wanted}");
        if let Err(error) = outcome {
            assert!(matches!(error, PgError::WrongRole { .. }), "{error}");
        }
    }
}
