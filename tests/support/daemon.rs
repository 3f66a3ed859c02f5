//! The daemon as a process, and its command line.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{binary, eventually, http};

/// A command that ended.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The lines on stderr that are the command's own verdict.
    pub(crate) fn error_line(&self) -> &str {
        let mut lines = self.stderr.lines().filter(|line| line.starts_with("error:"));
        let line = lines.next().unwrap_or_else(|| panic!("no error line on stderr: {}", self.stderr));
        assert_eq!(lines.next(), None, "more than one error line: {}", self.stderr);
        line
    }
}

/// `dbstreamd` with arguments, in an environment that holds nothing of the developer's.
pub(crate) struct Command(std::process::Command);

impl Command {
    pub(crate) fn new(args: &[&str]) -> Self {
        let mut command = std::process::Command::new(binary());
        command.args(args).env_clear().stdin(Stdio::null());
        for kept in ["PATH", "HOME", "TMPDIR", "LANG"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        Self(command)
    }

    pub(crate) fn current_dir(mut self, dir: &Path) -> Self {
        self.0.current_dir(dir);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Finished {
        let output = self.0.output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Finished { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts it; nobody will read what it says.
    pub(crate) fn spawn_quietly(mut self) -> Child {
        self.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs")
    }

    pub(crate) fn spawn(mut self) -> Child {
        self.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    }
}

/// Runs `dbstreamd` with these arguments to its end.
pub(crate) fn run(args: &[&str]) -> Finished {
    Command::new(args).run()
}

/// A running `dbstreamd serve`; killed when dropped.
pub(crate) struct Daemon {
    child: Option<Child>,
    pub(crate) grpc: String,
    pub(crate) http: String,
    dir: PathBuf,
    stderr: PathBuf,
    _own_dir: Option<TempDir>,
}

/// How often somebody else may take a port that was free a moment ago.
const PORT_TRIES: usize = 5;

impl Daemon {
    /// Serves these sources from a data directory of its own, and waits until all of them stream.
    pub(crate) fn serving(sources: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("data");
        let mut daemon = Self::start(sources, &path);
        daemon._own_dir = Some(dir);
        daemon.wait_streaming();
        daemon
    }

    /// Starts on this data directory; does not wait for the sources.
    pub(crate) fn start(sources: &[&str], dir: &Path) -> Self {
        let args: Vec<String> = sources.iter().flat_map(|url| ["--source".into(), (*url).into()]).collect();
        Self::start_with(&args, dir)
    }

    /// Starts on this data directory and waits until the source streams.
    pub(crate) fn streaming(source: &str, dir: &Path) -> Self {
        let daemon = Self::start(&[source], dir);
        daemon.wait_streaming();
        daemon
    }

    /// Starts with these extra arguments on this data directory, on free ports; on others when somebody was quicker.
    pub(crate) fn start_with(extra: &[String], dir: &Path) -> Self {
        let mut tries = (0..PORT_TRIES).map(|_| Self::try_spawn(extra, dir, free_address(), free_address()));
        let started = tries.find(|started| !matches!(started, Err(said) if said.contains("is already in use")));
        started.expect("free ports").unwrap_or_else(|said| panic!("the daemon ended: {said}"))
    }

    /// Starts on the addresses of a daemon that was stopped.
    pub(crate) fn start_at(sources: &[&str], dir: &Path, grpc: &str, http: &str) -> Self {
        let args: Vec<String> = sources.iter().flat_map(|url| ["--source".into(), (*url).into()]).collect();
        Self::spawn(&args, dir, grpc.to_owned(), http.to_owned())
    }

    fn spawn(extra: &[String], dir: &Path, grpc: String, http: String) -> Self {
        Self::try_spawn(extra, dir, grpc, http).unwrap_or_else(|said| panic!("the daemon ended: {said}"))
    }

    /// What a daemon said that ended by itself is the error.
    fn try_spawn(extra: &[String], dir: &Path, grpc: String, http: String) -> Result<Self, String> {
        let stderr = dir.with_extension("stderr");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&stderr).expect("a log file");
        let said_before = log.metadata().expect("its size").len();
        let mut command = Command::new(&["serve", "--grpc", &grpc, "--http", &http]).0;
        command.arg("--data-dir").arg(dir).args(extra).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the binary runs");
        let daemon = Self { child: Some(child), grpc, http, dir: dir.to_owned(), stderr, _own_dir: None };
        let answers = eventually("the daemon answers /health, or ends", || {
            if daemon.has_ended() {
                return Some(false);
            }
            http::get(&daemon.http, "/health").ok().map(|_| true)
        });
        let said = || daemon.stderr().split_off(usize::try_from(said_before).expect("a small file"));
        if answers { Ok(daemon) } else { Err(said()) }
    }

    /// A child that ended is a failed start: say why instead of waiting.
    fn has_ended(&self) -> bool {
        self.child.as_ref().is_some_and(|child| {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        })
    }

    fn assert_alive(&self) {
        assert!(!self.has_ended(), "the daemon ended: {}", self.stderr());
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the daemon said so far.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// `/health` as JSON, whatever the status code.
    pub(crate) fn health(&self) -> Value {
        let (_, body) = http::get(&self.http, "/health").expect("an answer");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
    }

    /// The streams of `/v1/streams`.
    pub(crate) fn streams(&self) -> Vec<Value> {
        let (_, body) = http::get(&self.http, "/v1/streams").expect("an answer");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["streams"].as_array().expect("a list of streams").clone()
    }

    /// Waits until every stream streams.
    pub(crate) fn wait_streaming(&self) {
        eventually(&format!("all streams are STREAMING: {}", self.stderr()), || {
            self.assert_alive();
            let streams = self.streams();
            (!streams.is_empty() && streams.iter().all(|s| s["state"] == "STREAMING")).then_some(())
        });
    }

    /// Waits until the only stream is FAILED and gives the error's text.
    pub(crate) fn wait_failed(&self) -> String {
        eventually("a stream is FAILED", || {
            self.assert_alive();
            let streams = self.streams();
            let failed = streams.iter().find(|s| s["state"] == "FAILED")?;
            Some(failed["error"].as_str().expect("a reason").to_owned())
        })
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it can be waited for");
        }
    }

    /// SIGTERM, then waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
            .expect("it can be told");
        child.wait().expect("it can be waited for")
    }

    /// Peak resident memory in bytes.
    pub(crate) fn peak_rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
        let kilobytes: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kilobytes * 1024
    }

    pub(crate) fn server_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// `dbstreamd tail --format json --server …` with these further arguments, to its end.
    pub(crate) fn tail(&self, args: &[&str]) -> Vec<Value> {
        tail_json(&self.server_url(), args)
    }

    /// Runs a command against this daemon to its end.
    pub(crate) fn ask(&self, args: &[&str]) -> Finished {
        run(&[args, &["--server", &self.server_url()]].concat())
    }

    /// Runs a command with `--json` that must succeed, and parses its answer.
    pub(crate) fn ask_json(&self, args: &[&str]) -> Value {
        let answer = self.ask(&[args, &["--json"]].concat());
        assert!(answer.status.success(), "{args:?}: {}", answer.stderr);
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error} in {}", answer.stdout))
    }

