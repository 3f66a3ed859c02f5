//! The daemon's streams as anyone asks for them: gRPC, HTTP and metrics all read these snapshots.
//!
//! A stream is here when a source is configured for it or when the log holds one from earlier; the latter can
//! still be read. Knows neither wire format.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{
    ConsumerState, Divergence, EpochRecord, LatencyHistogram, Log, LogError, Skip, TableName, Watermarks,
};
use dbstreamd_model::{ConsumerName, Lsn, Offset, StreamId, StreamName, Timestamp};
use dbstreamd_source::{Control, Inquiry, Lifecycle, SlotHealth, State, StreamStatus};

use crate::consumers::Registry;
use crate::holds;
use crate::notices::Notices;
use crate::parking::{Parked, Parking};

/// Shown for a stream that the log has and the configuration has not.
const UNCONFIGURED: &str = "no source is configured for this stream; what its log holds can still be read";

/// Epochs shown of a stream: at three an hour, more than a day of a source that breaks all the time.
const EPOCHS_SHOWN_MAX: usize = 100;

/// A stream of this daemon.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: StreamId,
    pub(crate) name: StreamName,
    /// None when no source is configured.
    pub(crate) running: Option<RunningSource>,
}

/// What a configured source adds.
#[derive(Clone, Debug)]
pub(crate) struct RunningSource {
    pub(crate) status: Arc<StreamStatus>,
    pub(crate) slot: String,
    pub(crate) publication: String,
    /// What is wanted of it.
    pub(crate) control: Control,
    /// Whom to ask about the source.
    pub(crate) inquiry: Arc<dyn Inquiry>,
}

/// All that is known of a stream at one moment.
#[derive(Debug)]
pub(crate) struct StreamSnapshot {
    pub(crate) name: StreamName,
    /// None when no source is configured.
    pub(crate) lifecycle: Option<Lifecycle>,
    pub(crate) watermarks: Watermarks,
    pub(crate) received_lsn: Lsn,
    pub(crate) source_lsn: Lsn,
    pub(crate) newest_received_commit_time: Timestamp,
    pub(crate) last_heard: Timestamp,
    pub(crate) bytes_received: u64,
    pub(crate) events_received: u64,
    pub(crate) transactions_received: u64,
    pub(crate) keepalives_received: u64,
    pub(crate) resent_transactions: u64,
    pub(crate) reconnects: u64,
    pub(crate) log_bytes: u64,
    pub(crate) slot: String,
    pub(crate) publication: String,
    /// What the source keeps for the slot, as last seen.
    pub(crate) slot_health: Option<SlotHealth>,
    /// The newest epochs after the first, oldest first.
    pub(crate) epochs: Vec<EpochRecord>,
    /// Where consumers are parked.
    pub(crate) parked: Vec<Parked>,
    /// What operators gave up.
    pub(crate) skips: Vec<Skip>,
    /// Tables whose rows changed without events.
    pub(crate) diverged: Vec<(TableName, Divergence)>,
    /// Whether the source records schema changes; none when that is not wanted, or nobody has looked yet.
    pub(crate) ddl_capture: Option<bool>,
}

impl StreamSnapshot {
    /// State in upper case.
    pub(crate) fn state_name(&self) -> &'static str {
        self.lifecycle.as_ref().map_or("UNCONFIGURED", |lifecycle| lifecycle.state.name())
    }

    /// Why the stream does not stream; empty when it does.
    pub(crate) fn error(&self) -> &str {
        match &self.lifecycle {
            None => UNCONFIGURED,
            Some(lifecycle) => lifecycle.error.as_deref().unwrap_or_default(),
        }
    }

    /// The lowest offset that can still be read. (The log's own trim point is the one before.)
    pub(crate) fn trim_point(&self) -> Offset {
        self.watermarks.trim_point.next()
    }

    /// Bytes of the source's WAL that are not yet durable here; none while there is nothing to count from or to.
    pub(crate) fn lag_bytes(&self) -> Option<u64> {
        let known = self.watermarks.confirmed_through > Lsn::ZERO && self.source_lsn > Lsn::ZERO;
        known.then(|| self.source_lsn.bytes_since(self.watermarks.confirmed_through))
    }

    /// How old the newest received commit is while we are behind; zero once all that the source has told of is
    /// visible. (A full credit window stops receiving, so a slow disk shows here too.) While the stream does not
    /// stream nobody knows what the source has: at least as long as it was silent.
    pub(crate) fn lag_seconds(&self) -> f64 {
        self.lag_seconds_at(Timestamp::now())
    }

    fn lag_seconds_at(&self, now: Timestamp) -> f64 {
        let streaming = self.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.state == State::Streaming);
        let silent = if streaming || self.last_heard.0 == 0 { 0.0 } else { now.seconds_since(self.last_heard) };
        let all_visible = self.newest_received_commit_time <= self.watermarks.visible_commit_time;
        let behind = if self.newest_received_commit_time.0 == 0 || (all_visible && self.received_lsn >= self.source_lsn)
        {
            0.0
        } else {
            now.seconds_since(self.newest_received_commit_time)
        };
        silent.max(behind).max(0.0)
    }
}

