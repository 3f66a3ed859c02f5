//! Many follow one stream: all get everything, and who does not read holds nobody up.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use dbstreamd::proto::streams_client::StreamsClient;
use dbstreamd::proto::subscribe_request::Request;
use dbstreamd::proto::subscribe_response::Response;
use dbstreamd::proto::{Filter, Start, SubscribeRequest, SubscribeResponse};
use futures_util::future::try_join_all;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::support::{Daemon, cluster, database, grpc::block_on};

const FOLLOWERS: usize = 300;
const CONNECTIONS: usize = 10;
const LAZY: usize = 3;
const SMALL_TRANSACTIONS: u64 = 200;
const LARGE_TRANSACTIONS: u64 = 20;
const ROWS_OF_LARGE: u64 = 500;
const EVENTS: u64 = SMALL_TRANSACTIONS + LARGE_TRANSACTIONS * ROWS_OF_LARGE;

#[test]
fn three_hundred_get_everything_in_order_while_three_do_not_read_and_memory_stays_within_the_budget() {
    let cluster = Arc::new(cluster());
    let url = database(&cluster, "shop", "CREATE TABLE t (id bigint PRIMARY KEY, body text)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = small_daemon(dir.path(), &url, FOLLOWERS + LAZY);

    let lazy = block_on(async {
        // On connections of their own, as HTTP/2 has one window for all calls of a connection.
        let mut lazy = Vec::new();
        for _ in 0..LAZY {
            lazy.push(subscribe(daemon.client().await).await.unwrap());
        }
        let mut followers = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = daemon.client().await;
            let calls = (0..FOLLOWERS / CONNECTIONS).map(|_| subscribe(client.clone()));
            followers.extend(try_join_all(calls).await.unwrap());
        }
        // The server stays until all is received.
        let written_to = Arc::clone(&cluster);
        let writing = tokio::task::spawn_blocking(move || write(&written_to));
        try_join_all(followers.iter_mut().map(|one| receive_all(one, EVENTS))).await.unwrap();
        writing.await.unwrap();
        // They have missed nothing.
        try_join_all(lazy.iter_mut().map(|one| receive_all(one, EVENTS))).await.unwrap();
        lazy.len()
    });
    assert_eq!(lazy, LAZY);
    assert_within_the_budget(&daemon);
}

#[test]
fn a_crowd_gets_each_new_schema_before_the_first_event_that_has_it() {
    const TURNS: u64 = 5;
    const COMMITS: u64 = 20;
    let cluster = Arc::new(cluster());
    let url = database(&cluster, "shop", "CREATE TABLE t (id bigint PRIMARY KEY, body text)");
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&[&url], &dir.path().join("data"));
    daemon.wait_streaming();
    block_on(async {
        let mut followers = Vec::new();
        for _ in 0..2 {
            let client = daemon.client().await;
            followers.extend(try_join_all((0..FOLLOWERS / 2).map(|_| subscribe(client.clone()))).await.unwrap());
        }
        // The server stays until all is received.
        let written_to = Arc::clone(&cluster);
        let writing = tokio::task::spawn_blocking(move || {
            written_to.psql("shop", &commits_and_schema_changes(TURNS, COMMITS)).unwrap();
        });
        try_join_all(followers.iter_mut().map(|one| receive_all(one, TURNS * COMMITS))).await.unwrap();
        writing.await.unwrap();
    });
}

#[test]
fn followers_a_large_transaction_and_schema_changes_all_at_once_stay_within_the_budget() {
    const TURNS: u64 = 40;
    const COMMITS: u64 = 5;
    const LARGE_ROWS: u64 = 10_000;
    let cluster = Arc::new(cluster());
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE t (id bigint PRIMARY KEY, body text); CREATE TABLE big (id bigint PRIMARY KEY, body text);
         ALTER TABLE big ALTER body SET STORAGE EXTERNAL",
    );
    let dir = tempfile::tempdir().unwrap();
    let daemon = small_daemon(dir.path(), &url, FOLLOWERS);

    let write = |script: String| {
        let cluster = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || cluster.psql("shop", &script).unwrap())
    };
    block_on(async {
        // Most want the small table; a few take the hundred megabytes too.
        let mut followers = Vec::new();
        for connection in 0..CONNECTIONS {
            let client = daemon.client().await;
            let calls = (0..FOLLOWERS / CONNECTIONS).map(|number| {
                let tables = if connection == 0 && number < 3 { vec![] } else { vec!["public.t".to_owned()] };
                subscribe_to(client.clone(), tables)
            });
            followers.extend(try_join_all(calls).await.unwrap());
        }
        let large = write(format!(
            "INSERT INTO big SELECT g, repeat(md5(g::text), 312) FROM generate_series(1, {LARGE_ROWS}) g"
        ));
        let small = write(commits_and_schema_changes(TURNS, COMMITS));
        let all = followers.iter_mut().enumerate().map(|(number, one)| {
            receive_number(one, if number < 3 { TURNS * COMMITS + LARGE_ROWS } else { TURNS * COMMITS })
        });
        try_join_all(all).await.unwrap();
        large.await.unwrap();
        small.await.unwrap();
    });
    assert_within_the_budget(&daemon);
}

