//! One running cluster: start, stop, ask, and its end.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::builder::Builder;
use crate::error::ThrowawayError;
use crate::tls::TlsFiles;
use crate::warden::Warden;

/// The superuser of every throwaway cluster.
pub(crate) const SUPERUSER: &str = "postgres";
/// A start includes crash recovery of whatever a test wrote before it killed the server.
const READY_MAX: Duration = Duration::from_secs(120);
/// A smart or fast stop waits for clients to let go.
const STOP_MAX: Duration = Duration::from_secs(60);
/// After an immediate stop PostgreSQL itself kills its processes after 5 s.
const STOP_IMMEDIATE_MAX: Duration = Duration::from_secs(10);
/// How often a state is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(5);
/// How many ports are tried before giving up.
const PORT_ATTEMPTS: usize = 50;
/// Below Linux's range for outgoing connections, so that nobody takes the port while the server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_768;
/// How much of the server's log an error quotes.
const LOG_QUOTE_LINES: usize = 5;

/// How to stop the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownMode {
    /// Waits for clients to disconnect.
    Smart,
    /// Disconnects clients, then stops cleanly.
    Fast,
    /// Stops at once, as if it had crashed.
    Immediate,
}

/// A throwaway PostgreSQL cluster. Dropping it stops the server at once and removes its folder.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) parts: Parts,
    state: Mutex<Server>,
}

/// What a cluster is made of.
pub(crate) struct Parts {
    pub(crate) binaries: Binaries,
    pub(crate) account: Account,
    pub(crate) socket_dir: PathBuf,
    pub(crate) password: String,
    pub(crate) tls: Option<TlsFiles>,
    // Dropped in this order: the folder is gone before the warden is told that nothing is left to do.
    pub(crate) folder: tempfile::TempDir,
    pub(crate) warden: Warden,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("folder", &self.folder).field("warden", &self.warden).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Server {
    port: u16,
    process: Option<Child>,
}

/// How an attempt to start ended, when not with a running server.
enum Attempt {
    Ready(Child),
    /// It ended; the second field is what it logged in this attempt.
    Ended(ExitStatus, String),
}

impl Cluster {
    /// Creates and starts a cluster with the default settings.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or cannot be set up or started here.
    pub fn start() -> Result<Self, ThrowawayError> {
        Self::builder().start()
    }

    /// A cluster with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn assemble(parts: Parts) -> Self {
        Self { parts, state: Mutex::new(Server { port: 0, process: None }) }
    }

