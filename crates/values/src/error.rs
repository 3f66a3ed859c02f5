//! Why a value could not be read.

/// A cell's bytes are not a value of its column's type. Says what was expected and where it was missed, never the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected {expected}, and byte {at} does not fit that")]
pub struct ValueError {
    /// What should have been there, with its form.
    pub expected: &'static str,
    /// Position in the cell, from 0; in an escaped part of a value the position of that part.
    pub at: usize,
}

impl ValueError {
    pub(crate) const fn new(expected: &'static str, at: usize) -> Self {
        Self { expected, at }
    }

    /// The same error, of a part that starts at `offset`.
    pub(crate) const fn within(self, offset: usize) -> Self {
        Self { expected: self.expected, at: self.at.saturating_add(offset) }
    }
}
