//! The writers, and the ledger of when each commit returned and when its change came.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use super::server::Connection;
use crate::error::LabError;

/// When each row's commit returned and when it was received. Clones are the same ledger.
#[derive(Clone)]
pub(super) struct Ledger(Arc<Inner>);

struct Inner {
    origin: Instant,
    first: u64,
    /// Nanoseconds after `origin`, by sequence number; 0 for not yet.
    committed: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    missing: AtomicU64,
}

impl Ledger {
    /// For `rows` sequence numbers from `first` on.
    pub(super) fn new(first: u64, rows: u64) -> Self {
        let empty = || (0..rows).map(|_| AtomicU64::new(0)).collect();
        let (committed, received) = (empty(), empty());
        Self(Arc::new(Inner { origin: Instant::now(), first, committed, received, missing: AtomicU64::new(rows) }))
    }

    /// The sequence numbers.
    pub(super) fn sequence(&self) -> std::ops::Range<u64> {
        self.0.first..self.0.first + self.0.committed.len() as u64
    }

    /// Notes that a row came. Whether it was the last.
    pub(super) fn received(&self, seq: u64, at: Instant) -> Result<bool, LabError> {
        let place = seq.checked_sub(self.0.first).and_then(|place| self.0.received.get(usize::try_from(place).ok()?));
        let Some(place) = place else {
            return Err(LabError::Failed(format!("row {seq} was received, which is not of this run")));
        };
        if place.swap(self.nanos(at), Relaxed) != 0 {
            return Err(LabError::Failed(format!("row {seq} was received twice")));
        }
        Ok(self.0.missing.fetch_sub(1, Release) == 1)
    }

    /// How many rows have not come.
    pub(super) fn missing(&self) -> u64 {
        self.0.missing.load(Acquire)
    }

    fn committed(&self, seq: u64, at: Instant) {
        let place = usize::try_from(seq - self.0.first).ok().and_then(|place| self.0.committed.get(place));
        if let Some(place) = place {
            place.store(self.nanos(at), Relaxed);
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.origin).as_nanos()).unwrap_or(u64::MAX)
    }

    /// From commit-return to receive in microseconds, sorted; the first `warm_up` rows are left out.
    pub(super) fn latencies(&self, warm_up: u64) -> Result<Vec<f64>, LabError> {
        let mut micros = Vec::with_capacity(self.0.committed.len());
        let pairs = self.0.committed.iter().zip(&self.0.received);
        for (committed, received) in pairs.skip(usize::try_from(warm_up).unwrap_or(usize::MAX)) {
            let (committed, received) = (committed.load(Relaxed), received.load(Relaxed));
            if committed == 0 || received == 0 {
                return Err(LabError::Failed("a row is missing".into()));
            }
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
            micros.push((received as f64 - committed as f64) / 1000.0);
        }
        micros.sort_by(f64::total_cmp);
        Ok(micros)
    }
}

/// When in its part of a second a row is written: anywhere, from 0 to 1.
///
/// Rows in step with the kernel's clock would always, or never, be at work when it ticks, and the machine's busy time is
/// counted in ticks: others seemed to use half a core where there were none.
#[expect(clippy::cast_precision_loss, reason = "24 bits")]
fn moment(seq: u64) -> f64 {
    (seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / f64::from(1 << 24)
}

/// Writers that share a rate.
pub(super) struct Traffic {
    pub(super) port: u16,
    pub(super) database: &'static str,
    /// Transactions per second of all together.
    pub(super) rate: u32,
    pub(super) writers: u32,
}

impl Traffic {
    /// Writes all rows of the ledger, one per transaction. Gives the rate that was achieved.
    pub(super) fn run(&self, ledger: &Ledger) -> Result<f64, LabError> {
        let writers = u64::from(self.writers.max(1));
        let connections = (0..writers).map(|_| Connection::open(self.port, self.database, &[]));
        let connections = connections.collect::<Result<Vec<_>, _>>()?;
        let (started, slot) = (Instant::now(), Duration::from_secs(1) / self.rate.max(1));
        std::thread::scope(|scope| {
            let write = |first, mut connection: Connection| {
                let seqs = ledger.sequence().skip(usize::try_from(first).unwrap_or(0));
                for seq in seqs.step_by(usize::try_from(writers).unwrap_or(1)) {
                    let due = started
                        + Duration::from_secs(1) * u32::try_from(seq - ledger.0.first).unwrap_or(0) / self.rate.max(1)
                        + slot.mul_f64(moment(seq));
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    connection.query(&format!("INSERT INTO tick VALUES ({seq}, 'one of a thousand each second')"))?;
                    ledger.committed(seq, Instant::now());
                }
                Ok(())
            };
            let threads: Vec<_> = (0..)
                .zip(connections)
                .map(|(first, connection)| scope.spawn(move || write(first, connection)))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(LabError::Failed("a writer panicked".into())))
            })
        })?;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = ledger.0.committed.len() as f64 / started.elapsed().as_secs_f64();
        Ok(rate)
    }
}
