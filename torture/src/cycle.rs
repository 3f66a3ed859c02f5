//! One cycle: a fresh database and log, writers and consumers, the plan of faults, then the comparison.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use dbstreamd_throwaway::Cluster;
use tokio_stream::wrappers::ReceiverStream;

use crate::Arguments;
use crate::consumers::{Conduct, Consumer, Kind, digest};
use crate::daemon::{Daemon, STREAM};
use crate::disk::{Disk, can_mount};
use crate::error::{TortureError, io};
use crate::faults::{Fault, plan};
use crate::oracle::{Auditor, Tables, Violation, Violations, read_truth};
use crate::proxy::Proxy;
use crate::report::{Account, Outcome};
use crate::server::Server;
use crate::shim::{Shim, Word};
use crate::stage::Stage;
use crate::watch::Watch;
use crate::workload::{Writers, schema};
use dbstreamd_client::subscribe_request::Request;
use dbstreamd_client::subscribe_response::Response;
use dbstreamd_client::{Empty, Start, StartFrom, SubscribeRequest, start_from};

/// Silence after which a replay is taken to be stuck.
const REPLAY_SILENCE_MAX: Duration = Duration::from_secs(45);
/// From the marker until every consumer has it.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
/// From the marker until the server knows that it may forget it; the daemon's status interval is 1 s.
const CONFIRM_MAX: Duration = Duration::from_secs(30);
/// Traffic without faults at the beginning, so that there is something to lose, and at the end.
const CALM: Duration = Duration::from_millis(400);
/// `max_wal_size` of the server is 256 MB; what a cycle writes is less. More means that something pins WAL.
const WAL_BYTES_MAX: u64 = 640 * 1024 * 1024;
const POLL: Duration = Duration::from_millis(25);

/// Runs the cycle with this seed. What it finds is in the outcome; an error is the harness's own.
pub(crate) async fn run(arguments: &Arguments, cluster: &Arc<Cluster>, seed: u64) -> Result<Outcome, TortureError> {
    let started = Instant::now();
    let folder = tempfile::Builder::new().prefix("dbstreamd-torture-").tempdir().map_err(io("create a folder"))?;
    let database = format!("torture_{seed:x}_{}", std::process::id());
    let server = Server::create(cluster, &database, &schema(arguments.writers)).await?;
    let (mut account, mut violations, mut kept) = (Account::default(), Vec::new(), None);
    let result = act(arguments, &server, folder.path(), seed, &mut account, &mut violations).await;
    if let Err(error) = &result {
        if matches!(error, TortureError::Interrupted) {
            return Err(TortureError::Interrupted);
        }
        violations.push(Violation { rule: "cycle-completes", detail: error.to_string() });
    }
    if !violations.is_empty() {
        let log = folder.path().join("server.log");
        std::fs::write(&log, server.log_text()).map_err(io("keep the server's log"))?;
        kept = Some(folder.keep());
    }
    if let Err(error) = server.remove().await {
        eprintln!("could not remove database {database}: {error}");
    }
    Ok(Outcome { seed, account, violations, took: started.elapsed(), kept })
}

async fn act(
    arguments: &Arguments,
    server: &Server,
    folder: &Path,
    seed: u64,
    account: &mut Account,
    violations: &mut Vec<Violation>,
) -> Result<(), TortureError> {
    let mut stage = set(arguments, server, folder, seed).await?;
    let played = play(&mut stage, arguments, seed, violations).await;
    stage.daemon.measure();
    stage.account.peak_rss = stage.daemon.peak_rss();
    stage.account.slowed = stage.shim.count(Word::DelaySyncMs)?;
    stage.account.failed = stage.shim.count(Word::FailSync)?;
    stage.account.refused = stage.shim.count(Word::Full)?;
    if stage.account.peak_rss > arguments.rss_max_mib * 1024 * 1024 {
        let detail =
            format!("{} bytes resident, at most {} MiB are allowed", stage.account.peak_rss, arguments.rss_max_mib);
        stage.violations.add("memory-bounded", detail);
    }
    violations.extend(std::mem::take(&mut stage.violations).into_told());
    stage.daemon.kill().await?;
    account.add(&stage.account);
    if !violations.is_empty() || played.is_err() {
        stage.disk.keep(&kept_disk(folder))?;
    }
    played
}

