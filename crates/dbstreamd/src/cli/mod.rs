//! The command line: what can be said, and what each command's end means.
//!
//! Scripts rely on it (README, "Commands"): exit code 0 done, 1 refused or failed with one line on stderr,
//! 2 usage, 130 interrupted. Every command is a file; none of them knows how another works.

mod check;
mod client;
mod consumers;
mod error;
mod lifecycle;
mod memory;
mod notices;
mod output;
mod pretty;
mod schemas;
mod serve;
mod signals;
mod streams;
mod tables;
mod tail;
mod tune;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dbstreamd_model::ConsumerName;

use crate::config::{Config, Overrides};

pub(crate) use error::{CliError, note};
pub(crate) use output::{Output, Paint, bytes_text, count_text};
pub(crate) use pretty::Pretty;
pub(crate) use signals::Signals;

/// PostgreSQL's changes as a durable, replayable stream.
#[derive(Parser, Debug)]
#[command(name = "dbstreamd", version, propagate_version = true, after_help = EXAMPLES, subcommand_required = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Read from the working directory when nothing else is said.
const CONFIG_FILE: &str = "dbstreamd.toml";

const EXAMPLES: &str = "\
Examples:
  dbstreamd demo                                        see it work, without a database of your own
  dbstreamd check --source postgres://me@host/shop      would it work with this database?
  dbstreamd serve --source postgres://me@host/shop      capture its changes and serve them
  dbstreamd tail --from earliest                        read them

Exit codes: 0 done, 1 refused or failed (one line on stderr says why), 2 usage, 130 interrupted.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Show it at work: a throwaway PostgreSQL with a small shop's traffic, and its changes as they arrive
    Demo(DemoArguments),
    /// Capture changes into the log and serve them, until stopped
    Serve(ServeArguments),
    /// Look whether the sources can be captured, and change nothing
    Check(CheckArguments),
    /// Show who may use how much memory, and whether that fits here
    Memory(MemoryArguments),
    /// List the streams of a running daemon
    Streams(ListArguments),
    /// List the named consumers of a running daemon
    Consumers(ConsumersArguments),
    /// Show the schema versions of a stream's tables, and what changed between them
    Schemas(schemas::SchemasArguments),
    /// Look after tables whose rows changed without events
    Tables(tables::TablesArguments),
    /// Print changes of a running daemon as they come
    Tail(tail::TailArguments),
    /// Show or change settings of a running daemon
    Tune(tune::TuneArguments),
    /// Stop a stream of a running daemon cleanly, until it is resumed
    Pause(lifecycle::PauseArguments),
    /// Let a paused stream go on, or a failed one try again at once
    Resume(lifecycle::ResumeArguments),
    /// Take in everything a source has now, then pause its stream: before a planned switch
    Drain(lifecycle::DrainArguments),
    /// Print what happened lately in a running daemon
    Notices(notices::NoticesArguments),
}

/// Options of `demo`.
#[derive(Args, Debug)]
#[command(after_help = "\
Needs PostgreSQL's server programs (Debian: apt-get install postgresql), but no server: it starts one of its own in a
temporary folder. Everything is removed at the end, also after Ctrl-C.

Examples:
  dbstreamd demo
  dbstreamd demo --seconds 60 --rate 2000")]
