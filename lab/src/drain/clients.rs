//! The clients, and one run of each.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use dbstreamd_throwaway::Cluster;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::daemon::{Daemon, Setup};
use crate::error::{LabError, io};
use crate::judge::Run;
use crate::meter::{Client as Process, Meter, Window};
use crate::procfs;
use crate::receiver::Received;
use crate::subscriber::Counted;
use crate::workload::{Kind, RUN_SLOT, Workload};

/// Who drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Client {
    /// `pg_recvlogical -f /dev/null`: the reference.
    PgRecvlogical,
    /// A minimal receiver in Rust: reads eagerly, answers keepalives, counts, discards.
    Raw,
    /// The same with a pause of 200 µs before each read.
    RawPause200us,
    /// The same with a pause of 1 ms before each read.
    RawPause1ms,
    /// The same with a pause of 1 ms before each read, and a receive buffer of 64 KiB.
    RawPause1msSmall,
    /// `dbstreamd serve` with its durable log.
    Dbstreamd,
    /// The same with one gRPC subscriber that follows on the same machine.
    DbstreamdSubscriber,
    /// psycopg2's replication cursor with a consumer that only counts.
    Psycopg2,
    /// Debezium's embedded engine with a handler that only counts.
    Debezium,
    /// PostgreSQL's COPY of the table to /dev/null, as text: no replication at all.
    CopyText,
    /// The same in binary form.
    CopyBinary,
}

/// How the server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// TCP over the loopback interface, unencrypted.
    Tcp,
    /// The server's Unix socket.
    Unix,
}

impl Client {
    /// For the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PgRecvlogical => "pg_recvlogical -f /dev/null",
            Self::Raw => "raw receiver (Rust)",
            Self::RawPause200us => "raw receiver, pause 200 µs",
            Self::RawPause1ms => "raw receiver, pause 1 ms",
            Self::RawPause1msSmall => "raw receiver, pause 1 ms, buffer 64 KiB",
            Self::Dbstreamd => "dbstreamd serve",
            Self::DbstreamdSubscriber => "dbstreamd serve + gRPC subscriber",
            Self::Psycopg2 => "psycopg2, counting",
            Self::Debezium => "Debezium embedded, counting",
            Self::CopyText => "COPY … TO /dev/null, text",
            Self::CopyBinary => "COPY … TO /dev/null, binary",
        }
    }

    /// Whether it is measured with this workload over this transport. The slow and the unlike ones are not run everywhere.
    pub(crate) fn takes(self, kind: Kind, transport: Transport) -> bool {
        match self {
            Self::PgRecvlogical | Self::Raw | Self::Dbstreamd => true,
            Self::RawPause200us | Self::RawPause1ms | Self::RawPause1msSmall => true,
            Self::DbstreamdSubscriber => transport == Transport::Tcp,
            Self::Psycopg2 => transport == Transport::Tcp && matches!(kind, Kind::T2 | Kind::T1),
            Self::Debezium | Self::CopyText | Self::CopyBinary => transport == Transport::Tcp && kind == Kind::T2,
        }
    }

    /// Whether it drains a slot.
    fn needs_slot(self) -> bool {
        !matches!(self, Self::CopyText | Self::CopyBinary)
    }
}

impl Transport {
    /// As in the arguments.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

/// What all runs of one workload share.
pub(crate) struct Bench<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) workload: &'a Workload,
    /// The dbstreamd program.
    pub(crate) binary: &'a Path,
    pub(crate) python: &'a Path,
    /// The end of the workload's last commit, once it is known.
    pub(crate) last_commit_lsn: u64,
}

