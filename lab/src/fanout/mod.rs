//! Many subscribers that follow one stream of one daemon, live: does everybody get everything, how late, at what cost?
//!
//! A writer commits transactions of one row at a steady rate. Every subscriber checks that it gets each event that passes
//! its filter exactly once and in order; if a single one does not, there is an error and no figure. Latency is taken for every pair
//! of event and subscriber, from the moment the writer's commit returned to the moment the subscriber has the event in hand. Daemon,
//! subscribers, writer and PostgreSQL share this machine's processors.

mod follower;
mod jetstream;
mod line;
mod measure;
mod ours;
mod writer;

use std::path::{Path, PathBuf};

use dbstreamd_throwaway::Cluster;
use serde_json::json;

use crate::error::LabError;
use crate::machine::Machine;
use crate::nats::Program;
use crate::quiet::Rules;
use crate::references;
use crate::report::{Finding, Output, Section, median, publish};
use jetstream::By;
use measure::Run;

/// Events are written for so long before there are subscribers, so that the daemon's memory without them is that of a daemon at work.
const WARM_UP_SECONDS: u64 = 3;
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
    rules: Rules,
    #[command(flatten)]
    nats: Program,
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

    /// The subscribers of a connection.
    fn of(&self, connection: usize) -> impl Iterator<Item = usize> + use<> {
        (connection..self.subscribers).step_by(self.connections.max(1))
    }

    /// Why the reference has nothing like it, if so.
    fn beyond_the_reference(&self) -> Option<&'static str> {
        (self.filtered || self.slow > 0)
            .then_some("skipped: it is not measured with filters or with subscribers that do not read")
    }

    /// Why it says nothing about the floors, if so.
    fn beside_the_floors(&self) -> Option<String> {
        let as_asked = self.subscribers >= FLOOR_SUBSCRIBERS && self.rate >= FLOOR_RATE && !self.filtered;
        (!as_asked).then(|| format!("measured with {}", self.describe()))
    }
}

/// Who delivers.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Who {
    Dbstreamd,
    JetStream(By),
}

impl Who {
    const ALL: [Self; 3] = [Self::Dbstreamd, Self::JetStream(By::Consumer), Self::JetStream(By::Subscription)];

    const fn name(self) -> &'static str {
        match self {
            Self::Dbstreamd => "dbstreamd",
            Self::JetStream(By::Consumer) => "JetStream, consumers",
            Self::JetStream(By::Subscription) => "NATS, plain subscriptions",
        }
    }
}

/// Runs the benchmark and publishes its report.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let mut machine = Machine::look();
    machine.with("dbstreamd", references::version(&arguments.binary).unwrap_or_else(|| "of unknown version".into()));
    arguments.nats.describe(&mut machine);
    let section = section(&arguments.crowd, &arguments.rules, &arguments.nats, &arguments.binary)?;
    publish("dbstreamd: fan-out", &machine, &[section], &arguments.output)
}

/// Runs the benchmark. Fails when a single subscriber of dbstreamd did not get everything; a reference that fails has no figures.
pub(crate) fn section(crowd: &Crowd, rules: &Rules, nats: &Program, binary: &Path) -> Result<Section, LabError> {
    if crowd.connections == 0 {
        return Err(LabError::Failed("--connections must be at least 1".into()));
    }
    let cluster = Cluster::builder().setting("autovacuum", "off").start()?;
    writer::prepare(&cluster)?;
    let mut runs: Vec<(Who, Run)> = Vec::new();
    let mut absent: Vec<(Who, String)> = Vec::new();
    if let Some(reason) = crowd.beyond_the_reference() {
        absent.extend(Who::ALL.into_iter().skip(1).map(|who| (who, reason.to_owned())));
    }
    for number in 1..=crowd.runs {
        for who in Who::ALL {
            let run = match who {
                Who::Dbstreamd => rules.attempt(|| ours::once(&cluster, crowd, binary))?,
                Who::JetStream(_) if absent.iter().any(|(missing, _)| *missing == who) => continue,
                Who::JetStream(by) => {
                    let event_bytes = runs.first().map_or(0, |(_, run)| run.event_bytes);
                    match rules.attempt(|| jetstream::once(crowd, nats, by, event_bytes)) {
                        Ok(run) => run,
                        Err(error) => {
                            eprintln!("fanout {number}/{} {}: {error}", crowd.runs, who.name());
                            runs.retain(|(other, _)| *other != who);
                            absent.push((who, error.to_string()));
                            continue;
                        }
                    }
                }
            };
            eprintln!("fanout {number}/{} {}: {}", crowd.runs, who.name(), run.row(crowd));
            runs.push((who, run));
        }
    }
    Ok(report(crowd, rules, &runs, &absent))
}

