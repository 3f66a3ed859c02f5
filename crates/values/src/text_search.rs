//! `tsvector`: quoted words with positions and weights.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::error::ValueError;
use crate::quoting::{Escapes, quoted};

const VECTOR: &str = "a tsvector, 'word':1A,2 'word'";

/// Highest position in a document.
const POSITION_MAX: u64 = 16_383;

/// A document's words, not yet read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextVector<'a> {
    pub(crate) text: &'a [u8],
}

/// A word of a `tsvector`.
#[derive(Clone, Debug)]
pub struct Lexeme<'a> {
    /// The word.
    pub text: Cow<'a, [u8]>,
    /// Where it stands in its document.
    pub positions: Positions<'a>,
}

/// The positions of a word, not yet read.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a>(Cursor<'a>);

/// A place in a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// From 1 to 16,383.
    pub position: u16,
    /// `A`, `B`, `C`, or `D`, the default.
    pub weight: u8,
}

impl TextVector<'_> {
    /// Gives each word in order.
    ///
    /// # Errors
    /// When the text is not a `tsvector`, though words may have been given before that was found; and what `each` fails
    /// with.
    pub fn read(&self, mut each: impl FnMut(Lexeme<'_>) -> Result<(), ValueError>) -> Result<(), ValueError> {
        let mut cursor = Cursor::new(self.text, VECTOR);
        while cursor.peek().is_some() {
            if cursor.at() > 0 {
                cursor.want(b' ')?;
            }
            let text = quoted(&mut cursor, Escapes { quote: b'\'', doubled: true })?;
            let rest = cursor.rest();
            let positions = cursor.split(memchr::memchr(b' ', rest).unwrap_or(rest.len()));
            each(Lexeme { text, positions: Positions(positions) })?;
        }
        Ok(())
    }
}

impl Positions<'_> {
    /// Gives each position in order.
    ///
    /// # Errors
    /// When the text behind the word is not a list of positions, though some may have been given before that was found.
    pub fn read(&self, mut each: impl FnMut(Position)) -> Result<(), ValueError> {
        let mut cursor = self.0;
        if cursor.peek().is_none() {
            return Ok(());
        }
        cursor.want(b':')?;
        loop {
            each(position(&mut cursor)?);
            if !cursor.eat(b',') {
                break;
            }
        }
        cursor.end()
    }
}

fn position(cursor: &mut Cursor<'_>) -> Result<Position, ValueError> {
    let wrong = cursor.fail();
    let number = cursor.unsigned()?;
    let position = u16::try_from(number).ok().filter(|_| (1..=POSITION_MAX).contains(&number)).ok_or(wrong)?;
    let weight = match cursor.peek() {
        Some(weight @ b'A'..=b'C') => {
            cursor.skip(1);
            weight
        }
        _ => b'D',
    };
    Ok(Position { position, weight })
}
