//! One subscriber, what it must get, and what all of them have seen.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::writer::KINDS;
use crate::error::LabError;
use crate::lean::{Answer, Connection, Empty, Filter, Start, StartFrom, Subscriber, events, offset};

/// Histograms that share the recording, so that threads seldom meet.
const SHARES: usize = 16;
/// Latencies from a microsecond to a minute, to two digits.
const LATENCY_MAX_US: u64 = 60_000_000;
/// A named consumer acknowledges at most this often.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);
/// The operations' numbers in the contract.
const INSERT: i32 = 1;
const UPDATE: i32 = 2;

/// What everybody looks at while events are followed.
pub(super) struct Watch {
    /// The first offset that counts.
    first: u64,
    started: Instant,
    /// When the commit of each event returned, in nanoseconds since the start; 0 for not yet.
    committed: Vec<AtomicU64>,
    latency: Vec<Mutex<Histogram<u64>>>,
    /// Subscribers that have everything.
    pub(super) done: AtomicUsize,
    /// Events received, by all together.
    pub(super) deliveries: AtomicU64,
    /// What the first subscriber that failed had to say.
    pub(super) problem: Mutex<Option<LabError>>,
}

impl Watch {
    pub(super) fn new(first: u64, events: u64) -> Self {
        Self {
            first,
            started: Instant::now(),
            committed: (0..events).map(|_| AtomicU64::new(0)).collect(),
            latency: (0..SHARES).filter_map(|_| histogram().ok().map(Mutex::new)).collect(),
            done: AtomicUsize::new(0),
            deliveries: AtomicU64::new(0),
            problem: Mutex::new(None),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The commit of event `number` has just returned.
    pub(super) fn committed(&self, number: u64) {
        let place = usize::try_from(number).ok().and_then(|number| self.committed.get(number));
        place.inspect(|place| place.store(self.now().max(1), Release));
    }

    fn last(&self) -> u64 {
        self.first + self.committed.len() as u64 - 1
    }

    /// All latencies together, in microseconds.
    pub(super) fn latency(&self) -> Result<Histogram<u64>, LabError> {
        let mut all = histogram()?;
        for one in &self.latency {
            all.add(&*one.lock()).map_err(|error| LabError::Failed(error.to_string()))?;
        }
        Ok(all)
    }
}

fn histogram() -> Result<Histogram<u64>, LabError> {
    Histogram::new_with_max(LATENCY_MAX_US, 2).map_err(|error| LabError::Failed(error.to_string()))
}

/// Which events a subscriber is to get.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// None for nothing at all.
    kind: Option<u64>,
    everything: bool,
}

impl Wanted {
    pub(super) const fn everything() -> Self {
        Self { kind: None, everything: true }
    }

    /// Of a subscriber with a filter: one of the kinds, and every fifth gets nothing.
    pub(super) fn of(number: usize) -> Self {
        let kind = number as u64 % (KINDS + 1);
        Self { kind: (kind < KINDS).then_some(kind), everything: false }
    }

    fn takes(self, number: u64) -> bool {
        self.everything || self.kind == Some(number % KINDS)
    }

    fn filter(self) -> Option<Filter> {
        let table = match self.kind {
            _ if self.everything => return None,
            None => "public.nothing",
            Some(0 | 2) => "public.load_a",
            Some(_) => "public.*_b",
        };
        let operation = if self.kind.is_some_and(|kind| kind >= 2) { UPDATE } else { INSERT };
        Some(Filter { tables: vec![table.to_owned()], operations: vec![operation] })
    }
}

/// A subscriber whose call has begun.
pub(super) struct Follower {
    subscriber: Subscriber,
    wanted: Wanted,
    number: usize,
    /// Everything before it has come, as far as it passes the filter.
    next: u64,
}

impl Follower {
    pub(super) async fn begin(
        connection: &Connection,
        wanted: Wanted,
        number: usize,
        watch: &Watch,
    ) -> Result<Self, LabError> {
        let consumer = if wanted.everything { String::new() } else { format!("lab-{number}") };
        let from = Some(StartFrom { latest: Some(Empty {}), earliest: None });
        let mut subscriber = connection.subscribe(Start { consumer, from, filter: wanted.filter() }).await?;
        let mut next = None;
        while next.is_none() {
            subscriber
                .receive(|answer| {
                    if let Answer::Started(offset) = answer {
                        next = Some(offset);
                    }
                    Ok(())
                })
                .await?;
        }
        let next = next.unwrap_or_default();
        if next != watch.first {
            return Err(LabError::Failed(format!("subscriber {number} begins at {next} instead of {}", watch.first)));
        }
        Ok(Self { subscriber, wanted, number, next })
    }

    /// Receives everything up to the last event, and checks it.
    pub(super) async fn follow(mut self, watch: &Watch) -> Result<(), LabError> {
        let last = watch.last();
        let mut acknowledged = Instant::now();
        // Who takes everything, or the kind of the last event, sees the end in the events; others by the progress.
        while self.next <= last {
            let before = self.next;
            let Self { subscriber, wanted, number, next } = &mut self;
            subscriber
                .receive(|answer| match answer {
                    Answer::Events(batch) => take(batch, *wanted, *number, next, watch),
                    Answer::Progress(offset) => {
                        let due = expected(*wanted, *next, watch);
                        if due <= offset {
                            let problem = format!("subscriber {number} got progress {offset} and never event {due}");
                            return Err(LabError::Failed(problem));
                        }
                        *next = (*next).max(offset + 1);
                        Ok(())
                    }
                    Answer::Started(_) | Answer::Other => Ok(()),
                })
                .await?;
            if !self.wanted.everything && self.next > before && acknowledged.elapsed() > ACKNOWLEDGE_INTERVAL {
                acknowledged = Instant::now();
                self.subscriber.acknowledge(self.next - 1)?;
            }
        }
        Ok(())
    }
}

/// The next offset from `next` on that is to come.
fn expected(wanted: Wanted, next: u64, watch: &Watch) -> u64 {
    if wanted.kind.is_none() && !wanted.everything {
        return u64::MAX;
    }
    // The kinds are counted from the writer's first event, whose offset is 1.
    (next..).find(|offset| wanted.takes(offset - 1)).unwrap_or(u64::MAX).max(watch.first)
}

fn take(batch: &[u8], wanted: Wanted, number: usize, next: &mut u64, watch: &Watch) -> Result<(), LabError> {
    let now = watch.now();
    let share = watch.latency.get(number % SHARES).ok_or_else(|| LabError::Failed("no histogram".into()))?;
    let mut latency = share.lock();
    let mut count = 0;
    for event in events(batch) {
        let offset = offset(event?)?;
        let due = expected(wanted, *next, watch);
        if offset != due {
            return Err(LabError::Failed(format!("subscriber {number} got event {offset} in place of {due}")));
        }
        *next = offset + 1;
        count += 1;
        let place = usize::try_from(offset - watch.first).ok().and_then(|number| watch.committed.get(number));
        let committed = place.map_or(0, |place| place.load(Acquire));
        // 0 where the event was faster than the answer to the commit.
        let late = if committed == 0 { 0 } else { now.saturating_sub(committed) };
        latency.saturating_record(late / 1000);
    }
    watch.deliveries.fetch_add(count, Relaxed);
    Ok(())
}
