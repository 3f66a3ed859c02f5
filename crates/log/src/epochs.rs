//! Epochs: where a stream's history broke with its source's, and why.
//!
//! Within an epoch the log is one unbroken piece of one history. When that can not be continued, a new epoch begins
//! behind the last visible event: offsets go on densely, LSNs start over wherever the source now stands, and what was
//! visible stays readable under the epoch it came with. The writer raises epochs (`writer/epoch.rs`), in one write.

use dbstreamd_model::{Epoch, Lsn, Offset, Timestamp};

use crate::store::SourceIdentity;

/// Why an epoch began. The numbers are on disk and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EpochReason {
    /// The slot was confirmed beyond what the log has: the changes between are missing.
    SlotAhead = 1,
    /// The server's WAL ended before the log did: it was put back to an older state.
    ServerBehind = 2,
    /// The server's timeline left the log's before the log's end: a standby without the newest changes was promoted, or
    /// the server was recovered to a point in time.
    OtherTimeline = 3,
    /// What the source sent again differs from what the log has: its history was rewritten.
    HistoryRewritten = 4,
    /// The slot was gone and was created anew: the changes between are missing.
    SlotGone = 5,
    /// The slot was invalidated by the server and was created anew: the changes between are missing.
    SlotInvalidated = 6,
}

impl EpochReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::SlotAhead,
        Self::ServerBehind,
        Self::OtherTimeline,
        Self::HistoryRewritten,
        Self::SlotGone,
        Self::SlotInvalidated,
    ];

    /// The number on disk.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// A short name that never changes, for scripts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SlotAhead => "slot_ahead",
            Self::ServerBehind => "server_behind",
            Self::OtherTimeline => "other_timeline",
            Self::HistoryRewritten => "history_rewritten",
            Self::SlotGone => "slot_gone",
            Self::SlotInvalidated => "slot_invalidated",
        }
    }

    /// What happened, for people: completes "a new epoch, because …".
    pub const fn text(self) -> &'static str {
        match self {
            Self::SlotAhead => "the slot was advanced beyond this log, and the changes between are missing",
            Self::ServerBehind => {
                "the server was put back to an older state, and changes that were delivered may be revoked"
            }
            Self::OtherTimeline => {
                "the server is on a timeline that lacks changes of this log, and changes that were delivered may be revoked"
            }
            Self::HistoryRewritten => {
                "the server's history differs from this log, and changes that were delivered may be revoked"
            }
            Self::SlotGone => "the slot was gone and was created anew, and the changes between are missing",
            Self::SlotInvalidated => {
                "the slot was invalidated by the server and was created anew, and the changes between are missing"
            }
        }
    }
}

/// A break with the source's history, to be made durable as a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochBreak {
    /// What happened.
    pub reason: EpochReason,
    /// The position from which the source sends on: nothing that commits before it is sent any more.
    pub source_lsn: Lsn,
    /// Whose history the new epoch is.
    pub source: SourceIdentity,
}

/// An epoch that was raised. A stream's first epoch has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// Its number; at least 2.
    pub epoch: Epoch,
    /// Offset of its first event, whether or not there is one yet.
    pub first_offset: Offset,
    /// Why it began.
    pub reason: EpochReason,
    /// Up to where the log had the source's history before.
    pub log_lsn: Lsn,
    /// From where it has the source's history since.
    pub source_lsn: Lsn,
    /// Whose history it is.
    pub source: SourceIdentity,
    /// When it began, by the daemon's clock.
    pub started_at: Timestamp,
}

/// The epoch of `offset` by a stream's records, and the first offset of the next epoch, if there is one. Of epochs without
/// events the newest is meant: that is where the offset will be.
pub(crate) fn epoch_of(epochs: &[EpochRecord], offset: Offset) -> (Epoch, Option<Offset>) {
    let after = epochs.partition_point(|record| record.first_offset <= offset);
    let epoch = after.checked_sub(1).and_then(|i| epochs.get(i)).map_or(Epoch::FIRST, |record| record.epoch);
    (epoch, epochs.get(after).map(|record| record.first_offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_come_back_from_their_numbers_and_no_other_number_is_one() {
        for reason in EpochReason::ALL {
            assert_eq!(EpochReason::from_code(reason.code()), Some(reason));
        }
        assert_eq!((0..=u8::MAX).filter_map(EpochReason::from_code).count(), EpochReason::ALL.len());
        // On disk in users' logs.
        assert_eq!(EpochReason::ALL.map(EpochReason::code), [1, 2, 3, 4, 5, 6]);
    }
}
