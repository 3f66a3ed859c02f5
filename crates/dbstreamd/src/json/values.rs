//! Typed values as JSON: the table is in docs/types.md.
//!
//! Whether an integer is a number or a string is decided by its column's type, never by its size: what a script sees of a
//! column does not change with its values. No value passes through a double that is not one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dbstreamd_model::Lsn;
use dbstreamd_values::Value as Plain;

use super::{put, put_text};
use crate::proto::value::Kind;
use crate::proto::{self, GeometryKind, Infinity, TypeKind, Value};

/// Whether a column's integers are strings: those of 64 bits, alone or in arrays and ranges.
pub(super) fn wide(column: &proto::Column) -> bool {
    let mut name = column.type_name.as_str();
    let mut described = column.r#type.as_ref();
    while let Some(inner) = described {
        name = inner.name.as_str();
        // An enum called int8 has a schema in front of it.
        if inner.kind() == TypeKind::Composite {
            return false;
        }
        described = inner.inner.as_deref();
    }
    let name = name.strip_prefix('_').unwrap_or(name);
    matches!(name, "int8" | "xid8" | "int8range" | "int8multirange")
}

/// One value. `wide` is what [`wide`] says of its column.
pub(super) fn put_value(out: &mut Vec<u8>, value: &Value, wide: bool) {
    let Some(kind) = &value.kind else { return out.extend_from_slice(b"null") };
    match kind {
        // Unchanged cells are named apart, and occur nowhere else.
        Kind::Unchanged(_) => out.extend_from_slice(b"null"),
        Kind::Boolean(value) => put(out, format_args!("{value}")),
        Kind::Integer(number) if wide => put(out, format_args!("\"{number}\"")),
        Kind::Integer(number) => put(out, format_args!("{number}")),
        Kind::Unsigned(number) if wide => put(out, format_args!("\"{number}\"")),
        Kind::Unsigned(number) => put(out, format_args!("{number}")),
        Kind::Float(number) if number.is_finite() => drop(serde_json::to_writer(&mut *out, number)),
        Kind::Float(number) => put_plain(out, &Plain::Float(*number)),
        Kind::Double(number) => put_double(out, *number),
        Kind::Numeric(text) => put_text(out, text.as_bytes()),
        Kind::Text(text) | Kind::Label(text) | Kind::Xml(text) => put_text(out, text),
        Kind::Bytes(bytes) => put(out, format_args!("{{\"base64\":\"{}\"}}", BASE64.encode(bytes))),
        Kind::Binary(bytes) => put(out, format_args!("{{\"binary\":\"{}\"}}", BASE64.encode(bytes))),
        Kind::Date(days) => put_plain(out, &Plain::Date(*days)),
        Kind::Time(micros) => put_plain(out, &Plain::Time(*micros)),
        Kind::Timetz(proto::TimeTz { time, utc_offset }) => {
            let value = dbstreamd_values::TimeTz { time: *time, utc_offset: *utc_offset };
            put_plain(out, &Plain::TimeTz(value));
        }
        Kind::Timestamp(micros) => put_timestamp(out, &Plain::Timestamp(*micros)),
        Kind::Timestamptz(micros) => put_timestamp(out, &Plain::TimestampTz(*micros)),
        Kind::Infinity(infinity) => {
            let negative = *infinity == i32::from(Infinity::Negative);
            out.extend_from_slice(if negative { b"\"-infinity\"" } else { b"\"infinity\"" });
        }
        Kind::Interval(interval) => put_interval(out, interval),
        Kind::Uuid(bytes) => match <[u8; 16]>::try_from(bytes.as_ref()) {
            Ok(uuid) => put_plain(out, &Plain::Uuid(uuid)),
            Err(_) => put(out, format_args!("{{\"base64\":\"{}\"}}", BASE64.encode(bytes))),
        },
        Kind::Json(text) => put_json(out, text),
        Kind::Array(array) => put_array(out, array, wide),
        Kind::Range(range) => put_range(out, range, wide),
        Kind::Multirange(multirange) => put_list(out, &multirange.ranges, |out, range| put_range(out, range, wide)),
        Kind::Composite(composite) => put_list(out, &composite.fields, |out, field| put_value(out, field, false)),
        Kind::BitString(bits) => {
            out.push(b'"');
            let all = bits.bits.iter().flat_map(|byte| (0..8).rev().map(move |place| b'0' + (byte >> place & 1)));
            out.extend(all.take(bits.length as usize));
            out.push(b'"');
        }
        Kind::Network(network) => put_network(out, network),
        Kind::MacAddress(bytes) => {
            let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            put(out, format_args!("\"{}\"", pairs.join(":")));
        }
        Kind::Geometry(geometry) => put_geometry(out, geometry),
        Kind::Money(hundredths) => {
            let sign = if *hundredths < 0 { "-" } else { "" };
            let all = hundredths.unsigned_abs();
            put(out, format_args!("\"{sign}{}.{:02}\"", all / 100, all % 100));
        }
        Kind::Lsn(lsn) => put(out, format_args!("\"{}\"", Lsn(*lsn))),
        Kind::TextVector(vector) => put_list(out, &vector.lexemes, |out, lexeme| {
            out.extend_from_slice(b"{\"text\":");
            put_text(out, &lexeme.text);
            out.extend_from_slice(b",\"positions\":");
            put_list(out, &lexeme.positions, |out, place| {
                let weight = if place.weight.is_empty() { "D" } else { &place.weight };
                put(out, format_args!("{{\"position\":{},\"weight\":\"{weight}\"}}", place.position));
            });
            out.push(b'}');
        }),
    }
}

