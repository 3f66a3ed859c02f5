//! What was written against what arrived: every change, once, in order; and how long each took.
//!
//! One writer commits one transaction after the other, so the stream must be exactly what it wrote. A transaction is
//! announced before it is sent, because its changes may arrive before its commit returns.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use dbstreamd_model::Timestamp;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::shop::{Change, key_columns};
use crate::proto::{self, cell};

/// Transactions under way; above it the writer waits, so that a slow reader cannot fill the memory.
const UNDER_WAY_MAX: usize = 10_000;
/// Longest time told apart, in microseconds; longer ones count as this.
const LATENCY_MAX: u64 = 60_000_000;
/// Digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;

/// What arrived is not what was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Mismatch {
    #[error(
        "event {offset} is {found}, but {expected} was written next: the stream is not what was written. Please report this"
    )]
    Other { offset: u64, found: String, expected: String },
    #[error("event {offset} is {found}, which nobody wrote. Please report this")]
    Unexpected { offset: u64, found: String },
    #[error("event {offset} has offset {offset}, but offset {expected} comes next. Please report this")]
    Offset { offset: u64, expected: u64 },
    #[error("event {offset} says it {found} its transaction's last, but {expected} more follow. Please report this")]
    Boundary { offset: u64, found: &'static str, expected: usize },
}

/// The accounts. Shared by the writer and the reader.
#[derive(Debug)]
pub(super) struct Ledger {
    books: Mutex<Books>,
    room: Semaphore,
}

#[derive(Debug)]
struct Books {
    schemas: HashMap<Bytes, proto::Schema>,
    /// Announced and not settled, oldest first.
    under_way: VecDeque<Entry>,
    /// The number of the first of them.
    first: u64,
    /// How many of them arrived whole.
    whole: usize,
    last_offset: u64,
    closed: bool,
    totals: Totals,
}

#[derive(Debug)]
struct Entry {
    changes: Vec<Change>,
    arrived: usize,
    returned: Option<Instant>,
    received: Option<Instant>,
}

/// The figures so far.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    pub(super) transactions: u64,
    pub(super) announced: u64,
    pub(super) events: u64,
    /// From PostgreSQL's commit timestamp to arrival, per event, in microseconds.
    pub(super) from_commit: Histogram<u64>,
    /// From the commit's return at the writer to arrival, per transaction, in microseconds.
    pub(super) from_return: Histogram<u64>,
}

impl Ledger {
    /// Empty books.
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX, LATENCY_DIGITS);
        let totals =
            Totals { transactions: 0, announced: 0, events: 0, from_commit: histogram()?, from_return: histogram()? };
        let books = Books {
            schemas: HashMap::new(),
            under_way: VecDeque::new(),
            first: 0,
            whole: 0,
            last_offset: 0,
            closed: false,
            totals,
        };
        Ok(Self { books: Mutex::new(books), room: Semaphore::new(UNDER_WAY_MAX) })
    }

    /// Remembers a schema.
    pub(super) fn learn(&self, schema: &proto::Schema) {
        self.books.lock().schemas.insert(schema.fingerprint.clone(), schema.clone());
    }

    /// A transaction is about to be written; waits while too many are under way. Returns its number.
    pub(super) async fn announce(&self, changes: Vec<Change>) -> u64 {
        // Never closed, and the permit comes back when the transaction is settled.
        self.room.acquire().await.map(tokio::sync::SemaphorePermit::forget).unwrap_or_default();
        let mut books = self.books.lock();
        books.totals.announced += u64::try_from(changes.len()).unwrap_or(u64::MAX);
        books.under_way.push_back(Entry { changes, arrived: 0, returned: None, received: None });
        books.first + u64::try_from(books.under_way.len()).unwrap_or(u64::MAX) - 1
    }

    /// The commit of a transaction returned.
    pub(super) fn returned(&self, number: u64, at: Instant) {
        let mut books = self.books.lock();
        let index = usize::try_from(number - books.first).unwrap_or(usize::MAX);
        if let Some(entry) = books.under_way.get_mut(index) {
            entry.returned = Some(at);
        }
        self.settle(&mut books);
    }

    /// Nothing more will be announced.
    pub(super) fn close(&self) {
        self.books.lock().closed = true;
    }

    /// Whether the writer came to its end.
    pub(super) fn is_closed(&self) -> bool {
        self.books.lock().closed
    }

    /// Whether everything announced arrived.
    pub(super) fn is_settled(&self) -> bool {
        self.books.lock().under_way.is_empty()
    }

    /// What to say when it did not.
    pub(super) fn missing(&self) -> String {
        let books = self.books.lock();
        let Totals { announced, events, .. } = books.totals;
        format!(
            "{events} of {announced} changes arrived, and no more came: the stream is not complete. Please report this"
        )
    }

    pub(super) fn totals(&self) -> Totals {
        self.books.lock().totals.clone()
    }

    /// Checks an event against what was written next.
    pub(super) fn received(&self, event: &proto::Event, at: Instant, clock: Timestamp) -> Result<(), Mismatch> {
        let mut guard = self.books.lock();
        let books = &mut *guard;
        let offset = event.offset;
        if offset != books.last_offset + 1 {
            return Err(Mismatch::Offset { offset, expected: books.last_offset + 1 });
        }
        books.last_offset = offset;
        let found = describe(event, &books.schemas);
        let Some(entry) = books.under_way.get_mut(books.whole) else {
            return Err(Mismatch::Unexpected { offset, found });
        };
        let Some(expected) = entry.changes.get(entry.arrived).map(describe_change) else {
            return Err(Mismatch::Unexpected { offset, found });
        };
        if found != expected {
            return Err(Mismatch::Other { offset, found, expected });
        }
        entry.arrived += 1;
        let left = entry.changes.len() - entry.arrived;
        if event.last_in_transaction != (left == 0) {
            let found = if event.last_in_transaction { "is" } else { "is not" };
            return Err(Mismatch::Boundary { offset, found, expected: left });
        }
        books.totals.events += 1;
        let micros = u64::try_from(clock.0.saturating_sub(event.commit_time_us)).unwrap_or(0);
        books.totals.from_commit.saturating_record(micros);
        if left == 0 {
            entry.received = Some(at);
            books.whole += 1;
            self.settle(books);
        }
        Ok(())
    }

    /// Closes the books on what is both returned and received.
    fn settle(&self, books: &mut Books) {
        while let Some(Entry { returned: Some(returned), received: Some(received), .. }) = books.under_way.front() {
            let micros = received.saturating_duration_since(*returned).as_micros();
            books.totals.from_return.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
            books.totals.transactions += 1;
            books.under_way.pop_front();
            books.first += 1;
            books.whole -= 1;
            self.room.add_permits(1);
        }
    }
}