fn kept_disk(folder: &Path) -> PathBuf {
    folder.join("disk-at-the-end")
}

/// Sets everything up and waits until it streams.
async fn set(arguments: &Arguments, server: &Server, folder: &Path, seed: u64) -> Result<Stage, TortureError> {
    let episodes = plan(seed, &arguments.choice(), arguments.episodes);
    let full = episodes.iter().any(|episode| episode.fault == Fault::DiskFull);
    let disk = Disk::new(&folder.join("disk"), full && can_mount())?;
    let data = disk.folder.join("data");
    std::fs::create_dir(&data).map_err(io("create the data directory"))?;
    let shim = Shim::prepare(&arguments.shim, folder, &data)?;
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into(), seed).await?;
    let floor = seed.is_multiple_of(2);
    let mut daemon = Daemon::prepare(&arguments.binary, folder, &server.url_through(proxy.port), &shim, floor)?;
    daemon.start_streaming().await?;
    let consumers = [Kind::AlwaysOn, Kind::Named, Kind::Slow].map(|kind| Consumer::start(kind, daemon.grpc())).into();
    Ok(Stage {
        server: server.clone(),
        daemon,
        proxy,
        shim,
        disk,
        consumers,
        violations: Violations::default(),
        account: Account::default(),
        pending: Vec::new(),
        recover_within: Duration::from_secs(arguments.recover_within),
        severed: false,
        lied: false,
    })
}

async fn play(
    stage: &mut Stage,
    arguments: &Arguments,
    seed: u64,
    violations: &mut Vec<Violation>,
) -> Result<(), TortureError> {
    let initial = read_truth(&stage.server.connect().await?).await?.tables;
    let writers = Writers::start(&stage.server.url(), arguments.writers, arguments.tps, seed);
    let watch = Watch::start(stage.server.clone(), stage.daemon.grpc().to_owned());
    let began = Instant::now();
    tokio::time::sleep(CALM).await;
    for episode in plan(seed, &arguments.choice(), arguments.episodes) {
        tokio::time::sleep(episode.after).await;
        if arguments.verbose {
            eprintln!("  {:>6.2} s {episode:?}", began.elapsed().as_secs_f64());
        }
        stage.perform(&episode).await?;
    }
    tokio::time::sleep(CALM).await;
    let wrote = began.elapsed();
    if !stage.severed {
        stage.mend().await?;
    }
    let tally = writers.finish().await;
    stage.account.committed = tally.committed.load(Relaxed);
    stage.account.interrupted = tally.interrupted.load(Relaxed);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a figure"
    )]
    stage.account.rates.push((stage.account.committed as f64 / wrote.as_secs_f64()) as u64);
    let compared = compare(stage, initial, seed, violations).await;
    // What a lie breaks at a look in between is judged by the episode itself.
    let watched = watch.finish();
    if !stage.lied {
        violations.extend(watched);
    }
    compared
}

/// The comparison after the last fault, with nothing written any more.
async fn compare(
    stage: &mut Stage,
    initial: Tables,
    seed: u64,
    violations: &mut Vec<Violation>,
) -> Result<(), TortureError> {
    let consumers = std::mem::take(&mut stage.consumers);
    // Markers are positive and differ from cycle to cycle.
    let marker = i64::try_from(seed >> 1).unwrap_or(1).max(1);
    let end = if stage.severed {
        End::Offset(stage.daemon.stream().await.map_or(0, |stream| stream.visible_offset))
    } else {
        stage.server.mark(marker).await?;
        End::Marker(marker)
    };
    let mut auditor = Auditor::new(initial);
    let mut digests = Vec::new();
    replay(stage.daemon.grpc(), end, &mut auditor, &mut digests).await?;
    stage.account.transactions = auditor.transactions();
    stage.account.events = digests.len() as u64;
    if stage.severed {
        violations.extend(auditor.finish_without_truth().into_told());
    } else {
        let truth = read_truth(&stage.server.connect().await?).await?;
        violations.extend(auditor.finish(&truth).into_told());
        check_slot(stage).await?;
    }
    let deadline = Instant::now() + CATCH_UP_MAX;
    for consumer in consumers {
        consumer.tell(Conduct::Hurry);
        // After a lie what a consumer saw may have been lost and written anew.
        while !stage.lied && consumer.highest() < digests.len() as u64 && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        let found = consumer.finish((!stage.lied).then_some(&digests)).await;
        if !stage.lied {
            violations.extend(found);
        }
    }
    Ok(())
}

