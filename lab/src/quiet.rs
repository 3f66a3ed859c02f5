//! How much of the machine others may use while something is measured, and what is done when they use more.

use std::fmt;

use serde::Serialize;

use crate::error::LabError;

/// Which runs count.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Rules {
    /// CPU of other processes, in cores, from which on a run counts as disturbed.
    #[arg(long, default_value_t = 0.10, value_name = "CORES")]
    pub(crate) foreign_max: f64,
    /// How many times a disturbed run is repeated before it is taken as it is, and no ratio is printed.
    #[arg(long, default_value_t = 3, value_name = "TIMES")]
    pub(crate) repeats: usize,
}

/// One run of whatever it is.
pub(crate) trait Measured {
    /// CPU of others during the run, in cores.
    fn foreign_cores(&self) -> f64;
}

/// Runs that others disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Disturbance {
    /// How many.
    pub(crate) runs: usize,
    /// Of how many.
    pub(crate) of: usize,
    /// At most so many cores of others.
    pub(crate) cores: f64,
}

impl fmt::Display for Disturbance {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, of, cores } = self;
        write!(out, "disturbed: in {runs} of {of} runs others used the machine, up to {cores:.2} cores")
    }
}

impl Rules {
    fn disturbed(&self, run: &impl Measured) -> bool {
        // What is not a number is no sign of quiet.
        run.foreign_cores().is_nan() || run.foreign_cores() > self.foreign_max
    }

    /// Which of these runs were disturbed; none if all were quiet enough.
    pub(crate) fn disturbance<'a, R: Measured + 'a>(
        &self,
        runs: impl IntoIterator<Item = &'a R>,
    ) -> Option<Disturbance> {
        let mut seen = Disturbance { runs: 0, of: 0, cores: 0.0 };
        for run in runs {
            seen.of += 1;
            seen.runs += usize::from(self.disturbed(run));
            seen.cores = seen.cores.max(run.foreign_cores());
        }
        (seen.runs > 0).then_some(seen)
    }

    /// Runs `run` until a run is undisturbed, at most `repeats` times more than once; else gives the least disturbed.
    pub(crate) fn attempt<R: Measured>(&self, run: impl FnMut() -> Result<R, LabError>) -> Result<R, LabError> {
        self.attempt_while(|_| true, run)
    }

    /// The same, but a run that is `not` worth repeating is given at once: one that is wrong, which repeating would hide.
    pub(crate) fn attempt_while<R: Measured>(
        &self,
        worth_repeating: impl Fn(&R) -> bool,
        mut run: impl FnMut() -> Result<R, LabError>,
    ) -> Result<R, LabError> {
        let mut best = run()?;
        for _ in 0..self.repeats {
            if !self.disturbed(&best) || !worth_repeating(&best) {
                break;
            }
            eprintln!("  disturbed: others used {:.2} cores; once more", best.foreign_cores());
            let again = run()?;
            if again.foreign_cores() < best.foreign_cores() || !worth_repeating(&again) {
                best = again;
            }
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { foreign_max: 0.1, repeats: 3 };

    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Run {
        foreign_cores: f64,
        right: bool,
    }

    impl Measured for Run {
        fn foreign_cores(&self) -> f64 {
            self.foreign_cores
        }
    }

    fn run(foreign_cores: f64) -> Run {
        Run { foreign_cores, right: true }
    }

    #[test]
    fn a_disturbed_run_is_repeated_until_it_is_quiet() {
        let mut runs = [0.5, 0.2, 0.05, 0.0].map(run).into_iter();
        assert_eq!(RULES.attempt(|| Ok(runs.next().unwrap())).unwrap(), run(0.05));
        assert_eq!(runs.len(), 1);
    }

    #[test]
    fn a_run_that_stays_disturbed_is_the_least_disturbed_of_a_bounded_number() {
        let mut runs = [0.5, 0.2, 0.9, 0.4, 0.0].map(run).into_iter();
        assert_eq!(RULES.attempt(|| Ok(runs.next().unwrap())).unwrap(), run(0.2));
        assert_eq!(runs.len(), 5 - 1 - RULES.repeats);
    }

    #[test]
    fn a_run_that_is_wrong_is_never_repeated_away() {
        let wrong = Run { foreign_cores: 0.9, right: false };
        let mut runs = [run(0.5), wrong, run(0.0)].into_iter();
        assert_eq!(RULES.attempt_while(|run: &Run| run.right, || Ok(runs.next().unwrap())).unwrap(), wrong);
        assert_eq!(runs.len(), 1);
    }

    #[test]
    fn disturbed_runs_are_counted_and_the_worst_is_named() {
        assert_eq!(RULES.disturbance(&[run(0.0), run(0.1)]), None);
        let seen = RULES.disturbance(&[run(0.0), run(0.3), run(0.2)]).unwrap();
        assert_eq!(seen, Disturbance { runs: 2, of: 3, cores: 0.3 });
        assert_eq!(seen.to_string(), "disturbed: in 2 of 3 runs others used the machine, up to 0.30 cores");
        assert!(RULES.disturbance(&[run(f64::NAN)]).is_some());
    }
}
