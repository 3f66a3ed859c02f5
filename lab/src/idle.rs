//! What a daemon takes that has nothing to do: resident memory with one idle source, under the `small` profile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dbstreamd_throwaway::Cluster;
use serde_json::json;

use crate::daemon::{Daemon, Setup};
use crate::error::{LabError, io};
use crate::machine::Machine;
use crate::procfs;
use crate::references;
use crate::report::{Finding, Output, Section, publish};

/// Starts; the highest figure counts.
const STARTS: usize = 3;
/// How long it is looked at once it streams; the highest figure counts.
const WATCHED: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of the benchmark on its own.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The dbstreamd program.
    #[arg(long)]
    binary: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Runs the benchmark and publishes its report.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let mut machine = Machine::look();
    machine.with("dbstreamd", references::version(&arguments.binary).unwrap_or_else(|| "of unknown version".into()));
    let section = section(&arguments.binary)?;
    publish(&machine, &[section], &arguments.output)
}

/// Runs the benchmark.
pub(crate) fn section(binary: &Path) -> Result<Section, LabError> {
    let cluster = Cluster::start()?;
    cluster.psql(
        "postgres",
        "CREATE TABLE load (id bigint PRIMARY KEY); CREATE PUBLICATION lab FOR TABLE load;
         SELECT pg_create_logical_replication_slot('lab_idle', 'pgoutput')",
    )?;
    let mut seen = Vec::new();
    for start in 1..=STARTS {
        let idle = once(&cluster, binary)?;
        eprintln!("idle {start}/{STARTS}: {:.1} MB, {:.4} cores", megabytes(idle.rss), idle.cores);
        seen.push(idle);
    }
    let figure = megabytes(seen.iter().map(|idle| idle.rss).max().unwrap_or(0));
    let cores = seen.iter().map(|idle| idle.cores).fold(0.0, f64::max);
    Ok(Section {
        name: "idle",
        text: format!(
            "## An idle daemon\n\nOne source, profile `small`, nothing to read: {figure:.1} MB resident and {:.1} % of a core, the \
             highest in {STARTS} starts, looked at for {} s each.\n",
            100.0 * cores,
            WATCHED.as_secs()
        ),
        findings: vec![Finding { key: "idle.rss", seen: Ok(figure) }],
        plots: Vec::new(),
        data: json!(seen),
        failures: Vec::new(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// One start.
#[derive(serde::Serialize)]
struct Idle {
    /// The highest, in bytes.
    rss: u64,
    /// CPU it used while it was looked at.
    cores: f64,
}

fn once(cluster: &Cluster, binary: &Path) -> Result<Idle, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let (url, config) = (cluster.url("postgres"), "[memory]\nprofile = \"small\"\n");
    let setup = Setup { binary, folder: folder.path(), url: &url, slot: "lab_idle", publication: "lab", config };
    let mut daemon = Daemon::start(&setup)?;
    daemon.wait_streaming()?;
    let (since, before, mut rss) = (Instant::now(), procfs::cpu_seconds(daemon.pid())?, 0);
    while since.elapsed() < WATCHED {
        rss = procfs::rss(daemon.pid())?.max(rss);
        std::thread::sleep(LOOK);
    }
    let cores = (procfs::cpu_seconds(daemon.pid())? - before) / since.elapsed().as_secs_f64();
    daemon.stop()?;
    Ok(Idle { rss, cores })
}
