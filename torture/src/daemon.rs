//! The daemon as a process: started, killed, asked over its public contract.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand::Rng;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::error::{TortureError, io};
use crate::shim::Shim;
use dbstreamd_client::{GetStreamRequest, Stream, StreamState};

/// The stream's and the source's name.
pub(crate) const STREAM: &str = "torture";
/// Opening the log after a crash is a matter of seconds; a slow disk makes it more.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// A first start finds its slot and publication made within this.
const SETUP_MAX: Duration = Duration::from_secs(60);
/// A stop writes everything to table files, over a disk that may be slow.
const STOP_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(15);
/// How much of the daemon's log a violation quotes.
const QUOTE_LINES: usize = 3;

/// One cycle's daemon.
pub(crate) struct Daemon {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    grpc: String,
    environment: Vec<(&'static str, PathBuf)>,
    child: Option<Child>,
    peak_rss: u64,
}

/// How a start ended.
#[derive(Debug)]
pub(crate) enum Started {
    /// It answers.
    Up,
    /// It ended by itself; how, and what it said.
    Ended(String),
}

impl Daemon {
    /// Writes the configuration; does not start.
    ///
    /// With `floor` the daemon keeps its default bound of free space, at which it stops reading; without, it goes on until
    /// the disk refuses.
    pub(crate) fn prepare(
        binary: &Path,
        folder: &Path,
        source_url: &str,
        shim: &Shim,
        floor: bool,
    ) -> Result<Self, TortureError> {
        let (grpc, http) = (free_address()?, free_address()?);
        let mut config = String::new();
        // Small budgets, so that limits are met and files change all the time; short timeouts, so that a dead connection is noticed in a cycle.
        let floor = if floor { "" } else { "free_space_min = \"none\"\n" };
        // Writing to a String cannot fail.
        let _ = write!(
            config,
            "data_dir = \"{}\"\n[grpc]\nlisten = \"{grpc}\"\n[http]\nlisten = \"{http}\"\n\
             [memory]\ncredit_window = \"64MiB\"\nmemtables = \"8MiB\"\nblock_cache = \"16MiB\"\ntail = \"16MiB\"\n\
             [log]\npartition_bytes = \"2MiB\"\nretention_age = \"none\"\nretention_bytes = \"none\"\n{floor}\
             [logging]\nfilter = \"info\"\n\
             [[source]]\nname = \"{STREAM}\"\nurl = \"{source_url}\"\nstatus_interval = \"1s\"\nreceive_timeout = \"3s\"\n",
            shim.watched.display()
        );
        let path = folder.join("dbstreamd.toml");
        std::fs::write(&path, config).map_err(io("write the daemon's configuration"))?;
        let environment = shim.environment().map(|(name, value)| (name, value.to_owned())).into();
        Ok(Self::new(binary, folder, path, grpc, environment))
    }

    /// Writes a configuration with these further lines of its source, and nothing preloaded; does not start.
    pub(crate) fn plain(binary: &Path, folder: &Path, source_url: &str, source: &str) -> Result<Self, TortureError> {
        let (grpc, http) = (free_address()?, free_address()?);
        let config = format!(
            "data_dir = \"{}\"\n[grpc]\nlisten = \"{grpc}\"\n[http]\nlisten = \"{http}\"\n\
             [memory]\ncredit_window = \"64MiB\"\nmemtables = \"8MiB\"\nblock_cache = \"16MiB\"\ntail = \"16MiB\"\n\
             [log]\nretention_age = \"none\"\nretention_bytes = \"none\"\n\
             [logging]\nfilter = \"info\"\n\
             [[source]]\nname = \"{STREAM}\"\nurl = \"{source_url}\"\nstatus_interval = \"1s\"\n{source}",
            folder.join("data").display()
        );
        let path = folder.join("dbstreamd.toml");
        std::fs::write(&path, config).map_err(io("write the daemon's configuration"))?;
        Ok(Self::new(binary, folder, path, grpc, Vec::new()))
    }