    /// The TCP port on [`host`](Self::host); stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.server().port
    }

    /// The only address it listens on.
    pub fn host() -> &'static str {
        "127.0.0.1"
    }

    /// The folder of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.parts.socket_dir
    }

    /// The superuser's name.
    pub fn superuser() -> &'static str {
        SUPERUSER
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.parts.password
    }

    /// A `postgres://` URL of the superuser, over TCP.
    pub fn url(&self, database: &str) -> String {
        let (host, port, password) = (Self::host(), self.port(), self.password());
        format!("postgres://{SUPERUSER}:{password}@{host}:{port}/{database}")
    }

    /// The folder of everything that belongs to the cluster. What else is put into it goes when the cluster goes.
    pub fn folder(&self) -> &Path {
        self.parts.folder.path()
    }

    /// PostgreSQL's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.parts.folder.path().join("data")
    }

    /// The certificate authority's file, when the cluster has TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.parts.tls.as_ref().map(|tls| tls.ca.as_path())
    }

    /// A client certificate and its key for the superuser, when the cluster has TLS.
    pub fn client_certificate(&self) -> Option<(&Path, &Path)> {
        self.parts.tls.as_ref().map(|tls| (tls.client_cert.as_path(), tls.client_key.as_path()))
    }

    /// Everything the server logged so far.
    pub fn log_text(&self) -> String {
        std::fs::read(self.log_file()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The postmaster's process id while it runs.
    pub fn server_pid(&self) -> Option<u32> {
        let mut server = self.server();
        let process = server.process.as_mut()?;
        matches!(process.try_wait(), Ok(None)).then(|| process.id())
    }

    /// Runs SQL (several statements if need be, each on its own) with psql as the superuser and returns its
    /// unaligned output without headers.
    ///
    /// # Errors
    /// When a statement fails; what PostgreSQL said is in the error.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, ThrowawayError> {
        let mut child = Account::Caller
            .command(&self.parts.binaries.psql)
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(self.socket_dir())
            .args(["-p", &self.port().to_string(), "-U", SUPERUSER, "-d", database, "-f", "-"])
            .env("PGPASSWORD", self.password())
            .env("PGAPPNAME", "throwaway")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ThrowawayError::io("run psql"))?;
        let input = child.stdin.take();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                // psql may stop reading at an error; it then says why, and this write may fail.
                input.map(|mut pipe| pipe.write_all(sql.as_bytes()))
            });
            child.wait_with_output()
        })
        .map_err(ThrowawayError::io("run psql"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            return Err(ThrowawayError::Program { program: "psql", status: output.status, output: said });
        }
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.truncate(text.trim_end_matches('\n').len());
        Ok(text)
    }

    /// Creates a database.
    ///
    /// # Errors
    /// When it exists already, or the server is down.
    pub fn create_database(&self, name: &str) -> Result<(), ThrowawayError> {
        let quoted = name.replace('"', "\"\"");
        self.psql("postgres", &format!("CREATE DATABASE \"{quoted}\"")).map(drop)
    }

    /// Stops the server and waits until it is gone. Nothing happens when it is not running.
    ///
    /// # Errors
    /// When it did not stop in time; it may still be stopping then.
    pub fn stop(&self, mode: ShutdownMode) -> Result<(), ThrowawayError> {
        let mut server = self.server();
        let Some(process) = server.process.as_mut() else { return Ok(()) };
        let (signal, patience) = match mode {
            ShutdownMode::Smart => (Signal::TERM, STOP_MAX),
            ShutdownMode::Fast => (Signal::INT, STOP_MAX),
            ShutdownMode::Immediate => (Signal::QUIT, STOP_IMMEDIATE_MAX),
        };
        send(process, signal);
        if !ended_within(process, patience)? {
            if mode != ShutdownMode::Immediate {
                return Err(ThrowawayError::NotStopped { seconds: patience.as_secs() });
            }
            send(process, Signal::KILL);
            process.wait().map_err(ThrowawayError::io("wait for the server"))?;
        }
        server.process = None;
        Ok(())
    }

    /// Starts the server again, on the same port; returns when it answers.
    ///
    /// # Errors
    /// When it is still running, or does not start.
    pub fn start_again(&self) -> Result<(), ThrowawayError> {
        let mut server = self.server();
        if let Some(process) = server.process.as_mut() {
            // It may have been killed from outside.
            if process.try_wait().map_err(ThrowawayError::io("look for the server"))?.is_none() {
                return Err(ThrowawayError::AlreadyRunning);
            }
            server.process = None;
        }
        let deadline = Instant::now() + READY_MAX;
        loop {
            match self.attempt(server.port)? {
                Attempt::Ready(process) => {
                    server.process = Some(process);
                    return Ok(());
                }
                // What was left of a killed server's processes, or a stranger on the port: both pass.
                Attempt::Ended(_, log) if passes(&log) && Instant::now() < deadline => std::thread::sleep(10 * POLL),
                Attempt::Ended(status, log) => return Err(ThrowawayError::EndedAtStart { status, log: quote(&log) }),
            }
        }
    }

    /// Stops the server and starts it again.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start_again`](Self::start_again).
    pub fn restart(&self, mode: ShutdownMode) -> Result<(), ThrowawayError> {
        self.stop(mode)?;
        self.start_again()
    }

    /// The first start: any free port will do.
    pub(crate) fn start_first(&self) -> Result<(), ThrowawayError> {
        let mut server = self.server();
        for _ in 0..PORT_ATTEMPTS {
            let port = random_port();
            if TcpListener::bind((Self::host(), port)).is_err() {
                continue;
            }
            // Between that look and the server's own bind somebody may be quicker; then the next port is tried.
            match self.attempt(port)? {
                Attempt::Ready(process) => {
                    *server = Server { port, process: Some(process) };
                    return Ok(());
                }
                Attempt::Ended(_, log) if passes(&log) => {}
                Attempt::Ended(status, log) => return Err(ThrowawayError::EndedAtStart { status, log: quote(&log) }),
            }
        }
        Err(ThrowawayError::NoPort { attempts: PORT_ATTEMPTS })
    }

    fn attempt(&self, port: u16) -> Result<Attempt, ThrowawayError> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .map_err(ThrowawayError::io("open the server's log"))?;
        let logged_before = self.log_text().len();
        let stderr = log.try_clone().map_err(ThrowawayError::io("open the server's log"))?;
        let mut process = self
            .parts
            .account
            .command(&self.parts.binaries.postgres)
            .arg("-D")
            .arg(self.data_dir())
            .arg("-k")
            .arg(self.socket_dir())
            .args(["-p", &port.to_string()])
            .current_dir("/")
            .stdout(log)
            .stderr(stderr)
            // Ctrl-C in a terminal must not stop it before its clients are done.
            .process_group(0)
            .spawn()
            .map_err(ThrowawayError::io(format!("run {}", self.parts.binaries.postgres.display())))?;
        let deadline = Instant::now() + READY_MAX;
        loop {
            if let Some(status) = process.try_wait().map_err(ThrowawayError::io("wait for the server"))? {
                let log = self.log_text().get(logged_before..).unwrap_or_default().to_owned();
                return Ok(Attempt::Ended(status, log));
            }
            if self.says_ready(process.id()) {
                return Ok(Attempt::Ready(process));
            }
            if Instant::now() > deadline {
                send(&process, Signal::KILL);
                process.wait().map_err(ThrowawayError::io("wait for the server"))?;
                return Err(ThrowawayError::NotReady { seconds: READY_MAX.as_secs(), log: quote(&self.log_text()) });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether the postmaster accepts connections, by the status line it keeps in its lock file (as `pg_ctl` does).
    fn says_ready(&self, pid: u32) -> bool {
        let Ok(text) = std::fs::read_to_string(self.data_dir().join("postmaster.pid")) else { return false };
        let mut lines = text.lines();
        // A server that was killed leaves its file behind.
        let ours = lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid);
        ours && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    fn log_file(&self) -> PathBuf {
        self.parts.folder.path().join("server.log")
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        // The state is valid after every step, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut server = self.server();
        if let Some(process) = server.process.as_mut() {
            // A test may have suspended it.
            send(process, Signal::CONT);
            send(process, Signal::QUIT);
            if !matches!(ended_within(process, STOP_IMMEDIATE_MAX), Ok(true)) {
                send(process, Signal::KILL);
                let _ = process.wait();
            }
        }
        server.process = None;
        // The folder goes with `parts`; what cannot be removed now, the warden removes.
    }
}

fn send(process: &Child, signal: Signal) {
    // A process that is gone already needs no signal.
    let _ = rustix::process::kill_process(Pid::from_child(process), signal);
}

fn ended_within(process: &mut Child, patience: Duration) -> Result<bool, ThrowawayError> {
    let deadline = Instant::now() + patience;
    loop {
        if process.try_wait().map_err(ThrowawayError::io("wait for the server"))?.is_some() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(POLL);
    }
}

/// Whether the server's complaint is one that time or another port cures.
fn passes(log: &str) -> bool {
    log.contains("Address already in use") || log.contains("pre-existing shared memory block")
}

fn quote(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(LOG_QUOTE_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

fn random_port() -> u16 {
    let width = u64::from(PORTS.end - PORTS.start);
    let step = RandomState::new().build_hasher().finish() % width;
    PORTS.start + u16::try_from(step).unwrap_or_default()
}
