//! What may be changed while the log is open: read by the writer, once for each group commit or look, and by nobody per
//! event.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::holds::HoldLimits;
use crate::options::{LogOptions, Retention};

/// No limit, in a limit's place.
const NONE: u64 = u64::MAX;

/// The settings that can be changed at run time. Each is independent of the others; a change holds from the next
/// group commit, or the next look of retention, on.
#[derive(Debug)]
pub struct Tunables {
    group_commit_bytes_max: AtomicU64,
    group_commit_delay_max_us: AtomicU64,
    retention_age_us: AtomicU64,
    retention_bytes: AtomicU64,
    max_lag_bytes: AtomicU64,
    max_hold_bytes: AtomicU64,
    disconnected_max_us: AtomicU64,
}

impl Tunables {
    pub(crate) fn new(options: &LogOptions) -> Self {
        let Retention { age, bytes } = options.retention;
        let HoldLimits { max_lag_bytes, max_hold_bytes, disconnected_max } = options.holds;
        Self {
            group_commit_bytes_max: AtomicU64::new(options.group_commit_bytes_max as u64),
            group_commit_delay_max_us: AtomicU64::new(micros(options.group_commit_delay_max)),
            retention_age_us: AtomicU64::new(age.map_or(NONE, micros)),
            retention_bytes: AtomicU64::new(bytes.unwrap_or(NONE)),
            max_lag_bytes: AtomicU64::new(max_lag_bytes),
            max_hold_bytes: AtomicU64::new(max_hold_bytes),
            disconnected_max_us: AtomicU64::new(micros(disconnected_max)),
        }
    }

    /// A group commit is closed at this many bytes.
    pub fn group_commit_bytes_max(&self) -> u64 {
        self.group_commit_bytes_max.load(Relaxed)
    }

    /// Sets where a group commit is closed, in bytes.
    pub fn set_group_commit_bytes_max(&self, bytes: u64) {
        self.group_commit_bytes_max.store(bytes, Relaxed);
    }

    /// A group commit takes in what arrives for at most this long.
    pub fn group_commit_delay_max(&self) -> Duration {
        Duration::from_micros(self.group_commit_delay_max_us.load(Relaxed))
    }

    /// Sets how long a group commit takes in what arrives; kept in whole microseconds.
    pub fn set_group_commit_delay_max(&self, delay: Duration) {
        self.group_commit_delay_max_us.store(micros(delay), Relaxed);
    }

    /// How much history is kept.
    pub fn retention(&self) -> Retention {
        let limit = |cell: &AtomicU64| Some(cell.load(Relaxed)).filter(|&limit| limit != NONE);
        Retention { age: limit(&self.retention_age_us).map(Duration::from_micros), bytes: limit(&self.retention_bytes) }
    }

    /// Sets how long history is kept, in whole microseconds; none for ever. [`Log::apply_retention`](crate::Log::apply_retention) lets it
    /// look at once.
    pub fn set_retention_age(&self, age: Option<Duration>) {
        self.retention_age_us.store(age.map_or(NONE, micros), Relaxed);
    }

    /// How long, and how far behind, a consumer may hold the log.
    pub fn holds(&self) -> HoldLimits {
        HoldLimits {
            max_lag_bytes: self.max_lag_bytes.load(Relaxed),
            max_hold_bytes: self.max_hold_bytes.load(Relaxed),
            disconnected_max: Duration::from_micros(self.disconnected_max_us.load(Relaxed)),
        }
    }

    /// Sets how many bytes a consumer may lag behind before it is worth a warning.
    pub fn set_max_lag_bytes(&self, bytes: u64) {
        self.max_lag_bytes.store(bytes, Relaxed);
    }

    /// Sets how many bytes of the log a consumer may make us keep.
    pub fn set_max_hold_bytes(&self, bytes: u64) {
        self.max_hold_bytes.store(bytes, Relaxed);
    }

    /// Sets how long a consumer may be away before it loses its hold, in whole microseconds.
    pub fn set_disconnected_max(&self, away: Duration) {
        self.disconnected_max_us.store(micros(away), Relaxed);
    }

    /// Sets how many bytes of history are kept; none for all.
    pub fn set_retention_bytes(&self, bytes: Option<u64>) {
        self.retention_bytes.store(bytes.unwrap_or(NONE), Relaxed);
    }
}

/// Saturating, and never taken for "no limit".
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(NONE).min(NONE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_not_a_long_one() {
        let tunables = Tunables::new(&LogOptions::default());
        assert_eq!(tunables.retention(), Retention::default());
        tunables.set_retention_age(Some(Duration::MAX));
        tunables.set_retention_bytes(None);
        let Retention { age, bytes } = tunables.retention();
        assert!(age.is_some_and(|age| age > Duration::from_secs(1 << 40)) && bytes.is_none());
        tunables.set_retention_age(None);
        assert_eq!(tunables.retention().age, None);
    }
}
