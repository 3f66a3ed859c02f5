//! `Timestamp`: a commit time.

/// Microseconds since 1970-01-01 00:00:00 UTC; negative before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The machine's wall clock now.
    pub fn now() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since_epoch.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Seconds from `earlier` to `self`, negative when `self` is before it.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a duration shown to people")]
        let micros = self.0.saturating_sub(earlier.0) as f64;
        micros / 1e6
    }
}
