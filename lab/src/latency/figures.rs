//! From measured times to the table: quantiles, medians over runs, the daemon's own histograms, and the verdict.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use super::LatencyArguments;
use crate::{LabError, io, procfs};

/// The daemon's histograms, in the order of an event's way; the write with its fsync is the end of the step before it.
const STEPS: [(&str, &str); 6] = [
    ("dbstreamd_latency_send_to_receive_seconds", "sent by the server → received"),
    ("dbstreamd_latency_receive_to_append_seconds", "received → handed to the writer"),
    ("dbstreamd_latency_append_to_fsync_seconds", "handed to the writer → fsynced"),
    ("dbstreamd_log_flush_seconds", "(of that, write and fsync)"),
    ("dbstreamd_latency_fsync_to_visible_seconds", "fsynced → visible"),
    ("dbstreamd_latency_visible_to_sent_seconds", "visible → at the subscriber's connection"),
];

/// Achieved below this share of the wanted rate, a run says nothing about that rate.
const RATE_SHARE_MIN: f64 = 0.95;

/// One run of one way.
pub(super) struct Run {
    /// From commit-return to receive, sorted.
    pub(super) micros: Vec<f64>,
    /// Transactions per second.
    pub(super) achieved: f64,
    /// Share of the machine's CPU time that others used, in percent.
    pub(super) foreign: f64,
    /// Mean and median in microseconds by step, as the daemon says; empty for the reference.
    pub(super) steps: Vec<(f64, f64)>,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |q| quantile(&self.micros, q);
        let (rate, foreign) = (self.achieved, self.foreign);
        write!(f, "p50 {:.0} µs, p99 {:.0} µs at {rate:.0} tx/s, {foreign:.0} % foreign CPU", at(0.5), at(0.99))
    }
}

/// All runs of one way.
pub(super) struct Contender {
    label: String,
    pub(super) runs: Vec<Run>,
}

impl Contender {
    pub(super) fn new(label: &str) -> Self {
        Self { label: label.to_owned(), runs: Vec::new() }
    }

    fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(figure).collect())
    }
}

/// Everything that was measured.
pub(super) struct Figures {
    pub(super) rate: u32,
    pub(super) raw: Contender,
    pub(super) daemons: Vec<Contender>,
    /// p50 and p99 of an fdatasync in microseconds, run by run.
    pub(super) disk_alone: Vec<(f64, f64)>,
    pub(super) disk_beside: Vec<(f64, f64)>,
}

/// The value below which this share of sorted values lies.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// The whole report.
pub(super) fn report(figures: &Figures, machine: &str, arguments: &LatencyArguments) -> String {
    let Figures { raw, daemons, disk_alone, disk_beside, rate } = figures;
    let mut out = format!(
        "# From commit-return to delivery\n\n{machine}. {rate} transactions of one row per second over {} connections, \
         synchronous_commit=on, loopback TCP, {} s a run, {} runs each, in turn; one process writes and receives.\n\n\
         Microseconds from the return of the commit to the change at the receiver (negative: before it), medians over \
         the runs.\n\n\
         | way | p50 | p90 | p99 | p99.9 | max | p50 of the runs | tx/s | foreign CPU |\n|---|---|---|---|---|---|---|---|---|\n",
        arguments.writers, arguments.seconds, arguments.runs
    );
    for way in std::iter::once(raw).chain(daemons) {
        let at = |share| way.median(|run| quantile(&run.micros, share));
        let mut medians: Vec<f64> = way.runs.iter().map(|run| quantile(&run.micros, 0.5)).collect();
        medians.sort_by(f64::total_cmp);
        let (lowest, highest) = (quantile(&medians, 0.0), quantile(&medians, 1.0));
        // Formatting into a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {lowest:.0} … {highest:.0} | {:.0} | {:.0} % |",
            way.label,
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0),
            way.median(|run| run.achieved),
            way.median(|run| run.foreign),
        );
    }
    let disk = |of: &[(f64, f64)]| (median(of.iter().map(|q| q.0).collect()), median(of.iter().map(|q| q.1).collect()));
    let (alone, beside) = (disk(disk_alone), disk(disk_beside));
    let _ = writeln!(
        out,
        "\nfdatasync of an 8 KB append on the same disk: p50 {:.0} µs, p99 {:.0} µs with nobody else; p50 {:.0} µs, \
         p99 {:.0} µs beside the writers.\n",
        alone.0, alone.1, beside.0, beside.1
    );
    for way in daemons {
        out += &verdict(figures, way, alone.0, arguments);
    }
    out += &steps_table(daemons);
    out
}

