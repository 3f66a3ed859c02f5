//! How fast a slot is drained: the same WAL through each client, in turn, several times.
//!
//! Every run drains a copy of one slot. A run is the client's whole life, from the start of its process until it has the last row
//! (dbstreamd: until the last row is durable and visible, and where a subscriber follows, received by it).

mod clients;
mod table;

use std::path::PathBuf;

use dbstreamd_throwaway::Cluster;

use crate::error::LabError;
use crate::judge::{Refusal, Run, Series};
use crate::load::{self, Load};
use crate::machine::Machine;
use crate::quiet::Rules;
use crate::references::{self, Python};
use crate::report::{Output, Section, publish};
use crate::workload::{Kind, Workload};
use clients::{Bench, Client, Transport};

/// What to drain, with what, how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Grid {
    /// Rows of every workload but t1.
    #[arg(long, default_value_t = 2_000_000)]
    rows: u64,
    /// Rows, and transactions, of workload t1.
    #[arg(long, default_value_t = 200_000)]
    transactions: u64,
    /// Runs of each client per workload.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Which workloads.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["t2", "t1", "updates", "deletes", "huge"])]
    workloads: Vec<Kind>,
    /// How the server is reached.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["tcp", "unix"])]
    transports: Vec<Transport>,
    /// Which clients; without pg-recvlogical there are no ratios. Not every one takes every workload and transport.
    #[arg(long, value_enum, value_delimiter = ',', default_values = [
        "pg-recvlogical", "raw", "dbstreamd", "dbstreamd-subscriber", "psycopg2", "debezium", "copy-text", "copy-binary",
    ])]
    clients: Vec<Client>,
    /// Keep so many cores busy with something else meanwhile, as on a machine that has other work; no floor is judged then.
    #[arg(long, default_value_t = 0.0, value_name = "CORES", value_parser = load::cores)]
    load: f64,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    python: Python,
}

impl Grid {
    /// Which runs count.
    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }
}

/// Arguments of the benchmark on its own.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The dbstreamd program.
    #[arg(long)]
    binary: PathBuf,
    #[command(flatten)]
    grid: Grid,
    #[command(flatten)]
    output: Output,
}

/// One client over one transport.
struct Row {
    client: Client,
    transport: Transport,
    series: Series,
}

/// One workload.
struct Outcome {
    kind: Kind,
    rows: u64,
    transactions: u64,
    pgoutput_bytes: u64,
    clients: Vec<Row>,
}

/// Runs the benchmark and publishes its report.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let mut machine = Machine::look();
    let section = section(&arguments.grid, &arguments.binary, &mut machine)?;
    publish("dbstreamd: draining", &machine, &[section], &arguments.output)
}

/// Runs the benchmark.
pub(crate) fn section(grid: &Grid, binary: &std::path::Path, machine: &mut Machine) -> Result<Section, LabError> {
    let cluster = Cluster::builder().setting("max_wal_size", "8GB").setting("autovacuum", "off").start()?;
    machine.with("PostgreSQL", cluster.psql("postgres", "SELECT current_setting('server_version')")?);
    machine.with("dbstreamd", references::version(binary).unwrap_or_else(|| "of unknown version".into()));
    let absent = absent(grid, machine);
    let mut outcomes = Vec::new();
    for kind in &grid.workloads {
        outcomes.push(drain(grid, binary, &cluster, *kind, &absent)?);
    }
    Ok(table::section(grid, &outcomes))
}

/// The optional references that are not there, and why; notes the versions of those that are.
fn absent(grid: &Grid, machine: &mut Machine) -> Vec<(Client, Refusal)> {
    let mut absent = Vec::new();
    for (client, name, version) in [
        (Client::Psycopg2, "psycopg2", Python::psycopg2 as fn(&Python) -> Result<String, Refusal>),
        (Client::Debezium, "Debezium", Python::debezium),
    ] {
        if !grid.clients.contains(&client) {
            continue;
        }
        match version(&grid.python) {
            Ok(version) => machine.with(name, version),
            Err(refusal) => {
                eprintln!("{name}: {refusal}");
                absent.push((client, refusal));
            }
        }
    }
    absent
}

