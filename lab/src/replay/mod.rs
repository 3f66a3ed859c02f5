//! The whole log from its beginning to one subscriber, and to some at once; NATS JetStream with the same bytes beside it.
//!
//! The clients do as little as each protocol allows: both walk the events and check that their offsets are dense. What lies in the log is in the kernel's page cache for both.

pub(crate) mod jetstream;
pub(crate) mod reader;

use std::path::{Path, PathBuf};
use std::process::Command;

use dbstreamd_throwaway::Cluster;
use serde_json::json;

use crate::daemon::{Daemon, Setup};
use crate::error::{LabError, io};
use crate::machine::Machine;
use crate::meter::{Client, Meter};
use crate::nats::{Program, Server};
use crate::quiet::{Measured, Rules};
use crate::report::{Finding, Output, Section, median, publish};
use crate::workload::{Kind, RUN_SLOT, Workload};
use crate::{procfs, references};

/// The floors are those of so many events.
const FLOOR_EVENTS: u64 = 10_000_000;

/// Arguments of the benchmark on its own.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The dbstreamd program.
    #[arg(long)]
    binary: PathBuf,
    #[command(flatten)]
    length: Length,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    nats: Program,
    #[command(flatten)]
    output: Output,
}

/// How much is read, how often.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Length {
    /// Events in the log: rows of workload t2.
    #[arg(long, default_value_t = FLOOR_EVENTS)]
    events: u64,
    /// Runs of each client, in turn.
    #[arg(id = "replay-runs", long = "replay-runs", default_value_t = 5)]
    runs: usize,
    /// Readers that read the same at a time, in the run of several.
    #[arg(long, default_value_t = 4)]
    readers: usize,
}

/// Who reads.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Who {
    /// One that looks at offsets only.
    One,
    /// One that decodes every message into the generated types.
    Decoding,
    /// Several that look at offsets only.
    Several,
    JetStream,
}

/// One run's figures.
struct Run {
    seconds: f64,
    events: u64,
    server_cpu: f64,
    client_cpu: f64,
    foreign_cores: f64,
}

impl Measured for Run {
    fn foreign_cores(&self) -> f64 {
        self.foreign_cores
    }
}

impl Run {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn rate(&self) -> f64 {
        self.events as f64 / self.seconds / 1e6
    }
}

/// Runs the benchmark and publishes its report.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let mut machine = Machine::look();
    machine.with("dbstreamd", references::version(&arguments.binary).unwrap_or_else(|| "of unknown version".into()));
    arguments.nats.describe(&mut machine);
    let section = section(&arguments.length, &arguments.rules, &arguments.nats, &arguments.binary)?;
    publish("dbstreamd: replay", &machine, &[section], &arguments.output)
}

/// Runs the benchmark.
pub(crate) fn section(length: &Length, rules: &Rules, nats: &Program, binary: &Path) -> Result<Section, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let cluster = Cluster::builder().setting("max_wal_size", "8GB").setting("autovacuum", "off").start()?;
    eprintln!("replay: writing {} events …", length.events);
    let workload = Workload::create(&cluster, Kind::T2, length.events)?;
    workload.copy_slot(&cluster)?;
    let url = cluster.url(workload.database);
    let publication = workload.publication;
    let setup = Setup { binary, folder: folder.path(), url: &url, slot: RUN_SLOT, publication, config: "" };
    let mut daemon = Daemon::start(&setup)?;
    daemon.wait_visible(workload.rows)?;
    let caches = Caches::of(&daemon)?;

    let reference = reference(nats, &daemon, workload.rows, folder.path());
    let mut whos = vec![Who::One, Who::Decoding, Who::Several];
    whos.extend(reference.is_ok().then_some(Who::JetStream));
    let mut runs: Vec<(Who, Run)> = Vec::new();
    for number in 1..=length.runs {
        for &who in &whos {
            let run = rules.attempt(|| once(who, length, &daemon, workload.rows, reference.as_ref().ok()))?;
            eprintln!("replay {number}/{} {who:?}: {:.2} M events/s", length.runs, run.rate());
            runs.push((who, run));
        }
    }
    let after = Caches::of(&daemon)?;
    let peak = procfs::peak_rss(daemon.pid())?;
    daemon.stop()?;
    Ok(report((length, rules), &whos, &runs, reference.err(), (&caches, &after), peak))
}

/// What the daemon keeps in memory for those who follow, by its own account.
struct Caches {
    block_cache: f64,
    tail: f64,
}

impl Caches {
    fn of(daemon: &Daemon) -> Result<Self, LabError> {
        let metrics = daemon.metrics().unwrap_or_default();
        let used = |component: &str| {
            let line = format!("dbstreamd_memory_used_bytes{{component=\"{component}\"}} ");
            let value = metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse::<f64>().ok());
            value.ok_or_else(|| LabError::Failed(format!("the daemon does not say what {component} uses")))
        };
        Ok(Self { block_cache: used("block_cache")?, tail: used("tail")? })
    }
}