/// Whether the floor is kept: p50 within two fdatasyncs of the reference, p99 within ten.
fn verdict(figures: &Figures, way: &Contender, fdatasync: f64, arguments: &LatencyArguments) -> String {
    let all = || way.runs.iter().chain(&figures.raw.runs);
    let disturbed = all().filter(|run| run.foreign > arguments.foreign_max).count();
    let slow = all().filter(|run| run.achieved < RATE_SHARE_MIN * f64::from(figures.rate)).count();
    let label = &way.label;
    if slow > 0 {
        return format!("{label}: not judged: {slow} runs did not reach the rate.\n\n");
    }
    let much = disturbed * 2 > all().count();
    if much && !arguments.judge_disturbed {
        return format!(
            "{label}: not judged: others used more than {} % of the CPU in {disturbed} runs.\n\n",
            arguments.foreign_max
        );
    }
    let mut out = String::new();
    for (share, name, syncs) in [(0.5, "p50", 2.0), (0.99, "p99", 10.0)] {
        let of = |way: &Contender| way.median(|run| quantile(&run.micros, share));
        let (ours, floor) = (of(way), of(&figures.raw) + syncs * fdatasync);
        let said = if ours <= floor { "kept" } else { "missed" };
        let _ = writeln!(
            out,
            "{label}: {name} {ours:.0} µs, floor {floor:.0} µs (reference + {syncs} × fdatasync p50 alone): **{said}**  "
        );
    }
    if disturbed > 0 {
        let _ = writeln!(
            out,
            "{disturbed} of {} runs were disturbed (foreign CPU above {} %).",
            all().count(),
            arguments.foreign_max
        );
    }
    out + "\n"
}

fn steps_table(daemons: &[Contender]) -> String {
    let mut out = String::from(
        "Step by step, from the daemon's own histograms: mean (median) in microseconds, medians over the runs.\n\n| step |",
    );
    for way in daemons {
        let _ = write!(out, " {} |", way.label);
    }
    out += "\n|---|";
    out += &"---|".repeat(daemons.len());
    for (index, (_, step)) in STEPS.iter().enumerate() {
        let _ = write!(out, "\n| {step} |");
        for way in daemons {
            let of = |figure: fn(&(f64, f64)) -> f64| way.median(|run| run.steps.get(index).map_or(f64::NAN, figure));
            let _ = write!(out, " {:.0} ({:.0}) |", of(|step| step.0), of(|step| step.1));
        }
    }
    out + "\n"
}

/// What the daemon's histograms counted between two looks at `/metrics`.
pub(super) fn steps(before: &str, after: &str) -> Vec<(f64, f64)> {
    let of = |(name, _): &(&str, &str)| {
        let (before, after) = (Histogram::find(before, name), Histogram::find(after, name));
        after.since(&before).figures()
    };
    STEPS.iter().map(of).collect()
}

/// A histogram as Prometheus sees it.
#[derive(Default)]
struct Histogram {
    sum: f64,
    count: f64,
    /// Cumulative, by upper bound in nanoseconds.
    buckets: BTreeMap<u64, f64>,
}