    fn new(
        binary: &Path,
        folder: &Path,
        config: PathBuf,
        grpc: String,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Self {
        let (binary, log) = (binary.to_owned(), folder.join("dbstreamd.log"));
        Self { binary, config, log, grpc, environment, child: None, peak_rss: 0 }
    }

    pub(crate) fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Starts the process, and does not wait for it. To be called on the main thread: the preloaded library asks the
    /// kernel to end the daemon with the thread that started it.
    pub(crate) fn spawn(&mut self) -> Result<(), TortureError> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(io("open the daemon's log"))?;
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--config").arg(&self.config).env_clear();
        for kept in ["PATH", "HOME", "TMPDIR", "LANG"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn().map_err(io(format!("run {}", self.binary.display())))?);
        Ok(())
    }

    /// Starts the process and waits until it answers.
    pub(crate) async fn start(&mut self) -> Result<Started, TortureError> {
        self.spawn()?;
        self.wait_up().await
    }

    /// Starts the process and waits until the stream streams.
    pub(crate) async fn start_streaming(&mut self) -> Result<(), TortureError> {
        if let Started::Ended(how) = self.start().await? {
            return Err(TortureError::Failed(format!("the daemon does not start: {how}")));
        }
        let deadline = Instant::now() + SETUP_MAX;
        while self.stream().await.is_none_or(|stream| stream.state() != StreamState::Streaming) {
            if Instant::now() > deadline {
                return Err(TortureError::Failed(format!("the daemon does not stream: {}", self.quote())));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) async fn wait_up(&mut self) -> Result<Started, TortureError> {
        let deadline = Instant::now() + ANSWER_MAX;
        while Instant::now() < deadline {
            if let Some(ended) = self.ended()? {
                return Ok(Started::Ended(ended));
            }
            if self.stream().await.is_some() {
                return Ok(Started::Up);
            }
            tokio::time::sleep(POLL).await;
        }
        self.kill().await?;
        Ok(Started::Ended(format!("no answer within {} s; {}", ANSWER_MAX.as_secs(), self.quote())))
    }

    /// How it ended, when it did so by itself.
    pub(crate) fn ended(&mut self) -> Result<Option<String>, TortureError> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let Some(status) = child.try_wait().map_err(io("look for the daemon"))? else { return Ok(None) };
        self.child = None;
        Ok(Some(format!("{status}; {}", self.quote())))
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// The stream, asked over gRPC; none while nobody answers.
    pub(crate) async fn stream(&self) -> Option<Stream> {
        ask_stream(&self.grpc).await
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) -> Result<(), TortureError> {
        self.measure();
        if let Some(mut child) = self.child.take() {
            child.kill().await.map_err(io("kill the daemon"))?;
        }
        Ok(())
    }

    /// SIGTERM; the exit status, or none when it did not end in time and was killed.
    pub(crate) async fn terminate(&mut self) -> Result<Option<ExitStatus>, TortureError> {
        self.measure();
        let Some(mut child) = self.child.take() else { return Ok(None) };
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // It may have ended just now; then waiting for it says how.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        match tokio::time::timeout(STOP_MAX, child.wait()).await {
            Ok(status) => Ok(Some(status.map_err(io("wait for the daemon"))?)),
            Err(_) => {
                child.kill().await.map_err(io("kill the daemon"))?;
                Ok(None)
            }
        }
    }

    /// Takes note of the running process's peak memory.
    pub(crate) fn measure(&mut self) {
        let Some(id) = self.child.as_ref().and_then(Child::id) else { return };
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
        self.peak_rss = self.peak_rss.max(kilobytes * 1024);
    }

    /// Bytes, over all processes so far.
    pub(crate) fn peak_rss(&self) -> u64 {
        self.peak_rss
    }

    /// The end of its log.
    pub(crate) fn quote(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().rev().take(QUOTE_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

/// Asks a daemon for the stream; none while nobody answers.
pub(crate) async fn ask_stream(grpc: &str) -> Option<Stream> {
    let ask = async {
        let mut client = dbstreamd_client::connect(grpc).await.ok()?;
        Some(client.get_stream(GetStreamRequest { name: STREAM.into() }).await.ok()?.into_inner())
    };
    tokio::time::timeout(Duration::from_secs(3), ask).await.ok()?
}

/// An address that stays free while its owner is down: below the ports that outgoing connections get.
fn free_address() -> Result<String, TortureError> {
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        let address = format!("127.0.0.1:{}", rand::rng().random_range(12_000..20_000));
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    Err(TortureError::Failed("found no free port between 12000 and 19999".into()))
}
