//! Composite values: a row's attributes, each left in text form.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::decoder::Budget;
use crate::error::ValueError;
use crate::quoting::{DOUBLED, bare, quoted};
use crate::value::Value;

pub(crate) fn composite<'a>(text: &'a [u8], budget: &mut Budget) -> Result<Value<'a>, ValueError> {
    let mut cursor = Cursor::new(text, "a row, (a,b)");
    cursor.want(b'(')?;
    let mut fields = Vec::new();
    loop {
        budget.spend()?;
        fields.push(match cursor.peek() {
            Some(b',' | b')') => None,
            Some(b'"') => Some(quoted(&mut cursor, DOUBLED)?),
            _ => Some(Cow::Borrowed(bare(&mut cursor, [b',', b')'], b"\"\\(")?)),
        });
        if !cursor.eat(b',') {
            break;
        }
    }
    cursor.want(b')')?;
    cursor.end()?;
    Ok(Value::Composite(fields))
}