fn once(
    who: Who,
    length: &Length,
    daemon: &Daemon,
    events: u64,
    reference: Option<&Reference>,
) -> Result<Run, LabError> {
    let own = std::env::current_exe().map_err(io("the lab itself"))?;
    let mut command = Command::new(own);
    let (end, readers) = (events.to_string(), if who == Who::Several { length.readers } else { 1 });
    let (server, expected) = match (who, reference) {
        (Who::JetStream, Some(reference)) => {
            command.args(["jetstream-read", "--server", &reference.url, "--messages", &end]);
            (reference.pid, events)
        }
        (Who::Decoding, _) => {
            command.args(["subscribe", "--grpc", daemon.grpc(), "--end-offset", &end]);
            (daemon.pid(), events)
        }
        _ => {
            command.args(["read", "--grpc", daemon.grpc(), "--end-offset", &end, "--readers", &readers.to_string()]);
            (daemon.pid(), events * readers as u64)
        }
    };
    let meter = Meter::start(server)?;
    let mut client = Client::start("a reader", &mut command)?;
    client.wait()?;
    let window = meter.stop()?;
    let client_cpu = window.cpu(client.pid());
    let counted: serde_json::Value =
        serde_json::from_str(&client.finish()?).map_err(|error| LabError::Failed(format!("a reader: {error}")))?;
    let counted = counted.get("events").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if counted != expected {
        return Err(LabError::Failed(format!("{who:?} counted {counted} events of {expected}: no figure")));
    }
    let (seconds, server_cpu) = (window.seconds, window.server_cpu);
    Ok(Run { seconds, events: counted, server_cpu, client_cpu, foreign_cores: window.foreign_cores })
}

/// A JetStream that has the same events.
struct Reference {
    url: String,
    pid: u32,
    /// Stops it when dropped.
    _server: Server,
}

fn reference(program: &Program, daemon: &Daemon, events: u64, folder: &Path) -> Result<Reference, String> {
    let server = Server::start(program, &folder.join("jetstream")).map_err(|error| format!("skipped: {error}"))?;
    let (url, pid) = (server.address().to_owned(), server.pid());
    eprintln!("replay: filling JetStream …");
    let fill = || {
        let own = std::env::current_exe().map_err(io("the lab itself"))?;
        let mut command = Command::new(own);
        command.args(["jetstream-fill", "--server", &url, "--grpc", daemon.grpc(), "--events", &events.to_string()]);
        let mut client = Client::start("filling JetStream", &mut command)?;
        client.wait()?;
        client.finish()
    };
    fill().map_err(|error: LabError| error.to_string())?;
    Ok(Reference { url, pid, _server: server })
}

fn report(
    (length, rules): (&Length, &Rules),
    whos: &[Who],
    runs: &[(Who, Run)],
    absent: Option<String>,
    (before, after): (&Caches, &Caches),
    peak: u64,
) -> Section {
    let of = |who: Who| runs.iter().filter(move |(one, _)| *one == who).map(|(_, run)| run);
    let rate = |who| median(of(who).map(Run::rate));
    let mut text = format!(
        "## Replay\n\n{} events of workload t2 from the beginning of the log, {} runs of each in turn.\n\n\
         | who reads | M events/s (median) | lowest … highest | server CPU-s per M | client CPU-s per M | others, cores |\n|---|---|---|---|---|---|\n",
        length.events, length.runs
    );
    for &who in whos {
        let name = match who {
            Who::One => "dbstreamd, one reader of offsets".to_owned(),
            Who::Decoding => "dbstreamd, one reader that decodes everything".to_owned(),
            Who::Several => format!("dbstreamd, {} readers of offsets at a time, together", length.readers),
            Who::JetStream => "NATS JetStream, file storage, ordered consumer".to_owned(),
        };
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let per_million =
            |cpu: fn(&Run) -> f64| median(of(who).map(|run| cpu(run) / run.events as f64 * 1e6)).unwrap_or(f64::NAN);
        let (lowest, highest) =
            of(who).map(Run::rate).fold((f64::INFINITY, 0.0_f64), |(low, high), rate| (low.min(rate), high.max(rate)));
        text += &format!(
            "| {name} | {:.2} | {lowest:.2} … {highest:.2} | {:.2} | {:.2} | {:.2} |\n",
            rate(who).unwrap_or(f64::NAN),
            per_million(|run| run.server_cpu),
            per_million(|run| run.client_cpu),
            of(who).map(|run| run.foreign_cores).fold(0.0, f64::max),
        );
    }
    if let Some(reason) = &absent {
        text += &format!("\nNATS JetStream: {reason}.\n");
    }
    text += &format!(
        "\nWhat the daemon keeps for those who follow, before and after all that: block cache {:.1} and {:.1} MB, tail {:.1} and {:.1} MB. Its peak: {:.0} MB.\n",
        before.block_cache / 1e6,
        after.block_cache / 1e6,
        before.tail / 1e6,
        after.tail / 1e6,
        megabytes(peak)
    );
    let judged = |figure: Option<f64>, who: &[Who]| {
        if length.events < FLOOR_EVENTS {
            return Err(format!("measured with {} events", length.events));
        }
        if let Some(disturbance) = rules.disturbance(who.iter().flat_map(|&who| of(who))) {
            return Err(disturbance.to_string());
        }
        figure.ok_or_else(|| absent.clone().unwrap_or_else(|| "no runs".into()))
    };
    let ratio = rate(Who::One).zip(rate(Who::JetStream)).map(|(ours, theirs)| ours / theirs);
    let data = runs.iter().map(|(who, run)| {
        json!({
            "who": format!("{who:?}"), "seconds": run.seconds, "events": run.events, "server_cpu": run.server_cpu,
            "client_cpu": run.client_cpu, "foreign_cores": run.foreign_cores,
        })
    });
    Section {
        name: "replay",
        text,
        findings: vec![
            Finding { key: "replay.rate", seen: judged(rate(Who::One), &[Who::One]) },
            Finding { key: "replay.jetstream", seen: judged(ratio, &[Who::One, Who::JetStream]) },
        ],
        plots: Vec::new(),
        data: json!({ "runs": data.collect::<Vec<_>>() }),
        failures: Vec::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
