//! Many subscribers that follow one stream of one daemon, live: does everybody get everything, how late, at what cost?
//!
//! A writer commits transactions of one row at a steady rate. Every subscriber checks that it gets each event that passes
//! its filter exactly once and in order; if a single one does not, there is an error and no figure. Latency is taken for every pair
//! of event and subscriber, from the moment the writer's commit returned to the moment the subscriber has the event in hand. Daemon,
//! subscribers, writer and PostgreSQL share this machine's processors.

mod follower;
mod line;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use dbstreamd_throwaway::Cluster;
use hdrhistogram::Histogram;
use serde_json::json;

use crate::daemon::{Daemon, Setup};
use crate::error::{LabError, io};
use crate::machine::Machine;
use crate::report::{Finding, Output, Section, median, publish};
use crate::{procfs, references};
use follower::{Wanted, Watch};
use line::Line;
use writer::{DATABASE, PUBLICATION, SLOT, Writer};

/// Events are written for so long before there are subscribers, so that the daemon's memory without them is that of a daemon at work.
const WARM_UP_SECONDS: u64 = 3;
/// How long the last event may take to reach everybody.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the daemon's memory is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The floors are those of so many subscribers at such a rate.
const FLOOR_SUBSCRIBERS: usize = 10_000;
const FLOOR_RATE: u64 = 200;

/// Arguments of the benchmark on its own.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The dbstreamd program.
    #[arg(long)]
    binary: PathBuf,
    #[command(flatten)]
    crowd: Crowd,
    #[command(flatten)]
    output: Output,
}

/// How many follow what.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Crowd {
    /// Subscribers that read, on one stream.
    #[arg(long, default_value_t = FLOOR_SUBSCRIBERS)]
    subscribers: usize,
    /// HTTP/2 connections they share.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Further subscribers, on connections of their own, that do not read while the others are measured.
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// They are named consumers, each with one of five filters of tables and operations, and acknowledge what they get.
    #[arg(long)]
    filtered: bool,
    /// Transactions of one row per second.
    #[arg(long, default_value_t = FLOOR_RATE)]
    rate: u64,
    /// For so long.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How often all that is done, with a fresh daemon each time.
    #[arg(id = "fanout-runs", long = "fanout-runs", default_value_t = 5)]
    runs: usize,
    /// CPU of other processes, in cores, from which on a run gives no figure for a floor.
    #[arg(id = "fanout-foreign-max", long = "fanout-foreign-max", default_value_t = 0.10, value_name = "CORES")]
    foreign_max: f64,
}

impl Crowd {
    fn describe(&self) -> String {
        format!(
            "{} subscribers on {} connections{}{}; {} transactions of one row per second for {} s",
            self.subscribers,
            self.connections,
            if self.filtered { ", named, each with a filter" } else { "" },
            if self.slow > 0 { format!(", and {} that do not read", self.slow) } else { String::new() },
            self.rate,
            self.seconds
        )
    }

    /// Why it says nothing about the floors, if so.
    fn beside_the_floors(&self) -> Option<String> {
        let as_asked = self.subscribers >= FLOOR_SUBSCRIBERS && self.rate >= FLOOR_RATE && !self.filtered;
        (!as_asked).then(|| format!("measured with {}", self.describe()))
    }
}

/// One run's figures.
struct Run {
    /// In microseconds, of every pair of event and subscriber.
    latency: Histogram<u64>,
    deliveries: u64,
    responses: u64,
    rss_without: u64,
    rss_idle: u64,
    rss_peak: u64,
    daemon_cpu: f64,
    lab_cpu: f64,
    server_cpu: f64,
    foreign_cpu: f64,
    seconds: f64,
}

/// Runs the benchmark and publishes its report.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let mut machine = Machine::look();
    machine.with("dbstreamd", references::version(&arguments.binary).unwrap_or_else(|| "of unknown version".into()));
    let section = section(&arguments.crowd, &arguments.binary)?;
    publish("dbstreamd: fan-out", &machine, &[section], &arguments.output)
}

