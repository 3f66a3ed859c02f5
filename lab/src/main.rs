//! `dbstreamd-lab`: benchmarks of dbstreamd against others on this machine, now, each side by side with its references.
//!
//! Absolute figures do not carry over to another machine or day; ratios of one invocation do. One module and one
//! subcommand per benchmark; each gives a [`report::Section`], and `report::publish` makes the report of them.

mod daemon;
mod drain;
mod error;
mod floors;
mod machine;
mod procfs;
mod proto;
mod report;
mod series;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "dbstreamd-lab", about = "Benchmarks of dbstreamd against PostgreSQL's own client and others")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drain the same WAL with pg_recvlogical and with dbstreamd (durable log on), in turn.
    Drain(drain::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Drain(arguments) => drain::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
