//! Schemas under change: random tables, schema changes and rows from several sessions, restarts of the daemon; the tables
//! that the stream's events make must be the database's at every checkpoint.

mod case;
mod catalog;
mod changes;
mod held;
mod live;
mod model;
mod rows;
mod session;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use dbstreamd_throwaway::Cluster;

use crate::error::TortureError;
use crate::seed;
use crate::server::start_quick_cluster;
use case::{Figures, Kinds, Outcome};

/// Of the tables that a run looks at, so many percent must be compared; the others were read anew, since events said so.
const COMPARED_PERCENT_MIN: u64 = 70;
/// Of the statements that a run tries, so many percent may be refused by PostgreSQL.
const REFUSED_PERCENT_MAX: u64 = 35;
/// Fewer cases say nothing about shares.
const CASES_FOR_SHARES_MIN: u64 = 10;

/// Arguments of `schemas`.
#[derive(Args)]
pub(crate) struct Schemas {
    /// The dbstreamd binary.
    #[arg(long)]
    binary: PathBuf,
    /// How many cases; each has a fresh database and log.
    #[arg(long, default_value_t = 25)]
    cases: u64,
    /// Seed of the run; from the clock when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the files of every case.
    #[arg(long)]
    keep: bool,
    /// Say how each case went.
    #[arg(long)]
    verbose: bool,
}

/// Runs all cases. Whether nothing is wrong.
pub(crate) async fn run(arguments: &Schemas) -> Result<bool, TortureError> {
    let seed = arguments.seed.unwrap_or_else(seed::from_clock);
    eprintln!("seed {seed}, {} cases of schema changes", arguments.cases);
    let started = Instant::now();
    let cluster = start_quick_cluster().await?;
    let mut total = Total::default();
    for number in 0..arguments.cases {
        let outcome = one(arguments, &cluster, seed::of_cycle(seed, number)).await?;
        if arguments.verbose || !outcome.violations.is_empty() {
            eprintln!("case {}/{} {}", number + 1, arguments.cases, line(&outcome));
        }
        total.add(&outcome);
    }
    print!("{}", total.table(started.elapsed().as_secs_f64()));
    let weak = total.weaknesses();
    weak.iter().for_each(|weakness| eprintln!("error: {weakness}"));
    Ok(total.violations == 0 && weak.is_empty())
}

async fn one(arguments: &Schemas, cluster: &Arc<Cluster>, seed: u64) -> Result<Outcome, TortureError> {
    let outcome = case::run(&arguments.binary, arguments.keep, cluster, seed).await?;
    for violation in &outcome.violations {
        eprintln!("  {}: {}", violation.rule, violation.detail);
    }
    if let Some(kept) = &outcome.kept {
        eprintln!("  kept: {}\n  replay: make torture CYCLES=0 CASES=1 SEED={seed}", kept.display());
    }
    Ok(outcome)
}

fn line(outcome: &Outcome) -> String {
    let Figures { steps, tried, counts, restarts, checkpoints, compared, read_anew, .. } = outcome.figures;
    let verdict = match outcome.violations.len() {
        0 => "ok".to_owned(),
        count => format!("{count} VIOLATIONS"),
    };
    format!(
        "seed {}: {steps} steps, {} statements ({} refused), {} schema changes, {} events, {restarts} restarts, \
         {checkpoints} checkpoints, {compared} tables compared, {read_anew} read anew: {verdict}, {:.1} s",
        outcome.seed,
        tried.statements,
        tried.refused,
        tried.changes,
        counts.events,
        outcome.took.as_secs_f64()
    )
}

/// All cases of a run.
#[derive(Default)]
struct Total {
    cases: u64,
    violations: usize,
    figures: Figures,
    kinds: Kinds,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        let (all, one) = (&mut self.figures, &outcome.figures);
        self.cases += 1;
        self.violations += outcome.violations.len();
        for (kind, count) in &outcome.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        all.steps += one.steps;
        all.tried.statements += one.tried.statements;
        all.tried.refused += one.tried.refused;
        all.tried.changes += one.tried.changes;
        all.counts.events += one.counts.events;
        all.counts.rows += one.counts.rows;
        all.counts.schema_changes += one.counts.schema_changes;
        all.counts.divergences += one.counts.divergences;
        all.counts.versions += one.counts.versions;
        all.restarts += one.restarts;
        all.checkpoints += one.checkpoints;
        all.compared += one.compared;
        all.compared_rows += one.compared_rows;
        all.read_anew += one.read_anew;
        all.barred += one.barred;
    }

    /// What makes the run say less than it seems to.
    fn weaknesses(&self) -> Vec<String> {
        let Figures { tried, compared, read_anew, .. } = self.figures;
        let mut weak = Vec::new();
        if self.cases < CASES_FOR_SHARES_MIN {
            return weak;
        }
        let share = percent(compared, compared + read_anew);
        if share < COMPARED_PERCENT_MIN {
            weak.push(format!("only {share} % of the tables were compared, at least {COMPARED_PERCENT_MIN} % must be"));
        }
        let share = percent(tried.refused, tried.statements);
        if share > REFUSED_PERCENT_MAX {
            weak.push(format!("{share} % of the statements were refused, at most {REFUSED_PERCENT_MAX} % may be"));
        }
        weak
    }

    fn table(&self, seconds: f64) -> String {
        let Figures { steps, tried, counts, restarts, checkpoints, compared, compared_rows, read_anew, barred } =
            self.figures;
        let kinds: Vec<String> = self.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        format!(
            "\n{}\n\n{} cases in {seconds:.0} s: {steps} steps, {restarts} restarts of the daemon\n\
             {} statements, {} of them refused by PostgreSQL; {} schema changes done\n\
             {} events: {} of rows, {} schema changes, {} divergences; {} schema versions\n\
             {checkpoints} checkpoints: {compared} tables compared ({} %) with {compared_rows} rows, {read_anew} read anew \
             because an event said so, {barred} locked\n{} violations\n",
            kinds.join(", "),
            self.cases,
            tried.statements,
            tried.refused,
            tried.changes,
            counts.events,
            counts.rows,
            counts.schema_changes,
            counts.divergences,
            counts.versions,
            percent(compared, compared + read_anew),
            self.violations
        )
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    (part * 100).checked_div(whole).unwrap_or(0)
}
