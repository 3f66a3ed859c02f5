//! Where consumers cannot go on because nobody can say what an event means: parked until the cause is mended or an
//! operator skips the place.
//!
//! ```text
//!   unreadable ──▶ skipped by an operator? ──▶ go on behind it, and say so
//!        │ no
//!        ▼
//!   lost schema? ──▶ ask the source for its tables; one proven by the log's hash ──▶ read again
//!        │ no, or not within five seconds
//!        ▼
//!   parked: the call ends, a notice says why, the stream shows the place
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{LogError, Skip};
use dbstreamd_model::{Notice, Offset, SchemaId, Severity, StreamId, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::directory::{Directory, Entry};
use crate::proto;
use crate::unreadable::Unreadable;

/// How long a consumer may wait for a lost schema to come back.
const REFRESH_WAIT_MAX: Duration = Duration::from_secs(5);

/// The source is asked again for what it could not give at most this often, however many consumers run into it.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// Places kept of one stream.
const PLACES_MAX: usize = 100;

/// Why nobody can say what an event means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// The record of its schema version is damaged or gone.
    SchemaUnknown,
    /// A value cannot be read as its column's type.
    ValueUnreadable,
}

impl Reason {
    /// As in status details and JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SchemaUnknown => "SCHEMA_UNKNOWN",
            Self::ValueUnreadable => "VALUE_UNREADABLE",
        }
    }

    const fn notice(self) -> &'static str {
        match self {
            Self::SchemaUnknown => "schema_unknown",
            Self::ValueUnreadable => "value_unreadable",
        }
    }
}

/// A place where consumers are parked.
#[derive(Clone, Debug)]
pub(crate) struct Parked {
    pub(crate) offset: Offset,
    pub(crate) reason: Reason,
    /// Where exactly, why, and what to do.
    pub(crate) text: String,
    pub(crate) since: Timestamp,
}

/// A place, as the contract has it.
pub(crate) fn contract(parked: &Parked) -> proto::Parked {
    let Parked { offset, reason, text, since } = parked;
    proto::Parked { offset: offset.0, reason: reason.name().to_owned(), text: text.clone(), since_us: since.0 }
}

/// A skip, as the contract has it.
pub(crate) fn skip_contract(skip: &Skip) -> proto::Skipped {
    let Skip { first, next, at, note } = skip;
    proto::Skipped { first_offset: first.0, next_offset: next.0, note: note.clone(), at_us: at.0 }
}

/// The places of all streams. Kept in memory: after a restart whoever runs into one finds it again.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    places: Mutex<BTreeMap<(StreamId, Offset), Parked>>,
    /// When each stream's source was last asked for its tables; held while it is being asked.
    asked: Mutex<HashMap<StreamId, Arc<tokio::sync::Mutex<Option<Instant>>>>>,
}

impl Parking {
    /// The places of a stream, in order.
    pub(crate) fn of(&self, stream: StreamId) -> Vec<Parked> {
        let places = self.places.lock();
        places
            .range((stream, Offset::NONE)..)
            .take_while(|((of, _), _)| *of == stream)
            .map(|(_, p)| p.clone())
            .collect()
    }

    /// Forgets the places before `next`.
    pub(crate) fn clear_before(&self, stream: StreamId, next: Offset) {
        self.places.lock().retain(|&(of, offset), _| of != stream || offset >= next);
    }

    fn clear(&self, stream: StreamId, offset: Offset) {
        self.places.lock().remove(&(stream, offset));
    }

    /// Keeps a place; false when it was known.
    fn keep(&self, stream: StreamId, parked: Parked) -> bool {
        let mut places = self.places.lock();
        let known = places.keys().filter(|(of, _)| *of == stream).count();
        if places.contains_key(&(stream, parked.offset)) || known >= PLACES_MAX {
            return false;
        }
        places.insert((stream, parked.offset), parked);
        true
    }

    fn turn(&self, stream: StreamId) -> Arc<tokio::sync::Mutex<Option<Instant>>> {
        Arc::clone(self.asked.lock().entry(stream).or_default())
    }
}

/// How it goes on for who met an event that cannot be read.
pub(crate) enum Way {
    /// What was missing is there now.
    Again,
    /// An operator gave the place up.
    Skip(Skip),
    /// Not at all, for now.
    Park,
}

