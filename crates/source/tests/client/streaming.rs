//! From CREATE_REPLICATION_SLOT to the last frame.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbstreamd_model::Lsn;
use dbstreamd_source::postgres::{
    ConnectOptions, Connection, Origin, PgError, Replication, SessionKind, WalFrame, WalReader,
};
use dbstreamd_throwaway::{Cluster, ShutdownMode};

use crate::options;

const PATIENCE: Duration = Duration::from_secs(60);

fn what(slot: &str) -> Replication {
    Replication {
        slot: slot.to_owned(),
        publications: vec!["every\"thing".to_owned()],
        binary: false,
        origin: Origin::Any,
    }
}

async fn replication(options: &ConnectOptions) -> Connection {
    Connection::connect(options, SessionKind::Replication).await.unwrap()
}

/// A server with a table, a publication with a difficult name, and a slot.
async fn prepared(builder: dbstreamd_throwaway::Builder) -> Cluster {
    let cluster = builder.start().unwrap();
    cluster
        .psql("postgres", "CREATE TABLE t (id int PRIMARY KEY, body text); CREATE PUBLICATION \"every\"\"thing\" FOR TABLE t; ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
        .unwrap();
    let mut connection = replication(&options(&cluster.url("postgres"))).await;
    let slot = connection.create_logical_slot("s", PATIENCE).await.unwrap();
    assert_eq!(slot.name, "s");
    assert!(!slot.consistent_point.is_zero());
    connection.close().await;
    cluster
}

/// Reads until a keepalive says that everything below `end` has been sent; the pgoutput messages on the way.
async fn read_to(wal: &mut WalReader, end: Lsn) -> Vec<bytes::Bytes> {
    let mut messages = Vec::new();
    let mut frames = Vec::new();
    loop {
        tokio::time::timeout(PATIENCE, wal.read(&mut frames)).await.unwrap().unwrap();
        for frame in frames.drain(..) {
            match frame {
                WalFrame::XLogData { data, .. } => messages.push(data),
                WalFrame::Keepalive { wal_end, .. } if wal_end >= end => return messages,
                WalFrame::Keepalive { .. } | WalFrame::Notice(_) => {}
            }
        }
    }
}

fn flushed(cluster: &Cluster) -> Lsn {
    cluster.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap().trim().parse().unwrap()
}

fn inserts(messages: &[bytes::Bytes]) -> usize {
    messages.iter().filter(|message| message.first() == Some(&b'I')).count()
}

#[tokio::test]
async fn changes_arrive_whole_over_tcp_tls_and_unix_sockets() {
    let cluster = prepared(Cluster::builder().tls(true)).await;
    cluster.psql("postgres", "INSERT INTO t SELECT g, repeat('x', g % 300) FROM generate_series(1, 50000) g").unwrap();
    let end = flushed(&cluster);
    let socket = format!(
        "host={} port={} user=postgres password={} dbname=postgres",
        cluster.socket_dir().display(),
        cluster.port(),
        cluster.password()
    );
    let mut seen = BTreeSet::new();
    for conninfo in [
        format!("{}?sslmode=disable", cluster.url("postgres")),
        format!("{}?sslmode=require", cluster.url("postgres")),
        socket,
    ] {
        // The slot stays where it is, since nothing is confirmed: each connection reads the same again.
        let mut connection = loop {
            // Released when the server notices that the one before is gone.
            let connection = replication(&options(&conninfo)).await;
            if cluster.psql("postgres", "SELECT active FROM pg_replication_slots").unwrap().trim() == "f" {
                break connection;
            }
        };
        let identity = connection.identify_system().await.unwrap();
        assert!(identity.system_id > 0 && identity.timeline == 1 && identity.flush_lsn >= end);
        assert_eq!(identity.database.as_deref(), Some("postgres"));
        let (mut wal, mut feedback) = connection.start_replication(&what("s"), Lsn::ZERO).await.unwrap();
        let messages = read_to(&mut wal, end).await;
        assert_eq!(inserts(&messages), 50_000, "{conninfo}");
        seen.insert(messages.concat());
        feedback.copy_done().await.unwrap();
        let ended = wal.read(&mut Vec::new()).await;
        assert!(matches!(ended, Err(PgError::StreamEnded)), "{ended:?}");
    }
    assert_eq!(seen.len(), 1, "the same WAL came as different bytes over different connections");
}

#[tokio::test]
async fn what_is_confirmed_is_not_sent_again() {
    let cluster = prepared(Cluster::builder()).await;
    cluster.psql("postgres", "INSERT INTO t VALUES (1, 'a')").unwrap();
    let end = flushed(&cluster);
    let url = options(&cluster.url("postgres"));
    let (mut wal, mut feedback) = replication(&url).await.start_replication(&what("s"), Lsn::ZERO).await.unwrap();
    assert_eq!(inserts(&read_to(&mut wal, end).await), 1);
    feedback.status_update(end, end, end, true).await.unwrap();
    read_to(&mut wal, end).await;
    feedback.copy_done().await.unwrap();
    while wal.read(&mut Vec::new()).await.is_ok() {}
    let confirmed = cluster.psql("postgres", "SELECT confirmed_flush_lsn FROM pg_replication_slots").unwrap();
    assert!(confirmed.trim().parse::<Lsn>().unwrap() >= end);

    cluster.psql("postgres", "SELECT pg_logical_emit_message(false, 'p', 'c'); INSERT INTO t VALUES (2, 'b')").unwrap();
    let (mut wal, _feedback) = replication(&url).await.start_replication(&what("s"), Lsn::ZERO).await.unwrap();
    let messages = read_to(&mut wal, flushed(&cluster)).await;
    assert_eq!(inserts(&messages), 1);
    assert!(messages.iter().any(|message| message.first() == Some(&b'M')), "logical messages are asked for");
}

#[tokio::test]
async fn a_huge_row_is_one_frame_and_its_memory_goes_with_it() {
    const ROW_BYTES: usize = 20 * 1024 * 1024;
    let cluster = prepared(Cluster::builder()).await;
    cluster
        .psql(
            "postgres",
            &format!("INSERT INTO t VALUES (1, repeat('y', {ROW_BYTES})); INSERT INTO t VALUES (2, 'small')"),
        )
        .unwrap();
    let url = options(&cluster.url("postgres"));
    let (mut wal, _feedback) = replication(&url).await.start_replication(&what("s"), Lsn::ZERO).await.unwrap();
    let messages = read_to(&mut wal, flushed(&cluster)).await;
    assert_eq!(inserts(&messages), 2);
    let longest = messages.iter().map(bytes::Bytes::len).max().unwrap();
    assert!(longest > ROW_BYTES && longest < ROW_BYTES + 1000);
    let huge = messages.iter().find(|message| message.len() == longest).unwrap();
    assert!(huge.iter().filter(|byte| **byte == b'y').count() == ROW_BYTES, "its bytes are in order");
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let cluster = prepared(Cluster::builder()).await;
    cluster.psql("postgres", "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 100000) g").unwrap();
    let end = flushed(&cluster);
    let url = options(&cluster.url("postgres"));
    let (mut wal, _feedback) = replication(&url).await.start_replication(&what("s"), Lsn::ZERO).await.unwrap();
    let (mut rows, mut frames, mut reached, mut given_up) = (0, Vec::new(), false, 0);
    let deadline = Instant::now() + PATIENCE;
    while !reached {
        assert!(Instant::now() < deadline);
        tokio::select! {
            biased;
            read = wal.read(&mut frames) => read.unwrap(),
            // Ready at the first poll: only reads that are complete at once are not given up.
            () = tokio::task::yield_now() => given_up += 1,
        }
        for frame in frames.drain(..) {
            match frame {
                WalFrame::XLogData { data, .. } => rows += usize::from(data.first() == Some(&b'I')),
                WalFrame::Keepalive { wal_end, .. } => reached |= wal_end >= end,
                WalFrame::Notice(_) => {}
            }
        }
    }
    assert_eq!(rows, 100_000);
    assert!(given_up > 0);
}

#[tokio::test]
async fn the_death_of_the_server_and_its_shutdown_are_passing_faults() {
    for mode in [ShutdownMode::Immediate, ShutdownMode::Fast] {
        let cluster = Arc::new(prepared(Cluster::builder()).await);
        let url = options(&cluster.url("postgres"));
        let (mut wal, mut feedback) = replication(&url).await.start_replication(&what("s"), Lsn::ZERO).await.unwrap();
        let mut stopping = None;
        let mut frames = Vec::new();
        let error = loop {
            match tokio::time::timeout(PATIENCE, wal.read(&mut frames)).await.unwrap() {
                Ok(()) => {}
                Err(error) => break error,
            }
            // A walsender that is asked to go first waits until all it sent is confirmed.
            for frame in frames.drain(..) {
                if let WalFrame::Keepalive { wal_end, .. } = frame {
                    // The server may be gone already; the reader then says so.
                    let _ = feedback.status_update(wal_end, wal_end, wal_end, false).await;
                }
            }
            let cluster = Arc::clone(&cluster);
            stopping.get_or_insert_with(|| tokio::task::spawn_blocking(move || cluster.stop(mode).unwrap()));
        };
        assert!(error.is_transient(), "{mode:?}: {error}");
        stopping.unwrap().await.unwrap();
        let error = crate::refusal(&url).await;
        assert!(matches!(error, PgError::Unreachable { .. }), "{error}");
    }
}

#[tokio::test]
async fn refused_commands_say_why_and_leave_the_session_usable() {
    let cluster = prepared(Cluster::builder()).await;
    let url = options(&cluster.url("postgres"));
    let mut first = replication(&url).await;
    let taken = first.create_logical_slot("s", PATIENCE).await.unwrap_err();
    assert_eq!(taken.sqlstate(), Some("42710"), "{taken}");
    let missing = first.drop_slot("none").await.unwrap_err();
    assert_eq!(missing.sqlstate(), Some("42704"), "{missing}");
    first.identify_system().await.unwrap();

    let _streaming = first.start_replication(&what("s"), Lsn::ZERO).await.unwrap();
    let pid = cluster.psql("postgres", "SELECT active_pid FROM pg_replication_slots").unwrap();
    let Err(busy) = replication(&url).await.start_replication(&what("s"), Lsn::ZERO).await else {
        panic!("two readers")
    };
    assert_eq!(busy.sqlstate(), Some("55006"), "{busy}");
    assert_eq!(busy.server_error().unwrap().active_pid(), pid.trim().parse().ok());
    assert!(busy.is_transient());

    cluster.psql("postgres", "CREATE ROLE plain LOGIN PASSWORD 'plain_pw'").unwrap();
    let plain =
        options(&format!("host=127.0.0.1 port={} user=plain password=plain_pw dbname=postgres", cluster.port()));
    let Err(error) = Connection::connect(&plain, SessionKind::Replication).await else { panic!("plain may replicate") };
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(error.to_string().contains("REPLICATION"), "{error}");
}

#[tokio::test]
async fn slot_creation_gives_up_in_time_and_leaves_nothing_behind() {
    let cluster = prepared(Cluster::builder()).await;
    let url = options(&cluster.url("postgres"));
    let mut holder = Connection::connect(&url, SessionKind::Ordinary).await.unwrap();
    holder.simple_query("BEGIN; INSERT INTO public.t VALUES (7, 'open')").await.unwrap();
    let mut connection = replication(&url).await;
    let error = connection.create_logical_slot("late", Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, PgError::SlotTimeout { .. }), "{error}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'late'";
    assert_eq!(cluster.psql("postgres", slots).unwrap().trim(), "0");
    holder.simple_query("COMMIT").await.unwrap();
    connection.create_logical_slot("late", PATIENCE).await.unwrap();
    connection.drop_slot("late").await.unwrap();
}