impl Histogram {
    fn find(metrics: &str, name: &str) -> Self {
        let mut found = Self::default();
        for line in metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('_')) {
            let Some((what, value)) = line.rsplit_once(' ') else { continue };
            let value = value.parse().unwrap_or(0.0);
            if what.starts_with("sum") {
                found.sum = value;
            } else if what.starts_with("count") {
                found.count = value;
            } else if let Some(bound) = what.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a bound; infinity saturates"
                )]
                let nanos = (bound.parse().unwrap_or(f64::INFINITY) * 1e9) as u64;
                found.buckets.insert(nanos, value);
            }
        }
        found
    }

    fn since(&self, before: &Self) -> Self {
        let buckets =
            self.buckets.iter().map(|(bound, count)| (*bound, count - before.buckets.get(bound).unwrap_or(&0.0)));
        Self { sum: self.sum - before.sum, count: self.count - before.count, buckets: buckets.collect() }
    }

    /// Mean and interpolated median in microseconds.
    fn figures(&self) -> (f64, f64) {
        let half = self.count / 2.0;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            #[expect(clippy::cast_precision_loss, reason = "a bound")]
            let high = *bound as f64 / 1000.0;
            if *count >= half && *count > below {
                return (self.sum / self.count * 1e6, low + (high - low) * (half - below) / (count - below));
            }
            (low, below) = (high, *count);
        }
        (f64::NAN, f64::NAN)
    }
}

/// What others used of the machine's CPU time since it was started.
pub(super) struct ForeignCpu {
    ours: Vec<u32>,
    started: Instant,
    busy: f64,
    own: f64,
}

impl ForeignCpu {
    /// `ours` are processes that do not count, nor do their children.
    pub(super) fn start(ours: Vec<u32>) -> Result<Self, LabError> {
        let own = own_seconds(&ours)?;
        Ok(Self { ours, started: Instant::now(), busy: busy_seconds()?, own })
    }

    /// In percent of all processors' time.
    pub(super) fn finish(self) -> Result<f64, LabError> {
        let others = (busy_seconds()? - self.busy) - (own_seconds(&self.ours)? - self.own);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        #[expect(clippy::cast_precision_loss, reason = "a few cores")]
        let all = self.started.elapsed().as_secs_f64() * cores as f64;
        Ok((others / all * 100.0).max(0.0))
    }
}

/// CPU seconds of processes and of their children.
fn own_seconds(ours: &[u32]) -> Result<f64, LabError> {
    let mut sum = 0.0;
    for entry in std::fs::read_dir("/proc").map_err(io("/proc"))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if ours.contains(&pid) || parent.is_some_and(|parent| ours.contains(&parent)) {
            // One that ended meanwhile is in its parent's account.
            sum += procfs::cpu_seconds(pid).unwrap_or(0.0);
        }
    }
    Ok(sum)
}

/// CPU seconds that the machine was not idle.
fn busy_seconds() -> Result<f64, LabError> {
    let stat = std::fs::read_to_string("/proc/stat").map_err(io("/proc/stat"))?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user nice system idle iowait irq softirq steal; what guests used is in user already.
    let ticks: Vec<f64> = fields.take(8).filter_map(|field| field.parse().ok()).collect();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    Ok((ticks.iter().sum::<f64>() - idle) / procfs::ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_what_was_counted_between_two_looks() {
        let look = |ten: u32, twenty: u32, sum: f64| {
            let name = "dbstreamd_latency_append_to_fsync_seconds";
            format!(
                "{name}_sum {sum}\n{name}_count {twenty}\n{name}_bucket{{le=\"0.00001\"}} {ten}\n\
                 {name}_bucket{{le=\"0.00002\"}} {twenty}\n{name}_bucket{{le=\"+Inf\"}} {twenty}\n"
            )
        };
        let steps = steps(&look(5, 5, 1.0), &look(5, 15, 1.000_15));
        let (mean, median) = steps[2];
        assert!((mean - 15.0).abs() < 0.01 && (median - 15.0).abs() < 0.01, "{mean} {median}");
        assert!(steps[0].0.is_nan(), "nothing was counted there");
    }

    #[test]
    fn quantiles_are_signed_and_of_sorted_values() {
        let sorted: Vec<f64> = (-50..50).map(f64::from).collect();
        assert_eq!((quantile(&sorted, 0.0), quantile(&sorted, 0.5), quantile(&sorted, 1.0)), (-50.0, 0.0, 49.0));
    }
}
