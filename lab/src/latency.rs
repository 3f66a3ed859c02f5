//! `dbstreamd-lab latency`: from the moment a commit has returned to its client to the moment the change is where it is
//! going, on one clock: the lab itself writes and receives.
//!
//! Two ways, in turn, several times, at the same rate: a minimal receiver on a slot of its own, which keeps nothing
//! (the reference: nobody can have the change before PostgreSQL sends it), and a gRPC subscriber of dbstreamd, which gets
//! only what is fsynced. Beside them, what an fdatasync of 8 KB costs on the same disk at the same time. A change may come
//! before its commit has returned: the walsender needs only the WAL, the client also the answer. Then the figure is negative.

mod daemon;
mod disk;
mod figures;
mod receive;
mod server;
mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use dbstreamd_throwaway::Cluster;

use crate::{LabError, io, procfs};
use daemon::Daemon;
use figures::{Contender, Figures, Run, report};
use receive::{Raw, Receiver, Subscriber};
use traffic::{Ledger, Traffic};

/// Sent and not measured: connections, caches and the daemon's first partition.
const WARM_UP: Duration = Duration::from_secs(1);
const TABLE: &str =
    "CREATE TABLE tick (seq bigint PRIMARY KEY, note text NOT NULL); CREATE PUBLICATION lab FOR TABLE tick";
const DATABASE: &str = "latency";

/// How much traffic, how often, through what.
#[derive(clap::Args)]
pub(crate) struct LatencyArguments {
    /// Transactions of one row per second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Connections that write, each a part of the rate.
    #[arg(long, default_value_t = 4)]
    writers: u32,
    /// Runs of each way.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// A dbstreamd binary, as PATH or LABEL=PATH; several are measured in turn.
    #[arg(long, required = true)]
    binary: Vec<String>,
    /// Share of the machine's CPU time, in percent, that others may have used before a run counts as disturbed.
    #[arg(long, default_value_t = 5.0)]
    foreign_max: f64,
    /// Judge the floor all the same when more than half of the runs were disturbed.
    #[arg(long)]
    judge_disturbed: bool,
    /// Folder for the markdown report; none: only print it.
    #[arg(long)]
    results: Option<PathBuf>,
}

/// Runs the benchmark and gives the report.
pub(crate) fn run(arguments: &LatencyArguments) -> Result<String, LabError> {
    let cluster = Cluster::builder()
        .password_auth("trust")
        .setting("max_wal_size", "8GB")
        .setting("checkpoint_timeout", "1h")
        .setting("autovacuum", "off")
        .setting("synchronous_commit", "on")
        .start()?;
    cluster.create_database(DATABASE)?;
    cluster.psql(DATABASE, TABLE)?;
    let binaries = arguments.binary.iter().map(|named| match named.split_once('=') {
        Some((label, path)) => (label.to_owned(), PathBuf::from(path)),
        None => ("dbstreamd".to_owned(), PathBuf::from(named)),
    });
    let binaries: Vec<_> = binaries.collect();
    let mut figures = Figures {
        rate: arguments.rate,
        raw: Contender::new("raw receiver"),
        daemons: binaries.iter().map(|(label, _)| Contender::new(label)).collect(),
        disk_alone: Vec::new(),
        disk_beside: Vec::new(),
    };
    let mut lab = Lab { cluster, arguments, next: 0 };
    for round in 1..=arguments.runs {
        figures.disk_alone.push(disk::quantiles(&disk::fdatasync_paced(None)?));
        figures.disk_beside.push(disk::quantiles(&lab.disk_beside_traffic()?));
        let raw = lab.raw()?;
        eprintln!("run {round}: raw receiver {raw}");
        figures.raw.runs.push(raw);
        for ((label, binary), contender) in binaries.iter().zip(&mut figures.daemons) {
            let run = lab.through(binary)?;
            eprintln!("run {round}: {label} {run}");
            contender.runs.push(run);
        }
    }
    let server = lab.cluster.psql("postgres", "SELECT 'PostgreSQL ' || current_setting('server_version')")?;
    let machine = format!("{}; {}", procfs::machine(), server.trim());
    let report = report(&figures, &machine, arguments);
    if let Some(folder) = &arguments.results {
        let file = folder.join("latency.md");
        std::fs::create_dir_all(folder).map_err(io(folder.display().to_string()))?;
        std::fs::write(&file, &report).map_err(io(file.display().to_string()))?;
        eprintln!("written to {}", file.display());
    }
    Ok(report)
}

