//! What a run did and found: counted per fault, printed as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::faults::Fault;
use crate::oracle::Violation;

/// How the stream came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Recovery {
    ByItself,
    /// Only after the harness restarted the daemon.
    Restarted,
}

/// One kind of fault over a run.
#[derive(Clone, Copy, Default)]
struct Tally {
    episodes: u64,
    /// Only of faults of the disk, which may pass unnoticed: the stream did not stream at their end.
    felt: u64,
    by_itself: u64,
    restarted: u64,
    slowest: Duration,
}

/// Everything that is counted, of a cycle or of a run.
#[derive(Clone, Default)]
pub(crate) struct Account {
    faults: BTreeMap<Fault, Tally>,
    /// Single kills of the daemon; a burst is several.
    pub(crate) kills: u64,
    /// Restarts at which the daemon's position was compared with the slot's.
    pub(crate) comparisons: u64,
    /// What power cuts took.
    pub(crate) lost_bytes: u64,
    pub(crate) lost_names: u64,
    /// How often a sync was slowed or failed, and a write refused, by the preloaded library: that faults are felt.
    pub(crate) slowed: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    /// Losses behind a lying fsync that the daemon noticed.
    pub(crate) noticed: u64,
    /// The longest stop of the server.
    pub(crate) slowest_stop: Duration,
    pub(crate) committed: u64,
    pub(crate) interrupted: u64,
    pub(crate) transactions: u64,
    pub(crate) events: u64,
    pub(crate) peak_rss: u64,
    pub(crate) peak_wal: u64,
    /// Confirmed transactions per second of writing, of each cycle.
    pub(crate) rates: Vec<u64>,
}

impl Account {
    pub(crate) fn episode(&mut self, fault: Fault) {
        self.faults.entry(fault).or_default().episodes += 1;
    }

    pub(crate) fn felt(&mut self, fault: Fault) {
        self.faults.entry(fault).or_default().felt += 1;
    }

    pub(crate) fn recovered(&mut self, fault: Fault, recovery: Recovery, after: Duration) {
        let tally = self.faults.entry(fault).or_default();
        match recovery {
            Recovery::ByItself => tally.by_itself += 1,
            Recovery::Restarted => tally.restarted += 1,
        }
        tally.slowest = tally.slowest.max(after);
    }

    pub(crate) fn add(&mut self, other: &Account) {
        for (fault, tally) in &other.faults {
            let sum = self.faults.entry(*fault).or_default();
            sum.episodes += tally.episodes;
            sum.felt += tally.felt;
            sum.by_itself += tally.by_itself;
            sum.restarted += tally.restarted;
            sum.slowest = sum.slowest.max(tally.slowest);
        }
        self.kills += other.kills;
        self.comparisons += other.comparisons;
        self.lost_bytes += other.lost_bytes;
        self.lost_names += other.lost_names;
        self.slowed += other.slowed;
        self.failed += other.failed;
        self.refused += other.refused;
        self.noticed += other.noticed;
        self.slowest_stop = self.slowest_stop.max(other.slowest_stop);
        self.committed += other.committed;
        self.interrupted += other.interrupted;
        self.transactions += other.transactions;
        self.events += other.events;
        self.peak_rss = self.peak_rss.max(other.peak_rss);
        self.peak_wal = self.peak_wal.max(other.peak_wal);
        self.rates.extend(&other.rates);
    }

    /// The faults of a cycle in a few words.
    fn in_short(&self) -> String {
        let one = |(fault, tally): (&Fault, &Tally)| match tally.episodes {
            1 => fault.name(),
            several => format!("{}×{several}", fault.name()),
        };
        self.faults.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn rate_median(&self) -> u64 {
        let mut rates = self.rates.clone();
        rates.sort_unstable();
        rates.get(rates.len() / 2).copied().unwrap_or(0)
    }
}

/// How one cycle went.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) account: Account,
    pub(crate) violations: Vec<Violation>,
    pub(crate) took: Duration,
    /// Where the cycle's files were kept, when something was wrong.
    pub(crate) kept: Option<std::path::PathBuf>,
}

impl Outcome {
    /// One line.
    pub(crate) fn line(&self, number: u64, of: u64) -> String {
        let verdict = match self.violations.len() {
            0 => "ok".to_owned(),
            count => format!("{count} VIOLATIONS"),
        };
        format!(
            "cycle {number}/{of} seed {} [{}] {} tx ({}/s), {} events: {verdict}, {:.1} s",
            self.seed,
            self.account.in_short(),
            self.account.transactions,
            self.account.rate_median(),
            self.account.events,
            self.took.as_secs_f64()
        )
    }

