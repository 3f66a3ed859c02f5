//! Why a value could not be read.

use crate::decoder::ELEMENTS_MAX;

/// A cell's bytes are not a value of its column's type. Says what was expected and where it was missed, never the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ValueError {
    /// Not the text or binary form of the type.
    #[error("expected {expected}, and byte {at} does not fit that")]
    Unreadable {
        /// What should have been there, with its form.
        expected: &'static str,
        /// Position in the cell, from 0; in an escaped part of a value the position of that part.
        at: usize,
    },
    /// More parts than may be held in memory at once.
    #[error("the value has more than {ELEMENTS_MAX} parts, which is too many for typed form: read it as text")]
    TooLarge,
}

impl ValueError {
    pub(crate) const fn new(expected: &'static str, at: usize) -> Self {
        Self::Unreadable { expected, at }
    }

    /// The same error, of a part that starts at `offset`.
    pub(crate) const fn within(self, offset: usize) -> Self {
        match self {
            Self::Unreadable { expected, at } => Self::Unreadable { expected, at: at.saturating_add(offset) },
            Self::TooLarge => self,
        }
    }
}