struct Lab<'a> {
    cluster: Cluster,
    arguments: &'a LatencyArguments,
    /// The next sequence number.
    next: u64,
}

impl Lab<'_> {
    /// The reference.
    fn raw(&mut self) -> Result<Run, LabError> {
        let slot = "lab_raw";
        self.slot(slot)?;
        let ledger = self.ledger();
        let receiver = Raw::start(self.cluster.port(), DATABASE, slot, &ledger)?;
        let run = self.measure(ledger, receiver, None)?;
        server::drop_slot(&self.cluster, DATABASE, slot)?;
        Ok(run)
    }

    /// One daemon with one subscriber.
    fn through(&mut self, binary: &std::path::Path) -> Result<Run, LabError> {
        let slot = "lab_daemon";
        self.slot(slot)?;
        let daemon = Daemon::start(&self.cluster.url(DATABASE), slot, binary)?;
        let ledger = self.ledger();
        let subscriber = Subscriber::start(&daemon.grpc, &ledger)?;
        let run = self.measure(ledger, subscriber, Some(&daemon))?;
        daemon.stop()?;
        server::drop_slot(&self.cluster, DATABASE, slot)?;
        Ok(run)
    }

    fn measure(&mut self, ledger: Ledger, receiver: Receiver, daemon: Option<&Daemon>) -> Result<Run, LabError> {
        let postmaster = self.cluster.server_pid().ok_or_else(|| LabError::Failed("the server is gone".into()))?;
        let ours = [Some(std::process::id()), Some(postmaster), daemon.map(Daemon::pid)];
        let watch = figures::ForeignCpu::start(ours.into_iter().flatten().collect())?;
        let steps_before = daemon.map(Daemon::metrics).transpose()?;
        let achieved = self.traffic().run(&ledger)?;
        receiver.finish()?;
        let steps_after = daemon.map(Daemon::metrics).transpose()?;
        let steps = steps_before.zip(steps_after).map(|(before, after)| figures::steps(&before, &after));
        let warm_up = u64::from(self.arguments.rate) * WARM_UP.as_secs();
        Ok(Run {
            micros: ledger.latencies(warm_up)?,
            achieved,
            foreign: watch.finish()?,
            steps: steps.unwrap_or_default(),
        })
    }

    fn disk_beside_traffic(&mut self) -> Result<Vec<Duration>, LabError> {
        let ledger = self.ledger();
        let traffic = self.traffic();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| traffic.run(&ledger));
            let appended = disk::fdatasync_paced(Some(Duration::from_secs(1) / self.arguments.rate.max(1)));
            writing.join().map_err(|_| LabError::Failed("a writer panicked".into()))??;
            appended
        })
    }

    fn slot(&self, slot: &str) -> Result<(), LabError> {
        self.cluster.psql(DATABASE, &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"))?;
        Ok(())
    }

    /// A ledger for the next round of traffic.
    fn ledger(&mut self) -> Ledger {
        let rows = u64::from(self.arguments.rate) * (u64::from(self.arguments.seconds) + WARM_UP.as_secs());
        let ledger = Ledger::new(self.next, rows);
        self.next += rows;
        ledger
    }

    fn traffic(&self) -> Traffic {
        let Self { cluster, arguments, .. } = self;
        Traffic { port: cluster.port(), database: DATABASE, rate: arguments.rate, writers: arguments.writers }
    }
}