/// Turns of commits of one row each, with a new column after each turn.
fn commits_and_schema_changes(turns: u64, commits: u64) -> String {
    format!(
        "DO $$ BEGIN
           FOR turn IN 1..{turns} LOOP
             FOR small IN 1..{commits} LOOP
               INSERT INTO t (id, body) VALUES (turn * 1000 + small, 'x'); COMMIT;
             END LOOP;
             EXECUTE format('ALTER TABLE t ADD COLUMN of_turn_%s int', turn); COMMIT;
           END LOOP;
         END $$"
    )
}

/// A streaming daemon in the small profile, for so many subscribers.
fn small_daemon(dir: &Path, url: &str, subscribers: usize) -> Daemon {
    let file = dir.join("dbstreamd.toml");
    let config = format!(
        "[memory]\nprofile = \"small\"\n[grpc]\nmax_subscribers = {subscribers}\n[[source]]\nname = \"shop\"\nurl = \"{url}\"\n"
    );
    std::fs::write(&file, config).unwrap();
    let arguments = ["--config".to_owned(), file.to_str().unwrap().to_owned()];
    let daemon = Daemon::start_with(&arguments, &dir.join("data"));
    daemon.wait_streaming();
    daemon
}

/// What was used at most is no more than the daemon says it needs: the bounds of its parts, and the headroom that
/// docs/operations.md promises.
fn assert_within_the_budget(daemon: &Daemon) {
    let memory = &daemon.health()["memory"];
    let (used, budget) = (daemon.peak_rss(), memory["needed_bytes"].as_u64().unwrap());
    eprintln!("peak RSS: {} MB of {} MB", used / 1_000_000, budget / 1_000_000);
    assert!(used <= budget, "{used} bytes were used, {budget} are in the budget: {memory}");
}

/// Many commits of one row, and some of many, in turn.
fn write(cluster: &dbstreamd_throwaway::Cluster) {
    let (each, body) = (SMALL_TRANSACTIONS / LARGE_TRANSACTIONS, "repeat(md5(g::text), 8)");
    let script = format!(
        "DO $$ DECLARE next bigint := 1; BEGIN
           FOR turn IN 1..{LARGE_TRANSACTIONS} LOOP
             FOR small IN 1..{each} LOOP
               INSERT INTO t (id, body) SELECT g, {body} FROM generate_series(next, next) g; next := next + 1; COMMIT;
             END LOOP;
             INSERT INTO t (id, body) SELECT g, {body} FROM generate_series(next, next + {ROWS_OF_LARGE} - 1) g;
             next := next + {ROWS_OF_LARGE}; COMMIT;
           END LOOP;
         END $$"
    );
    cluster.psql("shop", &script).unwrap();
}

/// A call that has begun.
async fn subscribe(client: StreamsClient<Channel>) -> Result<Streaming<SubscribeResponse>, Status> {
    subscribe_to(client, Vec::new()).await
}

/// The same, for these tables only; for all when there is none.
async fn subscribe_to(
    mut client: StreamsClient<Channel>,
    tables: Vec<String>,
) -> Result<Streaming<SubscribeResponse>, Status> {
    let start = Start { filter: Some(Filter { tables, operations: Vec::new() }), ..Start::default() };
    let start = SubscribeRequest { request: Some(Request::Start(start)) };
    // The requests must not end: that would end the call.
    let requests = tokio_stream::once(start).chain(tokio_stream::pending());
    let mut responses = client.subscribe(requests).await?.into_inner();
    let started = responses.message().await?.and_then(|response| response.response);
    assert!(matches!(&started, Some(Response::Started(started)) if started.next_offset == 1), "{started:?}");
    Ok(responses)
}

/// Receives every event once and in order, and its schema before it.
async fn receive_all(responses: &mut Streaming<SubscribeResponse>, events: u64) -> Result<(), Status> {
    let mut last = 0;
    let mut schemas = HashSet::new();
    while last < events {
        match responses.message().await?.expect("the call goes on").response {
            Some(Response::Schema(schema)) => assert!(schemas.insert(schema.fingerprint), "each schema once"),
            Some(Response::Events(batch)) => {
                for event in batch.events {
                    assert_eq!(event.offset, last + 1);
                    assert!(schemas.contains(&event.fingerprint), "event {} came before its schema", event.offset);
                    last = event.offset;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Receives so many events, in order.
async fn receive_number(responses: &mut Streaming<SubscribeResponse>, events: u64) -> Result<(), Status> {
    let (mut last, mut received) = (0, 0);
    while received < events {
        if let Some(Response::Events(batch)) = responses.message().await?.expect("the call goes on").response {
            for event in batch.events {
                assert!(event.offset > last);
                last = event.offset;
                received += 1;
            }
        }
    }
    Ok(())
}
