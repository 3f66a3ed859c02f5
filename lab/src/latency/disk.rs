//! What an fdatasync costs: appends of 8 KB to a file that grows, as a write-ahead log does.

use std::io::Write;
use std::time::{Duration, Instant};

use super::figures::{Disk, quantile};
use crate::error::{LabError, io};

const APPEND_BYTES: usize = 8 * 1024;
/// So many, and not for longer than this.
const APPENDS: u32 = 2000;
const TIME_MAX: Duration = Duration::from_secs(10);

/// Appends, each synced; with a pace not more often than that. Gives how long each took, sorted.
pub(super) fn fdatasyncs(pace: Option<Duration>) -> Result<Vec<Duration>, LabError> {
    let mut file = tempfile::NamedTempFile::new().map_err(io("a temporary file"))?;
    let block = vec![0x5a; APPEND_BYTES];
    let started = Instant::now();
    let mut times = Vec::new();
    for number in 0..APPENDS {
        if let Some(pace) = pace {
            std::thread::sleep((started + pace * number).saturating_duration_since(Instant::now()));
        }
        let begun = Instant::now();
        if begun.duration_since(started) > TIME_MAX {
            break;
        }
        file.write_all(&block).and_then(|()| file.as_file().sync_data()).map_err(io("append to a temporary file"))?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

/// Median and 99th percentile.
pub(super) fn quantiles(sorted: &[Duration]) -> Disk {
    let micros: Vec<f64> = sorted.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    Disk { p50: quantile(&micros, 0.5), p99: quantile(&micros, 0.99) }
}
