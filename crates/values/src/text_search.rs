//! `tsvector`: quoted words with positions and weights.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::decoder::Budget;
use crate::error::ValueError;
use crate::quoting::{Escapes, quoted};
use crate::value::{Lexeme, Position};

const VECTOR: &str = "a tsvector, 'word':1A,2 'word'";

/// Highest position in a document.
const POSITION_MAX: u64 = 16_383;

pub(crate) fn vector<'a>(text: &'a [u8], budget: &mut Budget) -> Result<Vec<Lexeme<'a>>, ValueError> {
    let mut cursor = Cursor::new(text, VECTOR);
    let mut lexemes = Vec::new();
    while cursor.peek().is_some() {
        if !lexemes.is_empty() {
            cursor.want(b' ')?;
        }
        budget.spend()?;
        let text: Cow<'a, [u8]> = quoted(&mut cursor, Escapes { quote: b'\'', doubled: true })?;
        let mut positions = Vec::new();
        if cursor.eat(b':') {
            loop {
                budget.spend()?;
                positions.push(position(&mut cursor)?);
                if !cursor.eat(b',') {
                    break;
                }
            }
        }
        lexemes.push(Lexeme { text, positions });
    }
    Ok(lexemes)
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
