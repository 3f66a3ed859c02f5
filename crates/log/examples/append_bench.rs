//! Measures what appending costs: rows of about 184 bytes, in transactions of 100 or of 1, onto a real disk.
//!
//! `cargo run --release -p dbstreamd-log --example append_bench -- [DIR] [EVENTS]`

#![allow(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "counts of a benchmark; the index is a remainder"
)]

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use dbstreamd_log::{CreditWindow, Log, LogOptions, Pump, Retention, StartAt, UnitHead};
use dbstreamd_model::{Column, Lsn, Offset, Op, ReplicaIdentity, TableSchema, Timestamp};

type Failure = Box<dyn std::error::Error>;

/// What one read from a socket brings while catching up.
const READ_BYTES: usize = 64 * 1024;
/// How many different rows there are.
const ROWS: usize = 100_000;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let events: usize = args.next().map_or(Ok(4_000_000), |text| text.parse())?;
    // Made before the clock runs; far more than a compressor looks back.
    let rows: Vec<Vec<u8>> = (0..ROWS).map(row).collect::<Result<_, _>>()?;
    println!("| run | events/s | CPU-s per 1M | stored / body bytes | files / body bytes | flushes | peak RSS MB |");
    println!("|---|---|---|---|---|---|---|");
    for (name, unit, events) in [("tx of 100", 100, events), ("tx of 1", 1, events / 4), ("one tx", events, events)] {
        let dir = std::path::Path::new(&parent).join(format!("append-bench-{}", std::process::id()));
        let outcome = run(&dir, &rows, name, unit, events);
        std::fs::remove_dir_all(&dir)?;
        outcome?;
    }
    Ok(())
}

fn run(dir: &std::path::Path, rows: &[Vec<u8>], name: &str, unit: usize, events: usize) -> Result<(), Failure> {
    let options = LogOptions { retention: Retention { age: None, bytes: None }, ..LogOptions::with_dir(dir) };
    let log = Log::open(options)?;
    let stream = log.open_stream(&"bench".parse()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (cpu, started) = (cpu_seconds()?, Instant::now());
    let body_bytes = runtime.block_on(append(&log, stream, rows, unit, events))?;
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let millions = events as f64 / 1e6;
    println!(
        "| {name} | {:.2} M | {:.2} | {:.3} | {:.3} | {} | {} |",
        millions / elapsed,
        cpu / millions,
        log.stream_bytes(stream) as f64 / body_bytes as f64,
        log.disk_bytes() as f64 / body_bytes as f64,
        log.metrics().flushes.get(),
        peak_rss_mb()?
    );
    let started = Instant::now();
    let mut reader = log.reader(stream, StartAt::Earliest)?;
    let read = runtime.block_on(async {
        let mut read = 0;
        while let Some(slice) = reader.try_next().await? {
            read += slice.events().filter(|event| !event.body.is_empty()).count();
        }
        Ok::<_, Failure>(read)
    })?;
    eprintln!("{name}: read {read} events back at {:.2} M/s", millions / started.elapsed().as_secs_f64());
    log.close()?;
    Ok(())
}

async fn append(
    log: &Log,
    stream: dbstreamd_model::StreamId,
    rows: &[Vec<u8>],
    unit: usize,
    events: usize,
) -> Result<usize, Failure> {
    let mut appender = log.appender(stream)?;
    appender.begin_session().await?;
    let schema = appender.schema(&schema(), None);
    let window = CreditWindow::new(64 << 20);
    let (mut total, mut unread) = (0, 0);
    let mut lsn = 0;
    for (n, body) in (0..events).zip(rows.iter().cycle()) {
        if n.is_multiple_of(unit) {
            lsn += 200;
            let commit_time = Timestamp(1_700_000_000_000_000 + n as i64 * 7);
            appender.begin_unit(UnitHead { commit_lsn: Lsn(lsn), commit_time, xid: (n / unit) as u32 });
        }
        appender.append(Op::Insert, Some(schema), body);
        total += body.len();
        unread += body.len();
        if (n + 1).is_multiple_of(unit) || n + 1 == events {
            lsn += 48;
            appender.end_unit(Lsn(lsn));
        }
        if unread >= READ_BYTES {
            appender.add_credit(window.acquire(unread).await);
            appender.pump(Pump::IfIdle)?;
            unread = 0;
        }
    }
    appender.pump(Pump::Now)?;
    let mut marks = log.watch(stream)?;
    marks.wait_for(|marks| marks.visible == Offset(events as u64)).await?;
    Ok(total)
}

/// An insert as pgoutput has it: 182 bytes, 64 of which are hexadecimal digits of new hashes, as in `make bench`.
fn row(n: usize) -> Result<Vec<u8>, Failure> {
    let mut text = String::with_capacity(128);
    let mut body = Vec::with_capacity(192);
    body.extend_from_slice(b"N\0\x05");
    let cell = |body: &mut Vec<u8>, text: &mut String| {
        body.push(b't');
        body.extend_from_slice(&(text.len() as u32).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
        text.clear();
    };
    write!(text, "{}", n + 1)?;
    cell(&mut body, &mut text);
    write!(text, "{}", n % 100_000)?;
    cell(&mut body, &mut text);
    write!(text, "{}", ["new", "paid", "sent", "done"][n % 4])?;
    cell(&mut body, &mut text);
    write!(text, "{:032x}-{:032x}-{:032x}", noise(n), noise(n + 1), noise(n.wrapping_mul(7) + 1))?;
    cell(&mut body, &mut text);
    write!(text, "{}.{:02}", n % 1_000_000 / 100, n % 100)?;
    cell(&mut body, &mut text);
    Ok(body)
}

/// 128 bits that look like a hash.
fn noise(n: usize) -> u128 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    let n = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u128::from(mix(n)) << 64 | u128::from(mix(!n))
}

fn schema() -> Arc<TableSchema> {
    let column = |(name, type_name, type_oid): (&str, &str, u32)| Column {
        name: name.into(),
        type_name: type_name.into(),
        type_oid,
        type_modifier: -1,
        in_identity: name == "id",
        description: None,
    };
    let columns = [
        ("id", "int8", 20),
        ("customer", "int4", 23),
        ("state", "text", 25),
        ("note", "text", 25),
        ("amount", "numeric", 1700),
    ];
    Arc::new(TableSchema {
        namespace: "public".into(),
        table: "orders".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.map(column).into(),
    })
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Linux counts in hundredths of a second on every machine that matters here.
    Ok((ticks(11) + ticks(12)) / 100.0)
}

fn peak_rss_mb() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    Ok(line.split_whitespace().nth(1).unwrap_or("0").parse::<u64>()? / 1024)
}
