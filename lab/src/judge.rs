//! What a client's runs are worth: a median, or the reason why there is none; a ratio, or the reason why there is none.
//!
//! Refused are: a client that is absent, one that failed, one that did not count exactly the workload's rows, and runs
//! during which others used the machine and which stayed so when repeated.

use std::fmt;

use dbstreamd_throwaway::ThrowawayError;
use serde::Serialize;

use crate::error::LabError;
use crate::quiet::{Disturbance, Measured, Rules};
use crate::report::median;

/// One client's one run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Run {
    /// Rows the client counted.
    pub(crate) rows: u64,
    pub(crate) seconds: f64,
    /// CPU seconds of the client's process tree.
    pub(crate) client_cpu: f64,
    /// CPU seconds of the subscriber, where one follows.
    pub(crate) subscriber_cpu: Option<f64>,
    /// CPU seconds of PostgreSQL's processes: nearly all of it the walsender's.
    pub(crate) server_cpu: f64,
    /// The client's peak resident memory in bytes.
    pub(crate) peak_rss: u64,
    /// Bytes of the log when the last row was visible, for a client that keeps one.
    pub(crate) log_bytes: Option<u64>,
    /// CPU of others during the run, in cores.
    pub(crate) foreign_cores: f64,
}

impl Measured for Run {
    fn foreign_cores(&self) -> f64 {
        self.foreign_cores
    }
}

/// Why there is no figure, or no ratio.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "refused", content = "why")]
pub(crate) enum Refusal {
    /// Not installed, or not to be had here.
    Absent(String),
    /// It could not do its work.
    Failed(String),
    /// It ended with another count than the workload's rows.
    WrongCount { counted: u64, expected: u64 },
    /// Others used the machine.
    Disturbed(Disturbance),
    /// There is nothing to judge.
    NoRuns,
    /// The reference has no figure; why.
    Reference(String),
}

impl Refusal {
    /// Whether this is an error of what was measured, rather than of where it was measured.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::WrongCount { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(why) => write!(out, "skipped: {why}"),
            Self::Failed(why) => write!(out, "failed: {why}"),
            Self::WrongCount { counted, expected } => write!(out, "error: counted {counted} rows of {expected}"),
            Self::Disturbed(disturbance) => disturbance.fmt(out),
            Self::NoRuns => out.write_str("no runs"),
            Self::Reference(why) => write!(out, "no reference ({why})"),
        }
    }
}

/// All runs of one client over one workload.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    /// Rows of the workload.
    pub(crate) expected_rows: u64,
    pub(crate) runs: Vec<Run>,
    /// Why it was not run, or not to the end.
    pub(crate) ended: Option<Refusal>,
}

/// Medians of a series' runs, and the spread of its rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Medians {
    pub(crate) rows_per_second: f64,
    pub(crate) slowest_rows_per_second: f64,
    pub(crate) fastest_rows_per_second: f64,
    pub(crate) client_cpu_per_million: f64,
    pub(crate) subscriber_cpu_per_million: Option<f64>,
    pub(crate) server_cpu_per_million: f64,
    pub(crate) peak_rss: f64,
    pub(crate) log_bytes: Option<f64>,
    pub(crate) foreign_cores: f64,
    pub(crate) foreign_cores_max: f64,
}

impl Series {
    /// A series that has no runs yet.
    pub(crate) fn new(expected_rows: u64) -> Self {
        Self { expected_rows, runs: Vec::new(), ended: None }
    }

    /// Takes the outcome of one run. A wrong count ends the series, and so does an error.
    pub(crate) fn push(&mut self, run: Result<Run, LabError>) {
        match run {
            Ok(run) if run.rows != self.expected_rows => {
                self.ended = Some(Refusal::WrongCount { counted: run.rows, expected: self.expected_rows });
            }
            Ok(run) => self.runs.push(run),
            Err(LabError::Cluster(error @ ThrowawayError::NotInstalled { .. })) => {
                self.ended = Some(Refusal::Absent(error.to_string()));
            }
            Err(error) => self.ended = Some(Refusal::Failed(error.to_string())),
        }
    }

    /// The medians, or why there are none.
    pub(crate) fn medians(&self) -> Result<Medians, Refusal> {
        if let Some(refusal) = &self.ended {
            return Err(refusal.clone());
        }
        #[expect(clippy::cast_precision_loss, reason = "rows are far below 2^53")]
        let (rows, bytes) = (self.expected_rows as f64, |bytes: u64| bytes as f64);
        let of = |field: &dyn Fn(&Run) -> f64| median(self.runs.iter().map(field)).ok_or(Refusal::NoRuns);
        let optional = |field: &dyn Fn(&Run) -> Option<f64>| median(self.runs.iter().filter_map(field));
        let rates = || self.runs.iter().map(|run| rows / run.seconds);
        Ok(Medians {
            rows_per_second: rows / of(&|run| run.seconds)?,
            slowest_rows_per_second: rates().fold(f64::INFINITY, f64::min),
            fastest_rows_per_second: rates().fold(0.0, f64::max),
            client_cpu_per_million: of(&|run| run.client_cpu)? / rows * 1e6,
            subscriber_cpu_per_million: optional(&|run| run.subscriber_cpu).map(|cpu| cpu / rows * 1e6),
            server_cpu_per_million: of(&|run| run.server_cpu)? / rows * 1e6,
            peak_rss: of(&|run| bytes(run.peak_rss))?,
            log_bytes: optional(&|run| run.log_bytes.map(bytes)),
            foreign_cores: of(&|run| run.foreign_cores)?,
            foreign_cores_max: self.runs.iter().map(|run| run.foreign_cores).fold(0.0, f64::max),
        })
    }

