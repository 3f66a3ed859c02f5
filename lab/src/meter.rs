//! What a run cost: time, CPU of everybody who took part, memory, and the CPU of everybody else (*foreign*).
//!
//! Foreign CPU is what the machine was busy with (/proc/stat, time stolen by its host included) less the lab's own tree (the
//! lab, its clients, and the throwaway PostgreSQL, which is its child) and less the kernel's threads, which write files for whom
//! it asks. Whatever runs outside of this process' view of /proc is foreign.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::daemon::PATIENCE;
use crate::error::{LabError, io};
use crate::procfs::{self, Snapshot};

/// How often a client that runs is looked at: this is also how exactly its end is known.
const LOOK: Duration = Duration::from_millis(10);
/// How much of a client's complaint an error quotes.
const QUOTE_BYTES_MAX: usize = 2_000;

/// A window of time that is being measured.
pub(crate) struct Meter {
    server: u32,
    started: Instant,
    before: Snapshot,
}

/// What was measured in a window.
pub(crate) struct Window {
    pub(crate) seconds: f64,
    /// CPU seconds of PostgreSQL's processes.
    pub(crate) server_cpu: f64,
    /// CPU of others, in cores.
    pub(crate) foreign_cores: f64,
    before: Snapshot,
    after: Snapshot,
}

impl Meter {
    /// Begins; `server` is the postmaster's process id.
    pub(crate) fn start(server: u32) -> Result<Self, LabError> {
        let before = Snapshot::take()?;
        Ok(Self { server, before, started: Instant::now() })
    }

    /// Ends. Clients that ended must not have been waited for yet if their CPU is to be known.
    pub(crate) fn stop(self) -> Result<Window, LabError> {
        let Self { server, started, before } = self;
        let seconds = started.elapsed().as_secs_f64();
        let after = Snapshot::take()?;
        let busy = after.busy_seconds() - before.busy_seconds();
        let kernel = after.kernel_seconds() - before.kernel_seconds();
        // Taking a snapshot takes time itself: the window of the busy time is a little longer than the client's.
        let length = after.at().duration_since(before.at()).as_secs_f64();
        let mut window = Window { seconds, server_cpu: 0.0, foreign_cores: 0.0, before, after };
        window.server_cpu = window.spent(server);
        window.foreign_cores = ((busy - window.spent(std::process::id()) - kernel) / length).max(0.0);
        Ok(window)
    }
}

impl Window {
    /// CPU seconds, in the window, of a process and of its children.
    pub(crate) fn spent(&self, pid: u32) -> f64 {
        self.after.tree_seconds(pid) - self.before.tree_seconds(pid)
    }

    /// CPU seconds, in all its life, of a process that began in the window and of its children.
    pub(crate) fn cpu(&self, pid: u32) -> f64 {
        self.after.tree_seconds(pid)
    }
}

/// A client as a process of its own. Killed when dropped.
pub(crate) struct Client {
    name: String,
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
    peak_rss: u64,
}

impl Client {
    /// Starts it. What it prints is kept in files, so that it never waits for the lab.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self, LabError> {
        let file = || tempfile::tempfile().map_err(io("a temporary file"));
        let (stdout, stderr) = (file()?, file()?);
        let copy = |file: &File| file.try_clone().map_err(io("a temporary file"));
        let child = command
            .stdin(Stdio::null())
            .stdout(copy(&stdout)?)
            .stderr(copy(&stderr)?)
            .spawn()
            .map_err(io(format!("start {name}")))?;
        Ok(Self { name: name.to_owned(), child, stdout, stderr, started: Instant::now(), peak_rss: 0 })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Peak resident memory in bytes, as far as it was looked at.
    pub(crate) fn peak_rss(&self) -> u64 {
        self.peak_rss
    }

    /// Waits until it has ended. Its account stays readable until [`finish`](Self::finish).
    pub(crate) fn wait(&mut self) -> Result<(), LabError> {
        while !self.ended()? {
            // What ended has no memory any more.
            if let Ok(rss) = procfs::peak_rss(self.pid()) {
                self.peak_rss = rss;
            }
            if self.started.elapsed() > PATIENCE {
                let seconds = PATIENCE.as_secs();
                return Err(LabError::Failed(format!("{} did not reach the end in {seconds} s", self.name)));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn ended(&self) -> Result<bool, LabError> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = rustix::process::waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
        Ok(status.map_err(|error| io(format!("wait for {}", self.name))(error.into()))?.is_some())
    }

    /// Waits for it and gives what it printed; an error when it failed.
    pub(crate) fn finish(mut self) -> Result<String, LabError> {
        let status = self.child.wait().map_err(io(format!("wait for {}", self.name)))?;
        let printed = text(&mut self.stdout);
        if status.success() {
            return Ok(printed);
        }
        Err(LabError::Failed(format!("{} failed ({}): {}", self.name, how(status), quote(&text(&mut self.stderr)))))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // After `finish` there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn how(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read cannot be quoted; the exit status says that it failed.
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of a text, on one line.
fn quote(text: &str) -> String {
    let from = text.len().saturating_sub(QUOTE_BYTES_MAX);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text.get(from..).unwrap_or_default().trim().replace('\n', " / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_ended_is_still_accounted_for() {
        let meter = Meter::start(std::process::id()).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done"]);
        let mut client = Client::start("a shell", &mut command).unwrap();
        client.wait().unwrap();
        let window = meter.stop().unwrap();
        assert!(window.cpu(client.pid()) > 0.0);
        assert!(client.peak_rss() > 0);
        assert_eq!(client.finish().unwrap().trim(), "done");
    }

    #[test]
    fn a_process_that_is_nobodys_child_here_is_foreign() {
        let meter = Meter::start(std::process::id()).unwrap();
        // Its parent ends at once, so it is adopted by another process than this one. Others on the machine only add to it.
        let burn = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo done";
        let script = format!("(setsid sh -c '{burn}') & exit 0");
        let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "done");
        let window = meter.stop().unwrap();
        assert!(window.foreign_cores > 0.2, "{}", window.foreign_cores);
    }

    #[test]
    fn a_client_that_fails_is_quoted() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo out of luck >&2; exit 3"]);
        let mut client = Client::start("a shell", &mut command).unwrap();
        client.wait().unwrap();
        let error = client.finish().unwrap_err().to_string();
        assert!(error.contains("exit code 3") && error.contains("out of luck"), "{error}");
    }

    #[test]
    fn a_quote_is_the_end_and_never_cuts_a_character() {
        let long = "ä".repeat(QUOTE_BYTES_MAX);
        assert!(quote(&format!("x{long}end")).ends_with("end"));
    }
}
