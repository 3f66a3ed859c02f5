//! `Input`: reads fields off the front of a message, and knows which message it is in when one is missing.

use dbstreamd_model::{Lsn, Name};

use crate::ParseError;

/// The namespace of PostgreSQL's own types, which it sends as an empty one.
pub(crate) const PG_CATALOG: &str = "pg_catalog";

/// What is left of one message.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    message: &'static str,
}

impl<'a> Input<'a> {
    #[inline]
    pub(crate) const fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Self { bytes, message }
    }

    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ParseError> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or_else(|| self.truncated(field))?;
        self.bytes = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn byte(&mut self, field: &'static str) -> Result<u8, ParseError> {
        let [byte] = self.take(field)?;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, ParseError> {
        self.take(field).map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, ParseError> {
        self.take(field).map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Result<i32, ParseError> {
        self.take(field).map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Result<i64, ParseError> {
        self.take(field).map(i64::from_be_bytes)
    }

    pub(crate) fn lsn(&mut self, field: &'static str) -> Result<Lsn, ParseError> {
        self.take(field).map(u64::from_be_bytes).map(Lsn)
    }

    /// The next `length` bytes.
    pub(crate) fn bytes(&mut self, length: u32, field: &'static str) -> Result<&'a [u8], ParseError> {
        // A length that the machine cannot address is a length that the input cannot have.
        let length = usize::try_from(length).map_err(|_| self.truncated(field))?;
        let (head, rest) = self.bytes.split_at_checked(length).ok_or_else(|| self.truncated(field))?;
        self.bytes = rest;
        Ok(head)
    }

    /// The bytes up to the next NUL, which is passed over.
    pub(crate) fn string_bytes(&mut self, field: &'static str) -> Result<&'a [u8], ParseError> {
        let end = self.bytes.iter().position(|&byte| byte == 0).ok_or_else(|| self.truncated(field))?;
        let (head, rest) = self.bytes.split_at_checked(end).ok_or_else(|| self.truncated(field))?;
        self.bytes = rest.get(1..).unwrap_or_default();
        Ok(head)
    }

    pub(crate) fn name(&mut self, field: &'static str) -> Result<Name<'a>, ParseError> {
        self.string_bytes(field).map(Name::new)
    }

    /// A namespace, never empty.
    pub(crate) fn namespace(&mut self) -> Result<Name<'a>, ParseError> {
        let name = self.name("namespace")?;
        Ok(if name.as_bytes().is_empty() { Name::new(PG_CATALOG.as_bytes()) } else { name })
    }

    /// Accepts only the end of the message.
    pub(crate) const fn end(&self) -> Result<(), ParseError> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(ParseError::Trailing { message: self.message, left }),
        }
    }

    pub(crate) const fn truncated(&self, field: &'static str) -> ParseError {
        ParseError::Truncated { message: self.message, field }
    }

    pub(crate) const fn undefined(&self, field: &'static str, value: u64) -> ParseError {
        ParseError::Undefined { message: self.message, field, value }
    }
}
