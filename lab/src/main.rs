//! `dbstreamd-lab drain`: how fast a slot is drained, side by side with `pg_recvlogical`, on this machine, now.
//!
//! Both drain the same WAL (copies of one slot), in turn, several times; medians and ratios are reported with CPU time of
//! client and server and the client's peak memory. Absolute figures do not carry over to another machine or day.

mod drain;
mod latency;
mod procfs;
mod report;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "dbstreamd-lab", about = "Benchmarks of dbstreamd against PostgreSQL's own client")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drain the same WAL with pg_recvlogical and with dbstreamd (durable log on), in turn.
    Drain(DrainArguments),
    /// Time from commit-return to delivery, beside a raw receiver.
    Latency(latency::LatencyArguments),
}

/// What to drain, how often.
#[derive(clap::Args)]
struct DrainArguments {
    /// Rows of workload t2, in transactions of 100.
    #[arg(long, default_value_t = 2_000_000)]
    rows: u64,
    /// Single-row transactions of workload t1.
    #[arg(long, default_value_t = 200_000)]
    transactions: u64,
    /// Runs of each client per workload.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The dbstreamd binary.
    #[arg(long)]
    binary: PathBuf,
    /// Folder for the markdown report; none: only print it.
    #[arg(long)]
    results: Option<PathBuf>,
}

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
enum LabError {
    #[error(transparent)]
    Cluster(#[from] dbstreamd_throwaway::ThrowawayError),
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("{0}")]
    Failed(String),
}

/// Names what was being done when an I/O error happened.
fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LabError {
    let what = what.into();
    move |error| LabError::Io { what, error }
}

fn main() -> ExitCode {
    let report = match Arguments::parse().command {
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Latency(arguments) => latency::run(&arguments),
    };
    match report {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
