//! One benchmark's runs, and the table they go into.

use std::fmt::Write;

use crate::report::median;
use crate::workload::Workload;

/// One client's one run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) client_cpu: f64,
    pub(crate) server_cpu: f64,
    pub(crate) peak_rss: u64,
    /// Bytes of the log when the last event was visible; 0 for a client that keeps none.
    pub(crate) log_bytes: u64,
}

/// All runs of one client over one workload.
pub(crate) struct Series {
    pub(crate) client: &'static str,
    pub(crate) runs: Vec<Run>,
}

impl Series {
    fn median(&self, field: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(field)).unwrap_or(f64::NAN)
    }

    fn range(&self, field: impl Fn(&Run) -> f64) -> (f64, f64) {
        let values = self.runs.iter().map(field);
        values.fold((f64::INFINITY, 0.0), |(low, high), value| (low.min(value), high.max(value)))
    }
}

/// The table of one workload. `series` are compared with the first.
pub(crate) fn table(workload: &Workload, pgoutput_bytes: u64, series: &[Series]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let float = |value: u64| value as f64;
    let events = float(workload.events);
    let mut out = format!(
        "### {}: {} rows in {} transactions, {:.0} MB of pgoutput\n\n\
         | client | rows/s (median) | min … max | ratio | client CPU-s per 1M rows | server CPU-s | peak RSS MB | log / pgoutput |\n\
         |---|---|---|---|---|---|---|---|\n",
        workload.name,
        workload.events,
        workload.transactions,
        float(pgoutput_bytes) / 1e6
    );
    let base = series.first().map_or(f64::NAN, |first| first.median(|run| run.seconds));
    for one in series {
        let seconds = one.median(|run| run.seconds);
        let (fastest, slowest) = one.range(|run| run.seconds);
        let log = one.median(|run| float(run.log_bytes)) / float(pgoutput_bytes);
        // Formatting into a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {:.0} k | {:.0} … {:.0} k | {:.2} | {:.2} | {:.2} | {:.0} | {} |",
            one.client,
            events / seconds / 1e3,
            events / slowest / 1e3,
            events / fastest / 1e3,
            base / seconds,
            one.median(|run| run.client_cpu) / events * 1e6,
            one.median(|run| run.server_cpu),
            one.median(|run| float(run.peak_rss)) / 1e6,
            if log > 0.0 { format!("{log:.2}") } else { "–".into() },
        );
    }
    out
}
