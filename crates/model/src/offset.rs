//! `Offset`: an event's place in its stream.

use std::fmt;

/// An event's place in its stream: dense, starting at 1, never reused once visible.
///
/// This is what a consumer commits and seeks. As a watermark, `Offset::NONE` (0) says
/// "nothing yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// No event: the watermark of an empty stream, the position of a consumer that committed nothing.
    pub const NONE: Self = Self(0);
    /// The first event of every stream.
    pub const FIRST: Self = Self(1);

    /// The offset after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The offset before this one; `NONE` stays `NONE`.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The offset `count` events further.
    pub const fn advance(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many events lie after `earlier` up to and including `self`; zero when not ahead.
    pub const fn events_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}
