//! Back to PostgreSQL's text form: what [`Decoder`](crate::Decoder) reads to an equal value.
//!
//! Not every byte is what PostgreSQL would print (a float may be `1e300` instead of `1e+300`, an IPv6 address may be
//! shortened elsewhere); every value is. A value of parts has its text still.

use std::io::Write as _;

use crate::arrays::Array;
use crate::calendar;
use crate::composites::Composite;
use crate::geometry::Geometry;
use crate::ranges::{Multirange, Range};
use crate::text_search::TextVector;
use crate::times::{DAY, HOUR, MINUTE, SECOND};
use crate::value::{Interval, Network, Sign, Value};

macro_rules! put {
    // Writing to memory cannot fail.
    ($out:expr, $($form:tt)+) => { drop(write!($out, $($form)+)) };
}

impl Value<'_> {
    /// Appends the text form; nothing for [`Null`](Self::Null) and [`Unchanged`](Self::Unchanged), which have none.
    pub fn to_text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null | Self::Unchanged => {}
            Self::Boolean(value) => out.push(if *value { b't' } else { b'f' }),
            Self::Integer(value) => put!(out, "{value}"),
            Self::Unsigned(value) => put!(out, "{value}"),
            Self::Float(value) => put_float(f64::from(*value), format_args!("{value:e}"), out),
            Self::Double(value) => put_float(*value, format_args!("{value:e}"), out),
            Self::Numeric(text) | Self::Text(text) => out.extend_from_slice(text),
            Self::Json(text)
            | Self::Label(text)
            | Self::Xml(text)
            | Self::Binary(text)
            | Self::Array(Array { text, .. })
            | Self::Range(Range { text, .. })
            | Self::Multirange(Multirange { text, .. })
            | Self::Composite(Composite { text })
            | Self::Geometry(Geometry { text, .. })
            | Self::TextVector(TextVector { text }) => out.extend_from_slice(text),
            Self::Bytes(octets) => {
                out.extend_from_slice(br"\x");
                octets.for_each_piece(|piece| piece.iter().for_each(|byte| put!(out, "{byte:02x}")));
            }
            Self::Date(days) => put_date(i64::from(*days), |_| {}, out),
            Self::Time(time) => put_time(*time, out),
            Self::TimeTz(value) => {
                put_time(value.time, out);
                put_offset(value.utc_offset, out);
            }
            Self::Timestamp(micros) => put_timestamp(*micros, "", out),
            Self::TimestampTz(micros) => put_timestamp(*micros, "+00", out),
            Self::Infinity(Sign::Positive) => out.extend_from_slice(b"infinity"),
            Self::Infinity(Sign::Negative) => out.extend_from_slice(b"-infinity"),
            Self::Interval(interval) => put_interval(*interval, out),
            Self::Uuid(bytes) => {
                for (place, byte) in bytes.iter().enumerate() {
                    let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
                    put!(out, "{dash}{byte:02x}");
                }
            }
            Self::Bits(bits) => out.extend_from_slice(bits.as_text()),
            Self::Network(network) => put_network(network, out),
            Self::Mac(mac) => put_mac(mac, out),
            Self::Mac8(mac) => put_mac(mac, out),
            Self::Money(hundredths) => put_money(*hundredths, out),
            Self::Lsn(lsn) => put!(out, "{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF),
        }
    }
}

fn put_float(value: f64, text: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    match value {
        _ if value.is_nan() => out.extend_from_slice(b"NaN"),
        f64::INFINITY => out.extend_from_slice(b"Infinity"),
        f64::NEG_INFINITY => out.extend_from_slice(b"-Infinity"),
        _ => put!(out, "{text}"),
    }
}

/// A date, and what stands between it and its `BC`.
fn put_date(days: i64, between: impl Fn(&mut Vec<u8>), out: &mut Vec<u8>) {
    let (year, month, day) = calendar::civil(days);
    let bc = year <= 0;
    put!(out, "{:04}-{month:02}-{day:02}", if bc { 1 - year } else { year });
    between(out);
    if bc {
        out.extend_from_slice(b" BC");
    }
}

fn put_timestamp(micros: i64, offset: &str, out: &mut Vec<u8>) {
    let time = |out: &mut Vec<u8>| {
        out.push(b' ');
        put_time(micros.rem_euclid(DAY), out);
        out.extend_from_slice(offset.as_bytes());
    };
    put_date(micros.div_euclid(DAY), time, out);
}

fn put_time(micros: i64, out: &mut Vec<u8>) {
    put!(out, "{:02}:{:02}:{:02}", micros / HOUR, micros % HOUR / MINUTE, micros % MINUTE / SECOND);
    put_fraction(micros % SECOND, out);
}

fn put_fraction(micros: i64, out: &mut Vec<u8>) {
    if micros != 0 {
        put!(out, ".{micros:06}");
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn put_offset(seconds: i32, out: &mut Vec<u8>) {
    let east = seconds.unsigned_abs();
    put!(out, "{}{:02}", if seconds < 0 { '-' } else { '+' }, east / 3_600);
    let (minutes, rest) = (east / 60 % 60, east % 60);
    if minutes != 0 || rest != 0 {
        put!(out, ":{minutes:02}");
    }
    if rest != 0 {
        put!(out, ":{rest:02}");
    }
}

fn put_interval(Interval { months, days, time }: Interval, out: &mut Vec<u8>) {
    let start = out.len();
    // After something negative, what is not says so.
    let mut negative_before = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value != 0 {
            let gap = if out.len() > start { " " } else { "" };
            let plus = if negative_before && value > 0 { "+" } else { "" };
            put!(out, "{gap}{plus}{value} {unit}{}", if value == 1 { "" } else { "s" });
            negative_before = value < 0;
        }
    }
    if time != 0 || out.len() == start {
        let gap = if out.len() > start { " " } else { "" };
        let sign = if time < 0 {
            "-"
        } else if negative_before {
            "+"
        } else {
            ""
        };
        let (all, second) = (time.unsigned_abs(), SECOND.unsigned_abs());
        let seconds = all / second;
        put!(out, "{gap}{sign}{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
        put_fraction(i64::try_from(all % second).unwrap_or(0), out);
    }
}

fn put_network(network: &Network, out: &mut Vec<u8>) {
    put!(out, "{}", network.address);
    if network.cidr || network.prefix != if network.address.is_ipv4() { 32 } else { 128 } {
        put!(out, "/{}", network.prefix);
    }
}

fn put_mac(mac: &[u8], out: &mut Vec<u8>) {
    for (i, byte) in mac.iter().enumerate() {
        put!(out, "{}{byte:02x}", if i > 0 { ":" } else { "" });
    }
}

fn put_money(hundredths: i64, out: &mut Vec<u8>) {
    let all = hundredths.unsigned_abs();
    let digits = (all / 100).to_string();
    out.extend_from_slice(if hundredths < 0 { b"-$" } else { b"$" });
    for (i, digit) in digits.bytes().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(b',');
        }
        out.push(digit);
    }
    put!(out, ".{:02}", all % 100);
}