fn put_list<T>(out: &mut Vec<u8>, items: &[T], put_item: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        put_item(out, item);
    }
    out.push(b']');
}

/// The shortest number that reads back to the same bits; a string for what is no number in JSON.
fn put_double(out: &mut Vec<u8>, number: f64) {
    match number.is_finite() {
        // A finite number always serializes.
        true => drop(serde_json::to_writer(&mut *out, &number)),
        false => put_plain(out, &Plain::Double(number)),
    }
}

/// PostgreSQL's text form, which is ASCII here.
fn put_plain(out: &mut Vec<u8>, value: &Plain<'_>) {
    out.push(b'"');
    value.to_text(out);
    out.push(b'"');
}

/// ISO 8601 for years of four digits; else as PostgreSQL writes it, because ISO 8601 can not.
fn put_timestamp(out: &mut Vec<u8>, value: &Plain<'_>) {
    let start = out.len() + 1;
    put_plain(out, value);
    let Some(text) = out.get_mut(start..) else { return };
    if text.get(4) != Some(&b'-') || text.ends_with(b" BC\"") {
        return;
    }
    if let Some(gap) = text.get_mut(10) {
        *gap = b'T';
    }
    if text.ends_with(b"+00\"") {
        out.truncate(out.len() - b"+00\"".len());
        out.extend_from_slice(b"Z\"");
    }
}

/// ISO 8601 with a sign for each part, as PostgreSQL's IntervalStyle iso_8601 has it.
fn put_interval(out: &mut Vec<u8>, interval: &proto::Interval) {
    const SECOND: i64 = 1_000_000;
    let (hours, minutes) = (interval.time / (3_600 * SECOND), interval.time / (60 * SECOND) % 60);
    let (seconds, micros) = (interval.time / SECOND % 60, interval.time % SECOND);
    out.extend_from_slice(b"\"P");
    let start = out.len();
    for (number, unit) in [(interval.months / 12, 'Y'), (interval.months % 12, 'M'), (interval.days, 'D')] {
        if number != 0 {
            put(out, format_args!("{number}{unit}"));
        }
    }
    if interval.time != 0 || out.len() == start {
        out.push(b'T');
        for (number, unit) in [(hours, 'H'), (minutes, 'M')] {
            if number != 0 {
                put(out, format_args!("{number}{unit}"));
            }
        }
        if seconds != 0 || micros != 0 || interval.time == 0 {
            let sign = if seconds < 0 || micros < 0 { "-" } else { "" };
            put(out, format_args!("{sign}{}", seconds.unsigned_abs()));
            if micros != 0 {
                let digits = format!("{:06}", micros.unsigned_abs());
                put(out, format_args!(".{}", digits.trim_end_matches('0')));
            }
            out.push(b'S');
        }
    }
    out.push(b'"');
}

/// As it is, on one line. Line ends stand only between tokens, since within a string they are escaped. What is no JSON
/// after all (no PostgreSQL stores such) is an object that says so, and what is not UTF-8 is base64.
fn put_json(out: &mut Vec<u8>, text: &[u8]) {
    if std::str::from_utf8(text).is_err() {
        return put_text(out, text);
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(text) {
        Ok(_) => out.extend(text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte })),
        Err(_) => {
            out.extend_from_slice(b"{\"text\":");
            put_text(out, text);
            out.push(b'}');
        }
    }
}