pub(crate) struct DemoArguments {
    /// How long the traffic runs
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Transactions per second to aim at
    #[arg(long, value_name = "TX_PER_S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Every setting of the file can also be given by environment, as DBSTREAMD_… (docs/operations.md). SIGTERM stops cleanly
with exit code 0, Ctrl-C stops cleanly with 130; a second Ctrl-C does not wait.

Examples:
  dbstreamd serve --source postgres://me:secret@db.example/shop
  dbstreamd serve --config /etc/dbstreamd.toml --grpc 0.0.0.0:7400")]
struct ServeArguments {
    #[command(flatten)]
    sources: SourceArguments,
    /// Folder of the durable log [default: dbstreamd-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where gRPC clients connect [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR")]
    grpc: Option<String>,
    /// Where /health, /metrics and /v1 are served [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
}

/// Which databases.
#[derive(Args, Debug)]
struct SourceArguments {
    /// Configuration file [default: ./dbstreamd.toml if it is there and no --source is given]
    #[arg(long, value_name = "FILE", env = "DBSTREAMD_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// A database to capture, postgres://user:password@host:port/database or a libpq string; may be repeated
    #[arg(long = "source", value_name = "URL")]
    sources: Vec<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Exit code 0 when every source can be captured, 1 when one cannot. Nothing is created or changed.

Examples:
  dbstreamd check --source postgres://me:secret@db.example/shop
  dbstreamd check --config dbstreamd.toml --json")]
struct CheckArguments {
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    form: FormArguments,
    /// Only print what installs the event triggers of ddl_capture, for a superuser to run; no source is looked at
    #[arg(long, conflicts_with_all = ["format", "json"])]
    print_sql: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Exit code 0 when the daemon would start with this configuration on this machine, 1 when it would refuse. Nothing is started.

Examples:
  dbstreamd memory
  dbstreamd memory --config /etc/dbstreamd.toml --json")]
struct MemoryArguments {
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    form: FormArguments,
}

/// In which form.
#[derive(Args, Debug)]
struct FormArguments {
    /// For people, or one JSON document
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl FormArguments {
    fn chosen(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

#[derive(Args, Debug)]
struct ListArguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    form: FormArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dbstreamd consumers
  dbstreamd consumers --json
  dbstreamd consumers delete audit --stream shop")]
struct ConsumersArguments {
    #[command(flatten)]
    list: ListArguments,
    #[command(subcommand)]
    command: Option<ConsumersCommand>,
}

#[derive(Subcommand, Debug)]
enum ConsumersCommand {
    /// Forget a consumer that is not connected, and its position: under its name a new one begins anew
    Delete {
        /// Its name
        #[arg(value_name = "NAME")]
        consumer: ConsumerName,
        /// Its stream; not needed when the daemon has one
        #[arg(long, value_name = "STREAM", default_value = "")]
        stream: String,
        #[command(flatten)]
        server: ServerArguments,
    },
}

/// Which daemon.
#[derive(Args, Debug)]
struct ServerArguments {
    /// The daemon's gRPC address
    #[arg(long, value_name = "URL", env = "DBSTREAMD_SERVER", default_value = "http://127.0.0.1:7400")]
    server: String,
}

impl SourceArguments {
    /// The configuration with the command line over it, in which there must be a source.
    fn load_with_source(self, overrides: Overrides) -> Result<Config, CliError> {
        self.load(overrides)?.with_source().map_err(|error| CliError::failed(&error))
    }

    /// The configuration with the command line over it.
    fn load(self, overrides: Overrides) -> Result<Config, CliError> {
        let usual = (self.sources.is_empty() && Path::new(CONFIG_FILE).is_file()).then(|| PathBuf::from(CONFIG_FILE));
        let path = self.config.or(usual);
        let overrides = Overrides { sources: self.sources, ..overrides };
        Config::load(path.as_deref(), overrides).map_err(|error| CliError::failed(&error))
    }
}

/// How a report is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(refusal) => {
            // Help and version go to stdout with 0, the rest to stderr with 2.
            let _ = refusal.print();
            return ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(error::USAGE));
        }
    };
    let outcome = run(arguments.command);
    if let Err(error) = &outcome {
        error.report();
    }
    ExitCode::from(outcome.err().map_or(0, |error| error.exit_code()))
}

type Work = Pin<Box<dyn Future<Output = Result<(), CliError>>>>;

fn run(command: Command) -> Result<(), CliError> {
    use tokio::runtime::Builder;
    let (mut runtime, work): (Builder, Work) = match command {
        Command::Memory(arguments) => return memory::run(arguments),
        // How many threads there are is a part of the memory budget.
        Command::Serve(arguments) => {
            let config = serve::configure(arguments)?;
            crate::memory::limit_heaps(config.threads.workers);
            let mut runtime = Builder::new_multi_thread();
            runtime.worker_threads(config.threads.workers.max(1)).max_blocking_threads(config.threads.blocking_max);
            (runtime, Box::pin(serve::run(config)))
        }
        Command::Demo(arguments) => {
            (Builder::new_multi_thread(), Box::pin(async move { crate::demo::run(&arguments).await }))
        }
        Command::Check(arguments) => (Builder::new_current_thread(), Box::pin(until_signal(check::run(arguments)))),
        Command::Streams(arguments) => (Builder::new_current_thread(), Box::pin(until_signal(streams::run(arguments)))),
        Command::Consumers(arguments) => {
            (Builder::new_current_thread(), Box::pin(until_signal(consumers::run(arguments))))
        }
        Command::Tail(arguments) => (Builder::new_current_thread(), Box::pin(tail::run(arguments))),
        Command::Tune(arguments) => (Builder::new_current_thread(), Box::pin(until_signal(tune::run(arguments)))),
        Command::Pause(arguments) => {
            (Builder::new_current_thread(), Box::pin(until_signal(lifecycle::pause(arguments))))
        }
        Command::Resume(arguments) => {
            (Builder::new_current_thread(), Box::pin(until_signal(lifecycle::resume(arguments))))
        }
        Command::Drain(arguments) => {
            (Builder::new_current_thread(), Box::pin(until_signal(lifecycle::drain(arguments))))
        }
        Command::Schemas(arguments) => (Builder::new_current_thread(), Box::pin(until_signal(schemas::run(arguments)))),
        Command::Tables(arguments) => (Builder::new_current_thread(), Box::pin(until_signal(tables::run(arguments)))),
        Command::Notices(arguments) => (Builder::new_current_thread(), Box::pin(until_signal(notices::run(arguments)))),
    };
    let runtime = runtime.enable_all().build().map_err(CliError::io("start the async runtime"))?;
    let outcome = runtime.block_on(work);
    // Whatever still runs in the background has nothing left to say.
    runtime.shutdown_background();
    outcome
}

/// For a command that has nothing to tidy up: a signal ends it where it waits.
async fn until_signal(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        ended = command => ended,
        _ = signals.next() => Err(CliError::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_of_the_contract_is_there() {
        for line in [
            "dbstreamd demo --seconds 3 --rate 100",
            "dbstreamd serve --config c.toml --source postgres://a/b --source postgres://a/c --data-dir d --grpc 127.0.0.1:0 --http [::1]:7401",
            "dbstreamd check --config c.toml --source x --format json",
            "dbstreamd memory --config c.toml --format json",
            "dbstreamd streams --format text --server http://h:1",
            "dbstreamd consumers --format json",
            "dbstreamd consumers --json",
            "dbstreamd consumers delete audit --stream shop --server http://h:1",
            "dbstreamd tune --json",
            "dbstreamd tune group-commit-bytes=8MB retention-age=off --durable --server http://h:1",
            "dbstreamd tune --reset retention-age --reset log-filter",
            "dbstreamd tune log-filter=info,dbstreamd_source=debug",
            "dbstreamd pause shop --durable --why maintenance --json",
            "dbstreamd resume shop --json",
            "dbstreamd drain shop --durable --timeout 90s",
            "dbstreamd notices --follow --json --server http://h:1",
            "dbstreamd schemas shop",
            "dbstreamd schemas shop public.* --diff --json --server http://h:1",
            "dbstreamd tables clear shop public.orders --json",
            "dbstreamd check --print-sql",
            "dbstreamd tail",
            "dbstreamd tail shop --server http://h:1 --from lsn:16/B374D848 --consumer c --table shop.* --table a.b --format json --limit 3 --until-caught-up",
        ] {
            assert!(parse(line).is_ok(), "{line} was refused: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn what_is_not_in_the_contract_is_a_usage_error() {
        for line in [
            "dbstreamd",
            "dbstreamd frobnicate",
            "dbstreamd serve --nonsense",
            "dbstreamd demo --seconds 0",
            "dbstreamd check --format yaml",
            "dbstreamd tail --from yesterday",
            "dbstreamd tail --limit many",
            "dbstreamd tail --consumer a/b",
            "dbstreamd consumers delete",
            "dbstreamd consumers delete a/b",
            "dbstreamd tune retention-age",
            "dbstreamd pause",
            "dbstreamd resume",
            "dbstreamd schemas",
            "dbstreamd tables clear shop",
            "dbstreamd drain shop --timeout soon",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["dbstreamd --help", "dbstreamd --version", "dbstreamd tail --help"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn help_shows_examples_and_exit_codes() {
        let help = |line: &str| parse(line).unwrap_err().to_string();
        for (line, word) in [
            ("dbstreamd --help", "130 interrupted"),
            ("dbstreamd --help", "dbstreamd demo"),
            ("dbstreamd tail --help", "--until-caught-up"),
            ("dbstreamd tail --help", "Examples:"),
            ("dbstreamd serve --help", "Examples:"),
            ("dbstreamd check --help", "Examples:"),
            ("dbstreamd demo --help", "Examples:"),
            ("dbstreamd tune --help", "Examples:"),
            ("dbstreamd pause --help", "Examples:"),
            ("dbstreamd resume --help", "Examples:"),
            ("dbstreamd drain --help", "Examples:"),
            ("dbstreamd notices --help", "Examples:"),
            ("dbstreamd schemas --help", "Examples:"),
            ("dbstreamd tables --help", "Examples:"),
            ("dbstreamd tables clear --help", "Examples:"),
        ] {
            assert!(help(line).contains(word), "{line} does not say {word:?}");
        }
    }
}
