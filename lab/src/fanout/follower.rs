//! One subscriber, what it must get, and what all of them have seen.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::writer::KINDS;
use crate::error::LabError;
use crate::lean::{Answer, Empty, Filter, Start, StartFrom, events, offset};

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
    /// So many events are written in the first second: everybody has rested until then.
    opening: u64,
    latency: Mutex<Latency>,
    /// Subscribers that have everything.
    pub(super) done: AtomicUsize,
    /// Events received, by all together.
    pub(super) deliveries: AtomicU64,
    /// Responses they came in.
    pub(super) responses: AtomicU64,
    /// Bytes of the events.
    pub(super) bytes: AtomicU64,
    /// What the first subscriber that failed had to say.
    pub(super) problem: Mutex<Option<LabError>>,
}

impl Watch {
    /// For `events` events from `first` on, `rate` of them in a second.
    pub(super) fn new(first: u64, events: u64, rate: u64) -> Result<Self, LabError> {
        Ok(Self {
            first,
            started: Instant::now(),
            committed: (0..events).map(|_| AtomicU64::new(0)).collect(),
            opening: rate,
            latency: Mutex::new(Latency::new()?),
            done: AtomicUsize::new(0),
            deliveries: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            problem: Mutex::new(None),
        })
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The commit of event `number` has just returned.
    pub(super) fn committed(&self, number: u64) {
        let place = usize::try_from(number).ok().and_then(|number| self.committed.get(number));
        place.inspect(|place| place.store(self.now().max(1), Release));
    }

    /// How many events there are.
    pub(super) fn events(&self) -> u64 {
        self.committed.len() as u64
    }

    fn last(&self) -> u64 {
        self.first + self.events() - 1
    }

    /// All latencies together.
    pub(super) fn latency(&self) -> Latency {
        self.latency.lock().clone()
    }

    /// Event `number` has come to a subscriber, at the moment `now`.
    pub(super) fn received(&self, number: u64, bytes: usize, now: u64, tally: &mut Tally) {
        let place = usize::try_from(number).ok().and_then(|number| self.committed.get(number));
        let committed = place.map_or(0, |place| place.load(Acquire));
        // 0 where the event was faster than the answer to the commit.
        let late = if committed == 0 { 0 } else { now.saturating_sub(committed) };
        tally.latency.all.saturating_record(late / 1000);
        if number < self.opening {
            tally.latency.opening.saturating_record(late / 1000);
        }
        tally.deliveries += 1;
        tally.bytes += bytes as u64;
    }

    /// Takes over what one connection has counted, and how many more of its subscribers have everything.
    pub(super) fn report(&self, tally: &mut Tally, done: usize) {
        self.deliveries.fetch_add(std::mem::take(&mut tally.deliveries), Relaxed);
        self.responses.fetch_add(std::mem::take(&mut tally.responses), Relaxed);
        self.bytes.fetch_add(std::mem::take(&mut tally.bytes), Relaxed);
        if done > 0 {
            self.done.fetch_add(done, AcqRel);
        }
    }

    /// Takes over the latencies of a connection that will see no more.
    pub(super) fn finish(&self, tally: &Tally) -> Result<(), LabError> {
        self.latency.lock().add(&tally.latency)
    }
}

/// Latencies in microseconds, of every pair of event and subscriber.
#[derive(Clone)]
pub(super) struct Latency {
    pub(super) all: Histogram<u64>,
    /// Those of the first second's events.
    pub(super) opening: Histogram<u64>,
}

impl Latency {
    fn new() -> Result<Self, LabError> {
        Ok(Self { all: histogram()?, opening: histogram()? })
    }

    fn add(&mut self, other: &Self) -> Result<(), LabError> {
        let added = self.all.add(&other.all).and_then(|()| self.opening.add(&other.opening));
        added.map_err(|error| LabError::Failed(error.to_string()))
    }
}

/// What the subscribers of one connection have seen.
pub(super) struct Tally {
    latency: Latency,
    deliveries: u64,
    responses: u64,
    bytes: u64,
}

impl Tally {
    pub(super) fn new() -> Result<Self, LabError> {
        Ok(Self { latency: Latency::new()?, deliveries: 0, responses: 0, bytes: 0 })
    }

    /// One more response, with any number of events.
    pub(super) fn answered(&mut self) {
        self.responses += 1;
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

/// One subscriber.
pub(super) struct Follower {
    wanted: Wanted,
    number: usize,
    /// Everything before it has come, as far as it passes the filter; 0 until the call has begun.
    next: u64,
    /// Up to where it has acknowledged, and when.
    acknowledged: (u64, Instant),
}

impl Follower {
    pub(super) fn new(number: usize, wanted: Wanted) -> Self {
        Self { wanted, number, next: 0, acknowledged: (0, Instant::now()) }
    }

    /// What it asks for.
    pub(super) fn start(&self) -> Start {
        let consumer = if self.wanted.everything { String::new() } else { format!("lab-{}", self.number) };
        let from = Some(StartFrom { latest: Some(Empty {}), earliest: None });
        Start { consumer, from, filter: self.wanted.filter() }
    }

    pub(super) const fn has_begun(&self) -> bool {
        self.next > 0
    }

    pub(super) fn has_all(&self, watch: &Watch) -> bool {
        self.next > watch.last()
    }

    /// What it acknowledges now, if anything.
    pub(super) fn acknowledges(&mut self) -> Option<u64> {
        let (through, at) = self.acknowledged;
        if self.wanted.everything || self.next <= through + 1 || at.elapsed() <= ACKNOWLEDGE_INTERVAL {
            return None;
        }
        self.acknowledged = (self.next - 1, Instant::now());
        Some(self.next - 1)
    }

    /// Checks what has come. Who takes everything, or the kind of the last event, sees the end in the events; others by the
    /// progress.
    pub(super) fn take(&mut self, answer: Answer<'_>, watch: &Watch, tally: &mut Tally) -> Result<(), LabError> {
        match answer {
            Answer::Started(next) if next == watch.first && self.next == 0 => {
                self.next = next;
                self.acknowledged.0 = next - 1;
            }
            Answer::Started(next) => {
                let problem = format!("subscriber {} begins at {next} instead of {}", self.number, watch.first);
                return Err(LabError::Failed(problem));
            }
            Answer::Events(batch) => self.take_events(batch, watch, tally)?,
            Answer::Progress(offset) => {
                let due = expected(self.wanted, self.next, watch);
                if due <= offset {
                    let problem = format!("subscriber {} got progress {offset} and never event {due}", self.number);
                    return Err(LabError::Failed(problem));
                }
                self.next = self.next.max(offset + 1);
            }
            Answer::Other => {}
        }
        Ok(())
    }

    fn take_events(&mut self, batch: &[u8], watch: &Watch, tally: &mut Tally) -> Result<(), LabError> {
        let now = watch.now();
        for event in events(batch) {
            let event = event?;
            let offset = offset(event)?;
            let due = expected(self.wanted, self.next, watch);
            if offset != due {
                let problem = format!("subscriber {} got event {offset} in place of {due}", self.number);
                return Err(LabError::Failed(problem));
            }
            self.next = offset + 1;
            watch.received(offset - watch.first, event.len(), now, tally);
        }
        tally.answered();
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
