//! How long a daemon takes from the start of its process to STREAMING with a large log that exists already.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dbstreamd_throwaway::Cluster;
use serde_json::json;

use crate::daemon::{Daemon, PATIENCE, Setup};
use crate::error::{LabError, io};
use crate::machine::Machine;
use crate::procfs;
use crate::references;
use crate::report::{Finding, Output, Section, median, publish};

/// What the floor asks for.
const LOG_BYTES: u64 = 5_000_000_000;
const STARTS: u32 = 5;
const LOOK: Duration = Duration::from_millis(2);
/// Rows that are written at once, of about 2 kB each.
const SLICE_ROWS: u64 = 50_000;
/// Bytes that can hardly be compressed, of which each row has a piece from somewhere else. A slice of such a value is read
/// without the rest of it.
const TABLE: &str = "CREATE TABLE load (id bigint PRIMARY KEY, note text); CREATE PUBLICATION lab FOR TABLE load;
     CREATE TABLE noise (bytes bytea); ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL;
     INSERT INTO noise SELECT decode(string_agg(md5(random()::text), ''), 'hex') FROM generate_series(1, 100000);
     SELECT pg_create_logical_replication_slot('lab_start', 'pgoutput')";
const NOISE_BYTES: u64 = 1_600_000;
/// Of a row's piece; it is written in hexadecimal.
const PIECE_BYTES: u64 = 950;
/// So much more is written, as a fraction: what is in RocksDB's WAL as well goes with a clean stop.
const MARGIN: u64 = 8;

/// How large a log.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Size {
    /// Bytes of the log that exists when the daemon is started; with fewer than 5 GB the floor is not judged.
    #[arg(long, default_value_t = LOG_BYTES)]
    log_bytes: u64,
}

/// Arguments of the benchmark on its own.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The dbstreamd program.
    #[arg(long)]
    binary: PathBuf,
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    output: Output,
}

/// Runs the benchmark and publishes its report.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let mut machine = Machine::look();
    machine.with("dbstreamd", references::version(&arguments.binary).unwrap_or_else(|| "of unknown version".into()));
    let section = section(&arguments.binary, &arguments.size)?;
    publish(&machine, &[section], &arguments.output)
}

/// Runs the benchmark.
pub(crate) fn section(binary: &Path, size: &Size) -> Result<Section, LabError> {
    let cluster = Cluster::builder().setting("max_wal_size", "4GB").setting("autovacuum", "off").start()?;
    cluster.psql("postgres", TABLE)?;
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let url = cluster.url("postgres");
    let setup = Setup { binary, folder: folder.path(), url: &url, slot: "lab_start", publication: "lab", config: "" };
    let log_bytes = fill(&cluster, &setup, size.log_bytes)?;
    let mut seconds = Vec::new();
    for start in 1..=STARTS {
        let one = once(&setup)?;
        eprintln!("start {start}/{STARTS}: {one:.3} s");
        seconds.push(one);
    }
    let middle = median(seconds.iter().copied()).unwrap_or(f64::NAN);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let gigabytes = log_bytes as f64 / 1e9;
    let slowest = seconds.iter().copied().fold(0.0, f64::max);
    let seen = if log_bytes >= LOG_BYTES { Ok(middle) } else { Err(format!("the log had only {gigabytes:.2} GB")) };
    Ok(Section {
        name: "start",
        text: format!(
            "## A start\n\nFrom the start of the process to STREAMING, with a log of {gigabytes:.2} GB that was closed cleanly and \
             lies in the page cache as far as that goes: {middle:.3} s, the median of {STARTS} starts; the slowest {slowest:.3} s.\n"
        ),
        findings: vec![Finding { key: "start", seen }],
        plots: Vec::new(),
        data: json!({ "log_bytes": log_bytes, "seconds": seconds }),
        failures: Vec::new(),
    })
}

/// Writes until the log has this many bytes; gives how many it has.
fn fill(cluster: &Cluster, setup: &Setup<'_>, log_bytes: u64) -> Result<u64, LabError> {
    let mut daemon = Daemon::start(setup)?;
    daemon.wait_streaming()?;
    let (mut bytes, mut slices, mut events) = (0, 0, 0);
    while bytes < log_bytes + log_bytes / MARGIN {
        slices += 1;
        if slices > 4 + 4 * log_bytes / (SLICE_ROWS * 2 * PIECE_BYTES) {
            return Err(LabError::Failed(format!(
                "the log has only {bytes} bytes of {log_bytes} after {slices} slices"
            )));
        }
        // A row's piece of noise begins anywhere; the multiplier is a prime far larger than a piece.
        cluster.psql(
            "postgres",
            &format!(
                "TRUNCATE load; INSERT INTO load
                 SELECT g, encode(substring(bytes from (1 + (g * 1299709 + {slices} * 7919) % {})::int for {PIECE_BYTES}), 'hex')
                 FROM noise, generate_series(1, {SLICE_ROWS}::bigint) g",
                NOISE_BYTES - PIECE_BYTES
            ),
        )?;
        events += SLICE_ROWS + 1;
        daemon.wait_visible(events)?;
        bytes = procfs::folder_bytes(daemon.data());
        if slices % 10 == 0 {
            eprintln!("start: the log has {} MB of {}", bytes / 1_000_000, log_bytes / 1_000_000);
        }
    }
    let data = daemon.data().to_owned();
    // Stopping writes what is in memory to table files and drops RocksDB's WAL: the log may shrink a little.
    daemon.stop()?;
    Ok(procfs::folder_bytes(&data))
}

fn once(setup: &Setup<'_>) -> Result<f64, LabError> {
    let started = Instant::now();
    let mut daemon = Daemon::start(setup)?;
    while daemon.stream().get("state").is_none_or(|state| state != "STREAMING") {
        if started.elapsed() > PATIENCE {
            // Says why.
            daemon.wait_streaming()?;
        }
        std::thread::sleep(LOOK);
    }
    let seconds = started.elapsed().as_secs_f64();
    daemon.stop()?;
    Ok(seconds)
}
