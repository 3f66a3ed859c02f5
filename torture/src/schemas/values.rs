//! Types of columns, and literals of them, in SQL.

use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::schemas::catalog::quoted;

/// Types for columns that are no keys.
const TYPES: [&str; 27] = [
    "smallint",
    "integer",
    "bigint",
    "numeric",
    "numeric(10,2)",
    "text",
    "text",
    "text",
    "character varying(20)",
    "character varying",
    "character(5)",
    "bytea",
    "boolean",
    "double precision",
    "timestamp without time zone",
    "timestamp with time zone",
    "date",
    "interval",
    "uuid",
    "jsonb",
    "inet",
    "integer[]",
    "text[]",
    "s1.mood",
    "s1.mood[]",
    "s1.amount",
    "s1.pair",
];

/// Types for keys.
const KEY_TYPES: [&str; 5] = ["integer", "bigint", "text", "uuid", "numeric"];

/// A value of this many characters does not fit into a page, and digits chosen at random do not compress.
const LARGE_CHARS_MIN: usize = 3_000;
const LARGE_CHARS_MAX: usize = 14_000;

pub(crate) fn type_of(rng: &mut SmallRng) -> &'static str {
    pick(rng, &TYPES).copied().unwrap_or("text")
}

pub(crate) fn key_type(rng: &mut SmallRng) -> &'static str {
    pick(rng, &KEY_TYPES).copied().unwrap_or("integer")
}

/// One of these, if there is any.
pub(crate) fn pick<'a, T>(rng: &mut SmallRng, from: &'a [T]) -> Option<&'a T> {
    if from.is_empty() { None } else { from.get(rng.random_range(0..from.len())) }
}

/// Whether a step of this chance, in percent, is taken.
pub(crate) fn chance(rng: &mut SmallRng, percent: u32) -> bool {
    rng.random_range(0..100) < percent
}

/// A literal that no other row has: `n` is one.
pub(crate) fn unique(type_sql: &str, n: u64) -> String {
    match type_sql {
        "text" | "character varying" => format!("'key {n} ä'"),
        "uuid" => format!("md5('{n}')::uuid"),
        "numeric" => format!("{n}.{:02}", n % 100),
        "timestamp without time zone" | "timestamp with time zone" => {
            format!("'epoch'::timestamp + {n} * interval '1 s'")
        }
        other => format!("'{n}'::{other}"),
    }
}

/// A value that has to be computed for each row, and is the same in every run.
pub(crate) fn volatile(type_sql: &str) -> Option<&'static str> {
    Some(match type_sql {
        "integer" => "nextval('s1.numbers')::int4",
        "bigint" => "nextval('s1.numbers')",
        "numeric" => "nextval('s1.numbers') / 7.0",
        "text" => "md5(nextval('s1.numbers')::text)",
        "boolean" => "nextval('s1.numbers') % 2 = 0",
        _ => return None,
    })
}

