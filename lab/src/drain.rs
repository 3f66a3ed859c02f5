//! One benchmark: the same WAL through `pg_recvlogical -f /dev/null` and through dbstreamd, in turn.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dbstreamd_throwaway::Cluster;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::report::{Run, Series, table};
use crate::workload::Workload;
use crate::{DrainArguments, LabError, io, procfs};

/// Longest wait for one run.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the daemon is asked for its position; each answer costs it a third of a millisecond of CPU time.
const POLL: Duration = Duration::from_millis(50);

/// Runs the benchmark and gives the report, which is also stored when a folder is named.
pub(crate) fn run(arguments: &DrainArguments) -> Result<String, LabError> {
    let cluster = Cluster::builder().setting("max_wal_size", "8GB").setting("autovacuum", "off").start()?;
    let mut report = format!(
        "# Draining a slot\n\n{}; {}. Loopback TCP, {} runs each, in turn. dbstreamd with its durable log (fsync per group commit).\n\n",
        procfs::machine(),
        cluster.psql("postgres", "SELECT 'PostgreSQL ' || current_setting('server_version')")?.trim(),
        arguments.runs
    );
    eprintln!("writing {} rows in transactions of 100 …", arguments.rows);
    let t2 = Workload::t2(&cluster, arguments.rows)?;
    report += &compare(&cluster, &t2, arguments)?;
    eprintln!("writing {} transactions of one row …", arguments.transactions);
    let t1 = Workload::t1(&cluster, arguments.transactions)?;
    report += "\n";
    report += &compare(&cluster, &t1, arguments)?;
    report += &format!("\nIdle, one source: {:.0} MB resident.\n", idle_megabytes(&cluster, &t1, &arguments.binary)?);
    if let Some(folder) = &arguments.results {
        let today = Command::new("date").arg("+%Y-%m-%d").output().map_err(io("date"))?;
        let file = folder.join(format!("drain-{}.md", String::from_utf8_lossy(&today.stdout).trim()));
        std::fs::create_dir_all(folder).map_err(io(folder.display().to_string()))?;
        std::fs::write(&file, &report).map_err(io(file.display().to_string()))?;
        eprintln!("written to {}", file.display());
    }
    Ok(report)
}

fn compare(cluster: &Cluster, workload: &Workload, arguments: &DrainArguments) -> Result<String, LabError> {
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
    let daemon = Daemon::start(cluster, workload, slot, binary, folder.path())?;
    daemon.wait_for(workload.events)?;
    let seconds = started.elapsed().as_secs_f64();
    let pid = daemon.child.id();
    let client_cpu = procfs::cpu_seconds(pid)?;
    let peak_rss = procfs::peak_rss(pid)?;
    let log_bytes = procfs::folder_bytes(&folder.path().join("data"));
    daemon.stop()?;
    Ok(Run { seconds, client_cpu, server_cpu: 0.0, peak_rss, log_bytes })
}

/// Resident memory of a daemon that follows an idle database.
fn idle_megabytes(cluster: &Cluster, workload: &Workload, binary: &Path) -> Result<f64, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let slot = "lab_idle";
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    cluster.psql(&workload.database, &create)?;
    let daemon = Daemon::start(cluster, workload, slot, binary, folder.path())?;
    daemon.wait_streaming()?;
    let rss = procfs::rss(daemon.child.id())?;
    daemon.stop()?;
    workload.drop_slot(cluster, slot)?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let megabytes = rss as f64 / 1e6;
    Ok(megabytes)
}

/// A `dbstreamd serve` that drains one slot; killed when dropped.
struct Daemon {
    child: Child,
    http: String,
}

impl Daemon {
    fn start(
        cluster: &Cluster,
        workload: &Workload,
        slot: &str,
        binary: &Path,
        folder: &Path,
    ) -> Result<Self, LabError> {
        let (grpc, http) = (free_address()?, free_address()?);
        let config = folder.join("dbstreamd.toml");
        let text = format!(
            "[[source]]\nname = \"lab\"\nurl = \"{}\"\nslot = \"{slot}\"\npublication = \"{}\"\ncreate_slot = false\ncreate_publication = false\n",
            cluster.url(&workload.database),
            workload.publication
        );
        std::fs::write(&config, text).map_err(io(config.display().to_string()))?;
        let child = Command::new(binary)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--grpc", &grpc, "--http", &http])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io(binary.display().to_string()))?;
        Ok(Self { child, http })
    }

    fn wait_for(&self, offset: u64) -> Result<(), LabError> {
        self.wait("the last event to be visible", |stream| stream["visible_offset"].as_u64() >= Some(offset))
    }

    fn wait_streaming(&self) -> Result<(), LabError> {
        self.wait("STREAMING", |stream| stream["state"] == "STREAMING")
    }

    fn wait(&self, what: &str, reached: impl Fn(&Value) -> bool) -> Result<(), LabError> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let answer: Value =
                get(&self.http, "/v1/streams").and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default();
            let stream = answer.pointer("/streams/0").unwrap_or(&Value::Null);
            if stream.get("state").is_some_and(|state| state == "FAILED") {
                return Err(LabError::Failed(format!("dbstreamd: {}", stream["error"])));
            }
            if reached(stream) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(LabError::Failed(format!("dbstreamd: waited in vain for {what}")))
    }

    fn stop(mut self) -> Result<(), LabError> {
        let terminated = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let status = self.child.wait().map_err(io("dbstreamd"))?;
        if terminated.is_ok() && status.success() {
            return Ok(());
        }
        Err(LabError::Failed(format!("dbstreamd did not stop cleanly: {status}")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a clean stop there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn free_address() -> Result<String, LabError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io("a free port"))?;
    Ok(listener.local_addr().map_err(io("a free port"))?.to_string())
}
