//! `dbstreamd-lab`: benchmarks of dbstreamd against others on this machine, now, each side by side with its references.
//!
//! Absolute figures do not carry over to another machine or day; ratios of one invocation do. One module and one
//! subcommand per benchmark; each gives a [`report::Section`], and `report::publish` makes the report of them.

mod daemon;
mod drain;
mod error;
mod floors;
mod idle;
mod judge;
mod machine;
mod meter;
mod plot;
mod procfs;
mod proto;
mod receiver;
mod references;
mod report;
mod start;
mod subscriber;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::LabError;
use crate::machine::Machine;

const EXAMPLES: &str = "\
Examples:
  Everything, as `make bench` does it (about three quarters of an hour):
    dbstreamd-lab all --binary target/release/dbstreamd --results lab/results
  A quick look at one workload (half a minute):
    dbstreamd-lab drain --binary target/release/dbstreamd --rows 100000 --runs 1 --workloads t2 \\
      --clients pg-recvlogical,dbstreamd --transports tcp
  Does all of it work at all, as CI asks (ratios of so few rows mean nothing):
    dbstreamd-lab all --binary target/release/dbstreamd \\
      --rows 20000 --transactions 2000 --runs 1 --repeats 0 --log-bytes 50000000
  For programs:
    dbstreamd-lab drain --binary target/release/dbstreamd --json > drain.json

Set-up of the optional references (psycopg2, Debezium): make bench-setup";

#[derive(Parser)]
#[command(
    name = "dbstreamd-lab",
    about = "Benchmarks of dbstreamd against PostgreSQL's own client and others",
    after_help = EXAMPLES
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All benchmarks, one report.
    All(All),
    /// Drain the same WAL with dbstreamd and with others, in turn.
    #[command(after_help = EXAMPLES)]
    Drain(drain::Arguments),
    /// The memory of a daemon with one idle source.
    Idle(idle::Arguments),
    /// How long a daemon with a large log takes to start.
    Start(start::Arguments),
    /// A client of the benchmarks: the raw receiver.
    #[command(hide = true)]
    Receive(receiver::Arguments),
    /// A client of the benchmarks: the counting subscriber.
    #[command(hide = true)]
    Subscribe(subscriber::Arguments),
}

#[derive(clap::Args)]
struct All {
    /// The dbstreamd program.
    #[arg(long)]
    binary: PathBuf,
    #[command(flatten)]
    drain: drain::Grid,
    #[command(flatten)]
    start: start::Size,
    #[command(flatten)]
    output: report::Output,
}

fn all(arguments: &All) -> Result<(), LabError> {
    let mut machine = Machine::look();
    let binary = &arguments.binary;
    let sections = [
        drain::section(&arguments.drain, binary, &mut machine)?,
        idle::section(binary)?,
        start::section(binary, &arguments.start)?,
    ];
    report::publish("dbstreamd on this machine", &machine, &sections, &arguments.output)
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::All(arguments) => all(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Idle(arguments) => idle::run(&arguments),
        Command::Start(arguments) => start::run(&arguments),
        Command::Receive(arguments) => receiver::run(&arguments),
        Command::Subscribe(arguments) => subscriber::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
