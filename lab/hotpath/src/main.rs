//! `dbstreamd-hotpath`: the way of rows from pgoutput messages to a chunk that is ready for the disk, without a server.
//!
//! Made to run under `valgrind --tool=callgrind`, which counts instructions: unlike seconds they are the same on a busy
//! machine. The functions that are counted are never inlined, so that they can be named to callgrind;
//! `tests/instructions.rs` does so and compares with `baseline.toml`.

use std::error::Error;
use std::process::ExitCode;

use bytes::{BufMut, Bytes, BytesMut};
use dbstreamd_log::{Appender, Log, LogOptions, Pump};
use dbstreamd_model::{Lsn, SchemaId};
use dbstreamd_source::Change;
use dbstreamd_source::postgres::Decoder;

const ROWS_PER_TRANSACTION: usize = 100;
const RELATION: u32 = 16_384;
const COLUMNS: u16 = 5;
/// Name and type of each column: a small orders table.
const TABLE: [(&str, u32); COLUMNS as usize] =
    [("id", 20), ("customer", 23), ("state", 25), ("note", 25), ("amount", 1700)];

fn main() -> ExitCode {
    let rows = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let Some(rows) = rows.filter(|rows| rows % ROWS_PER_TRANSACTION == 0 && *rows > 0) else {
        eprintln!("usage: dbstreamd-hotpath ROWS (a multiple of {ROWS_PER_TRANSACTION})");
        return ExitCode::from(2);
    };
    match run(rows) {
        Ok(events) => {
            println!("{events} events");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(rows: usize) -> Result<u64, Box<dyn Error>> {
    let messages = messages(rows);
    let mut changes = Vec::with_capacity(messages.len());
    parse(messages, &mut changes)?;
    let folder = tempfile::tempdir()?;
    let log = Log::open(LogOptions::with_dir(folder.path()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stream = log.open_stream(&"hotpath".parse()?)?;
    let mut appender = log.appender(stream)?;
    runtime.block_on(async {
        appender.begin_session().await?;
        let id = changes.iter().find_map(|change| match change {
            Change::Schema { schema, .. } => Some(appender.schema(schema, None)),
            _ => None,
        });
        append(&mut appender, &changes, id)?;
        appender.pump(Pump::Now)?;
        appender.writer_idle().await;
        Ok::<_, Box<dyn Error>>(())
    })?;
    let events = appender.next_offset().previous().0;
    drop(appender);
    log.close()?;
    Ok(events)
}

/// Counted: messages of the protocol become changes.
#[inline(never)]
fn parse(messages: Vec<Bytes>, changes: &mut Vec<Change>) -> Result<(), Box<dyn Error>> {
    let mut decoder = Decoder::default();
    for message in messages {
        decoder.decode(Lsn(1), message, changes)?;
    }
    Ok(())
}

/// Counted: changes become chunks.
#[inline(never)]
fn append(appender: &mut Appender, changes: &[Change], schema: Option<SchemaId>) -> Result<(), Box<dyn Error>> {
    for change in changes {
        match change {
            Change::Begin(head) => appender.begin_unit(*head),
            Change::Event { op, body, .. } => appender.append(*op, schema, body),
            Change::Commit { end_lsn } => {
                appender.end_unit(*end_lsn);
                appender.pump(Pump::IfFull)?;
            }
            Change::Schema { .. } | Change::Idle { .. } | Change::Unpublished { .. } => {}
        }
    }
    Ok(())
}

/// What a server sends for these rows.
fn messages(rows: usize) -> Vec<Bytes> {
    let mut messages = vec![relation()];
    for first in (0..rows).step_by(ROWS_PER_TRANSACTION) {
        let lsn = 0x0100_0000 + 256 * first as u64;
        let mut begin = BytesMut::from(&b"B"[..]);
        begin.put_u64(lsn);
        begin.put_u64(lsn);
        begin.put_u32(700);
        messages.push(begin.freeze());
        messages.extend((first..first + ROWS_PER_TRANSACTION).map(insert));
        let mut commit = BytesMut::from(&b"C\0"[..]);
        commit.put_u64(lsn);
        commit.put_u64(lsn + 48);
        commit.put_u64(lsn);
        messages.push(commit.freeze());
    }
    messages
}

fn relation() -> Bytes {
    let mut out = BytesMut::from(&b"R"[..]);
    out.put_u32(RELATION);
    out.put_slice(b"public\0load\0d");
    out.put_u16(COLUMNS);
    for (place, (name, type_oid)) in TABLE.iter().enumerate() {
        out.put_u8((place == 0).into());
        out.put_slice(name.as_bytes());
        out.put_u8(0);
        out.put_u32(*type_oid);
        out.put_i32(-1);
    }
    out.freeze()
}

fn insert(row: usize) -> Bytes {
    // Texts that compress about as hashes do.
    let hash = |seed: usize| {
        let mixed = (seed as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        format!("{:032x}", mixed ^ mixed >> 61)
    };
    let states = ["new", "paid", "sent", "done"];
    let state = states.iter().cycle().nth(row % states.len()).copied().unwrap_or_default();
    let cells: [String; COLUMNS as usize] = [
        row.to_string(),
        (row % 100_000).to_string(),
        state.to_owned(),
        [hash(row), hash(row + 1), hash(row * 7)].join("-"),
        format!("{}.{:02}", row % 10_000, row % 100),
    ];
    let mut out = BytesMut::from(&b"I"[..]);
    out.put_u32(RELATION);
    out.put_u8(b'N');
    out.put_u16(COLUMNS);
    for cell in &cells {
        out.put_u8(b't');
        out.put_u32(u32::try_from(cell.len()).unwrap_or(0));
        out.put_slice(cell.as_bytes());
    }
    out.freeze()
}