impl Bench<'_> {
    /// One run.
    pub(crate) fn run(&self, client: Client, transport: Transport) -> Result<Run, LabError> {
        if !client.needs_slot() {
            return self.copy(client);
        }
        self.workload.copy_slot(self.cluster)?;
        let run = match client {
            Client::PgRecvlogical => self.pg_recvlogical(transport, Path::new("/dev/null")),
            Client::Raw => self.raw(transport, &[]).map(|(run, _)| run),
            Client::RawPause200us => self.raw(transport, &["--pause", "200"]).map(|(run, _)| run),
            Client::RawPause1ms => self.raw(transport, &["--pause", "1000"]).map(|(run, _)| run),
            Client::RawPause1msSmall => {
                self.raw(transport, &["--pause", "1000", "--receive-buffer", "65536"]).map(|(run, _)| run)
            }
            Client::Dbstreamd => self.dbstreamd(transport, false),
            Client::DbstreamdSubscriber => self.dbstreamd(transport, true),
            Client::Psycopg2 => self.psycopg2(),
            Client::Debezium | Client::CopyText | Client::CopyBinary => self.debezium(),
        };
        // The error of a failed run matters more than what is left of it.
        let dropped = self.workload.drop_slot(self.cluster);
        let run = run?;
        dropped.map(|()| run)
    }

    /// Drains the workload once with the raw receiver and once with `pg_recvlogical` into a file, untimed: what it consists of,
    /// and that both get the same.
    pub(crate) fn survey(&self) -> Result<Received, LabError> {
        let slot = |drain: &dyn Fn() -> Result<Received, LabError>| {
            self.workload.copy_slot(self.cluster)?;
            let received = drain();
            self.workload.drop_slot(self.cluster)?;
            received
        };
        let received = slot(&|| self.raw(Transport::Tcp, &[]).map(|(_, received)| received))?;
        let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
        let file = folder.path().join("pgoutput");
        slot(&|| self.pg_recvlogical(Transport::Tcp, &file).map(|_| received))?;
        let bytes = std::fs::metadata(&file).map_err(io("pg_recvlogical's file"))?.len();
        // It writes a newline behind every message.
        if (received.rows, bytes) == (self.workload.rows, received.bytes + received.messages) {
            return Ok(received);
        }
        Err(LabError::Failed(format!(
            "{}: {} rows were written; the raw receiver gets {} in {} messages of {} bytes together, pg_recvlogical {bytes} bytes",
            self.workload.kind.name(),
            self.workload.rows,
            received.rows,
            received.messages,
            received.bytes
        )))
    }

    fn meter(&self) -> Result<Meter, LabError> {
        Meter::start(self.cluster.server_pid().ok_or_else(|| LabError::Failed("the server is gone".into()))?)
    }

    fn host(&self, transport: Transport) -> String {
        match transport {
            Transport::Tcp => Cluster::host().to_owned(),
            Transport::Unix => self.cluster.socket_dir().display().to_string(),
        }
    }

    /// A connection string of libpq; the password is in the environment.
    fn dsn(&self, transport: Transport) -> String {
        let (host, port, user) = (self.host(transport), self.cluster.port(), Cluster::superuser());
        format!("host={host} port={port} user={user} dbname={}", self.workload.database)
    }

    /// Runs a client to its end.
    fn process(&self, name: &str, command: &mut Command) -> Result<Ended, LabError> {
        let meter = self.meter()?;
        let mut process = Process::start(name, command.env("PGPASSWORD", self.cluster.password()))?;
        process.wait()?;
        let window = meter.stop()?;
        let (client_cpu, peak_rss) = (window.cpu(process.pid()), process.peak_rss());
        Ok(Ended { window, client_cpu, peak_rss, printed: process.finish()? })
    }

    fn pg_recvlogical(&self, transport: Transport, into: &Path) -> Result<Run, LabError> {
        let program = dbstreamd_throwaway::binary("pg_recvlogical")?;
        let ended = self.process(
            "pg_recvlogical",
            Command::new(program)
                .args(["--dbname", &self.dsn(transport), "--slot", RUN_SLOT, "--start", "--no-loop"])
                .args(["--endpos", &self.workload.end_lsn, "--option", "proto_version=1"])
                .args(["--option", &format!("publication_names={}", self.workload.publication)])
                .arg("--file")
                .arg(into),
        )?;
        // It reached the end, and counts nothing itself: the server says what it was sent.
        let (sent, written) = (self.workload.decoded_transactions(self.cluster)?, self.workload.transactions);
        if sent < written {
            let text = format!("pg_recvlogical was sent {sent} transactions of {written}, as the server counts them");
            return Err(LabError::Failed(text));
        }
        Ok(ended.run(self.workload.rows))
    }

    fn raw(&self, transport: Transport, more: &[&str]) -> Result<(Run, Received), LabError> {
        let mut command = own("receive")?;
        command
            .args(["--host", &self.host(transport), "--port", &self.cluster.port().to_string()])
            .args(["--user", Cluster::superuser(), "--database", self.workload.database, "--slot", RUN_SLOT])
            .args(["--publication", self.workload.publication, "--end-lsn", &self.workload.end_lsn])
            .args(more);
        let ended = self.process("the raw receiver", &mut command)?;
        let received: Received = parse("the raw receiver", &ended.printed)?;
        Ok((ended.run(received.rows), received))
    }

    fn dbstreamd(&self, transport: Transport, subscriber: bool) -> Result<Run, LabError> {
        let url = match transport {
            Transport::Tcp => self.cluster.url(self.workload.database),
            Transport::Unix => {
                let (user, password, port) = (Cluster::superuser(), self.cluster.password(), self.cluster.port());
                let (database, host) = (self.workload.database, self.host(transport));
                format!("postgres://{user}:{password}@/{database}?host={host}&port={port}")
            }
        };
        let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
        let (binary, publication) = (self.binary, self.workload.publication);
        let setup = Setup { binary, folder: folder.path(), url: &url, slot: RUN_SLOT, publication, config: "" };
        let meter = self.meter()?;
        let mut daemon = Daemon::start(&setup)?;
        let mut follower = if subscriber { Some(self.follower(&daemon)?) } else { None };
        daemon.wait_visible(self.workload.rows)?;
        if let Some(follower) = &mut follower {
            follower.wait()?;
        }
        let window = meter.stop()?;
        // Offsets are dense from 1, so the newest one is their number.
        let visible = daemon.stream().get("visible_offset").and_then(Value::as_u64).unwrap_or(0);
        let peak_rss = procfs::peak_rss(daemon.pid())?;
        let log_bytes = Some(procfs::folder_bytes(daemon.data()));
        let mut run = Run { peak_rss, log_bytes, ..window.run(daemon.pid(), visible) };
        if let Some(follower) = follower {
            run.subscriber_cpu = Some(window.cpu(follower.pid()));
            let counted: Counted = parse("the subscriber", &follower.finish()?)?;
            // Both counts must be right: the one that is not is the one that is told.
            if counted.events != self.workload.rows {
                run.rows = counted.events;
            }
        }
        daemon.stop()?;
        Ok(run)
    }

    fn follower(&self, daemon: &Daemon) -> Result<Process, LabError> {
        let mut command = own("subscribe")?;
        command.args(["--grpc", daemon.grpc(), "--end-offset", &self.workload.rows.to_string()]);
        Process::start("the subscriber", &mut command)
    }

    fn psycopg2(&self) -> Result<Run, LabError> {
        let arguments = json!({
            "dsn": self.dsn(Transport::Tcp), "slot": RUN_SLOT, "publication": self.workload.publication,
            "last_commit_lsn": self.last_commit_lsn,
        });
        let mut command = Command::new(self.python);
        command.args(["-c", include_str!("../../clients/psycopg2_client.py"), &arguments.to_string()]);
        let ended = self.process("psycopg2", &mut command)?;
        let printed: Rows = parse("psycopg2", &ended.printed)?;
        Ok(ended.run(printed.rows))
    }

    /// Time and CPU count from the first rows on, without the start of the virtual machine, and are stretched to all rows.
    fn debezium(&self) -> Result<Run, LabError> {
        let arguments = json!({
            "host": Cluster::host(), "port": self.cluster.port(), "user": Cluster::superuser(),
            "database": self.workload.database, "slot": RUN_SLOT, "publication": self.workload.publication,
            "rows": self.workload.rows,
        });
        // It writes a log into its working directory.
        let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
        let mut command = Command::new(self.python);
        command.args(["-c", include_str!("../../clients/debezium_client.py"), &arguments.to_string()]);
        let ended = self.process("Debezium", command.current_dir(folder.path()))?;
        let last = ended.printed.lines().last().unwrap_or_default();
        let printed: Timed = parse("Debezium", last)?;
        #[expect(clippy::cast_precision_loss, reason = "rows are far below 2^53")]
        let stretch = printed.rows as f64 / printed.rows_timed as f64;
        let run = ended.run(printed.rows);
        Ok(Run { seconds: printed.seconds * stretch, client_cpu: printed.cpu * stretch, ..run })
    }

    fn copy(&self, client: Client) -> Result<Run, LabError> {
        let format = if client == Client::CopyBinary { "binary" } else { "text" };
        let mut command = Command::new(dbstreamd_throwaway::binary("psql")?);
        command
            .args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &self.dsn(Transport::Tcp), "-c"])
            .arg(format!("\\copy load TO '/dev/null' (FORMAT {format})"));
        let ended = self.process("COPY", &mut command)?;
        // `COPY 2000000`
        let rows = ended.printed.trim().strip_prefix("COPY ").and_then(|rows| rows.parse().ok());
        let rows = rows.ok_or_else(|| LabError::Failed(format!("COPY says {:?}", ended.printed)))?;
        Ok(ended.run(rows))
    }
}