    /// What is wrong, and how to see it again.
    pub(crate) fn findings(&self, replay_arguments: &str) -> String {
        let mut out = String::new();
        for violation in &self.violations {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {}: {}", violation.rule, violation.detail);
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(out, "  kept: {}", kept.display());
        }
        let _ = writeln!(out, "  replay: {}", replay(self.seed, replay_arguments));
        out
    }
}

/// The one command that replays a cycle.
fn replay(seed: u64, arguments: &str) -> String {
    let arguments = if arguments.is_empty() { String::new() } else { format!(" ARGS=\"{arguments}\"") };
    format!("make torture CYCLES=1 CASES=0 SEED={seed}{arguments}")
}

/// The table at the end.
pub(crate) fn table(run: &Account, cycles: usize, violations: usize) -> String {
    const MIB: u64 = 1024 * 1024;
    let mut out = format!(
        "\n{:<15} {:>8} {:>6} {:>9} {:>9} {:>9}\n",
        "fault", "episodes", "felt", "by itself", "restarted", "slowest s"
    );
    for (fault, tally) in &run.faults {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<15} {:>8} {:>6} {:>9} {:>9} {:>9.1}",
            fault.name(),
            tally.episodes,
            if fault.may_pass_unfelt() { tally.felt.to_string() } else { String::new() },
            tally.by_itself,
            tally.restarted,
            tally.slowest.as_secs_f64()
        );
    }
    let _ = write!(
        out,
        "\n{cycles} cycles, {} kills of the daemon, {} positions compared with the slot at a restart\n\
         {} transactions ({}/s median over the cycles, faults included), {} events compared\n\
         {} syncs slowed, {} failed, {} writes refused\n\
         power cuts took {} unsynced bytes and {} names; {} losses behind a lying fsync were noticed\n\
         peak memory {} MiB, peak pg_wal {} MiB, longest stop of the server {:.1} s\n{violations} violations\n",
        run.kills,
        run.comparisons,
        run.transactions,
        run.rate_median(),
        run.events,
        run.slowed,
        run.failed,
        run.refused,
        run.lost_bytes,
        run.lost_names,
        run.noticed,
        run.peak_rss / MIB,
        run.peak_wal / MIB,
        run.slowest_stop.as_secs_f64()
    );
    out
}

/// The same for programs.
pub(crate) fn json(run: &Account, outcomes: &[Outcome], run_seed: u64, replay_arguments: &str) -> Value {
    let faults: serde_json::Map<String, Value> = run
        .faults
        .iter()
        .map(|(fault, tally)| {
            let figures = json!({
                "episodes": tally.episodes,
                "felt": fault.may_pass_unfelt().then_some(tally.felt),
                "recovered_by_itself": tally.by_itself,
                "needed_a_restart": tally.restarted,
                "slowest_recovery_seconds": tally.slowest.as_secs_f64(),
            });
            (fault.name(), figures)
        })
        .collect();
    let violations: Vec<Value> = outcomes
        .iter()
        .flat_map(|outcome| outcome.violations.iter().map(move |violation| (outcome, violation)))
        .map(|(outcome, violation)| {
            json!({
                "seed": outcome.seed,
                "rule": violation.rule,
                "detail": violation.detail,
                "replay": replay(outcome.seed, replay_arguments),
            })
        })
        .collect();
    json!({
        "seed": run_seed,
        "cycles": outcomes.len(),
        "faults": faults,
        "kills": run.kills,
        "slot_comparisons": run.comparisons,
        "transactions": run.transactions,
        "transactions_per_second_median": run.rate_median(),
        "transactions_interrupted": run.interrupted,
        "events": run.events,
        "syncs_slowed": run.slowed,
        "syncs_failed": run.failed,
        "writes_refused": run.refused,
        "power_cut_bytes": run.lost_bytes,
        "power_cut_names": run.lost_names,
        "lies_noticed": run.noticed,
        "peak_memory_bytes": run.peak_rss,
        "peak_wal_bytes": run.peak_wal,
        "slowest_server_stop_seconds": run.slowest_stop.as_secs_f64(),
        "violations": violations,
    })
}
