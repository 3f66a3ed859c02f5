//! Where the daemon's CPU time goes while it drains: `perf record` on it, as a flame graph and a table of functions.
//!
//! The daemon is the one that is shipped, without debug information and frame pointers: stacks are taken by its unwind tables,
//! names come from its symbol table. What that leaves out is said in the report.

mod flame;
mod stacks;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dbstreamd_throwaway::Cluster;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::daemon::{Daemon, Setup};
use crate::error::{LabError, io};
use crate::judge::Refusal;
use crate::machine::Machine;
use crate::procfs;
use crate::references::{self, first_line};
use crate::report::{Output, Plot, Section, publish};
use crate::workload::{Kind, RUN_SLOT, Workload};
use stacks::{Profile, Share};

/// Bytes of the stack that are kept with each sample, at most: the most that perf takes. With a quarter of it most stacks lack
/// their lower end, as RocksDB and tokio poll and write with large frames.
const STACK_BYTES: u32 = 65_528;
/// Functions in the table.
const FUNCTIONS: usize = 20;
/// Longest name in the table, in characters; the flame graph has them whole.
const NAME_MAX: usize = 110;
/// Fewer samples say nothing about a function of one percent.
const SAMPLES_MIN: usize = 500;

/// Arguments of the profile.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The dbstreamd program; it must have its symbol table.
    #[arg(long)]
    binary: PathBuf,
    /// Rows of the workload (t2: inserts in transactions of 100).
    #[arg(long, default_value_t = 4_000_000)]
    rows: u64,
    /// Samples per second of CPU time. Not a round number, so that nothing periodic is always or never hit.
    #[arg(long, default_value_t = 499, value_parser = clap::value_parser!(u32).range(1..))]
    frequency: u32,
    /// Linux' perf.
    #[arg(long, default_value = "perf", value_name = "PROGRAM")]
    perf: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Takes the profile and publishes it; says why, and does nothing, where perf is missing or not permitted.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let version = match usable(&arguments.perf, folder.path()) {
        Ok(version) => version,
        Err(refusal) => {
            eprintln!("profile: {refusal}");
            return Ok(());
        }
    };
    let mut machine = Machine::look();
    machine.with("perf", version);
    machine.with("dbstreamd", references::version(&arguments.binary).unwrap_or_else(|| "of unknown version".into()));
    let section = section(arguments, folder.path(), &mut machine)?;
    publish("dbstreamd: a profile of draining", &machine, &[section], &arguments.output)
}

/// How perf finds the stacks: by the unwind tables.
fn call_graph() -> String {
    format!("dwarf,{STACK_BYTES}")
}

/// perf's version, once it has recorded something here.
fn usable(perf: &Path, folder: &Path) -> Result<String, Refusal> {
    let version = first_line(Command::new(perf).arg("--version"), false).ok_or_else(|| {
        let remedy = "run `make bench-setup`, or install linux-perf";
        Refusal::Absent(format!("{} is not there: {remedy}", perf.display()))
    })?;
    let mut probe = Command::new(perf);
    probe.args(["record", "--call-graph", &call_graph(), "-o"]).arg(folder.join("probe")).args(["--", "true"]);
    match probe.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(version.trim_start_matches("perf version ").to_owned()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first =
                said.lines().find(|line| !line.trim_end_matches([':', ' ']).is_empty()).unwrap_or("no reason given");
            let remedy =
                "run as root, or set the sysctl kernel.perf_event_paranoid to 1 (or 2, without the kernel's functions)";
            Err(Refusal::Absent(format!("perf may not record here ({}): {remedy}", first.trim())))
        }
        Err(error) => Err(Refusal::Absent(format!("perf cannot be run: {error}"))),
    }
}

fn section(arguments: &Arguments, folder: &Path, machine: &mut Machine) -> Result<Section, LabError> {
    let cluster = Cluster::builder().setting("max_wal_size", "8GB").setting("autovacuum", "off").start()?;
    machine.with("PostgreSQL", cluster.psql("postgres", "SELECT current_setting('server_version')")?);
    eprintln!("profile: writing {} rows, {} …", arguments.rows, Kind::T2.describe());
    let workload = Workload::create(&cluster, Kind::T2, arguments.rows)?;
    workload.copy_slot(&cluster)?;
    let (data, cpu_seconds) = drain(arguments, folder, &cluster, &workload)?;
    eprintln!("profile: resolving the stacks …");
    let profile = resolve(&arguments.perf, &data)?;
    let samples = profile.stacks.len();
    if samples < SAMPLES_MIN {
        return Err(LabError::Failed(format!(
            "{samples} samples of {SAMPLES_MIN} at least: give it more rows (--rows), or a higher --frequency"
        )));
    }
    Ok(report(&profile, workload.rows, arguments.frequency, cpu_seconds))
}

/// Drains the workload with the daemon, recorded from its first rows to its last; gives perf's file, and the CPU seconds that the
/// daemon used meanwhile.
fn drain(
    arguments: &Arguments,
    folder: &Path,
    cluster: &Cluster,
    workload: &Workload,
) -> Result<(PathBuf, f64), LabError> {
    let url = cluster.url(workload.database);
    let (binary, publication) = (&arguments.binary, workload.publication);
    let mut daemon = Daemon::start(&Setup { binary, folder, url: &url, slot: RUN_SLOT, publication, config: "" })?;
    // By then all its threads are there, and perf takes all of them.
    let begun = |stream: &Value| stream.get("visible_offset").and_then(Value::as_u64).is_some_and(|offset| offset > 0);
    daemon.wait("the first rows", begun)?;
    let before = procfs::cpu_seconds(daemon.pid())?;
    let recorder = Recorder::start(arguments, folder, daemon.pid())?;
    daemon.wait_visible(workload.rows)?;
    let data = recorder.stop()?;
    let cpu_seconds = procfs::cpu_seconds(daemon.pid())? - before;
    daemon.stop()?;
    Ok((data, cpu_seconds))
}

