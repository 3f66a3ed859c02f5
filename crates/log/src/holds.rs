//! Which consumers hold the log, and which no longer do.
//!
//! ```text
//!              lag > max_lag            lag > max_hold, or away too long,      its next event is
//!                                       or the disk is nearly full             trimmed, or of a new epoch
//!   ACTIVE ◀──────────────▶ LAGGING ◀──────────────────────▶ RELEASED ─────────────────▶ NEEDS_SNAPSHOT
//!     └─────────────── holds: retention keeps what it has not ───┘        └── retention keeps by policy only ──┘
//! ```
//!
//! A consumer holds the log and never the source's WAL. The state is computed from what is known now, so that who comes
//! back in time has its hold again; only what is trimmed does not come back. Lag is measured in bytes of our log.

use std::time::{Duration, Instant};

use dbstreamd_model::{ConsumerName, Offset, StreamId};

use crate::store::Committed;
use crate::stream::Stream;

const GIB: u64 = 1024 * 1024 * 1024;

/// How long, and how far behind, a consumer may hold the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// Bytes of the log a consumer may lag behind before it is worth a warning.
    pub max_lag_bytes: u64,
    /// Bytes of the log a consumer may make us keep; further behind it loses its hold.
    pub max_hold_bytes: u64,
    /// How long a consumer may be away before it loses its hold.
    pub disconnected_max: Duration,
}

impl Default for HoldLimits {
    fn default() -> Self {
        // 10 GiB is an hour of a busy database: somebody should look. 50 GiB is what retention keeps anyway. One hour
        // outlasts a deployment that went wrong; who is away longer lives off retention's policy.
        Self { max_lag_bytes: 10 * GIB, max_hold_bytes: 50 * GIB, disconnected_max: Duration::from_secs(3600) }
    }
}

/// How a consumer stands to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConsumerState {
    /// It holds the log and keeps up.
    Active,
    /// It holds the log, and is behind by more than `max_lag_bytes`.
    Lagging,
    /// What it has not read is still there, but retention no longer keeps it for its sake.
    Released(HoldLost),
    /// It cannot go on where it is.
    NeedsSnapshot(SnapshotReason),
}

/// Why a consumer cannot go on where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotReason {
    /// What it would read next was removed by retention.
    Trimmed,
    /// Continuity with the source was broken behind its position: there is a newer epoch.
    NewEpoch,
}

/// Why a consumer lost its hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldLost {
    /// It is behind by more than `max_hold_bytes`.
    Lag,
    /// It was away for longer than `disconnected_max`.
    Absence,
    /// The data volume is nearly full: holds must not stop the source from being read.
    Space,
}

impl ConsumerState {
    /// Whether retention keeps what the consumer has not read.
    pub const fn holds(self) -> bool {
        matches!(self, Self::Active | Self::Lagging)
    }

    /// Its name in upper case, as every interface shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Lagging => "LAGGING",
            Self::Released(_) => "RELEASED",
            Self::NeedsSnapshot(_) => "NEEDS_SNAPSHOT",
        }
    }
}

/// A consumer went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldChange {
    /// Whose events it reads.
    pub stream: StreamId,
    /// Who.
    pub consumer: ConsumerName,
    /// The state before.
    pub from: ConsumerState,
    /// The state now.
    pub to: ConsumerState,
    /// It has everything up to here.
    pub committed: Offset,
    /// Bytes of the log between that and the newest visible event.
    pub lag_bytes: u64,
}

/// A consumer as the log knows it: what is durable, and who is there.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) committed: Committed,
    presence: Presence,
    /// As of the last review.
    pub(crate) reviewed: ConsumerState,
}

#[derive(Clone, Copy, Debug)]
enum Presence {
    /// So many sessions: a second one takes over while the first still leaves.
    Here(u32),
    AwaySince(Instant),
}

impl Known {
    /// Of a consumer that was just read back or has just committed for the first time. Who was connected before a restart
    /// gets the whole time to come back.
    pub(crate) fn new(committed: Committed) -> Self {
        Self { committed, presence: Presence::AwaySince(Instant::now()), reviewed: ConsumerState::Active }
    }

    pub(crate) fn arrive(&mut self) {
        self.presence = match self.presence {
            Presence::Here(sessions) => Presence::Here(sessions.saturating_add(1)),
            Presence::AwaySince(_) => Presence::Here(1),
        };
    }

    /// It was heard of, connected or not.
    pub(crate) fn touch(&mut self) {
        if let Presence::AwaySince(since) = &mut self.presence {
            *since = Instant::now();
        }
    }

    pub(crate) fn leave(&mut self) {
        self.presence = match self.presence {
            Presence::Here(sessions) if sessions > 1 => Presence::Here(sessions - 1),
            Presence::Here(_) => Presence::AwaySince(Instant::now()),
            away @ Presence::AwaySince(_) => away,
        };
    }

