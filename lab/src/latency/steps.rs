//! What the daemon's own histograms say of each step of an event's way.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::daemon::Daemon;
use crate::error::LabError;

/// Names of the histograms, in the order of an event's way; the write with its fsync is the end of the step before it.
pub(super) const STEPS: [(&str, &str); 6] = [
    ("dbstreamd_latency_send_to_receive_seconds", "sent by the server → received"),
    ("dbstreamd_latency_receive_to_append_seconds", "received → handed to the writer"),
    ("dbstreamd_latency_append_to_fsync_seconds", "handed to the writer → fsynced"),
    ("dbstreamd_log_flush_seconds", "(of that, write and fsync)"),
    ("dbstreamd_latency_fsync_to_visible_seconds", "fsynced → visible"),
    ("dbstreamd_latency_visible_to_sent_seconds", "visible → at the subscriber's connection"),
];

/// Of one histogram, in microseconds; not numbers where nothing was counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Step {
    pub(super) mean: f64,
    /// Interpolated within its bucket.
    pub(super) median: f64,
}

/// What `/metrics` says now.
pub(super) fn look(daemon: &Daemon) -> Result<String, LabError> {
    daemon.metrics().ok_or_else(|| LabError::Failed("the daemon does not give its metrics".into()))
}

/// What was counted between two looks.
pub(super) fn between(before: &str, after: &str) -> Vec<Step> {
    let of = |(name, _): &(&str, &str)| Histogram::find(after, name).since(&Histogram::find(before, name)).step();
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
            let value = value.parse().unwrap_or(f64::NAN);
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
        let count = |(bound, count): (&u64, &f64)| (*bound, count - before.buckets.get(bound).unwrap_or(&0.0));
        Self {
            sum: self.sum - before.sum,
            count: self.count - before.count,
            buckets: self.buckets.iter().map(count).collect(),
        }
    }

    fn step(&self) -> Step {
        let half = self.count / 2.0;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            #[expect(clippy::cast_precision_loss, reason = "a bound")]
            let high = *bound as f64 / 1000.0;
            if *count >= half && *count > below {
                let median = low + (high - low) * (half - below) / (count - below);
                return Step { mean: self.sum / self.count * 1e6, median };
            }
            (low, below) = (high, *count);
        }
        Step { mean: f64::NAN, median: f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_what_was_counted_between_two_looks() {
        let look = |ten: u32, twenty: u32, sum: f64| {
            let name = "dbstreamd_latency_append_to_fsync_seconds";
            format!(
                "{name}_sum {sum}\n{name}_count {twenty}\n{name}_bucket{{le=\"0.00001\"}} {ten}\n\
                 {name}_bucket{{le=\"0.00002\"}} {twenty}\n{name}_bucket{{le=\"+Inf\"}} {twenty}\n"
            )
        };
        let steps = between(&look(5, 5, 1.0), &look(5, 15, 1.000_15));
        let Step { mean, median } = steps[2];
        assert!((mean - 15.0).abs() < 0.01 && (median - 15.0).abs() < 0.01, "{mean} {median}");
        assert!(steps[0].mean.is_nan(), "nothing was counted there");
    }
}
