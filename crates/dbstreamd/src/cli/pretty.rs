//! One change as one line for people.
//!
//! What a person wants to see of an update is what changed; of a delete, which row. Values are shown so that they
//! cannot harm a terminal, and are cut only to fit one.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;

use super::output::{Paint, Style};
use crate::json::values::as_cell;
use crate::json::{JsonError, operation_name};
use crate::proto::{self, cell};

/// Longest value in characters when the line must fit a terminal.
const VALUE_CHARS_MAX: usize = 48;
/// Objects of a schema change that are shown.
const OBJECTS_SHOWN_MAX: usize = 4;
/// Table names are padded to the longest seen, from and up to this, so that lines seldom jump.
const TABLE_WIDTHS: std::ops::RangeInclusive<usize> = 16..=32;

/// Renders events; remembers the schemas it was shown.
#[derive(Debug, Default)]
pub(crate) struct Pretty {
    schemas: HashMap<Bytes, proto::Schema>,
    table_width: usize,
    day: Option<String>,
}

/// Painted pieces of a line.
type Pieces = Vec<(Paint, String)>;

impl Pretty {
    /// Remembers a schema.
    pub(crate) fn learn(&mut self, schema: proto::Schema) {
        self.schemas.insert(schema.fingerprint.clone(), schema);
    }

    /// The day of this event as a line of its own, when it is another than the last event's.
    pub(crate) fn new_day(&mut self, event: &proto::Event) -> Option<String> {
        let day = jiff::Timestamp::from_microsecond(event.commit_time_us).ok()?.strftime("%Y-%m-%d UTC").to_string();
        (self.day.as_ref() != Some(&day)).then(|| self.day.insert(day).clone())
    }

    /// The event with its typed values as cells; itself if it has none.
    pub(crate) fn in_cells<'a>(&self, event: &'a proto::Event) -> Cow<'a, proto::Event> {
        let typed = |row: &Option<proto::Row>| row.as_ref().is_some_and(|row| !row.values.is_empty());
        let Some(schema) = self.schemas.get(&event.fingerprint) else { return Cow::Borrowed(event) };
        if !typed(&event.before) && !typed(&event.after) {
            return Cow::Borrowed(event);
        }
        let mut event = event.clone();
        for row in [&mut event.before, &mut event.after].into_iter().flatten() {
            row.cells = row.values.iter().zip(&schema.columns).map(|(value, column)| as_cell(value, column)).collect();
        }
        Cow::Owned(event)
    }

    /// One line, without its end; cut to `width` characters when given.
    pub(crate) fn line(
        &mut self,
        event: &proto::Event,
        style: Style,
        width: Option<usize>,
    ) -> Result<String, JsonError> {
        let operation = operation_name(event)?;
        let schema = match &event.fingerprint {
            none if none.is_empty() => None,
            fingerprint => Some(self.schemas.get(fingerprint).ok_or_else(|| JsonError::UnknownSchema {
                offset: event.offset,
                fingerprint: crate::json::hex(fingerprint),
            })?),
        };
        let table = schema.map(|schema| printable(&format!("{}.{}", schema.schema, schema.table))).unwrap_or_default();
        self.table_width =
            self.table_width.max(table.chars().count()).clamp(*TABLE_WIDTHS.start(), *TABLE_WIDTHS.end());
        let paint = match operation {
            "insert" => Paint::Good,
            "update" => Paint::Change,
            "delete" | "truncate" => Paint::Bad,
            _ => Paint::Name,
        };
        let mut pieces = vec![
            (Paint::Dim, format!("{:>8} {} {} ", event.offset, time_of_day(event.commit_time_us), bracket(event))),
            (paint, format!("{operation:<8} ")),
            (Paint::Name, format!("{table:<width$} ", width = self.table_width)),
        ];
        let cut = width.map(|_| VALUE_CHARS_MAX);
        match schema {
            Some(schema) => row_pieces(event, schema, cut, &mut pieces)?,
            None if event.schema_change.is_some() => change_pieces(event, cut, &mut pieces),
            None => message_pieces(event, cut, &mut pieces),
        }
        Ok(fit(&pieces, style, width))
    }
}

/// Ties the events of one transaction together.
fn bracket(event: &proto::Event) -> char {
    match (event.ordinal, event.last_in_transaction) {
        (0, true) => ' ',
        (0, false) => '┌',
        (_, false) => '│',
        (_, true) => '└',
    }
}

fn time_of_day(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros)
        .ok()
        .filter(|_| micros != 0)
        .map_or_else(|| " ".repeat(12), |time| time.strftime("%H:%M:%S%.3f").to_string())
}