    /// A metric's value, by its name and labels as they are written.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, metrics) = http::get(&self.http, "/metrics").expect("an answer");
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().expect("a number")
    }

    /// As [`tail`](Self::tail), but only counts the lines.
    pub(crate) fn count(&self, args: &[&str]) -> usize {
        let server = self.server_url();
        let mut child = Command::new(&[&["tail", "--server", &server, "--format", "json"], args].concat()).spawn();
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().count();
        assert!(child.wait().expect("it ends").success(), "tail failed");
        lines
    }

    /// Everything from the beginning to the visible end.
    pub(crate) fn everything(&self, stream: &str) -> Vec<Value> {
        self.tail(&[stream, "--from", "earliest", "--until-caught-up"])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- what the daemon said ---\n{}", self.stderr());
        }
        let _ = std::fs::remove_file(&self.stderr);
    }
}

/// Runs `dbstreamd tail` to its end and parses its lines.
pub(crate) fn tail_json(server: &str, args: &[&str]) -> Vec<Value> {
    let mut child = Command::new(&[&["tail", "--server", server, "--format", "json"], args].concat()).spawn();
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| {
            let line = line.expect("UTF-8");
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
        })
        .collect();
    let mut stderr = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("UTF-8");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "tail ended with {status}: {stderr}");
    lines
}

/// An address that was free a moment ago.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
