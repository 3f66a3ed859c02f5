//! Skips: stretches of a stream that an operator has given up, because somebody could not read them.
//!
//! A skip removes nothing. Who can read what lies in it gets it; who cannot goes on behind it instead of stopping.

use dbstreamd_model::{Offset, StreamId, Timestamp};
use tokio::sync::oneshot;

use crate::error::LogError;
use crate::log::Log;
use crate::writer::Command;

/// So many are kept for each stream; each is a decision of an operator.
const SKIPS_MAX: usize = 1_000;

/// A stretch that may be left out by who cannot read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The first offset of it.
    pub first: Offset,
    /// The first offset behind it.
    pub next: Offset,
    /// When it was decided.
    pub at: Timestamp,
    /// By whom, and why.
    pub note: String,
}

impl Log {
    /// Records a skip, durably.
    ///
    /// # Errors
    /// When it is empty or ends beyond what is visible, when there are too many, or the log does not write.
    pub async fn skip(&self, stream: StreamId, skip: Skip) -> Result<(), LogError> {
        let stream = self.shared.stream(stream)?;
        let end = stream.published.watermarks().visible.next();
        if skip.first >= skip.next || skip.next > end {
            return Err(LogError::OffsetPastEnd { requested: skip.next, end });
        }
        if stream.skips.read().len() >= SKIPS_MAX {
            return Err(LogError::Misuse("a stream has so many skips that another would hide what is wrong with it"));
        }
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Skip { stream, skip, reply })?;
        self.shared.answer(answer).await
    }

    /// The skips of a stream, in the order of their places.
    pub fn skips(&self, stream: StreamId) -> Vec<Skip> {
        self.shared.stream(stream).map(|stream| stream.skips.read().clone()).unwrap_or_default()
    }

    /// The skip that this offset lies in, the one that goes furthest if there are several.
    pub fn skip_at(&self, stream: StreamId, offset: Offset) -> Option<Skip> {
        let stream = self.shared.stream(stream).ok()?;
        let skips = stream.skips.read();
        skips.iter().filter(|skip| (skip.first..skip.next).contains(&offset)).max_by_key(|skip| skip.next).cloned()
    }
}
