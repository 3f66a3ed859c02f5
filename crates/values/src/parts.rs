//! Parts of a value, which are read one by one when it is their turn.
//!
//! A value of many parts keeps its text and gives them to a function: nothing is collected, so that it takes as little
//! memory as one of two. Its text is checked on the way, and all of it is checked only when all of it was given.

use std::borrow::Cow;

use crate::decoder::Decoder;
use crate::error::ValueError;
use crate::value::Value;

/// An element of an array, or a bound of a range: its text, and how it is read.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// Borrowed if it stands there as it is, owned if something in it was escaped.
    text: Cow<'a, [u8]>,
    /// Where it stands in the value it is a part of.
    at: usize,
    decoder: &'a Decoder,
}

impl<'a> Part<'a> {
    pub(crate) const fn new(text: Cow<'a, [u8]>, at: usize, decoder: &'a Decoder) -> Self {
        Self { text, at, decoder }
    }

    /// Length of its text, in bytes.
    #[inline]
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    /// Reads it, and gives it to `take`, which may have parts of it read in turn.
    ///
    /// # Errors
    /// When it is not a value of its type, and what `take` fails with, which is taken to be an error in this part.
    #[inline]
    pub fn read<T>(&self, take: impl FnOnce(Value<'_>) -> Result<T, ValueError>) -> Result<T, ValueError> {
        self.decoder.text(&self.text).and_then(take).map_err(|error| error.within(self.at))
    }
}
