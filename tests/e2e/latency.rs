//! `/metrics` says how long each step of an event's way takes.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Instant;

use dbstreamd::proto;
use dbstreamd::proto::subscribe_response::Response;

use crate::support::grpc::block_on;
use crate::support::{Daemon, PATIENCE, cluster, database, eventually, http};

/// In the order of an event's way.
const STEPS: [&str; 5] =
    ["send_to_receive", "receive_to_append", "append_to_fsync", "fsync_to_visible", "visible_to_sent"];
const TRANSACTIONS: u64 = 20;

/// One histogram.
#[derive(Debug, Default)]
struct Histogram {
    sum: f64,
    count: u64,
    /// Cumulative, in the order of the bounds.
    buckets: Vec<(f64, u64)>,
}

fn histograms(metrics: &str) -> BTreeMap<&'static str, Histogram> {
    let of = |step: &&'static str| {
        let prefix = format!("dbstreamd_latency_{step}_seconds_");
        let mut found = Histogram::default();
        for (what, value) in metrics.lines().filter_map(|line| line.strip_prefix(&prefix)?.rsplit_once(' ')) {
            let per_stream = what.contains("stream=\"shop\"");
            assert_eq!(
                per_stream,
                *step == "send_to_receive",
                "only what two clocks measure is told by stream: {what}"
            );
            if what.starts_with("sum") {
                found.sum = value.parse().unwrap();
            } else if what.starts_with("count") {
                found.count = value.parse().unwrap();
            } else {
                let bound = what.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                found.buckets.push((bound, value.parse().unwrap()));
            }
        }
        (*step, found)
    };
    STEPS.iter().map(of).collect()
}

fn look(daemon: &Daemon) -> (BTreeMap<&'static str, Histogram>, u64) {
    let (_, metrics) = http::get(&daemon.http, "/metrics").unwrap();
    let chunks = metrics.lines().find_map(|line| line.strip_prefix("dbstreamd_log_chunks_total ")?.parse().ok());
    (histograms(&metrics), chunks.unwrap_or_else(|| panic!("no count of chunks in {metrics}")))
}

/// Follows the stream until this many events were received; says through `ready` when it does.
async fn follow(daemon: &Daemon, events: u64, ready: mpsc::Sender<()>) {
    let start = proto::Start { stream: "shop".into(), ..proto::Start::default() };
    let request = proto::SubscribeRequest { request: Some(proto::subscribe_request::Request::Start(start)) };
    let requests =
        futures_util::StreamExt::chain(futures_util::stream::once(async { request }), futures_util::stream::pending());
    let mut responses = daemon.client().await.subscribe(requests).await.expect("a subscription").into_inner();
    let mut received = 0;
    while received < events {
        match responses.message().await.expect("a response").and_then(|response| response.response) {
            Some(Response::Started(_)) => ready.send(()).expect("somebody waits"),
            Some(Response::Events(batch)) => received += batch.events.len() as u64,
            _ => {}
        }
    }
}

#[test]
fn every_step_of_an_events_way_is_timed() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let begun = Instant::now();
    let daemon = Daemon::serving(&[&url]);
    daemon.wait_streaming();
    let (before, _) = look(&daemon);
    assert_eq!(before["visible_to_sent"].count, 0, "nobody has subscribed");
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| block_on(follow(&daemon, TRANSACTIONS, ready)));
        is_ready.recv_timeout(PATIENCE).expect("a subscription");
        for id in 0..TRANSACTIONS {
            cluster.psql("shop", &format!("INSERT INTO t VALUES ({id})")).unwrap();
        }
        follower.join().unwrap();
    });
    // What was received is visible, and so all of it was timed; the chunks are counted a moment before they are visible.
    let (after, chunks) = look(&daemon);
    for step in STEPS {
        let (before, after) = (&before[step], &after[step]);
        assert!(after.count > 0, "{step} was never timed: {after:?}");
        assert!(
            after.count >= before.count && after.sum >= before.sum && after.sum >= 0.0,
            "{step}: {before:?} {after:?}"
        );
        let bounds: Vec<f64> = after.buckets.iter().map(|(bound, _)| *bound).collect();
        let covered = bounds[0] <= 10e-6 && bounds[bounds.len() - 2] >= 60.0 && bounds.is_sorted();
        assert!(covered, "{step} from 10 µs to 60 s: {bounds:?}");
        assert!(after.buckets.is_sorted_by_key(|(_, count)| *count), "{step} is cumulative: {after:?}");
        assert_eq!(after.buckets.last(), Some(&(f64::INFINITY, after.count)), "{step}");
    }
    let count = |step| after[step].count;
    assert_eq!((count("receive_to_append"), count("append_to_fsync")), (chunks, chunks), "once for each chunk");
    assert!(count("fsync_to_visible") <= chunks, "once for each group commit");
    assert!((1..=TRANSACTIONS).contains(&count("visible_to_sent")), "once for each response with events");
    // On our own clock nothing can have taken longer than there was time.
    let lived = begun.elapsed().as_secs_f64();
    for step in &STEPS[1..] {
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        let mean = after[step].sum / after[step].count as f64;
        assert!(mean <= lived, "{step} within {lived} s: {after:?}");
    }
}

#[test]
fn what_was_there_before_a_subscription_is_no_delay_of_it() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let daemon = Daemon::serving(&[&url]);
    daemon.wait_streaming();
    cluster.psql("shop", "INSERT INTO t VALUES (1)").unwrap();
    eventually("the row is visible", || (daemon.streams()[0]["visible_offset"] == 1).then_some(()));
    assert_eq!(daemon.everything("shop").len(), 1);
    assert_eq!(look(&daemon).0["visible_to_sent"].count, 0);
}
