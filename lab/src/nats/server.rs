//! A NATS server of the benchmark's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::free_address;
use crate::error::{LabError, io};
use crate::machine::Machine;
use crate::references;

/// How long the server may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// Which server is the reference. Part of the arguments of every benchmark that has it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Program {
    /// The NATS server.
    #[arg(long, default_value = "nats-server", value_name = "PROGRAM")]
    nats_server: PathBuf,
}

/// A running server with JetStream's file storage; killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts it with its files in `folder`.
    ///
    /// # Errors
    /// When there is no such program, or it does not answer.
    pub(crate) fn start(program: &Program, folder: &Path) -> Result<Self, LabError> {
        let program = &program.nats_server;
        let address = free_address()?;
        let (host, port) = address.split_once(':').ok_or_else(|| LabError::Failed("no free port".into()))?;
        let child = Command::new(program)
            .args(["--addr", host, "--port", port, "--jetstream", "--store_dir"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io(program.display().to_string()))?;
        let server = Self { child, address };
        let started = Instant::now();
        while std::net::TcpStream::connect(&server.address).is_err() {
            if started.elapsed() > START_MAX {
                return Err(LabError::Failed(format!("{} does not answer", program.display())));
            }
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It keeps nothing that anybody needs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Adds its version to the machine's details, if it is there.
    pub(crate) fn describe(&self, machine: &mut Machine) {
        if let Some(version) = references::version(&self.nats_server) {
            machine.with("NATS", version);
        }
    }
}
