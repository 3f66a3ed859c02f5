//! A place in a text, moved forward by what is expected there.

use crate::error::ValueError;

/// Reads a text from its front; every miss is an error that names what was expected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    expected: &'static str,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(text: &'a [u8], expected: &'static str) -> Self {
        Self { text, at: 0, expected }
    }

    /// Position, from 0.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// What lies between an earlier position and this one.
    pub(crate) fn since(&self, from: usize) -> &'a [u8] {
        self.text.get(from..self.at).unwrap_or_default()
    }

    /// The error for what is here.
    #[cold]
    pub(crate) const fn fail(&self) -> ValueError {
        ValueError::new(self.expected, self.at)
    }

    #[inline]
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes).min(self.text.len());
    }

    /// A cursor for the next bytes alone, with the same positions; this one goes on behind them.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let from = self.at;
        self.skip(bytes);
        Self { text: self.text.get(..self.at).unwrap_or_default(), at: from, ..*self }
    }

    /// Takes this byte if it is here.
    #[inline]
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    /// Takes these bytes if they are here.
    pub(crate) fn eat_all(&mut self, bytes: &[u8]) -> bool {
        let here = self.rest().starts_with(bytes);
        if here {
            self.skip(bytes.len());
        }
        here
    }

    /// Takes this byte, which must be here.
    #[inline]
    pub(crate) fn want(&mut self, byte: u8) -> Result<(), ValueError> {
        if self.eat(byte) { Ok(()) } else { Err(self.fail()) }
    }

    /// Nothing may be left.
    #[inline]
    pub(crate) fn end(&self) -> Result<(), ValueError> {
        if self.at == self.text.len() { Ok(()) } else { Err(self.fail()) }
    }

    /// One decimal digit.
    #[inline]
    pub(crate) fn digit(&mut self) -> Option<u8> {
        let digit = self.peek()?.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        self.at += 1;
        Some(digit)
    }

    /// Two digits, 0 to 99.
    #[inline]
    pub(crate) fn two(&mut self) -> Result<u8, ValueError> {
        match (self.digit(), self.digit()) {
            (Some(tens), Some(ones)) => Ok(tens * 10 + ones),
            _ => Err(self.fail()),
        }
    }

    /// One digit or more.
    #[inline]
    pub(crate) fn unsigned(&mut self) -> Result<u64, ValueError> {
        let start = self.at;
        let mut value = 0_u64;
        while let Some(digit) = self.digit() {
            // Nineteen digits always fit.
            value = match self.at - start {
                ..20 => value * 10 + u64::from(digit),
                _ => value
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(digit.into()))
                    .ok_or(ValueError::new(self.expected, start))?,
            };
        }
        if self.at == start { Err(self.fail()) } else { Ok(value) }
    }

    /// A minus, perhaps, and one digit or more.
    pub(crate) fn signed(&mut self) -> Result<i64, ValueError> {
        let start = self.at;
        let negative = self.eat(b'-');
        let magnitude = self.unsigned()?;
        signed(negative, magnitude).ok_or(ValueError::new(self.expected, start))
    }
}

/// A sign and a magnitude together, if they fit.
#[inline]
pub(crate) fn signed(negative: bool, magnitude: u64) -> Option<i64> {
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}