/// A `perf record` that runs; killed when dropped.
struct Recorder {
    child: Child,
    data: PathBuf,
    said: PathBuf,
}

impl Recorder {
    fn start(arguments: &Arguments, folder: &Path, pid: u32) -> Result<Self, LabError> {
        let (data, said) = (folder.join("perf.data"), folder.join("perf.stderr"));
        let stderr = std::fs::File::create(&said).map_err(io("perf's messages"))?;
        let child = Command::new(&arguments.perf)
            .args(["record", "--call-graph", &call_graph(), "-F", &arguments.frequency.to_string()])
            .args(["-p", &pid.to_string(), "-o"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(io("perf"))?;
        Ok(Self { child, data, said })
    }

    /// Ends the recording as Ctrl-C does.
    fn stop(mut self) -> Result<PathBuf, LabError> {
        let early = self.child.try_wait().map_err(io("perf"))?;
        if early.is_none() {
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT);
            self.child.wait().map_err(io("perf"))?;
            if self.data.exists() {
                return Ok(self.data.clone());
            }
        }
        let said = std::fs::read_to_string(&self.said).unwrap_or_default();
        Err(LabError::Failed(format!("perf record ended by itself: {}", said.trim().replace('\n', " / "))))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The samples with their functions' names.
fn resolve(perf: &Path, data: &Path) -> Result<Profile, LabError> {
    // Without --no-inline every address is looked up in debug information that is not there, which takes minutes.
    let mut command = Command::new(perf);
    command.args(["script", "--no-inline", "-F", "comm,event,ip,sym,dso", "-i"]).arg(data);
    let output = command.stdin(Stdio::null()).output().map_err(io("perf script"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(LabError::Failed(format!("perf script: {}", said.trim().replace('\n', " / "))));
    }
    let mut profile = Profile::parse(&String::from_utf8_lossy(&output.stdout));
    // `Processed 5000 events and lost 12 chunks!`
    profile.lost = said.lines().find(|line| line.contains(" lost ")).map(|line| line.trim().to_owned());
    Ok(profile)
}

fn report(profile: &Profile, rows: u64, frequency: u32, cpu_seconds: f64) -> Section {
    let (samples, areas) = (profile.stacks.len(), profile.areas());
    let functions: Vec<Share> = profile.functions().into_iter().take(FUNCTIONS).collect();
    let lost = profile.lost.as_ref().map(|lost| format!(" **perf lost samples: {lost}**")).unwrap_or_default();
    let mut text = format!(
        "## Profile\n\n`dbstreamd serve` with its default configuration drains {rows} rows ({}) over TCP without a subscriber: {samples} \
         samples of {}, {frequency} per second of CPU time, from its first rows to its last. The daemon used {cpu_seconds:.2} s \
         of CPU meanwhile.{lost} Time in which it waits is not in it.\n\n\
         By area, a sample being of the first function on its way from the inside out that belongs to one:\n\n\
         | area | share |\n|---|---:|\n",
        Kind::T2.describe(),
        profile.event
    );
    for share in &areas {
        text += &format!("| {} | {:.1} % |\n", share.name, share.percent(samples));
    }
    text += "\nFunctions by the time in themselves:\n\n| function | area | share |\n|---|---|---:|\n";
    for share in &functions {
        let name: String = share.name.chars().take(NAME_MAX).collect();
        let more = if name.len() < share.name.len() { "…" } else { "" };
        let percent = share.percent(samples);
        text += &format!("| `{}{more}` | {} | {percent:.1} % |\n", name.replace('|', "\\|"), share.area);
    }
    text += &format!(
        "\nWhat the stacks lack: the program is built without frame pointers and debug information, so they are found by its unwind \
         tables in a copy of at most {STACK_BYTES} bytes of stack. A function that was inlined counts for the one it is in, and \
         instances of a generic function with the same code may bear each other's name. {:.1} % of the samples do not lead to \
         their thread's beginning.\n",
        100.0 * profile.cut_off()
    );
    let json = |shares: &[Share]| -> Vec<Value> {
        let one = |share: &Share| json!({ "name": share.name, "area": share.area, "samples": share.samples });
        shares.iter().map(one).collect()
    };
    Section {
        name: "profile",
        text,
        findings: Vec::new(),
        plots: vec![Plot { name: "flame".into(), svg: flame::draw("dbstreamd serve, draining t2", &profile.stacks) }],
        data: json!({
            "rows": rows, "samples": samples, "event": profile.event, "frequency": frequency, "cpu_seconds": cpu_seconds, "lost": profile.lost,
            "areas": json(&areas), "functions": json(&functions),
        }),
        failures: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perf_that_is_missing_or_may_not_record_is_refused_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |perf: &Path| usable(perf, folder.path()).unwrap_err().to_string();
        assert!(refused(Path::new("/nonexistent/perf")).contains("make bench-setup"));
        let denied = folder.path().join("perf");
        let script =
            "#!/bin/sh\n[ $1 = --version ] && echo perf version 6.1 && exit\necho No permission >&2; exit 255\n";
        std::fs::write(&denied, script).unwrap();
        std::fs::set_permissions(&denied, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let said = refused(&denied);
        assert!(said.contains("(No permission)") && said.contains("perf_event_paranoid"), "{said}");
    }
}
