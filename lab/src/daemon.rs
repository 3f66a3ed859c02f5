//! `dbstreamd serve` as a process: started, asked over its HTTP port, stopped.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::error::{LabError, io};

/// Longest wait for anything a benchmark waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);
/// How often the daemon is asked for its state.
pub(crate) const POLL: Duration = Duration::from_millis(50);
/// How soon it is asked for its position again at the earliest, in a drain: so exactly the end is known.
const POLL_MIN: Duration = Duration::from_millis(3);
/// And at the latest.
const POLL_MAX: Duration = Duration::from_millis(500);
/// How much of the daemon's log an error quotes.
const QUOTE_LINES: usize = 3;
/// The name of the source and its stream.
pub(crate) const STREAM: &str = "lab";

/// What to start.
pub(crate) struct Setup<'a> {
    pub(crate) binary: &'a Path,
    /// Configuration, log and data go here.
    pub(crate) folder: &'a Path,
    /// The source's connection, as dbstreamd's `source.url` takes it.
    pub(crate) url: &'a str,
    /// Exists already.
    pub(crate) slot: &'a str,
    /// Exists already.
    pub(crate) publication: &'a str,
    /// Further TOML ahead of the source, such as a `[memory]` table; may be empty.
    pub(crate) config: &'a str,
}

/// A running `dbstreamd serve` with one source; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    data: PathBuf,
    http: String,
    grpc: String,
}

impl Daemon {
    /// Starts the process and does not wait for it.
    pub(crate) fn start(setup: &Setup<'_>) -> Result<Self, LabError> {
        let (grpc, http) = (free_address()?, free_address()?);
        let config = setup.folder.join("dbstreamd.toml");
        let text = format!(
            "{}\n[[source]]\nname = \"{STREAM}\"\nurl = \"{}\"\nslot = \"{}\"\npublication = \"{}\"\n\
             create_slot = false\ncreate_publication = false\n",
            setup.config, setup.url, setup.slot, setup.publication
        );
        std::fs::write(&config, text).map_err(io(config.display().to_string()))?;
        let (log, data) = (setup.folder.join("dbstreamd.log"), setup.folder.join("data"));
        let stderr = std::fs::File::create(&log).map_err(io(log.display().to_string()))?;
        let child = Command::new(setup.binary)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--data-dir")
            .arg(&data)
            .args(["--grpc", &grpc, "--http", &http])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(io(setup.binary.display().to_string()))?;
        Ok(Self { child, log, data, http, grpc })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `host:port` of its gRPC port.
    pub(crate) fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Waits until the event at `offset` is durable and visible to subscribers.
    ///
    /// Each answer costs the daemon a third of a millisecond of the CPU time that is being measured, so it is asked a dozen times:
    /// whenever half of what seems to be left has passed.
    pub(crate) fn wait_visible(&mut self, offset: u64) -> Result<(), LabError> {
        let started = Instant::now();
        self.look("the last event to be visible", |stream| {
            match stream.get("visible_offset").and_then(Value::as_u64).unwrap_or(0) {
                0 => Some(POLL),
                visible if visible >= offset => None,
                visible => {
                    let left = (offset - visible) as f64 / visible as f64;
                    Some(started.elapsed().mul_f64(left.min(1.0) / 2.0).clamp(POLL_MIN, POLL_MAX))
                }
            }
        })
    }

    /// Waits until the stream says `STREAMING`.
    pub(crate) fn wait_streaming(&mut self) -> Result<(), LabError> {
        self.wait("STREAMING", |stream| stream.get("state").is_some_and(|state| state == "STREAMING"))
    }

    /// Waits until `reached` holds for the stream as `/v1/streams` tells it; an error when the stream or the daemon fails.
    pub(crate) fn wait(&mut self, what: &str, reached: impl Fn(&Value) -> bool) -> Result<(), LabError> {
        self.look(what, |stream| if reached(stream) { None } else { Some(POLL) })
    }

    /// Looks at the stream until there is no pause to be made.
    fn look(&mut self, what: &str, pause: impl Fn(&Value) -> Option<Duration>) -> Result<(), LabError> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let stream = self.stream();
            if stream.get("state").is_some_and(|state| state == "FAILED") {
                return Err(LabError::Failed(format!("dbstreamd: {}", stream.get("error").unwrap_or(&Value::Null))));
            }
            let Some(pause) = pause(&stream) else { return Ok(()) };
            if let Some(status) = self.child.try_wait().map_err(io("dbstreamd"))? {
                return Err(LabError::Failed(format!("dbstreamd ended ({status}): {}", self.quote())));
            }
            std::thread::sleep(pause);
        }
        Err(LabError::Failed(format!("dbstreamd: waited in vain for {what}: {}", self.quote())))
    }

    /// The stream as `/v1/streams` tells it; null while nobody answers.
    pub(crate) fn stream(&self) -> Value {
        let answer: Value =
            get(&self.http, "/v1/streams").and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default();
        answer.pointer("/streams/0").cloned().unwrap_or(Value::Null)
    }

    /// What `/metrics` says now; none while nobody answers.
    pub(crate) fn metrics(&self) -> Option<String> {
        get(&self.http, "/metrics")
    }

    /// Stops it cleanly, and waits for that.
    pub(crate) fn stop(mut self) -> Result<(), LabError> {
        let terminated = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let status = self.child.wait().map_err(io("dbstreamd"))?;
        if terminated.is_ok() && status.success() {
            return Ok(());
        }
        Err(LabError::Failed(format!("dbstreamd did not stop cleanly ({status}): {}", self.quote())))
    }

    /// The end of its log.
    fn quote(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().rev().take(QUOTE_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a clean stop there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of a GET over HTTP/1; none while nobody answers.
pub(crate) fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// A loopback address that nobody uses now.
pub(crate) fn free_address() -> Result<String, LabError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io("a free port"))?;
    Ok(listener.local_addr().map_err(io("a free port"))?.to_string())
}
