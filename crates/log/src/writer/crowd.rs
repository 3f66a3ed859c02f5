//! How often those who wait for a stream's next event are woken: at every commit, unless there are very many of them.
//!
//! Ten thousand followers of two hundred commits a second would be two million wake-ups a second, for one small response
//! each, and both processors busy with nothing else. Woken every fifty milliseconds they get the same events in fewer
//! responses, and each of them sooner. Who looks by itself meanwhile sees what is there: only the waking waits.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What a wake-up and the response behind it cost, with some room: so many of them fit into a beat.
const PER_FOLLOWER: Duration = Duration::from_micros(5);
/// So many followers are woken once in a beat, fewer by every commit: what is shorter than a millisecond is no beat.
pub const CROWD_MIN: usize = 251;
/// Nobody waits longer.
const BEAT_MAX: Duration = Duration::from_millis(50);

/// Those who wait at one stream.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    woken_at: Mutex<Option<Instant>>,
}

/// How long so many followers rest between two wake-ups; none for so few that every commit wakes them.
pub(crate) fn beat(followers: usize) -> Option<Duration> {
    (followers >= CROWD_MIN)
        .then(|| PER_FOLLOWER.saturating_mul(u32::try_from(followers).unwrap_or(u32::MAX)).min(BEAT_MAX))
}

impl Crowd {
    /// Until when so many are not woken again; none when they may be woken now.
    pub(super) fn rests_until(&self, followers: usize, now: Instant) -> Option<Instant> {
        let beat = beat(followers)?;
        let until = (*self.woken_at.lock())?.checked_add(beat)?;
        (until > now).then_some(until)
    }

    /// They are woken.
    pub(super) fn woken(&self, now: Instant) {
        *self.woken_at.lock() = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_woken_by_every_commit_and_many_once_in_a_beat() {
        let crowd = Crowd::default();
        let start = Instant::now();
        assert_eq!(crowd.rests_until(10_000, start), None, "the first commit");
        crowd.woken(start);
        assert_eq!(crowd.rests_until(250, start), None);
        assert_eq!(crowd.rests_until(10_000, start), Some(start + Duration::from_millis(50)));
        assert_eq!(crowd.rests_until(2000, start), Some(start + Duration::from_millis(10)));
        assert_eq!(crowd.rests_until(1_000_000, start), Some(start + BEAT_MAX));
        assert_eq!(crowd.rests_until(10_000, start + Duration::from_millis(50)), None);
    }
}