/// A named consumer at one moment.
#[derive(Debug)]
pub(crate) struct ConsumerSnapshot {
    pub(crate) stream: StreamName,
    pub(crate) name: ConsumerName,
    pub(crate) committed: Offset,
    /// `Timestamp(0)` when it never committed.
    pub(crate) committed_at: Timestamp,
    pub(crate) lag_events: u64,
    pub(crate) lag_bytes: u64,
    pub(crate) connected: bool,
    pub(crate) state: ConsumerState,
    /// How long it has been away; none while it is connected.
    pub(crate) away: Option<Duration>,
}

impl ConsumerSnapshot {
    /// Why its state is not ACTIVE; empty when it is.
    pub(crate) fn state_reason(&self) -> String {
        holds::reason(self.state).to_owned()
    }
}

/// There is no such stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnknownStream {
    #[error("there is no stream {name:?}; this daemon has: {known}")]
    Named { name: String, known: String },
    #[error("this daemon has several streams, name one: {0}")]
    Ambiguous(String),
    #[error("this daemon has no streams yet: start it with --source or a [[source]] in its configuration")]
    None,
}

/// The streams of one daemon. Fixed after the start.
#[derive(Debug)]
pub(crate) struct Directory {
    log: Log,
    entries: Vec<Entry>,
    pub(crate) registry: Arc<Registry>,
    /// What happened lately.
    pub(crate) notices: Notices,
    /// How long visible events take until a subscriber's connection has them.
    pub(crate) visible_to_sent: LatencyHistogram,
    /// Held while a stream's wish and what is stored of it change together.
    pub(crate) pausing: tokio::sync::Mutex<()>,
    /// Where consumers cannot go on.
    pub(crate) parking: Parking,
}

