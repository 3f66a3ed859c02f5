//! Composite values: a row's attributes, each left in text form.

use crate::cursor::Cursor;
use crate::error::ValueError;
use crate::quoting::{DOUBLED, bare, quoted};

/// A row's attributes: texts and nulls, not yet read. PostgreSQL prints a row without attributes like one with a single
/// null.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Composite<'a> {
    pub(crate) text: &'a [u8],
}

impl Composite<'_> {
    /// Gives each attribute in order, null as none.
    ///
    /// # Errors
    /// When the text is not a row, though attributes may have been given before that was found.
    pub fn read(&self, mut each: impl FnMut(Option<&[u8]>)) -> Result<(), ValueError> {
        let mut cursor = Cursor::new(self.text, "a row, (a,b)");
        cursor.want(b'(')?;
        loop {
            match cursor.peek() {
                Some(b',' | b')') => each(None),
                Some(b'"') => each(Some(&quoted(&mut cursor, DOUBLED)?)),
                _ => each(Some(bare(&mut cursor, [b',', b')'], b"\"\\(")?)),
            }
            if !cursor.eat(b',') {
                break;
            }
        }
        cursor.want(b')')?;
        cursor.end()
    }
}
