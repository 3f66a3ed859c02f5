//! `dbstreamd-torture`: breaks the daemon, its server, its network and its disk in seeded ways under traffic, and
//! compares what was delivered with the truth. Uses the binary and the public contract only.

mod consumers;
mod cycle;
mod daemon;
mod disk;
mod error;
mod faults;
mod oracle;
mod power;
mod proxy;
mod report;
mod schemas;
mod seed;
mod server;
mod shim;
mod stage;
mod watch;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use error::{TortureError, io};
use faults::Fault;
use report::Account;

const EXAMPLES: &str = "Examples:
  make torture                                    20 cycles, a seed from the clock
  make torture CYCLES=100 SEED=7                  100 cycles, always the same faults
  make torture CYCLES=1 SEED=123456               one cycle of a longer run again, by the seed it printed
  make torture CYCLES=50 ARGS=\"--only power-cut --episodes 1\"
  make torture ARGS=\"--only kill,kill-burst,server-crash\"
  make torture ARGS=--list                        the kinds of faults

Exit code: 0 nothing is wrong, 1 a violation, 2 the harness itself failed.";

#[derive(Parser)]
#[command(
    name = "dbstreamd-torture",
    about = "Breaks dbstreamd, its server, its network and its disk, and compares what it delivered with the truth",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// The dbstreamd binary.
    #[arg(long, default_value = "dbstreamd")]
    binary: PathBuf,
    /// The library to preload into it (libdbstreamd_torture_shim.so).
    #[arg(long, default_value = "libdbstreamd_torture_shim.so")]
    shim: PathBuf,
    /// How many cycles; each has a fresh database and log.
    #[arg(long, default_value_t = 20)]
    cycles: u64,
    /// Seed of the run; from the clock when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these kinds of faults, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Fault>,
    /// Faults per cycle.
    #[arg(long, default_value_t = 6)]
    episodes: usize,
    /// Writers, each with a connection.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=64))]
    writers: i32,
    /// Transactions per second that all writers together aim at.
    #[arg(long, default_value_t = 2_000)]
    tps: u32,
    /// Seconds the daemon gets to recover by itself from a full disk or failing fsync before it is restarted.
    #[arg(long, default_value_t = 60)]
    recover_within: u64,
    /// The daemon's resident memory must stay below this (its budgets are 128 MiB, and subscribers have output).
    #[arg(long, default_value_t = 384)]
    rss_max_mib: u64,
    /// Print the result as one JSON object instead of the table; progress goes to stderr.
    #[arg(long)]
    json: bool,
    /// Say what is being done to the daemon, as it is done.
    #[arg(long)]
    verbose: bool,
    /// List the kinds of faults.
    #[arg(long)]
    list: bool,
}

/// What else it does than cycles of faults.
#[derive(Subcommand)]
enum Other {
    /// Changes schemas and rows at random, and compares the tables that the stream's events make with the database's.
    Schemas(schemas::Schemas),
}

impl Arguments {
    fn choice(&self) -> Vec<Fault> {
        if self.only.is_empty() { Fault::all() } else { self.only.clone() }
    }

    /// What else than seed and number of cycles decides what a cycle does.
    fn replay_arguments(&self) -> String {
        let mut arguments = Vec::new();
        if !self.only.is_empty() {
            let names: Vec<String> = self.only.iter().map(|fault| fault.name()).collect();
            arguments.push(format!("--only {}", names.join(",")));
        }
        let mut differs = |name: &str, value: u64, default: u64| {
            if value != default {
                arguments.push(format!("--{name} {value}"));
            }
        };
        differs("episodes", self.episodes as u64, 6);
        differs("writers", u64::try_from(self.writers).unwrap_or(0), 4);
        differs("tps", self.tps.into(), 2_000);
        differs("recover-within", self.recover_within, 60);
        arguments.join(" ")
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        Fault::all().into_iter().for_each(|fault| println!("{:<15} {}", fault.name(), fault.note()));
        return ExitCode::SUCCESS;
    }
    if arguments.other.is_none() {
        disk::enter_namespace();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(io("start the runtime")).and_then(|runtime| {
        let result = runtime.block_on(until_interrupted(&arguments));
        // Blocking work that stops a server is waited for by the server's own end.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Ends early at Ctrl-C or SIGTERM; whatever runs is stopped by being dropped.
async fn until_interrupted(arguments: &Arguments) -> Result<bool, TortureError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("listen for signals"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(io("listen for signals"))?;
    tokio::select! {
        result = work(arguments) => result,
        _ = interrupt.recv() => Err(TortureError::Interrupted),
        _ = terminate.recv() => Err(TortureError::Interrupted),
    }
}

async fn work(arguments: &Arguments) -> Result<bool, TortureError> {
    match &arguments.other {
        Some(Other::Schemas(schemas)) => schemas::run(schemas).await,
        None => run(arguments).await,
    }
}

/// Runs all cycles. Whether nothing is wrong.
async fn run(arguments: &Arguments) -> Result<bool, TortureError> {
    for (what, path) in [("--binary", &arguments.binary), ("--shim", &arguments.shim)] {
        if !path.is_file() {
            return Err(TortureError::Failed(format!("{what} {}: no such file; use `make torture`", path.display())));
        }
    }
    let seed = arguments.seed.unwrap_or_else(seed::from_clock);
    let disks = if disk::can_mount() { "full disks are small file systems" } else { "full disks are simulated" };
    eprintln!("seed {seed}, {} cycles of {} faults; {disks}", arguments.cycles, arguments.episodes);
    let cluster = server::start_cluster().await?;
    let (mut total, mut outcomes) = (Account::default(), Vec::new());
    let replay_arguments = arguments.replay_arguments();
    for number in 0..arguments.cycles {
        let outcome = cycle::run(arguments, &cluster, seed::of_cycle(seed, number)).await?;
        eprintln!("{}", outcome.line(number + 1, arguments.cycles));
        if !outcome.violations.is_empty() {
            eprint!("{}", outcome.findings(&replay_arguments));
        }
        total.add(&outcome.account);
        outcomes.push(outcome);
    }
    let violations: usize = outcomes.iter().map(|outcome| outcome.violations.len()).sum();
    if arguments.json {
        println!("{}", report::json(&total, &outcomes, seed, &replay_arguments));
    } else {
        println!("{}", report::table(&total, outcomes.len(), violations));
    }
    Ok(violations == 0)
}