impl Directory {
    /// Of the configured streams, and whatever else the log holds.
    pub(crate) fn new(log: Log, mut entries: Vec<Entry>, notices: Notices) -> Self {
        for (id, name) in log.streams() {
            if entries.iter().all(|entry| entry.id != id) {
                entries.push(Entry { id, name, running: None });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let (pausing, parking) = (tokio::sync::Mutex::default(), Parking::default());
        let visible_to_sent = LatencyHistogram::for_many();
        Self { log, entries, registry: Arc::default(), notices, visible_to_sent, pausing, parking }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The stream of this name; the only one when the name is empty.
    pub(crate) fn find(&self, name: &str) -> Result<&Entry, UnknownStream> {
        let known = || self.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(", ");
        match self.entries.as_slice() {
            [] => Err(UnknownStream::None),
            [only] if name.is_empty() => Ok(only),
            _ if name.is_empty() => Err(UnknownStream::Ambiguous(known())),
            entries => entries
                .iter()
                .find(|entry| entry.name.as_str() == name)
                .ok_or_else(|| UnknownStream::Named { name: name.chars().take(80).collect(), known: known() }),
        }
    }

    pub(crate) fn snapshot(&self, entry: &Entry) -> Result<StreamSnapshot, LogError> {
        let watermarks = self.log.watermarks(entry.id)?;
        let status = entry.running.as_ref().map(|running| running.status.as_ref());
        let lsn = |of: fn(&StreamStatus) -> Lsn| status.map_or(Lsn::ZERO, of);
        let count = |of: fn(&StreamStatus) -> u64| status.map_or(0, of);
        Ok(StreamSnapshot {
            name: entry.name.clone(),
            lifecycle: status.map(StreamStatus::lifecycle),
            watermarks,
            received_lsn: lsn(StreamStatus::received_lsn),
            source_lsn: lsn(StreamStatus::source_lsn),
            newest_received_commit_time: status.map_or(Timestamp(0), StreamStatus::newest_received_commit_time),
            last_heard: status.map_or(Timestamp(0), StreamStatus::last_heard),
            bytes_received: count(StreamStatus::bytes_received),
            events_received: count(StreamStatus::events_received),
            transactions_received: count(StreamStatus::transactions_received),
            keepalives_received: count(StreamStatus::keepalives_received),
            resent_transactions: count(StreamStatus::resent_transactions),
            reconnects: count(StreamStatus::reconnects),
            log_bytes: self.log.stream_bytes(entry.id),
            slot: entry.running.as_ref().map(|running| running.slot.clone()).unwrap_or_default(),
            publication: entry.running.as_ref().map(|running| running.publication.clone()).unwrap_or_default(),
            slot_health: status.and_then(StreamStatus::slot),
            epochs: self.epochs(entry.id),
            parked: self.parking.of(entry.id),
            skips: self.log.skips(entry.id),
            diverged: self.log.diverged(entry.id),
            ddl_capture: status.and_then(StreamStatus::ddl_capture),
        })
    }

    fn epochs(&self, stream: StreamId) -> Vec<EpochRecord> {
        let mut epochs = self.log.epochs(stream);
        epochs.drain(..epochs.len().saturating_sub(EPOCHS_SHOWN_MAX));
        epochs
    }

    pub(crate) fn snapshots(&self) -> Result<Vec<StreamSnapshot>, LogError> {
        self.entries.iter().map(|entry| self.snapshot(entry)).collect()
    }

    /// Consumers of one stream or of all: those with a committed offset and those connected without one yet.
    pub(crate) fn consumers(&self, of: Option<StreamId>) -> Result<Vec<ConsumerSnapshot>, LogError> {
        let mut all: BTreeMap<(StreamName, ConsumerName), ConsumerSnapshot> = BTreeMap::new();
        let connected = self.registry.connected();
        let named = |id| self.entries.iter().find(|entry| entry.id == id).map(|entry| &entry.name);
        for record in self.log.consumers(of) {
            let Some(stream) = named(record.stream) else { continue };
            let visible = self.log.watermarks(record.stream)?.visible;
            let snapshot = ConsumerSnapshot {
                stream: stream.clone(),
                name: record.name.clone(),
                committed: record.committed,
                committed_at: record.committed_at,
                lag_events: visible.events_since(record.committed),
                lag_bytes: record.lag_bytes,
                connected: connected.contains(&(record.stream, record.name.clone())),
                state: record.state,
                away: record.away,
            };
            all.insert((stream.clone(), record.name), snapshot);
        }
        for (id, name) in connected {
            let Some(stream) = named(id).filter(|_| of.is_none_or(|of| of == id)) else { continue };
            if all.contains_key(&(stream.clone(), name.clone())) {
                continue;
            }
            let visible = self.log.watermarks(id)?.visible;
            let snapshot = ConsumerSnapshot {
                stream: stream.clone(),
                name: name.clone(),
                committed: Offset::NONE,
                committed_at: Timestamp(0),
                lag_events: visible.events_since(Offset::NONE),
                lag_bytes: self.log.bytes_between(id, Offset::NONE, visible),
                connected: true,
                state: ConsumerState::Active,
                away: None,
            };
            all.insert((stream.clone(), name), snapshot);
        }
        Ok(all.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use dbstreamd_log::LogOptions;
    use dbstreamd_source::SourceError;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A source whose WAL ends at 0/1000 for ever.
    #[derive(Debug)]
    struct Standing;

    #[tonic::async_trait]
    impl Inquiry for Standing {
        async fn end(&self) -> Result<Lsn, SourceError> {
            Ok(Lsn(0x1000))
        }

        async fn tables(&self) -> Result<Vec<dbstreamd_model::TableSchema>, SourceError> {
            Ok(Vec::new())
        }
    }

    impl RunningSource {
        /// Of a stream that nobody runs.
        pub(crate) fn unconnected(name: &StreamName) -> Self {
            Self {
                status: StreamStatus::new(name.clone()),
                slot: "the_slot".into(),
                publication: "the_publication".into(),
                control: CancellationToken::new().into(),
                inquiry: Arc::new(Standing),
            }
        }
    }

    #[test]
    fn lag_grows_while_the_source_is_away_and_is_unknown_before_anything_was_confirmed() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(LogOptions::with_dir(dir.path())).unwrap();
        let name: StreamName = "shop".parse().unwrap();
        let id = log.open_stream(&name).unwrap();
        let running = RunningSource::unconnected(&name);
        let directory = Directory::new(log, vec![Entry { id, name, running: Some(running) }], Notices::default());
        let mut snapshot = directory.snapshots().unwrap().pop().unwrap();
        let at = |seconds: i64| Timestamp(1_700_000_000_000_000 + seconds * 1_000_000);
        let near = |lag: f64, wanted: f64| assert!((lag - wanted).abs() < 1e-6, "{lag} instead of {wanted}");

        snapshot.source_lsn = Lsn(5000);
        assert_eq!(snapshot.lag_bytes(), None);
        near(snapshot.lag_seconds_at(at(100)), 0.0);
        snapshot.watermarks.confirmed_through = Lsn(2000);
        assert_eq!(snapshot.lag_bytes(), Some(3000));

        // All is visible, but the source was last heard of 90 seconds ago.
        snapshot.received_lsn = Lsn(5000);
        snapshot.last_heard = at(10);
        near(snapshot.lag_seconds_at(at(100)), 90.0);
        // Behind by more than that.
        snapshot.newest_received_commit_time = at(-20);
        near(snapshot.lag_seconds_at(at(100)), 120.0);
        if let Some(lifecycle) = &mut snapshot.lifecycle {
            lifecycle.state = State::Streaming;
        }
        snapshot.watermarks.visible_commit_time = at(-20);
        near(snapshot.lag_seconds_at(at(100)), 0.0);
    }
}