/// Nested lists; when a lower bound is not 1, an object with the bounds of each dimension.
fn put_array(out: &mut Vec<u8>, array: &proto::Array, wide: bool) {
    let bounded = array.dimensions.iter().any(|dimension| dimension.lower_bound != 1);
    if bounded {
        out.extend_from_slice(b"{\"bounds\":");
        put_list(out, &array.dimensions, |out, dimension| {
            let lower = i64::from(dimension.lower_bound);
            put(out, format_args!("[{lower},{}]", lower + i64::from(dimension.length) - 1));
        });
        out.extend_from_slice(b",\"elements\":");
    }
    put_dimension(out, &array.dimensions, &array.elements, wide);
    if bounded {
        out.push(b'}');
    }
}

fn put_dimension(out: &mut Vec<u8>, dimensions: &[proto::Dimension], elements: &[Value], wide: bool) {
    match dimensions {
        [first, rest @ ..] if !rest.is_empty() => {
            let each = (elements.len() / (first.length as usize).max(1)).max(1);
            let parts: Vec<&[Value]> = elements.chunks(each).collect();
            put_list(out, &parts, |out, part| put_dimension(out, rest, part, wide));
        }
        _ => put_list(out, elements, |out, element| put_value(out, element, wide)),
    }
}

fn put_range(out: &mut Vec<u8>, range: &proto::Range, wide: bool) {
    if range.empty {
        return out.extend_from_slice(b"{\"empty\":true}");
    }
    for (before, name, bound, inclusive) in
        [('{', "lower", &range.lower, range.lower_inclusive), (',', "upper", &range.upper, range.upper_inclusive)]
    {
        put(out, format_args!("{before}\"{name}\":"));
        match bound {
            Some(value) => put_value(out, value, wide),
            None => out.extend_from_slice(b"null"),
        }
        put(out, format_args!(",\"{}_inclusive\":{inclusive}", name));
    }
    out.push(b'}');
}

fn put_network(out: &mut Vec<u8>, network: &proto::Network) {
    let address = match (<[u8; 4]>::try_from(network.address.as_ref()), <[u8; 16]>::try_from(network.address.as_ref()))
    {
        (Ok(four), _) => std::net::IpAddr::from(four),
        (_, Ok(sixteen)) => std::net::IpAddr::from(sixteen),
        _ => return put(out, format_args!("{{\"base64\":\"{}\"}}", BASE64.encode(&network.address))),
    };
    let prefix = u8::try_from(network.prefix).unwrap_or(u8::MAX);
    put_plain(out, &Plain::Network(dbstreamd_values::Network { address, prefix, cidr: network.cidr }));
}

fn put_geometry(out: &mut Vec<u8>, geometry: &proto::Geometry) {
    let named = |out: &mut Vec<u8>, names: &[&str], numbers: &[f64]| {
        for (name, number) in names.iter().zip(numbers) {
            put(out, format_args!("{name}:"));
            put_double(out, *number);
        }
    };
    let pairs: Vec<&[f64]> = geometry.coordinates.chunks(2).collect();
    let point = |out: &mut Vec<u8>, pair: &&[f64]| put_list(out, pair, |out, number| put_double(out, *number));
    match geometry.kind() {
        GeometryKind::Point => named(out, &["{\"x\"", ",\"y\""], &geometry.coordinates),
        GeometryKind::Line => named(out, &["{\"a\"", ",\"b\"", ",\"c\""], &geometry.coordinates),
        GeometryKind::Circle => named(out, &["{\"x\"", ",\"y\"", ",\"radius\""], &geometry.coordinates),
        kind => {
            out.extend_from_slice(b"{\"points\":");
            put_list(out, &pairs, point);
            if kind == GeometryKind::Path {
                put(out, format_args!(",\"open\":{}", geometry.open));
            }
        }
    }
    out.push(b'}');
}

/// A value as a cell in text form, for whoever shows cells: texts as they are, everything else as JSON.
pub(crate) fn as_cell(value: &Value, column: &proto::Column) -> proto::Cell {
    use proto::cell::Value as Shown;
    let shown = match &value.kind {
        None => None,
        Some(Kind::Unchanged(_)) => Some(Shown::Unchanged(true)),
        Some(Kind::Text(text) | Kind::Label(text) | Kind::Xml(text) | Kind::Json(text)) => {
            Some(Shown::Text(text.clone()))
        }
        Some(_) => {
            let mut out = Vec::new();
            put_value(&mut out, value, wide(column));
            // A string's quotes say nothing to a person.
            let bare = out.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
            Some(Shown::Text(bare.map_or_else(|| out.clone(), <[u8]>::to_vec).into()))
        }
    };
    proto::Cell { value: shown }
}

#[cfg(test)]
mod tests;