fn report(crowd: &Crowd, rules: &Rules, runs: &[(Who, Run)], absent: &[(Who, String)]) -> Section {
    let of = |who: Who| runs.iter().filter(move |(one, _)| *one == who).map(|(_, run)| run);
    let row = |(at, (who, run)): (usize, (Who, &Run))| format!("| {} | {} {}\n", who.name(), at + 1, run.row(crowd));
    let rows = |who: Who| of(who).map(move |run| (who, run)).enumerate().map(row).collect::<String>();
    let mut text = format!(
        "## Fan-out\n\n{}. Every one got every event that its filter takes, once and in order. Latency is from the return of the commit \
         to the event in the subscriber's hand, over all pairs of event and subscriber; that of the first second's events is also told alone, for they come to \
         subscribers that have rested until then and do not know the table yet; memory is what the server has more than without subscribers, \
         for each of them, at rest and at its highest; CPU in cores. JetStream's messages are as long as dbstreamd's events and do not come out of \
         PostgreSQL: who publishes them is counted with the subscribers, and its latency begins with JetStream's word that a message is stored.\n\n\
         | who | run | deliveries/s | responses/s | p50 ms | p99 ms | max ms | first second, p99 ms | KiB each, at rest | highest | server | subscribers | PostgreSQL | others |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n{}",
        crowd.describe(),
        Who::ALL.into_iter().map(rows).collect::<String>()
    );
    for (who, reason) in absent {
        text += &format!("\n{}: {reason}.\n", who.name());
    }
    let seen = |figure: &dyn Fn(&Run) -> f64| {
        if let Some(reason) = crowd.beside_the_floors() {
            return Err(reason);
        }
        if let Some(disturbance) = rules.disturbance(of(Who::Dbstreamd)) {
            return Err(disturbance.to_string());
        }
        median(of(Who::Dbstreamd).map(figure)).ok_or_else(|| "no runs".to_owned())
    };
    let findings = vec![
        // Anything less has ended the benchmark.
        Finding { key: "fanout.received", seen: crowd.beside_the_floors().map_or(Ok(1.0), Err) },
        Finding { key: "fanout.memory", seen: seen(&|run| run.kib_each(run.rss.peak, crowd)) },
        Finding { key: "fanout.p99", seen: seen(&|run| run.latency_ms(0.99)) },
    ];
    let data = runs.iter().map(|(who, run)| {
        json!({
            "who": who.name(), "deliveries": run.deliveries, "responses": run.responses, "seconds": run.seconds,
            "event_bytes": run.event_bytes,
            "p50_ms": run.latency_ms(0.5), "p99_ms": run.latency_ms(0.99), "max_ms": run.latency_ms(1.0),
            "opening_p99_ms": run.opening_ms(0.99),
            "rss_without": run.rss.without, "rss_idle": run.rss.idle, "rss_peak": run.rss.peak,
            "server_cpu": run.server_cpu, "lab_cpu": run.lab_cpu, "database_cpu": run.database_cpu, "foreign_cores": run.foreign_cores,
        })
    });
    Section {
        name: "fanout",
        text,
        findings,
        plots: Vec::new(),
        data: json!({ "crowd": crowd.describe(), "runs": data.collect::<Vec<_>>() }),
        failures: Vec::new(),
    }
}
