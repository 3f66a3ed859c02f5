//! One benchmark: the same WAL through `pg_recvlogical -f /dev/null` and through dbstreamd, in turn.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use dbstreamd_throwaway::Cluster;
use serde_json::Value;

use crate::daemon::{Daemon, PATIENCE, POLL, Setup};
use crate::error::{LabError, io};
use crate::machine::Machine;
use crate::procfs;
use crate::report::{Output, Section, publish};
use crate::series::{Run, Series, table};
use crate::workload::Workload;

/// What to drain, how often.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rows of workload t2, in transactions of 100.
    #[arg(long, default_value_t = 2_000_000)]
    rows: u64,
    /// Single-row transactions of workload t1.
    #[arg(long, default_value_t = 200_000)]
    transactions: u64,
    /// Runs of each client per workload.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The dbstreamd binary.
    #[arg(long)]
    binary: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Runs the benchmark and publishes its report.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let mut machine = Machine::look();
    let section = section(arguments, &mut machine)?;
    publish("Draining a slot", &machine, &[section], &arguments.output)
}

/// Runs the benchmark.
pub(crate) fn section(arguments: &Arguments, machine: &mut Machine) -> Result<Section, LabError> {
    let cluster = Cluster::builder().setting("max_wal_size", "8GB").setting("autovacuum", "off").start()?;
    machine.with("PostgreSQL", cluster.psql("postgres", "SELECT current_setting('server_version')")?);
    let mut text = format!("## Draining a slot\n\nLoopback TCP, {} runs each, in turn.\n\n", arguments.runs);
    eprintln!("writing {} rows in transactions of 100 …", arguments.rows);
    let t2 = Workload::t2(&cluster, arguments.rows)?;
    text += &compare(&cluster, &t2, arguments)?;
    eprintln!("writing {} transactions of one row …", arguments.transactions);
    let t1 = Workload::t1(&cluster, arguments.transactions)?;
    text += "\n";
    text += &compare(&cluster, &t1, arguments)?;
    text += &format!("\nIdle, one source: {:.0} MB resident.\n", idle_megabytes(&cluster, &t1, &arguments.binary)?);
    Ok(Section {
        name: "drain",
        text,
        findings: Vec::new(),
        plots: Vec::new(),
        data: Value::Null,
        failures: Vec::new(),
    })
}

fn compare(cluster: &Cluster, workload: &Workload, arguments: &Arguments) -> Result<String, LabError> {
    let pgoutput_bytes = pgoutput_bytes(cluster, workload)?;
    let mut reference = Series { client: "pg_recvlogical -f /dev/null", runs: Vec::new() };
    let mut ours = Series { client: "dbstreamd serve", runs: Vec::new() };
    for run in 1..=arguments.runs {
        let one = with_slot(cluster, workload, |slot| pg_recvlogical(cluster, workload, slot, Path::new("/dev/null")))?;
        eprintln!("{} run {run}: pg_recvlogical {:.2} s", workload.name, one.seconds);
        reference.runs.push(one);
        let one = with_slot(cluster, workload, |slot| dbstreamd(cluster, workload, slot, &arguments.binary))?;
        eprintln!("{} run {run}: dbstreamd      {:.2} s", workload.name, one.seconds);
        ours.runs.push(one);
    }
    Ok(table(workload, pgoutput_bytes, &[reference, ours]))
}

/// Runs `drain` on a copy of the workload's slot, and accounts the walsender's CPU time to it.
fn with_slot(
    cluster: &Cluster,
    workload: &Workload,
    drain: impl FnOnce(&str) -> Result<Run, LabError>,
) -> Result<Run, LabError> {
    let slot = "lab_run";
    workload.copy_slot(cluster, slot)?;
    let postmaster = cluster.server_pid().ok_or_else(|| LabError::Failed("the server is gone".into()))?;
    // Children that ended are in the postmaster's own account.
    let before = procfs::cpu_seconds(postmaster)?;
    let run = drain(slot)?;
    workload.drop_slot(cluster, slot)?;
    Ok(Run { server_cpu: procfs::cpu_seconds(postmaster)? - before, ..run })
}

