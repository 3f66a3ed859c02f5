//! Nobody there, somebody else there, and servers that lie.

use std::net::SocketAddr;
use std::time::Duration;

use dbstreamd_model::Lsn;
use dbstreamd_source::postgres::{ConnectOptions, Connection, Origin, PgError, Replication, SessionKind, WalFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{login, options, refusal, server};

fn at(address: SocketAddr, more: &str) -> ConnectOptions {
    options(&format!("host={} port={} user=u password=hunter2secret dbname=d {more}", address.ip(), address.port()))
}

/// A listener that answers every connection's first bytes with these, then does `after`.
async fn answering(bytes: &'static [u8], stay: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 1024]).await;
                let _ = socket.write_all(bytes).await;
                if stay {
                    let _ = socket.read_to_end(&mut Vec::new()).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn nobody_there_is_said_with_host_and_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = refusal(&at(address, "")).await;
    assert!(matches!(error, PgError::Unreachable { .. }) && error.is_transient(), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    let error = refusal(&options("host=/nowhere/at/all user=u")).await;
    assert!(error.to_string().contains("/nowhere/at/all/.s.PGSQL.5432"), "{error}");
    let error = refusal(&options("host=no-such-host.invalid user=u")).await;
    assert!(matches!(error, PgError::UnknownHost { .. }), "{error}");
}

#[tokio::test]
async fn the_next_host_is_tried_when_one_is_down_but_not_after_a_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap().port();
    drop(listener);
    let live = server().port();
    let both = |user: &str| {
        options(&format!(
            "host=127.0.0.1,127.0.0.1 port={dead},{live} user={user} password=by_scram_pw dbname=postgres"
        ))
    };
    crate::connect(&both("by_scram")).await.unwrap();
    let error = refusal(&both("by_md5")).await;
    assert_eq!(error.sqlstate(), Some("28P01"), "{error}");
    let error = refusal(&options(&format!("host=127.0.0.1,127.0.0.1 port={dead} user=u"))).await;
    assert!(matches!(error, PgError::NoHost(_)) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn what_is_not_postgresql_is_called_so() {
    for mode in ["disable", "prefer", "require"] {
        for (bytes, stay) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], false),
            (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", true),
            (b"SSH-2.0-OpenSSH_9.2\r\n", true),
        ] {
            let error = refusal(&at(answering(bytes, stay).await, &format!("sslmode={mode}"))).await;
            let expected = match &error {
                PgError::NotPostgres { .. } => true,
                // "S" is also PostgreSQL's yes to TLS.
                PgError::TlsInjection { .. } => bytes.starts_with(b"S") && mode != "disable",
                _ => false,
            };
            assert!(expected, "{mode}: {error}");
            assert!(!error.is_transient(), "{error}");
        }
    }
}

#[tokio::test]
async fn who_hangs_up_without_a_word_may_be_a_proxy_whose_server_comes_back() {
    for mode in ["disable", "prefer", "require"] {
        let error = refusal(&at(answering(b"", false).await, &format!("sslmode={mode}"))).await;
        assert!(matches!(error, PgError::HungUp { .. }) && error.is_transient(), "{error}");
    }
}

#[tokio::test]
async fn clear_text_behind_the_agreement_to_tls_is_an_attack() {
    let error = refusal(&at(answering(b"SE\0\0\0\x20VFATAL\0C28P01\0Mhello\0\0", true).await, "sslmode=require")).await;
    assert!(matches!(error, PgError::TlsInjection { .. }), "{error}");
}

#[tokio::test]
async fn impossible_lengths_are_refused_before_memory_is_given() {
    for bytes in [&b"R\x7f\xff\xff\xff"[..], b"R\xff\xff\xff\xff", b"E\0\0\0\0", b"R\0\0\0\x03"] {
        let error = refusal(&at(answering(bytes, true).await, "sslmode=disable")).await;
        assert!(matches!(error, PgError::NotPostgres { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_runs_into_the_connect_timeout() {
    let error = refusal(&at(answering(b"", true).await, "connect_timeout=1 sslmode=disable")).await;
    assert!(matches!(error, PgError::ConnectTimeout { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_server_that_asks_for_ever_is_left() {
    // Authentication request 3 (clear password) over and over.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        while socket.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {
            let _ = socket.write_all(b"R\0\0\0\x08\0\0\0\x03").await;
        }
    });
    let options = ConnectOptions { allow_cleartext_password: true, ..at(address, "sslmode=disable") };
    let error = refusal(&options).await;
    assert!(matches!(error, PgError::Protocol(_)), "{error}");
}

/// Forwards one connection of a real server and, once streaming has begun, appends `forged` to what the server says.
async fn forging_proxy(forged: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = ("127.0.0.1", server().port());
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut upstream = TcpStream::connect(target).await.unwrap();
        let (mut to, mut from) = (vec![0; 4096], vec![0; 4096]);
        let mut streaming = false;
        loop {
            tokio::select! {
                read = client.read(&mut to) => match read {
                    Ok(read) if read > 0 => {
                        streaming |= to[..read].windows(17).any(|bytes| bytes == b"START_REPLICATION");
                        upstream.write_all(&to[..read]).await.unwrap();
                    }
                    _ => return,
                },
                read = upstream.read(&mut from) => match read {
                    Ok(read) if read > 0 => {
                        client.write_all(&from[..read]).await.unwrap();
                        if streaming {
                            client.write_all(forged).await.unwrap();
                            client.read_to_end(&mut to).await.ok();
                            return;
                        }
                    }
                    _ => return,
                },
            }
        }
    });
    address
}

#[tokio::test]
async fn nonsense_inside_the_stream_ends_it_with_a_reason() {
    for (index, (forged, named)) in [
        (&b"d\x7f\xff\xff\xffw"[..], "impossible length"),
        (b"d\0\0\0\x02", "impossible length"),
        (b"?\0\0\0\x04", "'?'"),
        (b"d\0\0\0\x05z", "0x7a"),
        (b"d\0\0\0\x06wx", "cut short"),
        (b"d\0\0\0\x04", "cut short"),
        (b"E\0\0\0\x1fVFATAL\0C57P01\0Mgoing down\0\0", "connects again"),
        (b"C\0\0\0\x0bCOPY 0\0", "ended the replication stream"),
    ]
    .into_iter()
    .enumerate()
    {
        let address = forging_proxy(forged).await;
        let port = server().port();
        let slot = format!("forged_{index}");
        let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', true)");
        // A temporary slot lives in the session that made it, so it is made through the proxy too.
        let mut options = login("trusted", "sslmode=disable");
        server().psql("postgres", "ALTER ROLE trusted REPLICATION").unwrap();
        assert_eq!(options.endpoints[0].port, port);
        options.endpoints[0].port = address.port();
        let mut connection = Connection::connect(&options, SessionKind::Replication).await.unwrap();
        connection.simple_query(&create).await.unwrap();
        let what = Replication { slot, publications: vec!["none".into()], binary: false, origin: Origin::Any };
        let (mut wal, _feedback) = connection.start_replication(&what, Lsn::ZERO).await.unwrap();
        let mut frames: Vec<WalFrame> = Vec::new();
        let error = loop {
            match tokio::time::timeout(Duration::from_secs(20), wal.read(&mut frames)).await.unwrap() {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains(named), "{error} instead of {named}");
    }
}
