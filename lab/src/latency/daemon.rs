//! A daemon with one source and a data directory of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::{LabError, io};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running `dbstreamd serve`; killed when dropped.
pub(super) struct Daemon {
    child: Child,
    pub(super) grpc: String,
    http: String,
    _folder: TempDir,
}

impl Daemon {
    /// Starts it and waits until it streams.
    pub(super) fn start(url: &str, slot: &str, binary: &Path) -> Result<Self, LabError> {
        let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
        let (grpc, http) = (free_address()?, free_address()?);
        let config = folder.path().join("dbstreamd.toml");
        let text = format!(
            "[[source]]\nname = \"lab\"\nurl = \"{url}\"\nslot = \"{slot}\"\npublication = \"lab\"\ncreate_slot = false\ncreate_publication = false\n"
        );
        std::fs::write(&config, text).map_err(io(config.display().to_string()))?;
        let child = Command::new(binary)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--grpc", &grpc, "--http", &http])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io(binary.display().to_string()))?;
        let daemon = Self { child, grpc, http, _folder: folder };
        let started = Instant::now();
        let streaming = "dbstreamd_stream_state{stream=\"lab\",state=\"STREAMING\"} 1";
        while !daemon.metrics().is_ok_and(|text| text.contains(streaming)) {
            if started.elapsed() > PATIENCE {
                return Err(LabError::Failed("dbstreamd did not begin to stream".into()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What `/metrics` says.
    pub(super) fn metrics(&self) -> Result<String, LabError> {
        let mut stream = TcpStream::connect(&self.http).map_err(io("dbstreamd's metrics"))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http)
            .map_err(io("dbstreamd's metrics"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(io("dbstreamd's metrics"))?;
        Ok(answer)
    }

    /// Ends it politely.
    pub(super) fn stop(mut self) -> Result<(), LabError> {
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

fn free_address() -> Result<String, LabError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io("a free port"))?;
    Ok(listener.local_addr().map_err(io("a free port"))?.to_string())
}