fn row_pieces(
    event: &proto::Event,
    schema: &proto::Schema,
    cut: Option<usize>,
    pieces: &mut Pieces,
) -> Result<(), JsonError> {
    for row in [&event.before, &event.after].into_iter().flatten() {
        if row.cells.len() != schema.columns.len() {
            let (cells, columns) = (row.cells.len(), schema.columns.len());
            return Err(JsonError::CellCount { offset: event.offset, cells, columns });
        }
    }
    if let Some(truncate) = &event.truncate {
        let flags = [(truncate.cascade, "cascade "), (truncate.restart_identity, "restart identity")];
        let words = flags.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
        pieces.push((Paint::Dim, words));
    }
    let cells = |row: &Option<proto::Row>, i: usize| row.as_ref().and_then(|row| row.cells.get(i)).cloned();
    for (i, column) in schema.columns.iter().enumerate() {
        let (before, after) = (cells(&event.before, i), cells(&event.after, i));
        let known_before = event.before_is_full || column.in_identity;
        let name = (Paint::Dim, format!("{}=", printable(&column.name)));
        match (before.filter(|_| known_before), after) {
            (Some(before), Some(after)) if before != after => {
                pieces.push(name);
                pieces.push((Paint::Dim, value(&before, cut)));
                pieces.push((Paint::Change, "→".to_owned()));
                pieces.push((Paint::Bold, value(&after, cut)));
            }
            // Of a full old row only what identifies and what changed is news.
            (Some(_), Some(after)) if is_key(schema, column, i) => pieces.extend([name, shown(&after, cut)]),
            (Some(_), Some(_)) => continue,
            (None, Some(cell)) | (Some(cell), None) => pieces.extend([name, shown(&cell, cut)]),
            (None, None) => continue,
        }
        pieces.push((Paint::Plain, " ".to_owned()));
    }
    Ok(())
}

/// Under REPLICA IDENTITY FULL every column is in the identity; the first one stands for the key then.
fn is_key(schema: &proto::Schema, column: &proto::Column, index: usize) -> bool {
    match schema.replica_identity() {
        proto::ReplicaIdentity::Full => index == 0,
        _ => column.in_identity,
    }
}

fn message_pieces(event: &proto::Event, cut: Option<usize>, pieces: &mut Pieces) {
    let Some(message) = &event.message else { return };
    let prefix = match std::str::from_utf8(&message.prefix) {
        Ok(prefix) => printable(prefix),
        Err(_) => format!("not-utf8:{}", crate::json::hex(&message.prefix)),
    };
    pieces.push((Paint::Bold, prefix));
    let content = proto::Cell { value: Some(cell::Value::Text(message.content.clone())) };
    pieces.push((Paint::Plain, format!(": {}", value(&content, cut))));
}

/// What kind of change, of what, and the statement as far as there is room.
fn change_pieces(event: &proto::Event, cut: Option<usize>, pieces: &mut Pieces) {
    let Some(change) = &event.schema_change else { return };
    pieces.push((Paint::Bold, printable(&change.command_tag)));
    let changed = change.objects.iter().map(|object| (Paint::Name, object));
    let dropped = change.dropped.iter().map(|object| (Paint::Bad, object));
    for (paint, object) in changed.chain(dropped).take(OBJECTS_SHOWN_MAX) {
        pieces.push((Paint::Plain, " ".to_owned()));
        pieces.push((paint, printable(&object.identity)));
    }
    for table in &change.diverged {
        pieces.push((Paint::Bad, printable(&format!(" {}.{} diverged", table.schema, table.table))));
    }
    if !change.error.is_empty() {
        pieces.push((Paint::Bad, printable(&format!(" incomplete: {}", change.error))));
    }
    if !change.statement.is_empty() {
        let statement = proto::Cell { value: Some(cell::Value::Text(change.statement.clone().into())) };
        pieces.push((Paint::Dim, format!(": {}", value(&statement, cut))));
    }
}

fn shown(cell: &proto::Cell, cut: Option<usize>) -> (Paint, String) {
    let paint = match cell.value {
        None | Some(cell::Value::Unchanged(_)) => Paint::Dim,
        _ => Paint::Plain,
    };
    (paint, value(cell, cut))
}

fn value(cell: &proto::Cell, cut: Option<usize>) -> String {
    let text = match &cell.value {
        None => return "null".to_owned(),
        Some(cell::Value::Unchanged(_)) => return "(unchanged)".to_owned(),
        Some(cell::Value::Binary(bytes)) => return shorten(format!("binary:{}", crate::json::hex(bytes)), cut),
        Some(cell::Value::Text(text)) => text,
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return shorten(format!("not-utf8:{}", crate::json::hex(text)), cut);
    };
    let bare =
        !text.is_empty() && text != "null" && !text.contains(|c: char| c.is_whitespace() || matches!(c, '\'' | '→'));
    let text = shorten(text.to_owned(), cut);
    if bare { printable(&text) } else { format!("'{}'", printable(&text).replace('\'', "''")) }
}