fn drain(
    grid: &Grid,
    binary: &std::path::Path,
    cluster: &Cluster,
    kind: Kind,
    absent: &[(Client, Refusal)],
) -> Result<Outcome, LabError> {
    let rows = if kind == Kind::T1 { grid.transactions } else { grid.rows };
    eprintln!("{}: writing {rows} rows, {} …", kind.name(), kind.describe());
    let workload = Workload::create(cluster, kind, rows)?;
    let mut bench = Bench { cluster, workload: &workload, binary, python: &grid.python.python, last_commit_lsn: 0 };
    let survey = bench.survey()?;
    bench.last_commit_lsn = survey.last_commit_lsn;
    let _load = Load::start(grid.load)?;
    let mut clients = rows_of(grid, kind, workload.rows, absent);
    for run in 1..=grid.runs {
        for row in clients.iter_mut().filter(|row| row.series.ended.is_none()) {
            let name = format!("{} {} {run}/{}: {}", kind.name(), row.transport.name(), grid.runs, row.client.name());
            let result = grid
                .rules
                .attempt_while(|run: &Run| run.rows == workload.rows, || bench.run(row.client, row.transport));
            match &result {
                #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
                Ok(run) => {
                    let rate = run.rows as f64 / run.seconds / 1e3;
                    eprintln!(
                        "{name}: {:.2} s, {rate:.0} k rows/s, others {:.2} cores",
                        run.seconds, run.foreign_cores
                    );
                }
                Err(error) => eprintln!("{name}: {error}"),
            }
            row.series.push(result);
        }
    }
    let Workload { kind, rows, transactions, .. } = workload;
    workload.remove(cluster)?;
    Ok(Outcome { kind, rows, transactions, pgoutput_bytes: survey.bytes, clients })
}

/// Who takes part in a workload, in the order of the turns: transport by transport.
fn rows_of(grid: &Grid, kind: Kind, expected: u64, absent: &[(Client, Refusal)]) -> Vec<Row> {
    let pairs = grid.transports.iter().flat_map(|transport| grid.clients.iter().map(|client| (*client, *transport)));
    let taking = pairs.filter(|(client, transport)| client.takes(kind, *transport));
    let row = |(client, transport)| {
        let mut series = Series::new(expected);
        series.ended = absent.iter().find(|(other, _)| *other == client).map(|(_, refusal)| refusal.clone());
        Row { client, transport, series }
    };
    taking.map(row).collect()
}

impl Outcome {
    fn of(&self, client: Client, transport: Transport) -> Option<&Row> {
        self.clients.iter().find(|row| row.client == client && row.transport == transport)
    }

    /// What a row is compared with: `pg_recvlogical` over the same transport.
    fn reference(&self, row: &Row) -> Option<&Row> {
        self.of(Client::PgRecvlogical, row.transport)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        grid: Grid,
    }

    fn grid(arguments: &[&str]) -> Grid {
        Line::parse_from([&["lab"], arguments].concat()).grid
    }

    #[test]
    fn every_client_takes_part_in_t2_over_tcp_and_only_those_that_can_elsewhere() {
        let grid = grid(&[]);
        let over_tcp = |kind| {
            let rows = rows_of(&grid, kind, 1, &[]);
            rows.iter().filter(|row| row.transport == Transport::Tcp).map(|row| row.client).collect::<Vec<_>>()
        };
        assert_eq!(over_tcp(Kind::T2), grid.clients);
        use Client::{Dbstreamd, DbstreamdSubscriber, PgRecvlogical, Raw};
        assert_eq!(over_tcp(Kind::Deletes), [PgRecvlogical, Raw, Dbstreamd, DbstreamdSubscriber]);
        assert_eq!(rows_of(&grid, Kind::T2, 1, &[]).len() - grid.clients.len(), 3);
    }

    #[test]
    fn an_absent_reference_keeps_its_line_and_says_why() {
        let absent = [(Client::Debezium, Refusal::Absent("no Java".into()))];
        let rows = rows_of(&grid(&["--workloads", "t2", "--transports", "tcp"]), Kind::T2, 1, &absent);
        let refused: Vec<_> = rows.iter().filter_map(|row| Some((row.client, row.series.medians().err()?))).collect();
        assert!(refused.contains(&(Client::Debezium, Refusal::Absent("no Java".into()))));
        assert!(refused.contains(&(Client::Raw, Refusal::NoRuns)));
    }
}
