//! `dbstreamd-lab`: benchmarks of dbstreamd against others on this machine, now, each side by side with its references.
//!
//! Absolute figures do not carry over to another machine or day; ratios of one invocation do. One module and one
//! subcommand per benchmark; each gives a [`report::Section`], and `report::publish` makes the report of them.

mod daemon;
mod drain;
mod error;
mod fanout;
mod floors;
mod idle;
mod judge;
mod latency;
mod lean;
mod load;
mod machine;
mod meter;
mod nats;
mod plot;
mod procfs;
mod profile;
mod quiet;
mod receiver;
mod references;
mod replay;
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
  Everything, as `make bench` does it (more than an hour):
    dbstreamd-lab all --binary target/release/dbstreamd --results lab/results
  A quick look at one workload (half a minute):
    dbstreamd-lab drain --binary target/release/dbstreamd --rows 100000 --runs 1 --workloads t2 \\
      --clients pg-recvlogical,dbstreamd --transports tcp
  Does all of it work at all, as CI asks (ratios of so few rows mean nothing):
    dbstreamd-lab all --binary target/release/dbstreamd \\
      --rows 20000 --transactions 2000 --runs 1 --repeats 0 --log-bytes 50000000 --latency-runs 1 --latency-seconds 1 \\
      --subscribers 300 --connections 10 --seconds 1 --fanout-runs 1 --events 20000 --replay-runs 1
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
    /// The time from the return of a commit to its delivery, beside a raw receiver and an fdatasync.
    Latency(latency::Arguments),
    /// How long a daemon with a large log takes to start.
    Start(start::Arguments),
    /// Ten thousand subscribers that follow one stream.
    Fanout(fanout::Arguments),
    /// The whole log to one subscriber, and to some at once.
    Replay(replay::Arguments),
    /// Where the daemon's CPU time goes while it drains, by perf: a flame graph.
    Profile(profile::Arguments),
    /// A client of the benchmarks: the raw receiver.
    #[command(hide = true)]
    Receive(receiver::Arguments),
    /// A client of the benchmarks: the counting subscriber.
    #[command(hide = true)]
    Subscribe(subscriber::Arguments),
    /// A client of the benchmarks: readers that look at offsets only.
    #[command(hide = true)]
    Read(replay::reader::Arguments),
    /// A client of the benchmarks: fills a JetStream with what a daemon delivers.
    #[command(hide = true)]
    JetstreamFill(replay::jetstream::Fill),
    /// A client of the benchmarks: reads a JetStream from its beginning.
    #[command(hide = true)]
    JetstreamRead(replay::jetstream::Read),
}

#[derive(clap::Args)]
struct All {
    /// The dbstreamd program.
    #[arg(long)]
    binary: PathBuf,
    #[command(flatten)]
    drain: drain::Grid,
    #[command(flatten)]
    latency: latency::Pace,
    #[command(flatten)]
    start: start::Size,
    #[command(flatten)]
    crowd: fanout::Crowd,
    #[command(flatten)]
    replay: replay::Length,
    #[command(flatten)]
    nats: nats::Program,
    #[command(flatten)]
    output: report::Output,
}

fn all(arguments: &All) -> Result<(), LabError> {
    let mut machine = Machine::look();
    let binary = &arguments.binary;
    let rules = arguments.drain.rules();
    arguments.nats.describe(&mut machine);
    let sections = [
        drain::section(&arguments.drain, binary, &mut machine)?,
        latency::section(&arguments.latency, &rules, &[("dbstreamd".into(), binary.clone())])?,
        idle::section(binary)?,
        start::section(binary, &arguments.start)?,
        fanout::section(&arguments.crowd, &rules, &arguments.nats, binary)?,
        replay::section(&arguments.replay, &rules, &arguments.nats, binary)?,
    ];
    report::publish("dbstreamd on this machine", &machine, &sections, &arguments.output)
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::All(arguments) => all(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Idle(arguments) => idle::run(&arguments),
        Command::Latency(arguments) => latency::run(&arguments),
        Command::Start(arguments) => start::run(&arguments),
        Command::Fanout(arguments) => fanout::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Receive(arguments) => receiver::run(&arguments),
        Command::Subscribe(arguments) => subscriber::run(&arguments),
        Command::Read(arguments) => replay::reader::run(&arguments),
        Command::JetstreamFill(arguments) => replay::jetstream::fill(&arguments),
        Command::JetstreamRead(arguments) => replay::jetstream::read(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_benchmarks_together_take_the_options_of_each() {
        let line = "dbstreamd-lab all --binary x --rows 1 --runs 1 --foreign-max 0.2 --latency-runs 2 --log-bytes 3 \
                    --repeats 3 --fanout-runs 4 --events 5 --replay-runs 6 --nats-server y";
        let parsed = Arguments::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string());
        assert_eq!(parsed.err(), None);
    }
}
