//! TLS in all its modes, and SCRAM bound to it.

use std::path::PathBuf;

use dbstreamd_source::postgres::{ConnectOptions, PgError, RootCert};
use dbstreamd_throwaway::Cluster;

use crate::{connect, login, options, refusal, server};

fn authority() -> String {
    server().ca_file().unwrap().display().to_string()
}

#[tokio::test]
async fn each_mode_encrypts_as_much_as_it_says() {
    let ca = authority();
    for (mode, encrypted) in [
        ("disable".to_owned(), false),
        ("prefer".to_owned(), true),
        ("allow".to_owned(), true),
        ("require".to_owned(), true),
        (format!("verify-ca sslrootcert={ca}"), true),
        (format!("verify-full sslrootcert={ca}"), true),
        (format!("require sslrootcert={ca} ssl_min_protocol_version=TLSv1.3 sslsni=0"), true),
    ] {
        let connection = connect(&login("by_scram", &format!("sslmode={mode}"))).await.unwrap();
        assert_eq!(connection.is_encrypted(), encrypted, "sslmode={mode}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_wherever_an_authority_is_given() {
    let stranger = Cluster::builder().tls(true).start().unwrap();
    let other = stranger.ca_file().unwrap().display();
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refusal(&login("by_scram", &format!("sslmode={mode} sslrootcert={other}"))).await;
        assert!(matches!(error, PgError::TlsCertificate { .. }), "{mode}: {error}");
        assert!(error.to_string().contains("sslrootcert"), "{error}");
    }
    for mode in ["verify-ca", "verify-full"] {
        let error = refusal(&login("by_scram", &format!("sslmode={mode}"))).await;
        assert!(error.to_string().contains("needs root certificates"), "{error}");
    }
}

#[tokio::test]
async fn only_verify_full_cares_for_the_name() {
    let ca = authority();
    let elsewhere = |mode: &str| {
        let port = server().port();
        options(&format!(
            "host=db.elsewhere.example hostaddr=127.0.0.1 port={port} user=by_scram password=by_scram_pw dbname=postgres sslmode={mode} sslrootcert={ca}"
        ))
    };
    connect(&elsewhere("verify-ca")).await.unwrap();
    let error = refusal(&elsewhere("verify-full")).await;
    assert!(error.to_string().contains("another host name"), "{error}");
}

#[tokio::test]
async fn the_servers_own_certificate_may_be_the_root() {
    let mut options = login("by_scram", "sslmode=verify-full sslrootcert=replaced");
    options.ssl_root_cert = Some(RootCert::File(server().folder().join("server.pem")));
    connect(&options).await.unwrap();
}

#[tokio::test]
async fn bad_certificate_files_are_named() {
    for (file, text) in [("none", None), ("empty", Some("")), ("text", Some("not a certificate"))] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let error = refusal(&login("by_scram", &format!("sslmode=verify-ca sslrootcert={}", path.display()))).await;
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_used_as_it_is_only_if_the_mode_allows() {
    let plain = Cluster::start().unwrap();
    let connection = connect(&options(&plain.url("postgres"))).await.unwrap();
    assert!(!connection.is_encrypted());
    let error = refusal(&options(&format!("{}?sslmode=require", plain.url("postgres")))).await;
    assert!(matches!(error, PgError::TlsRefused { .. }), "{error}");
}

#[tokio::test]
async fn scram_is_bound_to_the_channel_and_can_be_made_to() {
    connect(&login("by_scram", "sslmode=require channel_binding=require")).await.unwrap();
    connect(&login("by_scram", "sslmode=require channel_binding=disable")).await.unwrap();
    for (role, mode) in
        [("by_scram", "disable"), ("by_md5", "require"), ("in_clear", "require"), ("trusted", "require")]
    {
        let error = refusal(&login(role, &format!("sslmode={mode} channel_binding=require"))).await;
        assert!(matches!(error, PgError::ChannelBinding(_)), "{role} {mode}: {error}");
    }
}

#[tokio::test]
async fn a_client_certificate_logs_in_and_its_absence_is_told() {
    let (certificate, key) = server().client_certificate().unwrap();
    let port = server().port();
    let base = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=require");
    let with = options(&format!("{base} sslcert={} sslkey={}", certificate.display(), key.display()));
    connect(&with).await.unwrap();
    let error = refusal(&options(&base)).await;
    assert_eq!(error.sqlstate(), Some("28000"), "{error}");
    let error = refusal(&ConnectOptions { ssl_key: None, ..with.clone() }).await;
    assert!(error.to_string().contains("sslkey"), "{error}");
    let error = refusal(&ConnectOptions { ssl_key: Some(PathBuf::from("/nowhere")), ..with }).await;
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

#[tokio::test]
async fn prefer_follows_pg_hba_to_the_side_that_lets_us_in() {
    let connection = connect(&login("only_encrypted", "sslmode=prefer")).await.unwrap();
    assert!(connection.is_encrypted());
    let error = refusal(&login("only_encrypted", "sslmode=disable")).await;
    assert_eq!(error.sqlstate(), Some("28000"), "{error}");
}
