//! Reading: where to start, and how a reader follows the log at its own pace.
//!
//! `disk` reads chunks out of partitions, `lent` shares them among readers of the same, `seek` finds where to start, `reader` is
//! one consumer's cursor, `tail` what a crowd gets in one piece, `cursor` walks over stored units. All of them see what is visible and nothing else.

mod cursor;
mod disk;
mod lent;
mod reader;
mod restore;
mod seek;
mod tail;

use dbstreamd_model::{Lsn, Offset, Timestamp};

pub use cursor::{UnitCursor, UnitRecord};
pub(crate) use disk::{chunk_at, verify_newest};
pub(crate) use lent::{LastRead, Lent};
pub use reader::{READ_AHEAD_BYTES_MAX, Reader};
pub use restore::SchemaCandidate;
pub(crate) use restore::identify;
pub(crate) use seek::start_offset;
pub(crate) use tail::Pieces;
pub use tail::{PieceForm, Tail, TailMoves, TailPiece};

/// Where a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest event that retention kept.
    Earliest,
    /// The next event to become visible.
    Latest,
    /// This event.
    Offset(Offset),
    /// The first unit of the newest epoch that ends after this position.
    Lsn(Lsn),
    /// The first unit with which the running maximum of commit times reaches this time. Commit times are not in
    /// order, so a few later units may have been committed before it. It is the maximum over all epochs.
    Time(Timestamp),
}