    /// How long it has been away; none while it is here.
    pub(crate) fn away(&self) -> Option<Duration> {
        match self.presence {
            Presence::Here(_) => None,
            Presence::AwaySince(since) => Some(since.elapsed()),
        }
    }
}

/// Everything a consumer's state depends on.
pub(crate) struct Standing {
    pub(crate) committed: Offset,
    pub(crate) trim_point: Offset,
    /// First offset of the epoch after the one it goes on in, if there is one and it has had something.
    pub(crate) next_epoch: Option<Offset>,
    pub(crate) lag_bytes: u64,
    pub(crate) away: Option<Duration>,
    /// The data volume is nearly full.
    pub(crate) space_low: bool,
}

impl Standing {
    pub(crate) fn state(&self, limits: &HoldLimits) -> ConsumerState {
        if self.committed < self.trim_point {
            ConsumerState::NeedsSnapshot(SnapshotReason::Trimmed)
        } else if self.next_epoch.is_some_and(|first| self.committed.next() >= first) {
            // Not before it has all of its epoch: until then it reads on, and holds that.
            ConsumerState::NeedsSnapshot(SnapshotReason::NewEpoch)
        } else if self.lag_bytes > limits.max_hold_bytes {
            ConsumerState::Released(HoldLost::Lag)
        } else if self.lag_bytes == 0 {
            // Who has everything holds nothing, however long it is away.
            ConsumerState::Active
        } else if self.away.is_some_and(|away| away > limits.disconnected_max) {
            ConsumerState::Released(HoldLost::Absence)
        } else if self.space_low {
            ConsumerState::Released(HoldLost::Space)
        } else if self.lag_bytes > limits.max_lag_bytes {
            ConsumerState::Lagging
        } else {
            ConsumerState::Active
        }
    }
}

impl Stream {
    /// How a consumer stands to the log now, and how far it is behind.
    pub(crate) fn standing(&self, known: &Known, space_low: bool) -> Standing {
        let marks = self.published.watermarks();
        let layout = self.layout.read();
        let behind = layout.bytes_through(marks.visible, marks.durable);
        let lag_bytes = behind.saturating_sub(layout.bytes_through(known.committed.offset, marks.durable));
        Standing {
            committed: known.committed.offset,
            trim_point: marks.trim_point,
            next_epoch: known.committed.epoch.and_then(|epoch| layout.end_of(epoch)),
            // An estimate never says "nothing" of something.
            lag_bytes: lag_bytes.max(u64::from(known.committed.offset < marks.visible)),
            away: known.away(),
            space_low,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_loses_its_hold_by_lag_absence_or_want_of_space_and_its_place_only_by_trimming() {
        let limits = HoldLimits { max_lag_bytes: 10, max_hold_bytes: 50, disconnected_max: Duration::from_secs(60) };
        let (short, long) = (Some(Duration::from_secs(60)), Some(Duration::from_secs(61)));
        let state = |committed, lag_bytes, away, space_low| {
            let standing = Standing {
                committed: Offset(committed),
                trim_point: Offset(5),
                next_epoch: None,
                lag_bytes,
                away,
                space_low,
            };
            standing.state(&limits)
        };
        assert_eq!(state(5, 10, None, false), ConsumerState::Active);
        assert_eq!(state(5, 11, None, false), ConsumerState::Lagging);
        assert_eq!(state(5, 50, short, false), ConsumerState::Lagging);
        assert_eq!(state(5, 50, long, false), ConsumerState::Released(HoldLost::Absence));
        assert_eq!(state(5, 51, None, false), ConsumerState::Released(HoldLost::Lag));
        assert_eq!(state(5, 1, None, true), ConsumerState::Released(HoldLost::Space));
        assert_eq!(state(5, 0, long, true), ConsumerState::Active, "it has everything");
        assert_eq!(state(4, 0, None, false), ConsumerState::NeedsSnapshot(SnapshotReason::Trimmed));
        let behind = |committed| Standing {
            committed: Offset(committed),
            trim_point: Offset(5),
            next_epoch: Some(Offset(9)),
            lag_bytes: 0,
            away: None,
            space_low: false,
        };
        assert_eq!(behind(8).state(&limits), ConsumerState::NeedsSnapshot(SnapshotReason::NewEpoch));
        assert_eq!(behind(7).state(&limits), ConsumerState::Active, "it may have the rest of its epoch first");
    }

    #[test]
    fn who_takes_over_is_here_while_the_one_before_leaves() {
        let mut known = Known::new(Committed { offset: Offset(1), at: dbstreamd_model::Timestamp(0), epoch: None });
        assert!(known.away().is_some());
        known.arrive();
        known.arrive();
        known.leave();
        assert_eq!(known.away(), None);
        known.leave();
        known.leave();
        assert!(known.away().is_some());
    }
}
