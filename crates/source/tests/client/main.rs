//! The replication client against real PostgreSQL servers, and against what is none.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // A test fails by panicking.

mod authentication;
mod encryption;
mod strangers;
mod streaming;

use std::sync::OnceLock;

use dbstreamd_source::postgres::{ConnectOptions, Connection, PgError, SessionKind};
use dbstreamd_throwaway::Cluster;

/// Options without the environment of whoever runs the tests, and without their password file.
fn options(conninfo: &str) -> ConnectOptions {
    ConnectOptions::parse_with(conninfo, |_| None).unwrap()
}

/// Connects and runs one query.
async fn connect(options: &ConnectOptions) -> Result<Connection, PgError> {
    let mut connection = Connection::connect(options, SessionKind::Ordinary).await?;
    let rows = connection.simple_query("SELECT 1, NULL, 'ä'").await?;
    assert_eq!(rows, [vec![Some("1".to_owned()), None, Some("ä".to_owned())]]);
    Ok(connection)
}

/// The error of connecting; that it does not show the password is checked on the way.
async fn refusal(options: &ConnectOptions) -> PgError {
    let error = match connect(options).await {
        Ok(_) => panic!("the connection succeeded: {}", options.display_safe()),
        Err(error) => error,
    };
    if let Some(password) = &options.password {
        let text = format!("{error} {error:?}");
        assert!(!text.contains(password.reveal()), "the password is in {text}");
    }
    assert!(!error.to_string().contains('\n'), "more than one line: {error}");
    error
}

/// A server with TLS and every way of asking for a password, shared by tests that do not disturb it.
///
/// Each role logs in its own way, over TCP and locally: `in_clear`, `by_md5`, `by_scram`, `trusted`, `only_encrypted`,
/// `locked_out`, `by_certificate` (the superuser's certificate). Passwords are the role's name with `_pw`.
fn server() -> &'static Cluster {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut builder = Cluster::builder().tls(true);
        for (role, method) in [
            ("in_clear", "password"),
            ("by_md5", "md5"),
            ("by_scram", "scram-sha-256"),
            ("trusted", "trust"),
            ("locked_out", "reject"),
        ] {
            builder = builder.hba(&format!("host all {role} 127.0.0.1/32 {method}"));
        }
        builder = builder
            .hba("hostssl all only_encrypted 127.0.0.1/32 scram-sha-256")
            .hba("hostnossl all only_encrypted 127.0.0.1/32 reject")
            .hba("hostssl all postgres 127.0.0.1/32 cert map=anyone");
        let cluster = builder.start().unwrap();
        std::fs::write(cluster.data_dir().join("pg_ident.conf"), "anyone /.* postgres\n").unwrap();
        for role in ["in_clear", "by_scram", "trusted", "only_encrypted", "locked_out"] {
            cluster.psql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{role}_pw'")).unwrap();
        }
        let md5 = "SET password_encryption = md5; CREATE ROLE by_md5 LOGIN PASSWORD 'by_md5_pw'";
        cluster.psql("postgres", md5).unwrap();
        cluster.psql("postgres", "SELECT pg_reload_conf()").unwrap();
        cluster
    })
}

/// The shared server as this role sees it.
fn login(role: &str, more: &str) -> ConnectOptions {
    let port = server().port();
    options(&format!("host=127.0.0.1 port={port} user={role} password={role}_pw dbname=postgres {more}"))
}
