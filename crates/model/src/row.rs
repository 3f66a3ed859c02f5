//! The row layout of record format v1, read in place.
//!
//! It is PostgreSQL's TupleData (PostgreSQL documentation, section 55.9 "Logical Replication
//! Message Formats"), so that ingest copies a row's bytes once and never looks at them again:
//! `u16 count`, then per cell one state byte: `n` null, `u` unchanged TOAST, `t` text or `b`
//! binary, the last two followed by `u32 length` and the bytes. Integers are big-endian.

/// One row's bytes, checked once to be well-formed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowRef<'a> {
    bytes: &'a [u8],
    columns: u16,
}

/// One cell's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CellRef<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that this update did not change and PostgreSQL therefore did not send. Not null.
    Unchanged,
    /// The value in PostgreSQL's text form, in the server's encoding of the connection (UTF-8).
    Text(&'a [u8]),
    /// The value in PostgreSQL's binary form.
    Binary(&'a [u8]),
}

/// The bytes are not a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The row ends before its last cell does.
    #[error("a row ends in the middle of a cell")]
    Truncated,
    /// A cell's state byte is none of `n`, `u`, `t`, `b`.
    #[error("unknown cell state {0:#04x} in a row")]
    UnknownCell(u8),
}

impl<'a> RowRef<'a> {
    /// Reads one row from the front of `input` and moves `input` past it.
    ///
    /// # Errors
    /// When the bytes are not a whole row; `input` is then left where it was.
    #[inline]
    pub fn parse(input: &mut &'a [u8]) -> Result<Self, RowError> {
        let whole = *input;
        let (count, mut rest) = whole.split_first_chunk::<2>().ok_or(RowError::Truncated)?;
        let columns = u16::from_be_bytes(*count);
        for _ in 0..columns {
            CellRef::parse(&mut rest)?;
        }
        let length = whole.len() - rest.len();
        let bytes = whole.get(..length).ok_or(RowError::Truncated)?;
        *input = rest;
        Ok(Self { bytes, columns })
    }

    /// How many cells the row has.
    pub const fn columns(&self) -> u16 {
        self.columns
    }

    /// The row's bytes, exactly as stored.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The cells, in column order.
    #[inline]
    pub fn cells(&self) -> Cells<'a> {
        Cells { rest: self.bytes.get(2..).unwrap_or_default(), left: self.columns }
    }
}

/// Iterator over a row's cells.
#[derive(Clone, Debug)]
pub struct Cells<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Cells<'a> {
    type Item = CellRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<CellRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The row was checked when it was parsed, so this cell is there.
        CellRef::parse(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

impl ExactSizeIterator for Cells<'_> {}

impl<'a> CellRef<'a> {
    /// Reads one cell from the front of `input` and moves `input` past it.
    ///
    /// # Errors
    /// When the bytes are not a whole cell; `input` is then left where it was.
    #[inline]
    pub fn parse(input: &mut &'a [u8]) -> Result<Self, RowError> {
        let (&state, rest) = input.split_first().ok_or(RowError::Truncated)?;
        let without_value = match state {
            b't' | b'b' => None,
            b'n' => Some(Self::Null),
            b'u' => Some(Self::Unchanged),
            other => return Err(RowError::UnknownCell(other)),
        };
        if let Some(cell) = without_value {
            *input = rest;
            return Ok(cell);
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(RowError::Truncated)?;
        // A length the machine cannot address is a length the input cannot have.
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| RowError::Truncated)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(RowError::Truncated)?;
        *input = rest;
        Ok(if state == b't' { Self::Text(value) } else { Self::Binary(value) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &[u8] = b"\0\x04nut\0\0\0\x02hib\0\0\0\0";

    #[test]
    fn a_row_keeps_null_unchanged_text_and_binary_apart() {
        let mut input = [ROW, b"rest"].concat();
        let mut slice = input.as_slice();
        let row = RowRef::parse(&mut slice).unwrap();
        assert_eq!(slice, b"rest");
        let cells: Vec<_> = row.cells().collect();
        assert_eq!(cells, [CellRef::Null, CellRef::Unchanged, CellRef::Text(b"hi"), CellRef::Binary(b"")]);
        assert_eq!(row.as_bytes(), ROW);
        input.clear();
    }

    #[test]
    fn every_cut_of_a_row_is_an_error_and_consumes_nothing() {
        for cut in 0..ROW.len() {
            let mut slice = &ROW[..cut];
            assert_eq!(RowRef::parse(&mut slice), Err(RowError::Truncated));
            assert_eq!(slice.len(), cut);
        }
        assert_eq!(RowRef::parse(&mut b"\0\x01x".as_slice()), Err(RowError::UnknownCell(b'x')));
    }
}