/// A constant of a type.
pub(crate) fn literal(rng: &mut SmallRng, type_sql: &str, labels: &[String], attributes: u32) -> String {
    if let Some(element) = type_sql.strip_suffix("[]") {
        let count = rng.random_range(0..4);
        let elements: Vec<String> = (0..count).map(|_| literal(rng, element, labels, attributes)).collect();
        return format!("ARRAY[{}]::{type_sql}", elements.join(", "));
    }
    let base = type_sql.split('(').next().unwrap_or(type_sql);
    match base {
        "smallint" => rng.random_range(-99..99_i32).to_string(),
        "integer" | "bigint" => rng.random_range(-99_999..99_999_i64).to_string(),
        "numeric" if type_sql == "numeric" => {
            format!("{}.{:0width$}", rng.random::<i64>(), rng.random::<u32>(), width = rng.random_range(1..30))
        }
        "numeric" | "s1.amount" => format!("{}.{:02}", rng.random_range(0..99_999), rng.random_range(0..100)),
        "text" | "character varying" if base == type_sql => text(rng),
        "character varying" | "character" => format!("'{:x}'", rng.random_range(0..0xF_FFFF)),
        "bytea" => {
            let bytes = if chance(rng, 20) { rng.random_range(2_000..5_000) } else { rng.random_range(0..12) };
            format!("'\\x{}'::bytea", hexadecimal(rng, bytes * 2))
        }
        "boolean" => rng.random_bool(0.5).to_string(),
        "double precision" => match rng.random_range(0..8) {
            0 => "'NaN'::float8".to_owned(),
            1 => "'-Infinity'::float8".to_owned(),
            2 => "'-0'::float8".to_owned(),
            _ => format!("'{:e}'::float8", rng.random::<f64>() * 1e12),
        },
        "timestamp without time zone" | "timestamp with time zone" => match rng.random_range(0..8) {
            0 => format!("'infinity'::{type_sql}"),
            1 => format!("'0044-03-15 12:00:00 BC'::{type_sql}"),
            _ => {
                let (seconds, micros) = (rng.random_range(0..2_000_000_000_u32), rng.random_range(0..1_000_000_u32));
                format!("(timestamp 'epoch' + interval '{seconds}.{micros:06} s')::{type_sql}")
            }
        },
        "date" => format!("date '2000-01-01' + {}", rng.random_range(-900_000..900_000)),
        "interval" => format!("interval '{} mon {} d {} us'", small(rng), small(rng), rng.random::<i32>()),
        "uuid" => format!("md5('{}')::uuid", rng.random::<u32>()),
        "jsonb" => format!("'{{\"a\": [{}, null], \"ü\": \"{:x}\"}}'::jsonb", small(rng), rng.random::<u32>()),
        "inet" => format!("'10.{}.0.0/16'::inet", rng.random_range(0..256)),
        "s1.mood" => match pick(rng, labels) {
            Some(label) => format!("{}::s1.mood", string(label)),
            None => "NULL".to_owned(),
        },
        "s1.pair" => {
            let more = (2..attributes).fold(String::new(), |mut more, number| {
                // Writing to a String cannot fail.
                let _ = write!(more, ", {number}");
                more
            });
            format!("ROW({}, {}{more})::s1.pair", small(rng), string(&hexadecimal(rng, 6)))
        }
        _ => "NULL".to_owned(),
    }
}

fn small(rng: &mut SmallRng) -> i32 {
    rng.random_range(-999..999)
}

fn text(rng: &mut SmallRng) -> String {
    match rng.random_range(0..10) {
        0..=2 => {
            let length = rng.random_range(LARGE_CHARS_MIN..LARGE_CHARS_MAX);
            string(&hexadecimal(rng, length))
        }
        3 => "''".to_owned(),
        4 => string("it's {\"odd\", NULL} \\ \t\n ☃"),
        _ => string(&format!("v{:x}", rng.random::<u32>())),
    }
}

fn hexadecimal(rng: &mut SmallRng, digits: usize) -> String {
    let mut out = String::with_capacity(digits + 16);
    while out.len() < digits {
        // Writing to a String cannot fail.
        let _ = write!(out, "{:016x}", rng.random::<u64>());
    }
    out.truncate(digits);
    out
}

/// A string as SQL writes it; `standard_conforming_strings` is on.
pub(crate) fn string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Names, as SQL writes them, each made up anew: some have quotes, some are as long as names can be.
pub(crate) fn name(rng: &mut SmallRng, prefix: &str, n: u64) -> String {
    match rng.random_range(0..10) {
        0 => quoted(&format!("{prefix} \"Odd\" {n}")),
        1 => quoted(&format!("{prefix}_ünï_{n}")),
        2 => quoted(&format!("{:x<63}", format!("{prefix}{n}_"))),
        _ => format!("{prefix}{n}"),
    }
}