/// The server may forget what we have, and does.
async fn check_slot(stage: &mut Stage) -> Result<(), TortureError> {
    let end = stage.server.flush_lsn().await?;
    let deadline = Instant::now() + CONFIRM_MAX;
    let mut confirmed = 0;
    while confirmed < end && Instant::now() < deadline {
        confirmed = stage.server.slot().await?.map_or(0, |slot| slot.confirmed);
        tokio::time::sleep(POLL).await;
    }
    if confirmed < end {
        let detail = format!("{} s after the end at {end:X} the slot is at {confirmed:X}", CONFIRM_MAX.as_secs());
        stage.violations.add("slot-follows", detail);
    }
    let wal = stage.server.wal_bytes().await?;
    stage.account.peak_wal = stage.account.peak_wal.max(wal);
    if wal > WAL_BYTES_MAX {
        stage.violations.add("wal-bounded", format!("pg_wal has {wal} bytes, at most {WAL_BYTES_MAX} are expected"));
    }
    Ok(())
}

/// Where a replay ends.
enum End {
    Marker(i64),
    Offset(u64),
}

/// Reads the stream from its beginning.
async fn replay(grpc: &str, end: End, auditor: &mut Auditor, digests: &mut Vec<u64>) -> Result<(), TortureError> {
    let failed = |what: &str, why: &dyn std::fmt::Display| TortureError::Failed(format!("replay: {what}: {why}"));
    let mut client = dbstreamd_client::connect(grpc).await.map_err(|error| failed("connect", &error))?;
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let from = Some(StartFrom { from: Some(start_from::From::Earliest(Empty {})) });
    let start = Request::Start(Start { stream: STREAM.into(), from, ..Start::default() });
    let start = SubscribeRequest { request: Some(start) };
    requests.send(start).await.map_err(|error| failed("subscribe", &error))?;
    let subscribed = client.subscribe(ReceiverStream::new(outgoing)).await;
    let mut responses = subscribed.map_err(|status| failed("subscribe", &status))?.into_inner();
    let reached = |auditor: &Auditor, digests: &[u64]| match end {
        End::Marker(marker) => auditor.marker() == Some(marker),
        End::Offset(offset) => digests.len() as u64 >= offset,
    };
    let mut epoch = None;
    while !reached(auditor, digests) {
        let message = tokio::time::timeout(REPLAY_SILENCE_MAX, responses.message()).await;
        let message = message.map_err(|_| {
            let seconds = REPLAY_SILENCE_MAX.as_secs();
            TortureError::Failed(format!("replay: the last transaction did not come within {seconds} s"))
        })?;
        let response = message.map_err(|status| failed("read", &status))?;
        match response.ok_or_else(|| failed("read", &"the daemon closed the stream"))?.response {
            Some(Response::Schema(schema)) => auditor.schema(schema),
            Some(Response::Events(batch)) => {
                for event in &batch.events {
                    // Behind a loss another history begins; what is before it must be right.
                    if matches!(end, End::Offset(_)) && event.epoch != *epoch.get_or_insert(event.epoch) {
                        return Ok(());
                    }
                    auditor.event(event);
                    digests.push(digest(event));
                }
            }
            // Every event says its epoch too.
            Some(Response::Started(_) | Response::Progress(_) | Response::EpochStarted(_) | Response::Skipped(_))
            | None => {}
        }
    }
    Ok(())
}
