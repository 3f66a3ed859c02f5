//! How long to wait before the next attempt.

use std::time::Duration;

use rand::Rng;

use crate::error::Retry;

/// Backoff between attempts to open a session.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// First pause after a passing fault; doubles each time.
    pub first: Duration,
    /// Longest pause after a passing fault.
    pub longest: Duration,
    /// Pause after a fault that an operator must mend.
    pub operator: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(15), operator: Duration::from_secs(15) }
    }
}

impl RetryPolicy {
    /// The pause before attempt `failures` + 1, with up to a quarter of jitter so that a thousand streams of a
    /// restarted server do not return in one instant. None: stay stopped.
    pub(crate) fn pause(&self, retry: Retry, failures: u32) -> Option<Duration> {
        let base = match retry {
            Retry::Never => return None,
            Retry::Later => self.operator,
            Retry::Soon => {
                let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16));
                doubled.min(self.longest)
            }
        };
        Some(base.mul_f64(rand::rng().random_range(0.75..=1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_faults_back_off_to_a_ceiling_and_decisions_wait_for_people() {
        let policy = RetryPolicy::default();
        let pause = |failures| policy.pause(Retry::Soon, failures).unwrap();
        assert!(pause(1) <= policy.first);
        assert!(pause(5) > policy.first);
        assert!(pause(u32::MAX) <= policy.longest && pause(u32::MAX) >= policy.longest.mul_f64(0.74));
        assert_eq!(policy.pause(Retry::Never, 1), None);
    }
}