/// What becomes of a reader that met an error of the log; none for an error that is of another kind.
pub(crate) async fn way_around(directory: &Directory, entry: &Entry, error: &LogError) -> Option<Way> {
    let LogError::SchemaUnknown { first, schema, .. } = error else { return None };
    if let Some(skip) = directory.log().skip_at(entry.id, *first) {
        return Some(Way::Skip(skip));
    }
    // Whoever comes later than the rest finds it restored, or parked a moment ago.
    let refreshed = tokio::time::timeout(REFRESH_WAIT_MAX, refresh(directory, entry, *first, SchemaId(*schema))).await;
    if refreshed.unwrap_or(false) {
        directory.parking.clear(entry.id, *first);
        return Some(Way::Again);
    }
    park(directory, entry, *first, Reason::SchemaUnknown, &error.to_string());
    Some(Way::Park)
}

/// What becomes of a reader whose next event has a value that cannot be read: behind it if an operator gave it up, or
/// parked.
pub(crate) fn at_value(directory: &Directory, entry: &Entry, value: &Unreadable) -> Option<Skip> {
    let skip = directory.log().skip_at(entry.id, value.offset);
    if skip.is_none() {
        park(directory, entry, value.offset, Reason::ValueUnreadable, &value.to_string());
    }
    skip
}

/// Keeps the place, and says so once.
fn park(directory: &Directory, entry: &Entry, offset: Offset, reason: Reason, text: &str) {
    let parked = Parked { offset, reason, text: text.to_owned(), since: Timestamp::now() };
    if directory.parking.keep(entry.id, parked) {
        directory.notices.push(Notice::new(Severity::Error, reason.notice(), text).of_stream(&entry.name));
    }
}

/// Asks the source for its tables and tries them as the schema that is missing at `offset`.
async fn refresh(directory: &Directory, entry: &Entry, offset: Offset, schema: SchemaId) -> bool {
    let turn = directory.parking.turn(entry.id);
    let mut asked = turn.lock().await;
    let log = directory.log();
    if asked.is_some_and(|asked| asked.elapsed() < REFRESH_INTERVAL) {
        // Another one has just asked; perhaps what it found is what is missing here.
        return log.has_schema(entry.id, schema);
    }
    let Some(running) = &entry.running else { return false };
    // Also when nobody waits for the answer any more.
    *asked = Some(Instant::now());
    let tables = running.inquiry.tables().await;
    let restored = match tables {
        Ok(tables) => {
            // What the stream has of others may be it too: a version that was announced again since.
            let stored = log.schemas(entry.id).into_iter().map(|stored| (stored.schema, stored.facts));
            let candidates = tables.into_iter().map(|table| (Arc::new(table), None)).chain(stored).collect();
            log.restore_schemas(entry.id, offset, candidates).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    match restored {
        Ok(restored) => {
            if restored {
                let text = format!(
                    "the schema version that was missing at offset {offset} was found among the source's tables, proven by the log's own hashes, and is stored again"
                );
                directory.notices.push(Notice::new(Severity::Info, "schema_restored", text).of_stream(&entry.name));
            }
            restored
        }
        Err(error) => {
            tracing::warn!(stream = %entry.name, %error, "the source could not be asked for the schema that is missing");
            false
        }
    }
}

/// Why a place was not skipped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SkipError {
    #[error(
        "stream {stream} is parked nowhere before offset {next}: a skip is for a place that consumers could not read; dbstreamd streams shows them"
    )]
    NotParked { stream: dbstreamd_model::StreamName, next: Offset },
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Gives up what cannot be read before `next`, from the first parked place on: durably, and for everyone who cannot read it.
pub(crate) async fn skip(directory: &Directory, entry: &Entry, next: Offset, note: String) -> Result<Skip, SkipError> {
    let parked = directory.parking.of(entry.id).into_iter().find(|parked| parked.offset < next);
    let parked = parked.ok_or_else(|| SkipError::NotParked { stream: entry.name.clone(), next })?;
    let skip = Skip { first: parked.offset, next, at: Timestamp::now(), note };
    directory.log().skip(entry.id, skip.clone()).await?;
    directory.parking.clear_before(entry.id, next);
    let text = format!(
        "events from offset {} on that cannot be read are left out up to and including offset {}, as {}; they were: {}",
        skip.first,
        skip.next.previous(),
        skip.note,
        parked.text
    );
    directory.notices.push(Notice::new(Severity::Warning, "events_skipped", text).of_stream(&entry.name));
    Ok(skip)
}
