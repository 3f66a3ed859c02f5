//! What the drains say: tables, plots, figures for the floors, JSON.

use serde_json::{Value, json};

use super::clients::{Client, Transport};
use super::{Grid, Outcome, Row};
use crate::judge::{Medians, Refusal};
use crate::plot::{Bar, bars};
use crate::quiet::Rules;
use crate::report::{Finding, Plot, Section};
use crate::workload::Kind;

/// The section of all workloads.
pub(super) fn section(grid: &Grid, outcomes: &[Outcome]) -> Section {
    let rules = &grid.rules;
    let mut text = format!(
        "## Draining a slot\n\n\
         {} runs of each client per workload, in turn; medians. Each drains a copy of one slot, from the start of its process to \
         its last row. *dbstreamd* keeps its durable log (fsync per group commit), and its last row is durable and visible \
         then. *Ratio* is rows/s against `pg_recvlogical` over the same transport, in this invocation. *Others* is the \
         median CPU that neither the client, nor PostgreSQL, nor the lab used; a run with more than {} cores of it is disturbed, \
         repeated up to {} times, and if it stays so, there is no ratio. Every client's rows are counted, and another count than the workload's is an \
         error. `pg_recvlogical` counts nothing: its runs end at the workload's end position, the server's count of \
         transactions sent to it must be right, and its output, written to a file once, must have the size of what the raw receiver \
         counted.",
        grid.runs, rules.foreign_max, rules.repeats
    );
    if grid.clients.contains(&Client::Debezium) {
        text += " Debezium's time and CPU count from its first row on, without the start of its virtual machine.";
    }
    if grid.load > 0.0 {
        text += &format!(" Meanwhile the lab kept {} cores busy with something else.", grid.load);
    }
    text += "\n";
    for outcome in outcomes {
        text += "\n";
        text += &table(outcome, rules);
    }
    let named = |row: &Row, outcome: &Outcome| {
        let refusal = row.series.ended.as_ref().filter(|refusal| refusal.is_failure())?;
        Some(format!("{} over {}, {}: {refusal}", outcome.kind.name(), row.transport.name(), row.client.name()))
    };
    Section {
        name: "drain",
        text,
        findings: findings(grid.runs, grid.load, outcomes, rules),
        plots: outcomes.iter().filter_map(|outcome| plot(outcome, rules)).collect(),
        data: Value::Array(outcomes.iter().map(|outcome| data(outcome, rules)).collect()),
        failures: outcomes
            .iter()
            .flat_map(|outcome| outcome.clients.iter().filter_map(move |row| named(row, outcome)))
            .collect(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn float(value: u64) -> f64 {
    value as f64
}

fn rate_ratio(outcome: &Outcome, row: &Row, rules: &Rules) -> Result<f64, Refusal> {
    let reference = outcome.reference(row).map(|row| &row.series);
    row.series.ratio(reference, rules, |medians| medians.rows_per_second)
}

fn table(outcome: &Outcome, rules: &Rules) -> String {
    let mut text = format!(
        "### {}: {} rows, {}; {} transactions, {:.0} MB of pgoutput\n\n\
         | client | over | rows/s | min … max | ratio | client CPU-s per 1M rows | server CPU-s per 1M rows | peak RSS MB | log / pgoutput | others, cores |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        outcome.kind.name(),
        outcome.rows,
        outcome.kind.describe(),
        outcome.transactions,
        float(outcome.pgoutput_bytes) / 1e6
    );
    let mut notes: Vec<String> = Vec::new();
    for row in &outcome.clients {
        let name = format!("| {} | {} ", row.client.name(), row.transport.name());
        text += &name;
        match row.series.medians() {
            Ok(medians) => text += &cells(outcome, row, &medians, rules, &mut notes),
            Err(refusal) => text += &format!("| {refusal} | | | | | | | |\n"),
        }
    }
    if !notes.is_empty() {
        text += "\nNo ratio:\n\n";
        text += &notes.iter().map(|note| format!("- {note}\n")).collect::<String>();
    }
    text
}

fn cells(outcome: &Outcome, row: &Row, medians: &Medians, rules: &Rules, notes: &mut Vec<String>) -> String {
    let is_reference = row.client == Client::PgRecvlogical;
    let ratio = match rate_ratio(outcome, row, rules) {
        Ok(_) if is_reference => "1".into(),
        Ok(ratio) => format!("{ratio:.2}"),
        Err(refusal) => {
            notes.push(format!("{} over {}: {refusal}", row.client.name(), row.transport.name()));
            "–".into()
        }
    };
    let subscriber = medians.subscriber_cpu_per_million.map_or(String::new(), |cpu| format!(" + {cpu:.2}"));
    let log = medians.log_bytes.map_or("–".into(), |bytes| format!("{:.2}", bytes / float(outcome.pgoutput_bytes)));
    format!(
        "| {:.0} k | {:.0} … {:.0} k | {ratio} | {:.2}{subscriber} | {:.2} | {:.0} | {log} | {:.2} |\n",
        medians.rows_per_second / 1e3,
        medians.slowest_rows_per_second / 1e3,
        medians.fastest_rows_per_second / 1e3,
        medians.client_cpu_per_million,
        medians.server_cpu_per_million,
        medians.peak_rss / 1e6,
        medians.foreign_cores,
    )
}

fn plot(outcome: &Outcome, rules: &Rules) -> Option<Plot> {
    let disturbed = |row: &Row| if row.series.verdict(rules).is_ok() { "" } else { ", disturbed" };
    let bar = |row: &Row| {
        // Many times faster than any drain, it would leave nothing to see of them.
        if matches!(row.client, Client::CopyText | Client::CopyBinary) {
            return None;
        }
        let medians = row.series.medians().ok()?;
        Some(Bar {
            label: format!("{} ({}{})", row.client.name(), row.transport.name(), disturbed(row)),
            value: medians.rows_per_second / 1e3,
            low: medians.slowest_rows_per_second / 1e3,
            high: medians.fastest_rows_per_second / 1e3,
            ours: matches!(row.client, Client::Dbstreamd | Client::DbstreamdSubscriber),
        })
    };
    let list: Vec<Bar> = outcome.clients.iter().filter_map(bar).collect();
    let title = format!("{}: {}, thousand rows per second", outcome.kind.name(), outcome.kind.describe());
    Some(Plot { name: outcome.kind.name().to_owned(), svg: bars(&title, &list)? })
}

/// A floor is judged by this many runs at least.
const FLOOR_RUNS_MIN: u32 = 5;
/// And by this many rows (of t1: a tenth), so that starting up is little of it.
const FLOOR_ROWS_MIN: u64 = 1_000_000;

/// The figures that floors ask for; too short a benchmark, or one on a machine that was kept busy, gives none of them. A client that was not chosen has no entry.
fn findings(runs: u32, load: f64, outcomes: &[Outcome], rules: &Rules) -> Vec<Finding> {
    use Client::{Dbstreamd, DbstreamdSubscriber};
    use Transport::{Tcp, Unix};
    let mut findings = Vec::new();
    for outcome in outcomes {
        let rows_min = if outcome.kind == Kind::T1 { FLOOR_ROWS_MIN / 10 } else { FLOOR_ROWS_MIN };
        let unfit = if load > 0.0 {
            Some(format!("the lab kept {load} cores busy meanwhile"))
        } else if runs < FLOOR_RUNS_MIN || outcome.rows < rows_min {
            let rows = outcome.rows;
            Some(format!("{runs} × {rows} rows; a floor is judged by {FLOOR_RUNS_MIN} × {rows_min} at least"))
        } else {
            None
        };
        let mut find = |key, seen: Result<f64, Refusal>| {
            let seen = seen.map_err(|refusal| refusal.to_string());
            findings.push(Finding { key, seen: unfit.clone().map_or(seen, Err) });
        };
        let ratios: &[(Client, Transport, &'static str)] = match outcome.kind {
            Kind::T2 => &[
                (Dbstreamd, Tcp, "drain.t2.tcp"),
                (DbstreamdSubscriber, Tcp, "drain.t2.subscriber"),
                (Dbstreamd, Unix, "drain.t2.unix"),
            ],
            Kind::T1 => &[(Dbstreamd, Tcp, "drain.t1.tcp"), (DbstreamdSubscriber, Tcp, "drain.t1.subscriber")],
            Kind::Updates => &[(Dbstreamd, Tcp, "drain.updates.tcp")],
            Kind::Deletes => &[(Dbstreamd, Tcp, "drain.deletes.tcp")],
            Kind::Huge => &[(Dbstreamd, Tcp, "drain.huge.tcp")],
        };
        for (client, transport, key) in ratios {
            if let Some(row) = outcome.of(*client, *transport) {
                find(key, rate_ratio(outcome, row, rules));
            }
        }
        let (Kind::T2, Some(ours)) = (outcome.kind, outcome.of(Dbstreamd, Tcp)) else { continue };
        find("daemon.cpu", ours.series.verdict(rules).map(|medians| medians.client_cpu_per_million));
        // What is on disk does not depend on who else used the machine.
        let log = ours.series.medians().map(|medians| medians.log_bytes.unwrap_or(f64::NAN));
        find("disk", log.map(|bytes| bytes / float(outcome.pgoutput_bytes)));
        if let Some(theirs) = outcome.of(Client::Debezium, Tcp) {
            let ratio = |figure: fn(&Medians) -> f64| ours.series.ratio(Some(&theirs.series), rules, figure);
            find("debezium.rate", ratio(|medians| medians.rows_per_second));
            find("debezium.cpu", ratio(|medians| medians.client_cpu_per_million));
            find("debezium.memory", ratio(|medians| medians.peak_rss));
        }
    }
    findings
}

fn data(outcome: &Outcome, rules: &Rules) -> Value {
    let row = |row: &Row| {
        let ratio = rate_ratio(outcome, row, rules);
        json!({
            "client": row.client, "over": row.transport, "series": row.series,
            "medians": row.series.medians().ok(), "refused": row.series.verdict(rules).err(),
            "ratio": ratio.as_ref().ok(), "no_ratio": ratio.err().map(|refusal| refusal.to_string()),
        })
    };
    json!({
        "workload": outcome.kind.name(), "rows": outcome.rows, "transactions": outcome.transactions,
        "pgoutput_bytes": outcome.pgoutput_bytes, "clients": outcome.clients.iter().map(row).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Run, Series};

    const ROWS: u64 = FLOOR_ROWS_MIN;
    const RULES: Rules = Rules { foreign_max: 0.1, repeats: 0 };

    fn row(client: Client, transport: Transport, seconds: f64, foreign_cores: f64, rows: u64) -> Row {
        let mut series = Series::new(ROWS);
        series.push(Ok(Run { rows, seconds, foreign_cores, log_bytes: Some(300), ..Run::default() }));
        Row { client, transport, series }
    }

    fn outcome(clients: Vec<Row>) -> Outcome {
        Outcome { kind: Kind::T2, rows: ROWS, transactions: 10, pgoutput_bytes: 1000, clients }
    }

    fn found(outcome: Outcome, key: &str) -> Option<Result<f64, String>> {
        findings(FLOOR_RUNS_MIN, 0.0, &[outcome], &RULES)
            .into_iter()
            .find(|finding| finding.key == key)
            .map(|finding| finding.seen)
    }

    #[test]
    fn a_ratio_is_against_pg_recvlogical_over_the_same_transport() {
        let rows = || {
            vec![
                row(Client::PgRecvlogical, Transport::Tcp, 6.0, 0.0, ROWS),
                row(Client::PgRecvlogical, Transport::Unix, 2.0, 0.0, ROWS),
                row(Client::Dbstreamd, Transport::Tcp, 2.0, 0.0, ROWS),
                row(Client::Dbstreamd, Transport::Unix, 2.0, 0.0, ROWS),
            ]
        };
        assert_eq!(found(outcome(rows()), "drain.t2.tcp"), Some(Ok(3.0)));
        assert_eq!(found(outcome(rows()), "drain.t2.unix"), Some(Ok(1.0)));
        assert_eq!(found(outcome(rows()), "disk"), Some(Ok(0.3)));
        // Nobody asked for it, so there is nothing to refuse.
        assert_eq!(found(outcome(rows()), "drain.t2.subscriber"), None);
        assert!(table(&outcome(rows()), &RULES).contains("| 3.00 |"));
    }

    #[test]
    fn no_ratio_is_printed_when_runs_were_disturbed_or_counts_differ_or_the_reference_is_missing() {
        let reference = || row(Client::PgRecvlogical, Transport::Tcp, 6.0, 0.0, ROWS);
        let ours = || row(Client::Dbstreamd, Transport::Tcp, 2.0, 0.0, ROWS);
        for (clients, reason) in [
            (vec![reference(), row(Client::Dbstreamd, Transport::Tcp, 2.0, 0.5, ROWS)], "disturbed"),
            (vec![row(Client::PgRecvlogical, Transport::Tcp, 6.0, 0.5, ROWS), ours()], "disturbed"),
            (
                vec![reference(), row(Client::Dbstreamd, Transport::Tcp, 2.0, 0.0, ROWS - 1)],
                "counted 999999 rows of 1000000",
            ),
            (
                vec![row(Client::PgRecvlogical, Transport::Tcp, 6.0, 0.0, ROWS + 1), ours()],
                "counted 1000001 rows of 1000000",
            ),
            (vec![ours()], "it was not run"),
        ] {
            let outcome = outcome(clients);
            let text = table(&outcome, &RULES);
            assert!(text.contains(reason) && !text.contains("3.00"), "{reason}: {text}");
            let seen = found(outcome, "drain.t2.tcp").unwrap();
            assert!(seen.unwrap_err().contains(reason), "{reason}");
        }
    }

    #[test]
    fn a_quick_look_or_a_busy_machine_judges_no_floor() {
        let rows = || {
            vec![
                row(Client::PgRecvlogical, Transport::Tcp, 6.0, 0.0, ROWS),
                row(Client::Dbstreamd, Transport::Tcp, 2.0, 0.0, ROWS),
            ]
        };
        let few_runs = findings(FLOOR_RUNS_MIN - 1, 0.0, &[outcome(rows())], &RULES);
        let few_rows = findings(FLOOR_RUNS_MIN, 0.0, &[Outcome { rows: ROWS - 1, ..outcome(rows()) }], &RULES);
        let busy = findings(FLOOR_RUNS_MIN, 0.5, &[outcome(rows())], &RULES);
        for found in [few_runs, few_rows, busy] {
            assert!(!found.is_empty() && found.iter().all(|finding| finding.seen.is_err()));
        }
    }
}
