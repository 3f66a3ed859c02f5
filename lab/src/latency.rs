//! From the moment a commit has returned to its client to the moment the change is where it is going, on one clock: the lab
//! itself writes and receives.
//!
//! Two ways, in turn, several times, at the same rate: a minimal receiver on a slot of its own, which keeps nothing
//! (the reference: nobody can have the change before PostgreSQL sends it), and a gRPC subscriber of dbstreamd, which gets
//! only what is fsynced. Beside them, what an fdatasync of 8 KB costs on the same disk at the same time. A change may come
//! before its commit has returned: the walsender needs only the WAL, the client also the answer. Then the figure is negative.

mod disk;
mod figures;
mod receive;
mod server;
mod steps;
mod traffic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use dbstreamd_throwaway::Cluster;

use crate::daemon::{Daemon, Setup};
use crate::error::{LabError, io};
use crate::machine::Machine;
use crate::meter::Meter;
use crate::quiet::Rules;
use crate::references;
use crate::report::{Output, Section, publish};
use figures::{Contender, Figures, Run};
use receive::{Raw, Receiver, Subscriber};
use traffic::{Ledger, Traffic};

/// Sent and not measured: connections, caches and the daemon's first partition.
const WARM_UP: Duration = Duration::from_secs(1);
const DATABASE: &str = "latency";
const PUBLICATION: &str = "lab";
const TABLE: &str =
    "CREATE TABLE tick (seq bigint PRIMARY KEY, note text NOT NULL); CREATE PUBLICATION lab FOR TABLE tick";

/// How much traffic, how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Pace {
    /// Transactions of one row per second, for the latency.
    #[arg(long, default_value_t = 1000, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) latency_rate: u32,
    /// Seconds of each run of it.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) latency_seconds: u32,
    /// Connections that write, each a part of the rate.
    #[arg(long, default_value_t = 4, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) latency_writers: u32,
    /// Runs of each way.
    #[arg(long, default_value_t = 5, value_name = "RUNS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) latency_runs: u32,
}

/// Arguments of the benchmark on its own.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The dbstreamd program, as PATH or LABEL=PATH. Several are measured in turn; the floors are judged by the last.
    #[arg(long, required = true)]
    binary: Vec<String>,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    output: Output,
}

/// Runs the benchmark and publishes its report.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let binaries = arguments.binary.iter().map(|named| match named.split_once('=') {
        Some((label, path)) => (label.to_owned(), PathBuf::from(path)),
        None => ("dbstreamd".to_owned(), PathBuf::from(named)),
    });
    let binaries: Vec<_> = binaries.collect();
    let mut machine = Machine::look();
    for (label, binary) in &binaries {
        machine.with(label, references::version(binary).unwrap_or_else(|| "of unknown version".into()));
    }
    let section = section(&arguments.pace, &arguments.rules, &binaries)?;
    publish("dbstreamd: latency", &machine, &[section], &arguments.output)
}

/// Runs the benchmark with one or several daemons, each with its label.
pub(crate) fn section(pace: &Pace, rules: &Rules, binaries: &[(String, PathBuf)]) -> Result<Section, LabError> {
    // Nothing but the traffic shall happen on the server while it is measured.
    let cluster = Cluster::builder()
        .password_auth("trust")
        .setting("max_wal_size", "8GB")
        .setting("checkpoint_timeout", "1h")
        .setting("autovacuum", "off")
        .setting("synchronous_commit", "on")
        .start()?;
    cluster.create_database(DATABASE)?;
    cluster.psql(DATABASE, TABLE)?;
    let mut figures = Figures {
        raw: Contender::new("raw receiver"),
        daemons: binaries.iter().map(|(label, _)| Contender::new(label)).collect(),
        disk_alone: Vec::new(),
        disk_beside: Vec::new(),
    };
    let mut lab = Lab { cluster, pace, next: 0 };
    for round in 1..=pace.latency_runs {
        figures.disk_alone.push(disk::quantiles(&disk::fdatasyncs(None)?));
        figures.disk_beside.push(disk::quantiles(&lab.disk_beside_traffic()?));
        let raw = rules.attempt(|| lab.raw())?;
        eprintln!("latency {round}/{}: raw receiver: {raw}", pace.latency_runs);
        figures.raw.runs.push(raw);
        for ((label, binary), contender) in binaries.iter().zip(&mut figures.daemons) {
            let run = rules.attempt(|| lab.through(binary))?;
            eprintln!("latency {round}/{}: {label}: {run}", pace.latency_runs);
            contender.runs.push(run);
        }
    }
    Ok(figures.section(pace, rules))
}