/// Runs the benchmark. Fails when a single subscriber did not get everything.
pub(crate) fn section(crowd: &Crowd, binary: &Path) -> Result<Section, LabError> {
    let cluster = Cluster::builder().setting("autovacuum", "off").start()?;
    writer::prepare(&cluster)?;
    let mut runs = Vec::new();
    for number in 1..=crowd.runs {
        let run = once(&cluster, crowd, binary)?;
        eprintln!("fanout {number}/{}: {}", crowd.runs, row(&run, crowd));
        runs.push(run);
    }
    let text = format!(
        "## Fan-out\n\n{}. Every one got every event that its filter takes, once and in order. Latency is from the return of the commit \
         to the event in the subscriber's hand, over all pairs of event and subscriber; memory is what the daemon has more than without subscribers, \
         for each of them, at rest and at its highest; CPU in cores.\n\n\
         | run | deliveries/s | responses/s | p50 ms | p99 ms | max ms | KiB each, at rest | highest | daemon | subscribers | PostgreSQL | others |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n{}",
        crowd.describe(),
        runs.iter().enumerate().map(|(at, run)| format!("| {} {}\n", at + 1, row(run, crowd))).collect::<String>()
    );
    let seen = |figure: &dyn Fn(&Run) -> f64| {
        if let Some(reason) = crowd.beside_the_floors() {
            return Err(reason);
        }
        let disturbed = runs.iter().filter(|run| run.foreign_cpu / run.seconds > crowd.foreign_max).count();
        if disturbed > 0 {
            return Err(format!("others used the machine in {disturbed} of {} runs", runs.len()));
        }
        median(runs.iter().map(figure)).ok_or_else(|| "no runs".to_owned())
    };
    let findings = vec![
        // Anything less has ended the benchmark.
        Finding { key: "fanout.received", seen: crowd.beside_the_floors().map_or(Ok(1.0), Err) },
        Finding { key: "fanout.memory", seen: seen(&|run| run.kib_each(run.rss_peak, crowd)) },
        Finding { key: "fanout.p99", seen: seen(&|run| run.latency_ms(0.99)) },
    ];
    let data = runs.iter().map(|run| {
        json!({
            "deliveries": run.deliveries, "responses": run.responses, "seconds": run.seconds,
            "p50_ms": run.latency_ms(0.5), "p99_ms": run.latency_ms(0.99), "max_ms": run.latency_ms(1.0),
            "rss_without": run.rss_without, "rss_idle": run.rss_idle, "rss_peak": run.rss_peak,
            "daemon_cpu": run.daemon_cpu, "lab_cpu": run.lab_cpu, "server_cpu": run.server_cpu, "foreign_cpu": run.foreign_cpu,
        })
    });
    Ok(Section {
        name: "fanout",
        text,
        findings,
        plots: Vec::new(),
        data: json!({ "crowd": crowd.describe(), "runs": data.collect::<Vec<_>>() }),
        failures: Vec::new(),
    })
}

fn once(cluster: &Cluster, crowd: &Crowd, binary: &Path) -> Result<Run, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    writer::create_slot(cluster)?;
    let all = crowd.subscribers + crowd.slow;
    let mut daemon = Daemon::start(&Setup {
        binary,
        folder: folder.path(),
        url: &cluster.url(DATABASE),
        slot: SLOT,
        publication: PUBLICATION,
        config: &format!("[grpc]\nmax_subscribers = {all}\nmax_connections = {}\n", all + crowd.connections),
    })?;
    daemon.wait_streaming()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(io("the subscribers' runtime"))?;
    let run = runtime.block_on(measure(cluster, crowd, &mut daemon));
    // Calls that are still open would keep it waiting.
    runtime.shutdown_background();
    let run = run?;
    daemon.stop()?;
    writer::drop_slot(cluster)?;
    Ok(run)
}