/// A client that has ended well.
struct Ended {
    window: Window,
    client_cpu: f64,
    peak_rss: u64,
    printed: String,
}

impl Ended {
    fn run(&self, rows: u64) -> Run {
        let (client_cpu, peak_rss) = (self.client_cpu, self.peak_rss);
        Run { client_cpu, peak_rss, ..self.window.run(0, rows) }
    }
}

impl Window {
    fn run(&self, client: u32, rows: u64) -> Run {
        let client_cpu = self.cpu(client);
        let Self { seconds, server_cpu, foreign_cores, .. } = *self;
        Run { rows, seconds, client_cpu, server_cpu, foreign_cores, ..Run::default() }
    }
}

#[derive(serde::Deserialize)]
struct Rows {
    rows: u64,
}

#[derive(serde::Deserialize)]
struct Timed {
    rows: u64,
    seconds: f64,
    cpu: f64,
    /// Rows that came within `seconds`.
    rows_timed: u64,
}

fn parse<T: DeserializeOwned>(name: &str, printed: &str) -> Result<T, LabError> {
    serde_json::from_str(printed.trim())
        .map_err(|error| LabError::Failed(format!("{name} printed {printed:?}, which cannot be read: {error}")))
}

/// This program with another subcommand.
fn own(subcommand: &str) -> Result<Command, LabError> {
    let mut command = Command::new(std::env::current_exe().map_err(io("this program's path"))?);
    command.arg(subcommand);
    Ok(command)
}
