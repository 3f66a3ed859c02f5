//! Named places where a process can be told to die, to see that dying there does no harm.
//!
//! `DBSTREAMD_FAILPOINT=NAME` kills the process as `kill -9` would when it reaches that place, `NAME=3` at the third
//! time. Always compiled in, so that what is tested is what is shipped: a place that is not armed costs one relaxed
//! load, and there is none per event.
//!
//! ```text
//!   received ▶ appended ▶ handed_over ▶ gathered ▶ committed ▶ published ▶ confirming ▶ confirmed
//!                                          │ partition_created               (acknowledged)
//! ```

use std::hint::black_box;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU32};

use rustix::process::{Signal, getpid, kill_process};

macro_rules! failpoints {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// A place.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Failpoint {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Failpoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, as `DBSTREAMD_FAILPOINT` takes it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

failpoints! {
    /// The slot exists at the server, and nothing here says so.
    SlotCreated = "slot_created",
    /// The log says whose history it is, and nothing of it was read.
    SourceBound = "source_bound",
    /// Bytes came from the socket.
    Received = "received",
    /// They are events in the chunk under construction.
    Appended = "appended",
    /// A chunk is in the writer's queue.
    HandedOver = "handed_over",
    /// A piece of a transaction that has no end yet is durable.
    FragmentCommitted = "fragment_committed",
    /// A group is put together and not written.
    Gathered = "gathered",
    /// It is durable, and nobody knows.
    Committed = "committed",
    /// Readers see it; the source was not told.
    Published = "published",
    /// The source is about to be told.
    Confirming = "confirming",
    /// The source was told.
    Confirmed = "confirmed",
    /// A consumer's offset is durable, and it was not told.
    OffsetCommitted = "offset_committed",
    /// A partition exists, and its record does not.
    PartitionCreated = "partition_created",
    /// Trim points are durable, and the partition that retention gives up is still there.
    TrimCommitted = "trim_committed",
    /// Its files are gone, and its record is not.
    PartitionDropped = "partition_dropped",
    /// Both are gone.
    PartitionForgotten = "partition_forgotten",
    /// At the start: the store is open, and nothing was read.
    StoreOpened = "store_opened",
    /// At the start: a partition that retention had given up is gone, and its record is not.
    DropFinished = "drop_finished",
    /// The unfinished tail is about to be deleted.
    TailDeleting = "tail_deleting",
    /// It is deleted, and nobody knows.
    TailDeleted = "tail_deleted",
    /// A new epoch is about to become durable.
    EpochRaising = "epoch_raising",
    /// It is durable, and nobody knows.
    EpochRaised = "epoch_raised",
}

/// Which place is armed: its number plus one.
static ARMED: AtomicU8 = AtomicU8::new(0);
/// How often it is still to be passed.
static LEFT: AtomicU32 = AtomicU32::new(0);

impl Failpoint {
    /// Dies if this is the place and the time.
    #[inline]
    pub fn reach(self) {
        if ARMED.load(Relaxed) == self as u8 + 1 {
            self.reach_armed();
        }
    }

    #[cold]
    fn reach_armed(self) {
        if LEFT.fetch_sub(1, Relaxed) == 1 {
            tracing::error!(failpoint = self.name(), "dying here, as told");
            // Nothing runs after this, neither destructors nor flushes; should it fail, the process goes on.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    /// Arms a place from its text: `NAME` or `NAME=TIMES`.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn arm(text: &str) -> Result<Self, String> {
        let (name, times) = text.split_once('=').unwrap_or((text, "1"));
        let found = Self::ALL.iter().find(|point| point.name() == name);
        let point = *found.ok_or_else(|| {
            // Hidden, or LLVM takes minutes over what it could know of so many constants, joined.
            let names: Vec<_> = black_box(Self::ALL).iter().map(|point| point.name()).collect();
            format!("there is no failpoint {name:?}: there are {}", names.join(", "))
        })?;
        let times = times.parse::<u32>().ok().filter(|times| *times > 0);
        let times = times.ok_or_else(|| format!("{text:?} must be NAME or NAME=TIMES, from 1"))?;
        LEFT.store(times, Relaxed);
        ARMED.store(point as u8 + 1, Relaxed);
        Ok(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_place_is_refused_with_those_there_are() {
        for wrong in ["", "nowhere", "received=", "received=0", "received=x", "=1"] {
            let error = Failpoint::arm(wrong).unwrap_err();
            assert!(error.contains("received"), "{error}");
        }
        let mut names: Vec<_> = Failpoint::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Failpoint::ALL.len());
    }
}
