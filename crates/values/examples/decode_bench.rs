//! What reading typed values costs: CPU nanoseconds a row, for the rows of the lab's workload t2 and for other columns.
//!
//! `cargo run --release -p dbstreamd-values --example decode_bench`

#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement that cannot be made has no other answer")]

use std::hint::black_box;
use std::time::Instant;

use dbstreamd_model::{CellRef, Column};
use dbstreamd_values::{Decoder, Value, ValueError};

const ROWS: usize = 2_000_000;

/// As many different rows as stay in the cache.
const DISTINCT: usize = 256;

type Make = fn(usize) -> String;

fn main() {
    let state: Make = |i| ["new", "paid", "sent", "done"].get(i % 4).copied().unwrap_or_default().to_owned();
    let note: Make = |i| format!("{i:032x}-{:032x}-{:032x}", i * 7, i * 31);
    let t2: [(&str, Make); 5] = [
        ("int8", |i| (i * 7_919 + 1_000_000).to_string()),
        ("int4", |i| (i * 391 % 100_000).to_string()),
        ("text", state),
        ("text", note),
        ("numeric", |i| format!("{}.{:02}", i * 37 % 10_000, i % 100)),
    ];
    measure("t2: int8, int4, text, text, numeric", &t2);
    let others: [(&str, Make); 10] = [
        ("float8", |i| format!("{}.{}", i * 37, i * 7_919)),
        ("timestamptz", |i| format!("2024-02-29 12:{:02}:07.{:06}+00", i % 60, i * 37 + 1)),
        ("uuid", |i| format!("{i:08x}-0000-4000-8000-{:012x}", i * 7)),
        ("jsonb", |i| format!("{{\"a\": {i}, \"b\": [1, 2, 3]}}")),
        ("bytea", |i| format!("\\x{i:064x}")),
        ("interval", |i| format!("1 year 2 mons {} days 04:05:06", i + 2)),
        ("inet", |i| format!("10.0.{}.7", i % 256)),
        ("_int4", |i| format!("{{{i},2,3,NULL,5}}")),
        ("int4range", |i| format!("[{i},1000)")),
        ("tsvector", |i| format!("'fat':2,4A 'rat{i}':3")),
    ];
    others.iter().for_each(|column| measure(column.0, std::slice::from_ref(column)));
}

fn measure(name: &str, columns: &[(&str, Make)]) {
    let decoders: Vec<Decoder> = columns.iter().map(|(type_name, _)| Decoder::for_column(&column(type_name))).collect();
    let rows: Vec<Vec<String>> =
        (0..DISTINCT).map(|i| columns.iter().map(|(_, make)| make(i)).collect::<Vec<_>>()).collect();
    let start = Instant::now();
    for row in rows.iter().cycle().take(ROWS) {
        for (decoder, text) in decoders.iter().zip(row) {
            if let Err(error) = decoder.decode(CellRef::Text(text.as_bytes())).and_then(read) {
                panic!("{text}: {error}");
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{name:40} {:8.3} s per million rows", seconds * 1e6 / ROWS as f64);
}

/// Reads a value to its last part.
fn read(value: Value<'_>) -> Result<(), ValueError> {
    match value {
        Value::Array(array) => {
            let dimensions = array.read(|part| part.map_or(Ok(()), |part| part.read(read)))?;
            black_box(&dimensions);
        }
        Value::Range(range) => {
            let parts = range.read()?.map(|bounds| [bounds.lower, bounds.upper]);
            parts.iter().flatten().flatten().try_for_each(|part| part.read(read))?;
        }
        Value::TextVector(vector) => vector.read(|lexeme| {
            black_box(lexeme.text.len());
            lexeme.positions.read(|position| {
                black_box(&position);
            })
        })?,
        value => drop(black_box(value)),
    }
    Ok(())
}

fn column(type_name: &str) -> Column {
    let (name, type_name) = ("c".to_owned(), type_name.to_owned());
    Column { name, type_name, type_oid: 0, type_modifier: -1, in_identity: false, description: None }
}
