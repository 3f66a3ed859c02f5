//! Many streams, kept for different times, in one log: what the storage engine writes beyond its write-ahead log and its flushes,
//! whether writing ever stalls, and how soon trimming frees the disk.
//!
//! `cargo run --release -p dbstreamd-log --example mixed_retention -- [DIR] [STREAMS] [MEGABYTES]`

#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "counts of a benchmark")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use dbstreamd_log::{Appender, CreditWindow, Log, LogOptions, Pump, Retention, UnitHead};
use dbstreamd_model::{Lsn, Op, StreamId, Timestamp};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One event's body, which does not compress.
const BODY_BYTES: usize = 4000;
/// Events of a unit.
const UNIT: usize = 16;
/// What every other stream is kept for, once all is written.
const SHORT: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let streams: usize = args.next().map_or(Ok(200), |text| text.parse())?;
    let megabytes: u64 = args.next().map_or(Ok(20_000), |text| text.parse())?;
    let dir = std::path::Path::new(&parent).join(format!("mixed-retention-{}", std::process::id()));
    let outcome = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(run(
        &dir,
        streams,
        megabytes * MIB,
    ));
    std::fs::remove_dir_all(&dir)?;
    outcome
}

async fn run(dir: &std::path::Path, streams: usize, bytes: u64) -> Result<(), Failure> {
    let options = LogOptions { retention: Retention { age: None, bytes: None }, ..LogOptions::with_dir(dir) };
    let log = Log::open(options)?;
    let mut writers = Vec::new();
    for number in 0..streams {
        let stream = log.open_stream(&format!("stream-{number}").parse()?)?;
        // Two hours and for ever: two classes, as a deployment has them.
        log.keep_for(stream, number.is_multiple_of(2).then_some(Duration::from_secs(2 * 3600)))?;
        let mut appender = log.appender(stream)?;
        appender.begin_session().await?;
        writers.push((stream, appender));
    }
    let written_before = io("write_bytes")?;
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    let events = write(&mut writers, bytes, &mut slowest).await?;
    let seconds = started.elapsed().as_secs_f64();
    let stored: u64 = writers.iter().map(|(stream, _)| log.stream_bytes(*stream)).sum();
    // All memtables to files, so that what is written is all there is to write.
    let shorts: Vec<StreamId> =
        writers.iter().map(|(stream, _)| *stream).enumerate().filter(|(n, _)| n % 2 == 0).map(|(_, id)| id).collect();
    drop(writers);
    log.close()?;
    let written = io("write_bytes")?.saturating_sub(written_before);
    println!(
        "{streams} streams, {events} events, {} MB stored in {seconds:.0} s ({:.0} MB/s); written to the device {} MB: {:.2} times what is stored beyond write-ahead log and flush; slowest turn of a writer {slowest:.1?}",
        stored / MIB,
        stored as f64 / MIB as f64 / seconds,
        written / MIB,
        written as f64 / stored as f64 - 2.0,
    );

    let options = LogOptions { retention: Retention { age: None, bytes: None }, ..LogOptions::with_dir(dir) };
    let log = Log::open(options)?;
    let of_shorts = |log: &Log| shorts.iter().map(|stream| log.stream_bytes(*stream)).sum::<u64>();
    let (before, files_before, started) = (of_shorts(&log), log.disk_bytes(), Instant::now());
    let all: Vec<_> = log.streams();
    for stream in &shorts {
        log.keep_for(*stream, Some(SHORT))?;
    }
    log.apply_retention().await?;
    let after = of_shorts(&log);
    while log.disk_bytes() > files_before.saturating_sub((before - after) / 10 * 9) && started.elapsed().as_secs() < 600
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "trimming half of {} streams freed {} of {} MB ({:.0} %) in {:.1} s; the files went from {} to {} MB",
        all.len(),
        (before - after) / MIB,
        before / MIB,
        (before - after) as f64 * 100.0 / before.max(1) as f64,
        started.elapsed().as_secs_f64(),
        files_before / MIB,
        log.disk_bytes() / MIB
    );
    log.close()?;
    Ok(())
}

/// Appends to all streams in turn until so many bytes are on disk.
async fn write(writers: &mut [(StreamId, Appender)], bytes: u64, slowest: &mut Duration) -> Result<u64, Failure> {
    let window = CreditWindow::new(256 << 20);
    let shares: Vec<_> = writers.iter().map(|_| window.share()).collect();
    let mut noise = Noise(1);
    let bodies: Vec<Arc<[u8]>> = (0..512).map(|_| noise.body()).collect();
    let (mut events, mut lsn) = (0_u64, 100_u64);
    while events * (BODY_BYTES as u64) < bytes {
        for ((_, appender), share) in writers.iter_mut().zip(&shares) {
            let turn = Instant::now();
            appender.add_credit(share.acquire(UNIT * BODY_BYTES).await);
            lsn += 1000;
            let commit_time = Timestamp(1_700_000_000_000_000 + events as i64);
            appender.begin_unit(UnitHead { commit_lsn: Lsn(lsn), commit_time, xid: events as u32 });
            for body in bodies.iter().cycle().skip(noise.next() as usize % bodies.len()).take(UNIT) {
                appender.append(Op::Message, None, body);
            }
            appender.end_unit(Lsn(lsn + 500));
            appender.pump(Pump::IfIdle)?;
            events += UNIT as u64;
            *slowest = turn.elapsed().max(*slowest);
        }
    }
    for (_, appender) in writers.iter_mut() {
        appender.pump(Pump::Now)?;
        appender.writer_idle().await;
    }
    Ok(events)
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn body(&mut self) -> Arc<[u8]> {
        (0..BODY_BYTES).map(|_| self.next() as u8).collect()
    }
}

/// A counter of this process (`proc(5)`, "/proc/pid/io").
fn io(name: &str) -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Ok(line.ok_or("no such counter")?.parse()?)
}
