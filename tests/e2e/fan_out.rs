//! Many follow one stream: all get everything, and who does not read holds nobody up.

use std::collections::HashSet;
use std::sync::Arc;

use dbstreamd::proto::streams_client::StreamsClient;
use dbstreamd::proto::subscribe_request::Request;
use dbstreamd::proto::subscribe_response::Response;
use dbstreamd::proto::{Start, SubscribeRequest, SubscribeResponse};
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
    let file = dir.path().join("dbstreamd.toml");
    let subscribers = FOLLOWERS + LAZY;
    let config = format!(
        "[memory]\nprofile = \"small\"\n[grpc]\nmax_subscribers = {subscribers}\n[[source]]\nname = \"shop\"\nurl = \"{url}\"\n"
    );
    std::fs::write(&file, config).unwrap();
    let arguments = ["--config".to_owned(), file.to_str().unwrap().to_owned()];
    let daemon = Daemon::start_with(&arguments, &dir.path().join("data"));
    daemon.wait_streaming();

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
    // What the daemon says it needs: the bounds of its parts, and the headroom that docs/operations.md promises.
    let memory = &daemon.health()["memory"];
    let (used, budget) = (daemon.peak_rss(), memory["needed_bytes"].as_u64().unwrap());
    assert!(used <= budget, "{used} bytes were used, {budget} are in the budget: {memory}");
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
            let script = format!(
                "DO $$ BEGIN
                   FOR turn IN 1..{TURNS} LOOP
                     FOR small IN 1..{COMMITS} LOOP
                       INSERT INTO t (id, body) VALUES (turn * 1000 + small, 'x'); COMMIT;
                     END LOOP;
                     EXECUTE format('ALTER TABLE t ADD COLUMN of_turn_%s int', turn); COMMIT;
                   END LOOP;
                 END $$"
            );
            written_to.psql("shop", &script).unwrap();
        });
        try_join_all(followers.iter_mut().map(|one| receive_all(one, TURNS * COMMITS))).await.unwrap();
        writing.await.unwrap();
    });
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
async fn subscribe(mut client: StreamsClient<Channel>) -> Result<Streaming<SubscribeResponse>, Status> {
    let start = SubscribeRequest { request: Some(Request::Start(Start::default())) };
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