    /// The medians if they are fit for a comparison.
    pub(crate) fn verdict(&self, rules: &Rules) -> Result<Medians, Refusal> {
        let medians = self.medians()?;
        rules.disturbance(&self.runs).map_or(Ok(medians), |disturbance| Err(Refusal::Disturbed(disturbance)))
    }

    /// `figure` of this series over `figure` of the reference; only if both are fit for a comparison.
    pub(crate) fn ratio(
        &self,
        reference: Option<&Self>,
        rules: &Rules,
        figure: impl Fn(&Medians) -> f64,
    ) -> Result<f64, Refusal> {
        let own = self.verdict(rules)?;
        let reference = reference.ok_or_else(|| Refusal::Reference("it was not run".into()))?;
        let reference = reference.verdict(rules).map_err(|refusal| Refusal::Reference(refusal.to_string()))?;
        let ratio = figure(&own) / figure(&reference);
        if ratio.is_finite() { Ok(ratio) } else { Err(Refusal::Reference("its figure is zero".into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { foreign_max: 0.1, repeats: 3 };

    fn run(seconds: f64, foreign_cores: f64) -> Run {
        Run { rows: 1000, seconds, client_cpu: 1.0, server_cpu: 2.0, peak_rss: 4096, foreign_cores, ..Run::default() }
    }

    fn series(runs: impl IntoIterator<Item = Run>) -> Series {
        let mut series = Series::new(1000);
        runs.into_iter().for_each(|run| series.push(Ok(run)));
        series
    }

    fn rate_ratio(own: &Series, reference: Option<&Series>) -> Result<f64, Refusal> {
        own.ratio(reference, &RULES, |medians| medians.rows_per_second)
    }

    #[test]
    fn quiet_runs_with_the_right_count_give_a_ratio_of_medians() {
        let own = series([run(1.0, 0.0), run(9.0, 0.05), run(2.0, 0.1)]);
        let reference = series([run(6.0, 0.0), run(4.0, 0.0), run(5.0, 0.0)]);
        assert_eq!(rate_ratio(&own, Some(&reference)), Ok(2.5));
        let medians = own.medians().unwrap();
        assert!((medians.slowest_rows_per_second - 1000.0 / 9.0).abs() < 1e-9);
        assert!((medians.fastest_rows_per_second - 1000.0).abs() < 1e-9);
        assert!((medians.client_cpu_per_million - 1000.0).abs() < 1e-9);
    }

    #[test]
    fn a_missing_reference_gives_no_ratio_and_is_named() {
        let own = series([run(1.0, 0.0)]);
        assert_eq!(rate_ratio(&own, None), Err(Refusal::Reference("it was not run".into())));
        let mut absent = Series::new(1000);
        absent.ended = Some(Refusal::Absent("no Java".into()));
        let refusal = rate_ratio(&own, Some(&absent)).unwrap_err();
        assert_eq!(refusal.to_string(), "no reference (skipped: no Java)");
        assert!(!refusal.is_failure());
    }

    #[test]
    fn one_run_with_another_count_spoils_the_series_whatever_follows() {
        let mut own = series([run(1.0, 0.0)]);
        own.push(Ok(Run { rows: 999, ..run(1.0, 0.0) }));
        own.push(Ok(run(1.0, 0.0)));
        let refusal = own.medians().unwrap_err();
        assert_eq!(refusal, Refusal::WrongCount { counted: 999, expected: 1000 });
        assert!(refusal.is_failure());
        // As reference just the same.
        assert!(matches!(rate_ratio(&series([run(1.0, 0.0)]), Some(&own)), Err(Refusal::Reference(_))));
    }

    #[test]
    fn a_client_that_failed_has_no_figures() {
        let mut own = series([run(1.0, 0.0)]);
        own.push(Err(LabError::Failed("connection refused".into())));
        assert_eq!(own.medians(), Err(Refusal::Failed("connection refused".into())));
    }

    #[test]
    fn a_disturbed_run_leaves_the_medians_and_takes_the_ratio() {
        let quiet = series([run(2.0, 0.0)]);
        let own = series([run(1.0, 0.0), run(1.0, 0.11), run(1.0, 0.3)]);
        assert!(own.medians().is_ok());
        assert_eq!(rate_ratio(&own, Some(&quiet)), Err(Refusal::Disturbed(Disturbance { runs: 2, of: 3, cores: 0.3 })));
        assert!(matches!(rate_ratio(&quiet, Some(&own)), Err(Refusal::Reference(_))));
        assert!(rate_ratio(&series([run(1.0, f64::NAN)]), Some(&quiet)).is_err());
    }

    #[test]
    fn nothing_run_is_nothing_judged() {
        assert_eq!(series([]).medians(), Err(Refusal::NoRuns));
        assert!(rate_ratio(&series([]), Some(&series([run(1.0, 0.0)]))).is_err());
        assert!(rate_ratio(&series([run(1.0, 0.0)]), Some(&series([run(f64::INFINITY, 0.0)]))).is_err());
    }
}
