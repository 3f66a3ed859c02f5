//! From measured times to the report: quantiles, medians over the runs, and the verdict.

use std::fmt::Write;

use serde::Serialize;
use serde_json::json;

use super::Pace;
use super::steps::{self, STEPS};
use crate::quiet::{Measured, Rules};
use crate::report::{Finding, Section, median};

/// Achieved below this share of the wanted rate, a run says nothing about that rate.
const RATE_SHARE_MIN: f64 = 0.95;
/// A floor is not judged by fewer runs.
const FLOOR_RUNS_MIN: usize = 5;
/// What is shown of each distribution.
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// One run of one way.
pub(super) struct Run {
    /// Microseconds from commit-return to receive, sorted.
    pub(super) micros: Vec<f64>,
    /// Transactions per second.
    pub(super) achieved: f64,
    /// CPU of others during the run, in cores.
    pub(super) foreign_cores: f64,
    /// By step of the daemon's own histograms; empty for the reference.
    pub(super) steps: Vec<steps::Step>,
}

impl Measured for Run {
    fn foreign_cores(&self) -> f64 {
        self.foreign_cores
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99) = (quantile(&self.micros, 0.5), quantile(&self.micros, 0.99));
        let Self { achieved, foreign_cores, .. } = self;
        write!(f, "p50 {p50:.0} µs, p99 {p99:.0} µs at {achieved:.0} tx/s, others {foreign_cores:.2} cores")
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
        median(self.runs.iter().map(figure)).unwrap_or(f64::NAN)
    }

    /// A quantile's median over the runs.
    fn at(&self, share: f64) -> f64 {
        self.median(|run| quantile(&run.micros, share))
    }
}

/// p50 and p99 in microseconds of the fdatasyncs of one run.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Disk {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// Everything that was measured.
pub(super) struct Figures {
    pub(super) raw: Contender,
    pub(super) daemons: Vec<Contender>,
    /// With nobody else writing.
    pub(super) disk_alone: Vec<Disk>,
    /// Beside the writers.
    pub(super) disk_beside: Vec<Disk>,
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

impl Figures {
    /// What the report says.
    pub(super) fn section(&self, pace: &Pace, rules: &Rules) -> Section {
        Section {
            name: "latency",
            text: self.text(pace),
            findings: self.findings(pace, rules),
            plots: Vec::new(),
            data: self.data(),
            failures: Vec::new(),
        }
    }

    fn ways(&self) -> impl Iterator<Item = &Contender> {
        std::iter::once(&self.raw).chain(&self.daemons)
    }

    /// The smaller of both medians: what happened to be slow on one occasion must not raise the floor.
    fn fdatasync(&self) -> f64 {
        let of = |disk: &[Disk]| median(disk.iter().map(|disk| disk.p50)).unwrap_or(f64::NAN);
        of(&self.disk_alone).min(of(&self.disk_beside))
    }

    /// How far the last daemon is above the reference, in fdatasyncs; or why that is not said.
    fn findings(&self, pace: &Pace, rules: &Rules) -> Vec<Finding> {
        let Some(ours) = self.daemons.last() else { return Vec::new() };
        let runs = || ours.runs.iter().chain(&self.raw.runs);
        let slow = runs().filter(|run| run.achieved < RATE_SHARE_MIN * f64::from(pace.latency_rate)).count();
        let all = runs().count();
        let refusal = if ours.runs.len() < FLOOR_RUNS_MIN {
            Some(format!("{} runs; a floor is judged by {FLOOR_RUNS_MIN} at least", ours.runs.len()))
        } else if slow > 0 {
            Some(format!("{slow} of {all} runs did not reach the rate"))
        } else {
            rules.disturbance(runs()).map(|disturbance| disturbance.to_string())
        };
        [("latency.p50", 0.5), ("latency.p99", 0.99)]
            .map(|(key, share)| {
                let above = (ours.at(share) - self.raw.at(share)) / self.fdatasync();
                Finding { key, seen: refusal.clone().map_or(Ok(above), Err) }
            })
            .into()
    }