fn shorten(text: String, cut: Option<usize>) -> String {
    match cut {
        Some(most) if text.chars().count() > most => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        _ => text,
    }
}

/// Text without anything a terminal would obey or hide: control characters, and those that reorder or vanish.
fn printable(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if !text.contains(harmful) {
        return text.to_owned();
    }
    text.chars().fold(String::new(), |mut shown, c| {
        match harmful(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
        shown
    })
}

/// Paints the pieces, at most `width` characters of them.
fn fit(pieces: &Pieces, style: Style, width: Option<usize>) -> String {
    let mut left = width.unwrap_or(usize::MAX);
    let mut line = String::new();
    for (paint, text) in pieces {
        let length = text.chars().count();
        if length > left {
            let head: String = text.chars().take(left.saturating_sub(1)).collect();
            style.paint(*paint, &format!("{head}…"), &mut line);
            return line;
        }
        left -= length;
        style.paint(*paint, text, &mut line);
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colour: false };

    fn products(identity: proto::ReplicaIdentity) -> proto::Schema {
        let column =
            |name: &str, in_identity| proto::Column { name: name.into(), in_identity, ..proto::Column::default() };
        let full = identity == proto::ReplicaIdentity::Full;
        proto::Schema {
            fingerprint: Bytes::from_static(&[1; 16]),
            schema: "shop".into(),
            table: "products".into(),
            replica_identity: identity.into(),
            columns: vec![column("id", true), column("name", full), column("stock", full)],
            ..Default::default()
        }
    }

    fn row(cells: [Option<&str>; 3]) -> Option<proto::Row> {
        let cell = |text: Option<&str>| proto::Cell {
            value: text.map(|text| match text {
                "(unchanged)" => cell::Value::Unchanged(true),
                text => cell::Value::Text(Bytes::copy_from_slice(text.as_bytes())),
            }),
        };
        Some(proto::Row { cells: cells.into_iter().map(cell).collect(), ..Default::default() })
    }

    fn line(identity: proto::ReplicaIdentity, event: proto::Event, width: Option<usize>) -> String {
        let mut pretty = Pretty::default();
        pretty.learn(products(identity));
        let event = proto::Event {
            offset: 12,
            commit_time_us: 1_700_000_000_123_456,
            fingerprint: Bytes::from_static(&[1; 16]),
            ..event
        };
        pretty.line(&event, PLAIN, width).unwrap()
    }

    #[test]
    fn an_update_shows_what_changed_as_far_as_the_source_says() {
        let operation = proto::Operation::Update.into();
        let full = proto::Event {
            operation,
            before: row([Some("3"), Some("Oak table"), Some("17")]),
            before_is_full: true,
            after: row([Some("3"), Some("Oak table"), Some("16")]),
            last_in_transaction: true,
            ..proto::Event::default()
        };
        assert_eq!(
            line(proto::ReplicaIdentity::Full, full, None),
            "      12 22:13:20.123   update   shop.products    id=3 stock=17→16"
        );
        let key = proto::Event {
            operation,
            before: row([Some("3"), None, None]),
            after: row([Some("4"), Some("(unchanged)"), None]),
            ..proto::Event::default()
        };
        assert_eq!(
            line(proto::ReplicaIdentity::Default, key, None),
            "      12 22:13:20.123 ┌ update   shop.products    id=3→4 name=(unchanged) stock=null"
        );
    }

    #[test]
    fn a_delete_names_the_row_and_an_insert_all_of_it() {
        let delete = proto::Event {
            operation: proto::Operation::Delete.into(),
            before: row([Some("3"), None, None]),
            ordinal: 1,
            last_in_transaction: true,
            ..proto::Event::default()
        };
        assert!(line(proto::ReplicaIdentity::Default, delete, None).ends_with("└ delete   shop.products    id=3"));
        let insert = proto::Event {
            operation: proto::Operation::Insert.into(),
            after: row([Some("3"), Some("it's"), Some("")]),
            ..proto::Event::default()
        };
        assert!(line(proto::ReplicaIdentity::Default, insert, None).ends_with("id=3 name='it''s' stock=''"));
    }

    #[test]
    fn values_cannot_harm_a_terminal_and_lines_fit_it() {
        let insert = proto::Event {
            operation: proto::Operation::Insert.into(),
            after: row([Some("\u{1b}]0;x\u{7}"), Some("\u{202e}"), Some(&"x".repeat(200))]),
            ..proto::Event::default()
        };
        let whole = line(proto::ReplicaIdentity::Default, insert.clone(), None);
        assert!(whole.contains(r"id=\u{1b}]0;x\u{7} name=\u{202e} ") && whole.len() > 200, "{whole}");
        let fitted = line(proto::ReplicaIdentity::Default, insert, Some(70));
        assert_eq!(fitted.chars().count(), 70);
        assert!(fitted.ends_with('…'));
    }
}