async fn measure(cluster: &Cluster, crowd: &Crowd, daemon: &mut Daemon) -> Result<Run, LabError> {
    let warm_up = WARM_UP_SECONDS * crowd.rate;
    let mut writer = Writer::connect(cluster, crowd.filtered).await?;
    writer.write(warm_up, crowd.rate, |_| {}).await?;
    daemon.wait_visible(warm_up)?;
    let rss_without = procfs::rss(daemon.pid())?;

    let events = crowd.rate * crowd.seconds;
    let watch = Arc::new(Watch::new(warm_up + 1, events)?);
    let followers = follow(daemon.grpc(), crowd, &watch).await?;
    let mut lazy_ones = Vec::new();
    for number in crowd.subscribers..crowd.subscribers + crowd.slow {
        lazy_ones.push(Line::open(daemon.grpc(), std::iter::once((number, Wanted::everything())), &watch).await?);
    }
    // What opening the calls took is given back, or not.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rss_idle = procfs::rss(daemon.pid())?;

    let own = std::process::id();
    let server = cluster.server_pid().ok_or_else(|| LabError::Failed("the server is gone".into()))?;
    let before = procfs::Snapshot::take()?;
    let started = Instant::now();
    let counting = Arc::clone(&watch);
    let (rate, first) = (crowd.rate, warm_up);
    let writing = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("the writer's runtime"))?;
        runtime.block_on(writer.go_on(events, rate, |event| counting.committed(event - first)))
    });
    let mut rss_peak = rss_idle;
    let mut written_at = None;
    while watch.done.load(Acquire) < crowd.subscribers {
        if let Some(problem) = watch.problem.lock().take() {
            return Err(problem);
        }
        if writing.is_finished() && written_at.is_none() {
            written_at = Some(Instant::now());
        }
        if written_at.is_some_and(|at| at.elapsed() > PATIENCE) {
            let lacking = crowd.subscribers - watch.done.load(Acquire);
            return Err(LabError::Failed(format!("{lacking} subscribers did not get everything: no figures")));
        }
        rss_peak = rss_peak.max(procfs::rss(daemon.pid())?);
        tokio::time::sleep(LOOK).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let after = procfs::Snapshot::take()?;
    let rss_peak = rss_peak.max(procfs::rss(daemon.pid())?);
    writing.join().map_err(|_| LabError::Failed("the writer panicked".into()))??;
    let used = |pid| after.tree_seconds(pid) - before.tree_seconds(pid);
    let children = used(daemon.pid()) + used(server);
    let (daemon_cpu, server_cpu, lab_cpu) = (used(daemon.pid()), used(server), used(own) - children);
    let foreign_cpu = after.busy_seconds() - before.busy_seconds() - used(own);
    for task in followers {
        task.await.map_err(|error| LabError::Failed(format!("a subscriber: {error}")))?;
    }
    let latency = watch.latency();
    let (deliveries, responses) = (watch.deliveries.load(Relaxed), watch.responses.load(Relaxed));
    // Those that did not read have lost nothing.
    for lazy in lazy_ones {
        lazy.follow(&watch).await?;
    }
    Ok(Run {
        latency,
        deliveries,
        responses,
        rss_without,
        rss_idle,
        rss_peak,
        daemon_cpu,
        lab_cpu,
        server_cpu,
        foreign_cpu,
        seconds,
    })
}

type Task = tokio::task::JoinHandle<()>;

/// Opens all calls and lets each connection go on in a task of its own.
async fn follow(address: &str, crowd: &Crowd, watch: &Arc<Watch>) -> Result<Vec<Task>, LabError> {
    if crowd.connections == 0 {
        return Err(LabError::Failed("--connections must be at least 1".into()));
    }
    let mut tasks = Vec::with_capacity(crowd.connections);
    for connection in 0..crowd.connections {
        let numbers = (connection..crowd.subscribers).step_by(crowd.connections);
        let wanted = |number| if crowd.filtered { Wanted::of(number) } else { Wanted::everything() };
        let line = Line::open(address, numbers.map(|number| (number, wanted(number))), watch).await?;
        let watch = Arc::clone(watch);
        tasks.push(tokio::spawn(async move {
            if let Err(problem) = line.follow(&watch).await {
                *watch.problem.lock() = Some(problem);
            }
        }));
    }
    Ok(tasks)
}

impl Run {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn kib_each(&self, rss: u64, crowd: &Crowd) -> f64 {
        rss.saturating_sub(self.rss_without) as f64 / (crowd.subscribers + crowd.slow) as f64 / 1024.0
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

fn row(run: &Run, crowd: &Crowd) -> String {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (deliveries, responses) = (run.deliveries as f64, run.responses as f64);
    format!(
        "| {:.0} k | {:.0} k | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} |",
        deliveries / run.seconds / 1e3,
        responses / run.seconds / 1e3,
        run.latency_ms(0.5),
        run.latency_ms(0.99),
        run.latency_ms(1.0),
        run.kib_each(run.rss_idle, crowd),
        run.kib_each(run.rss_peak, crowd),
        run.daemon_cpu / run.seconds,
        run.lab_cpu / run.seconds,
        run.server_cpu / run.seconds,
        run.foreign_cpu / run.seconds,
    )
}