    fn text(&self, pace: &Pace) -> String {
        let Pace { latency_rate: rate, latency_seconds: seconds, latency_writers: writers, latency_runs: runs } = pace;
        let mut text = format!(
            "## From commit-return to delivery\n\n{rate} transactions of one row per second over {writers} connections, \
             synchronous_commit=on, loopback TCP, {seconds} s a run, {runs} runs of each way, in turn; one process writes \
             and receives. Microseconds from the return of a commit to its change at the receiver (negative: before it), \
             medians over the runs. *Over the reference* is in fdatasyncs (p50), and what the floors are about.\n\n\
             | way |"
        );
        // Formatting into a String cannot fail, here and below.
        for (name, _) in QUANTILES {
            let _ = write!(text, " {name} |");
        }
        text += " p50 of each run | over the reference, p50 | p99 | tx/s | others, cores |\n|---|";
        text += &"---|".repeat(QUANTILES.len() + 5);
        for way in self.ways() {
            let _ = write!(text, "\n| {} |", way.label);
            for (_, share) in QUANTILES {
                let _ = write!(text, " {:.0} |", way.at(share));
            }
            let each = way.runs.iter().map(|run| format!("{:.0}", quantile(&run.micros, 0.5)));
            let over = |share| (way.at(share) - self.raw.at(share)) / self.fdatasync();
            let (rate, others) = (way.median(|run| run.achieved), way.median(|run| run.foreign_cores));
            let _ = write!(
                text,
                " {} | {:.1} | {:.1} | {rate:.0} | {others:.2} |",
                each.collect::<Vec<_>>().join(" "),
                over(0.5),
                over(0.99)
            );
        }
        let disk = |disk: &[Disk]| {
            let of = |figure: fn(&Disk) -> f64| median(disk.iter().map(figure)).unwrap_or(f64::NAN);
            format!("p50 {:.0} µs, p99 {:.0} µs", of(|disk| disk.p50), of(|disk| disk.p99))
        };
        let _ = write!(
            text,
            "\n\nfdatasync of an 8 KB append on the same disk: {} with nobody else, {} beside the writers; the lower p50 counts.\n",
            disk(&self.disk_alone),
            disk(&self.disk_beside)
        );
        text + &self.steps()
    }

    fn steps(&self) -> String {
        let mut text =
            "\nStep by step, by the daemon's own histograms: mean (median) in microseconds, medians over the runs.\n\n| step |"
                .to_owned();
        for way in &self.daemons {
            let _ = write!(text, " {} |", way.label);
        }
        text += "\n|---|";
        text += &"---|".repeat(self.daemons.len());
        for (index, (_, step)) in STEPS.iter().enumerate() {
            let _ = write!(text, "\n| {step} |");
            for way in &self.daemons {
                let of =
                    |figure: fn(&steps::Step) -> f64| way.median(|run| run.steps.get(index).map_or(f64::NAN, figure));
                let _ = write!(text, " {:.0} ({:.0}) |", of(|step| step.mean), of(|step| step.median));
            }
        }
        text + "\n"
    }

    fn data(&self) -> serde_json::Value {
        let run = |run: &Run| {
            let quantiles =
                QUANTILES.iter().map(|(name, share)| ((*name).to_owned(), json!(quantile(&run.micros, *share))));
            json!({
                "micros": quantiles.collect::<serde_json::Map<_, _>>(), "rows": run.micros.len(),
                "transactions_per_second": run.achieved, "foreign_cores": run.foreign_cores, "steps": run.steps,
            })
        };
        let way = |way: &Contender| json!({ "way": way.label, "runs": way.runs.iter().map(run).collect::<Vec<_>>() });
        json!({
            "ways": self.ways().map(way).collect::<Vec<_>>(),
            "fdatasync_alone": self.disk_alone, "fdatasync_beside_writers": self.disk_beside,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(foreign_cores: f64, achieved: f64) -> Figures {
        let way = |label, micros: f64| Contender {
            label: String::from(label),
            runs: (0..FLOOR_RUNS_MIN)
                .map(|_| Run { micros: vec![micros; 100], achieved, foreign_cores, steps: Vec::new() })
                .collect(),
        };
        let disk = |p50| vec![Disk { p50, p99: 1000.0 }];
        Figures {
            raw: way("raw receiver", -20.0),
            daemons: vec![way("before", 500.0), way("after", 130.0)],
            disk_alone: disk(100.0),
            disk_beside: disk(300.0),
        }
    }

    fn findings(figures: &Figures) -> Vec<Result<f64, String>> {
        let pace = Pace { latency_rate: 1000, latency_seconds: 1, latency_writers: 1, latency_runs: 1 };
        let rules = Rules { foreign_max: 0.1, repeats: 0 };
        figures.findings(&pace, &rules).into_iter().map(|finding| finding.seen).collect()
    }

    #[test]
    fn the_last_daemon_is_judged_by_the_quicker_disk_and_signs_count() {
        assert_eq!(findings(&figures(0.0, 1000.0)), [Ok(1.5), Ok(1.5)]);
    }

    #[test]
    fn runs_that_were_disturbed_or_too_slow_are_not_judged() {
        let reasons = |figures| findings(&figures).into_iter().map(Result::unwrap_err).collect::<Vec<_>>().join("\n");
        assert!(reasons(figures(0.5, 1000.0)).contains("disturbed: in 10 of 10 runs"));
        assert!(reasons(figures(f64::NAN, 1000.0)).contains("disturbed"));
        assert!(reasons(figures(0.0, 900.0)).contains("did not reach the rate"));
        let mut few = figures(0.0, 1000.0);
        few.daemons[1].runs.pop();
        assert!(reasons(few).contains("4 runs; a floor is judged by 5"));
    }

    #[test]
    fn quantiles_are_signed_and_of_sorted_values() {
        let sorted: Vec<f64> = (-50..50).map(f64::from).collect();
        assert_eq!((quantile(&sorted, 0.0), quantile(&sorted, 0.5), quantile(&sorted, 1.0)), (-50.0, 0.0, 49.0));
        assert!(quantile(&[], 0.5).is_nan());
    }
}
