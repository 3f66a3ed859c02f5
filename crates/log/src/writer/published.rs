//! What the writer lets the world know, after the fsync and never before.
//!
//! [`Durable`] can be made in this folder only, so whoever holds one knows that a disk does too.

use std::time::Instant;

use dbstreamd_model::{Lsn, Offset, Timestamp};
use tokio::sync::watch;

use super::crowd::Crowd;
use crate::log::Watermarks;
use crate::store::StreamState;

/// A value that is on disk, fsynced. Only the log's writer can make one.
///
/// ```compile_fail
/// let forged = dbstreamd_log::Durable(dbstreamd_model::Lsn(1));
/// ```
///
/// ```compile_fail
/// let forged = dbstreamd_log::Durable::mint(dbstreamd_model::Lsn(1));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Durable<T>(T);

impl<T: Copy> Durable<T> {
    /// The value.
    pub const fn get(self) -> T {
        self.0
    }
}

impl<T> Durable<T> {
    /// To be called with what a finished, synced write has stored.
    pub(super) const fn mint(value: T) -> Self {
        Self(value)
    }
}

/// Whether those who wait at a stream were woken by what was made known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Woken {
    /// They were.
    Now,
    /// They must be, with [`Published::wake`], when this time has come.
    DueAt(Instant),
    /// There was nothing new to them. If an earlier wake-up is due, it still is.
    NoNeed,
}

/// The publishing side of one stream.
pub(crate) struct Published {
    watermarks: watch::Sender<Watermarks>,
    confirmed: watch::Sender<Durable<Lsn>>,
    crowd: Crowd,
}

impl Published {
    /// What was read back from disk at the start is durable.
    pub(crate) fn restored(state: &StreamState, trim_point: Offset) -> Self {
        Self {
            watermarks: watch::Sender::new(watermarks(state, trim_point)),
            confirmed: watch::Sender::new(Durable::mint(state.confirmed_through)),
            crowd: Crowd::default(),
        }
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        *self.watermarks.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Watermarks> {
        self.watermarks.subscribe()
    }

    /// How many watch.
    pub(crate) fn followers(&self) -> usize {
        self.watermarks.receiver_count()
    }

    pub(crate) fn watch_confirmed(&self) -> watch::Receiver<Durable<Lsn>> {
        self.confirmed.subscribe()
    }

    /// Makes a state known that was just written and synced, and wakes whoever waits for it.
    pub(super) fn publish(&self, state: &StreamState) {
        self.make_known(state, true);
    }

    /// As [`publish`](Self::publish), but very many who wait are not woken by every commit.
    pub(super) fn publish_paced(&self, state: &StreamState, now: Instant) -> Woken {
        let rests_until = self.crowd.rests_until(self.watermarks.receiver_count(), now);
        match (self.make_known(state, rests_until.is_none()), rests_until) {
            (false, _) => Woken::NoNeed,
            (true, None) => {
                self.crowd.woken(now);
                Woken::Now
            }
            (true, Some(due)) => Woken::DueAt(due),
        }
    }

    /// Wakes who was not woken when the watermarks moved.
    pub(super) fn wake(&self, now: Instant) {
        self.crowd.woken(now);
        self.watermarks.send_modify(|_| {});
    }

    /// Whether the watermarks moved.
    fn make_known(&self, state: &StreamState, wake: bool) -> bool {
        let mut moved = false;
        self.watermarks.send_if_modified(|known| {
            let new = watermarks(state, known.trim_point);
            moved = std::mem::replace(known, new) != new;
            moved && wake
        });
        self.confirmed.send_if_modified(|known| {
            let new = Durable::mint(state.confirmed_through);
            std::mem::replace(known, new) != new
        });
        moved
    }

    /// Claims more than any disk has.
    #[cfg(test)]
    pub(crate) fn claim_confirmed(&self, lsn: Lsn) {
        self.watermarks.send_modify(|marks| marks.confirmed_through = lsn);
    }

    /// Makes known what was read back after a failed write.
    pub(crate) fn restore(&self, state: &StreamState, trim_point: Offset) {
        self.watermarks.send_replace(watermarks(state, trim_point));
        self.confirmed.send_replace(Durable::mint(state.confirmed_through));
    }

    /// Makes a trim point known that was just written and synced.
    pub(super) fn publish_trim(&self, trim_point: Offset) {
        self.watermarks.send_modify(|known| known.trim_point = trim_point);
    }
}

fn watermarks(state: &StreamState, trim_point: Offset) -> Watermarks {
    let time = state.visible_commit_time;
    Watermarks {
        epoch: state.epoch,
        appended: state.durable,
        durable: state.durable,
        visible: state.visible,
        trim_point,
        visible_lsn: state.visible_lsn,
        // A stream without events has no newest commit; outside it reads as the epoch's start.
        visible_commit_time: if time.0 == i64::MIN { Timestamp(0) } else { time },
        confirmed_through: state.confirmed_through,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_that_is_due_stays_due_when_nothing_new_is_made_known() {
        let mut state = StreamState::NEW;
        let published = Published::restored(&state, Offset(0));
        let crowd: Vec<_> = (0..10_000).map(|_| published.watch()).collect();
        let start = Instant::now();
        state.visible = Offset(1);
        assert_eq!(published.publish_paced(&state, start), Woken::Now);
        state.visible = Offset(2);
        let Woken::DueAt(due) = published.publish_paced(&state, start) else {
            panic!("a crowd was woken twice at once")
        };
        assert!(due > start);
        assert_eq!(published.publish_paced(&state, start), Woken::NoNeed);
        assert_eq!(published.publish_paced(&state, due), Woken::NoNeed);
        drop(crowd);
        state.visible = Offset(3);
        assert_eq!(published.publish_paced(&state, start), Woken::Now, "nobody waits");
    }
}