fn pg_recvlogical(cluster: &Cluster, workload: &Workload, slot: &str, into: &Path) -> Result<Run, LabError> {
    let started = Instant::now();
    let mut child = Command::new(dbstreamd_throwaway::binary("pg_recvlogical")?)
        .args(["--dbname", &cluster.url(&workload.database), "--slot", slot, "--start", "--no-loop"])
        .args(["--endpos", &workload.end_lsn, "--option", "proto_version=1"])
        .args(["--option", &format!("publication_names={}", workload.publication)])
        .arg("--file")
        .arg(into)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io("pg_recvlogical"))?;
    // A zombie keeps its account until it is waited for, but not its memory: sample while it runs.
    let mut peak_rss = 0;
    let mut client_cpu = 0.0;
    loop {
        if let Ok(rss) = procfs::peak_rss(child.id()) {
            peak_rss = rss;
        }
        if let Ok(cpu) = procfs::cpu_seconds(child.id()) {
            client_cpu = cpu;
        }
        if let Some(status) = child.try_wait().map_err(io("pg_recvlogical"))? {
            if !status.success() {
                let mut stderr = String::new();
                child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut stderr));
                return Err(LabError::Failed(format!("pg_recvlogical: {status}: {stderr}")));
            }
            break;
        }
        if started.elapsed() > PATIENCE {
            // Killing what is about to be reported as stuck; there is nothing to add when that fails.
            let _ = child.kill();
            return Err(LabError::Failed("pg_recvlogical did not reach the end".into()));
        }
        std::thread::sleep(POLL);
    }
    Ok(Run { seconds: started.elapsed().as_secs_f64(), client_cpu, peak_rss, ..Run::default() })
}

/// How many bytes of pgoutput the workload is.
fn pgoutput_bytes(cluster: &Cluster, workload: &Workload) -> Result<u64, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let file = folder.path().join("pgoutput");
    with_slot(cluster, workload, |slot| pg_recvlogical(cluster, workload, slot, &file))?;
    let bytes = std::fs::metadata(&file).map_err(io("pg_recvlogical's file"))?.len();
    // It writes a newline after every message: each row, and Begin and Commit of each transaction.
    Ok(bytes - workload.events - 2 * workload.transactions)
}

fn dbstreamd(cluster: &Cluster, workload: &Workload, slot: &str, binary: &Path) -> Result<Run, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let started = Instant::now();
    let mut daemon = start(cluster, workload, slot, binary, folder.path())?;
    daemon.wait_visible(workload.events)?;
    let seconds = started.elapsed().as_secs_f64();
    let pid = daemon.pid();
    let client_cpu = procfs::cpu_seconds(pid)?;
    let peak_rss = procfs::peak_rss(pid)?;
    let log_bytes = procfs::folder_bytes(daemon.data());
    daemon.stop()?;
    Ok(Run { seconds, client_cpu, server_cpu: 0.0, peak_rss, log_bytes })
}

/// Resident memory of a daemon that follows an idle database.
fn idle_megabytes(cluster: &Cluster, workload: &Workload, binary: &Path) -> Result<f64, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let slot = "lab_idle";
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    cluster.psql(&workload.database, &create)?;
    let mut daemon = start(cluster, workload, slot, binary, folder.path())?;
    daemon.wait_streaming()?;
    let rss = procfs::rss(daemon.pid())?;
    daemon.stop()?;
    workload.drop_slot(cluster, slot)?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let megabytes = rss as f64 / 1e6;
    Ok(megabytes)
}

fn start(cluster: &Cluster, workload: &Workload, slot: &str, binary: &Path, folder: &Path) -> Result<Daemon, LabError> {
    let (url, publication) = (cluster.url(&workload.database), &workload.publication);
    Daemon::start(&Setup { binary, folder, url: &url, slot, publication, config: "" })
}