struct Lab<'a> {
    cluster: Cluster,
    pace: &'a Pace,
    /// The next sequence number.
    next: u64,
}

impl Lab<'_> {
    /// The reference.
    fn raw(&mut self) -> Result<Run, LabError> {
        let slot = "lab_raw";
        self.create_slot(slot)?;
        let ledger = self.ledger();
        let receiver = Raw::start(self.cluster.port(), DATABASE, slot, &ledger)?;
        let run = self.measure(&ledger, receiver, None)?;
        server::drop_slot(&self.cluster, DATABASE, slot)?;
        Ok(run)
    }

    /// One daemon with one subscriber.
    fn through(&mut self, binary: &Path) -> Result<Run, LabError> {
        let slot = "lab_daemon";
        self.create_slot(slot)?;
        let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
        let url = self.cluster.url(DATABASE);
        let setup = Setup { binary, folder: folder.path(), url: &url, slot, publication: PUBLICATION, config: "" };
        let mut daemon = Daemon::start(&setup)?;
        daemon.wait_streaming()?;
        let ledger = self.ledger();
        let subscriber = Subscriber::start(daemon.grpc(), &ledger)?;
        let run = self.measure(&ledger, subscriber, Some(&daemon))?;
        daemon.stop()?;
        server::drop_slot(&self.cluster, DATABASE, slot)?;
        Ok(run)
    }

    fn measure(&mut self, ledger: &Ledger, receiver: Receiver, daemon: Option<&Daemon>) -> Result<Run, LabError> {
        let postmaster = self.cluster.server_pid().ok_or_else(|| LabError::Failed("the server is gone".into()))?;
        let meter = Meter::start(postmaster)?;
        let before = daemon.map(steps::look).transpose()?;
        let achieved = self.traffic().run(ledger)?;
        receiver.finish()?;
        let after = daemon.map(steps::look).transpose()?;
        let steps = before.zip(after).map(|(before, after)| steps::between(&before, &after));
        let warm_up = u64::from(self.pace.latency_rate) * WARM_UP.as_secs();
        Ok(Run {
            micros: ledger.latencies(warm_up)?,
            achieved,
            foreign_cores: meter.stop()?.foreign_cores,
            steps: steps.unwrap_or_default(),
        })
    }

    /// An fdatasync now and then, as often as there are commits.
    fn disk_beside_traffic(&mut self) -> Result<Vec<Duration>, LabError> {
        let ledger = self.ledger();
        let traffic = self.traffic();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| traffic.run(&ledger));
            let appended = disk::fdatasyncs(Some(Duration::from_secs(1) / self.pace.latency_rate));
            writing.join().map_err(|_| LabError::Failed("a writer panicked".into()))??;
            appended
        })
    }

    fn create_slot(&self, slot: &str) -> Result<(), LabError> {
        self.cluster.psql(DATABASE, &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"))?;
        Ok(())
    }

    /// A ledger for the next round of traffic.
    fn ledger(&mut self) -> Ledger {
        let seconds = u64::from(self.pace.latency_seconds) + WARM_UP.as_secs();
        let rows = u64::from(self.pace.latency_rate) * seconds;
        let ledger = Ledger::new(self.next, rows);
        self.next += rows;
        ledger
    }

    fn traffic(&self) -> Traffic {
        let Pace { latency_rate: rate, latency_writers: writers, .. } = *self.pace;
        Traffic { port: self.cluster.port(), database: DATABASE, rate, writers }
    }
}
