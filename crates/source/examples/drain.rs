//! Drains a slot as fast as the server sends and prints what it cost: no log, no decoding, nothing confirmed.
//!
//! `cargo run --release -p dbstreamd-source --example drain -- CONNINFO SLOT PUBLICATION [eager] [END_LSN]`
//!
//! To drain the same WAL again give it a copy of the slot (`pg_copy_logical_replication_slot`).

use std::error::Error;
use std::time::{Duration, Instant};

use dbstreamd_model::Lsn;
use dbstreamd_pgoutput::Message;
use dbstreamd_source::postgres::{ConnectOptions, Connection, Origin, Replication, SessionKind, WalFrame};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [conninfo, slot, publication, flags @ ..] = args.as_slice() else {
        return Err("usage: drain CONNINFO SLOT PUBLICATION [eager] [END_LSN]".into());
    };
    let options: ConnectOptions = conninfo.parse()?;
    let mut connection = Connection::connect(&options, SessionKind::Replication).await?;
    let flushed = connection.identify_system().await?.flush_lsn;
    let target = flags.iter().find_map(|flag| flag.parse().ok()).unwrap_or(flushed);
    let what =
        Replication { slot: slot.clone(), publications: vec![publication.clone()], binary: false, origin: Origin::Any };
    let (mut wal, mut feedback) = connection.start_replication(&what, Lsn::ZERO).await?;
    if flags.iter().any(|flag| flag == "eager") {
        wal.read_eagerly();
    }
    // Feedback on its own: without it the server gives up on a long drain.
    let confirming = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if feedback.status_update(Lsn(1), Lsn(1), Lsn(1), false).await.is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let cpu_before = cpu_seconds();
    let (mut frames, mut messages, mut rows, mut reads) = (Vec::new(), 0_u64, 0_u64, 0_u64);
    let mut reached = false;
    while !reached {
        wal.read(&mut frames).await?;
        reads += 1;
        for frame in frames.drain(..) {
            match frame {
                WalFrame::XLogData { wal_start, data, sent_at, .. } => {
                    if let Ok(Message::Begin(begin)) = dbstreamd_pgoutput::parse(&data) {
                        let lag = sent_at.0.saturating_sub(begin.commit_time.0);
                        wal.note_lag(Duration::from_micros(u64::try_from(lag).unwrap_or(0)));
                    }
                    reached |= wal_start >= target;
                    messages += 1;
                    rows += u64::from(matches!(data.first(), Some(b'I' | b'U' | b'D')));
                }
                WalFrame::Keepalive { wal_end, .. } => reached |= wal_end >= target,
                WalFrame::Notice(_) => {}
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu_before;
    confirming.abort();
    let bytes = wal.bytes_read_total();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let per_million = cpu / rows as f64 * 1e6;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = rows as f64 / seconds;
    println!(
        "{rows} rows, {messages} messages, {bytes} bytes in {seconds:.3} s: {rate:.0} rows/s, {} bytes/read, \
         {cpu:.2} CPU-s ({per_million:.2} per million rows)",
        bytes / reads.max(1)
    );
    Ok(())
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}