/// A change in words, such as `insert orders 17`.
fn describe_change(change: &Change) -> String {
    let (first, second) = change.key;
    let second = second.map_or_else(String::new, |second| format!(",{second}"));
    format!(
        "{} {} {first}{second}",
        change.operation.as_str_name().trim_start_matches("OPERATION_").to_lowercase(),
        change.table
    )
}

/// An event in the same words.
fn describe(event: &proto::Event, schemas: &HashMap<Bytes, proto::Schema>) -> String {
    let operation = event.operation().as_str_name().trim_start_matches("OPERATION_").to_lowercase();
    let Some(schema) = schemas.get(&event.fingerprint) else { return format!("{operation} of an unknown schema") };
    let row = event.after.as_ref().or(event.before.as_ref());
    let text = |column: &str| {
        let index = schema.columns.iter().position(|known| known.name == column)?;
        match row?.cells.get(index)?.value.as_ref()? {
            cell::Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            cell::Value::Binary(_) | cell::Value::Unchanged(_) => None,
        }
    };
    let (first, second) = key_columns(&schema.table);
    let first = text(first).unwrap_or_else(|| "without key".to_owned());
    let second = second.and_then(text).map_or_else(String::new, |second| format!(",{second}"));
    format!("{operation} {} {first}{second}", schema.table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Operation;

    const CHANGES: [Change; 2] = [
        Change { operation: Operation::Insert, table: "orders", key: (7, None) },
        Change { operation: Operation::Delete, table: "order_items", key: (7, Some(2)) },
    ];

    fn ledger() -> Ledger {
        let ledger = Ledger::new().unwrap();
        for (fingerprint, table, columns) in [(1, "orders", vec!["id"]), (2, "order_items", vec!["order_id", "line"])] {
            let columns =
                columns.into_iter().map(|name| proto::Column { name: name.into(), ..proto::Column::default() });
            ledger.learn(&proto::Schema {
                fingerprint: Bytes::copy_from_slice(&[fingerprint; 16]),
                table: table.into(),
                columns: columns.collect(),
                ..proto::Schema::default()
            });
        }
        ledger
    }

    fn event(offset: u64, change: &Change, last: bool) -> proto::Event {
        let cell = |key: i64| proto::Cell { value: Some(cell::Value::Text(key.to_string().into())) };
        let row = proto::Row {
            cells: [Some(change.key.0), change.key.1].into_iter().flatten().map(cell).collect(),
            ..Default::default()
        };
        proto::Event {
            offset,
            operation: change.operation.into(),
            fingerprint: Bytes::copy_from_slice(&[if change.table == "orders" { 1 } else { 2 }; 16]),
            after: Some(row),
            last_in_transaction: last,
            ..proto::Event::default()
        }
    }

    #[tokio::test]
    async fn what_arrives_as_written_settles_in_either_order_of_return_and_arrival() {
        let ledger = ledger();
        let now = Instant::now();
        for round in 0..2 {
            let number = ledger.announce(CHANGES.to_vec()).await;
            assert_eq!(number, round);
            if round == 0 {
                ledger.returned(number, now);
            }
            ledger.received(&event(2 * round + 1, &CHANGES[0], false), now, Timestamp(5_000)).unwrap();
            assert!(!ledger.is_settled());
            ledger.received(&event(2 * round + 2, &CHANGES[1], true), now, Timestamp(5_000)).unwrap();
            if round == 1 {
                assert!(!ledger.is_settled());
                ledger.returned(number, now);
            }
            assert!(ledger.is_settled());
        }
        let totals = ledger.totals();
        assert_eq!((totals.transactions, totals.events, totals.from_return.len()), (2, 4, 2));
        assert!((5_000..5_010).contains(&totals.from_commit.value_at_quantile(0.5)), "{:?}", totals.from_commit);
    }

    #[tokio::test]
    async fn anything_else_is_named() {
        let refusal = |offset, change: &Change, last| {
            let ledger = ledger();
            futures_util::FutureExt::now_or_never(ledger.announce(CHANGES.to_vec())).unwrap();
            ledger.received(&event(offset, change, last), Instant::now(), Timestamp(0)).unwrap_err().to_string()
        };
        assert!(
            refusal(1, &CHANGES[1], false).contains("is delete order_items 7,2, but insert orders 7 was written next")
        );
        assert!(refusal(2, &CHANGES[0], false).contains("offset 1 comes next"));
        assert!(refusal(1, &CHANGES[0], true).contains("is its transaction's last"));
        let nobody = ledger().received(&event(1, &CHANGES[0], true), Instant::now(), Timestamp(0));
        assert!(nobody.unwrap_err().to_string().contains("nobody wrote"));
    }
}
