//! The log's front door: opens it, hands out appenders and readers, answers questions. Those about consumers are
//! answered in `consumers.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::mpsc;
use std::time::Duration;

use dbstreamd_model::{Epoch, Lsn, Offset, StreamId, StreamName, Timestamp};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::appender::Appender;
use crate::chunk::Framer;
use crate::epochs::EpochRecord;
use crate::error::LogError;
use crate::metrics::LogMetrics;
use crate::options::LogOptions;
use crate::read::{self, LastRead, READ_AHEAD_BYTES_MAX, Reader, StartAt, Tail};
use crate::shared::{Closer, Shared};
use crate::stream::Stream;
use crate::tunables::Tunables;
use crate::writer::{Command, Queue, Space, Writer, open_store};

/// Consumers' commits that may wait for the writer at once; more wait in line in front of it.
const COMMITS_WAITING_MAX: usize = 4096;
/// Reads from disk at once, in the whole process.
pub const DISK_READS_MAX: usize = 8;

/// Longest name of a stored setting: a prefix and a stream's name.
pub const SETTING_NAME_BYTES_MAX: usize = 128;
/// Longest value of a stored setting.
pub const SETTING_VALUE_BYTES_MAX: usize = 4096;

/// The log. Clones are the same log; when the last one goes, it is closed.
#[derive(Clone)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
    closer: Arc<Closer>,
}

/// A stream's positions. `appended ≥ durable ≥ visible ≥ trim_point`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The newest event in memory.
    pub appended: Offset,
    /// The newest event on disk.
    pub durable: Offset,
    /// The newest event that readers see.
    pub visible: Offset,
    /// Everything up to here was removed by retention.
    pub trim_point: Offset,
    /// End of the newest visible unit of this epoch; zero when it has none.
    pub visible_lsn: Lsn,
    /// Commit time of the newest visible unit; zero when there is none.
    pub visible_commit_time: Timestamp,
    /// How far the source may forget.
    pub confirmed_through: Lsn,
}

/// Bytes of memory that the log uses, by budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogMemory {
    /// Written and not in table files yet.
    pub memtables: usize,
    /// Blocks and indexes of table files.
    pub block_cache: usize,
    /// The newest chunks, with their encodings.
    pub tail: usize,
    /// What readers with chunks from disk may hold, each counted in full.
    pub read_ahead: usize,
    /// Reads from disk that run now: a number, not bytes.
    pub disk_reads: usize,
}

/// How many readers may have chunks from disk in hand at a time.
fn read_ahead_turns(options: &LogOptions) -> usize {
    (options.read_ahead_bytes / READ_AHEAD_BYTES_MAX).clamp(1, Semaphore::MAX_PERMITS)
}

impl Log {
    /// Opens or creates the log: checks the directory, reads all records, finishes what a crash interrupted, and
    /// deletes what is not visible. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be used, is used by another process, or does not hold what it should.
    pub fn open(options: LogOptions) -> Result<Self, LogError> {
        let (store, mut loaded) = open_store(&options)?;
        let streams: BTreeMap<_, _> = loaded
            .streams
            .iter()
            .map(|(&id, stream)| (id, Arc::new(Stream::new(id, stream, options.notices.clone()))))
            .collect();
        // Damage in one stream's newest chunk is no reason to keep the others from running.
        for stream in streams.values() {
            if let Err(error) = read::verify_newest(&store, stream) {
                stream.damage.keep(&error);
            }
        }
        let store = Arc::new(store);
        let space = Space::at_start(&options);
        let read_ahead = Arc::new(Semaphore::new(read_ahead_turns(&options)));
        let shared = Arc::new(Shared {
            tunables: Tunables::new(&options),
            settings: RwLock::new(std::mem::take(&mut loaded.settings)),
            queue: Queue::new(options.group_commit_bytes_max),
            framer: Framer::new(options.group_commit_bytes_max / 2),
            options,
            metrics: LogMetrics::default(),
            closed: watch::Sender::new(false),
            disk_reads: Arc::new(Semaphore::new(DISK_READS_MAX)),
            read_ahead,
            last_read: LastRead::default(),
            ring_bytes: AtomicUsize::new(0),
            commits: Arc::new(Semaphore::new(COMMITS_WAITING_MAX)),
            store: RwLock::new(Some(Arc::clone(&store))),
            streams: RwLock::new(streams),
            failure: RwLock::new(None),
            space: watch::Sender::new(space),
        });
        let writer = Writer::new(Arc::clone(&shared), store, &loaded);
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| LogError::io("start the writer thread for", &shared.options.dir, error))?;
        let closer = Arc::new(Closer { shared: Arc::clone(&shared), thread: Mutex::new(Some(thread)) });
        Ok(Self { shared, closer })
    }

    /// Writes what was handed over, stops the writer, and gives the directory free. Blocks. Other clones, appenders
    /// and readers get [`LogError::Closed`] from now on.
    ///
    /// # Errors
    /// When the last writes failed; everything acknowledged is safe all the same.
    pub fn close(self) -> Result<(), LogError> {
        self.closer.close()
    }

    /// The stream of this name; created when there is none. Blocks for one fsync then.
    ///
    /// # Errors
    /// When the log does not write any more.
    pub fn open_stream(&self, name: &StreamName) -> Result<StreamId, LogError> {
        if let Some(id) = self.stream_named(name.as_str()) {
            return Ok(id);
        }
        let (reply, answer) = mpsc::sync_channel(1);
        self.shared.send(Command::OpenStream { name: name.clone(), reply })?;
        match answer.recv() {
            Ok(stream) => stream.map(|stream| stream.id),
            Err(_) => Err(self.shared.reason_for_silence()),
        }
    }

    /// Keeps a stream for this long (none: for ever) instead of what the options say for all. Not durable: to be said at
    /// each start.
    ///
    /// # Errors
    /// When there is no such stream.
    pub fn keep_for(&self, stream: StreamId, age: Option<Duration>) -> Result<(), LogError> {
        *self.shared.stream(stream)?.retention_age.write() = Some(age);
        Ok(())
    }

    /// All streams.
    pub fn streams(&self) -> Vec<(StreamId, StreamName)> {
        self.shared.all_streams().iter().map(|stream| (stream.id, stream.name.clone())).collect()
    }

    /// The number of the stream of this name.
    pub fn stream_named(&self, name: &str) -> Option<StreamId> {
        self.shared.streams.read().values().find(|stream| stream.name.as_str() == name).map(|stream| stream.id)
    }

    /// The stream's positions now.
    ///
    /// # Errors
    /// When there is no such stream.
    pub fn watermarks(&self, stream: StreamId) -> Result<Watermarks, LogError> {
        let stream = self.shared.stream(stream)?;
        let mut marks = stream.published.watermarks();
        marks.appended = marks.durable.max(Offset(stream.appended.load(Relaxed)));
        Ok(marks)
    }

    /// The stream's positions, whenever something becomes durable.
    ///
    /// # Errors
    /// When there is no such stream.
    pub fn watch(&self, stream: StreamId) -> Result<watch::Receiver<Watermarks>, LogError> {
        Ok(self.shared.stream(stream)?.published.watch())
    }

    /// The stream's write side.
    ///
    /// # Errors
    /// When there is no such stream, or somebody has its write side already.
    pub fn appender(&self, stream: StreamId) -> Result<Appender, LogError> {
        let stream = self.shared.stream(stream)?;
        if stream.appender_taken.swap(true, Acquire) {
            return Err(LogError::AppenderTaken(stream.name.to_string()));
        }
        Ok(Appender::new(Arc::clone(&self.shared), stream))
    }

    /// A reader. Seeks on disk: not for an async task's own thread, unless `start` is a plain offset or an end.
    ///
    /// # Errors
    /// When `start` was removed by retention or is past the end.
    pub fn reader(&self, stream: StreamId, start: StartAt) -> Result<Reader, LogError> {
        let stream = self.shared.stream(stream)?;
        let next = read::start_offset(&*self.shared.store()?, &stream, start)?;
        Ok(Reader::new(Arc::clone(&self.shared), stream, next))
    }

    /// The visible end of a stream, for many who follow it together.
    ///
    /// # Errors
    /// When there is no such stream.
    pub fn tail(&self, stream: StreamId) -> Result<Tail, LogError> {
        Ok(Tail::new(Arc::clone(&self.shared), self.shared.stream(stream)?))
    }

    /// The stream's epochs after the first, oldest first.
    pub fn epochs(&self, stream: StreamId) -> Vec<EpochRecord> {
        self.shared.stream(stream).map(|stream| stream.layout.read().epochs.clone()).unwrap_or_default()
    }

    /// The epoch that `offset` belongs to, or, when it is yet to come, would belong to now.
    pub fn epoch_at(&self, stream: StreamId, offset: Offset) -> Epoch {
        self.shared.stream(stream).map_or(Epoch::FIRST, |stream| stream.layout.read().epoch_of(offset).0)
    }

    /// Bytes of a stream's kept chunks, as stored.
    pub fn stream_bytes(&self, stream: StreamId) -> u64 {
        let Ok(stream) = self.shared.stream(stream) else { return 0 };
        let layout = stream.layout.read();
        layout.directory.first().map_or(0, |(_, entry)| layout.bytes.saturating_sub(entry.bytes_before))
    }

    /// Estimated bytes of the stored chunks after `after` up to and including `to`: a consumer's lag.
    pub fn bytes_between(&self, stream: StreamId, after: Offset, to: Offset) -> u64 {
        let Ok(stream) = self.shared.stream(stream) else { return 0 };
        let durable = stream.published.watermarks().durable;
        let layout = stream.layout.read();
        layout.bytes_through(to, durable).saturating_sub(layout.bytes_through(after, durable))
    }

    /// Bytes of all the log's files.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.store().map(|store| store.disk_bytes()).unwrap_or(0)
    }

    /// What the log's budgets are used for now.
    pub fn memory(&self) -> LogMemory {
        let (memtables, block_cache) = self.shared.store().map(|store| store.memory_used()).unwrap_or_default();
        let turns = read_ahead_turns(&self.shared.options);
        LogMemory {
            memtables,
            block_cache,
            tail: self.shared.ring_bytes.load(Relaxed),
            read_ahead: (turns.saturating_sub(self.shared.read_ahead.available_permits())) * READ_AHEAD_BYTES_MAX,
            disk_reads: DISK_READS_MAX.saturating_sub(self.shared.disk_reads.available_permits()),
        }
    }

    /// The log's counters.
    pub fn metrics(&self) -> LogMetrics {
        self.shared.metrics.clone()
    }

    /// Why the log stopped writing, if it did.
    pub fn failure(&self) -> Option<LogError> {
        self.shared.failure.read().clone()
    }

    /// The room on the data volume, whenever it changes.
    pub fn space(&self) -> watch::Receiver<Space> {
        self.shared.space.subscribe()
    }

    /// Damage that was found and not removed by retention since, a few places of each stream. When the log is opened
    /// only the newest chunk of each stream is looked at; everything else is found when it is read.
    pub fn damage(&self) -> Vec<LogError> {
        let streams = self.shared.all_streams();
        streams.iter().flat_map(|stream| stream.damage.kept(stream.published.watermarks().trim_point)).collect()
    }

    /// The settings that were stored, by name.
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.shared.settings.read().clone()
    }

    /// Stores settings, all or none of them, durably; one without a value is deleted. The log keeps them and does not
    /// know what they mean. Names are at most [`SETTING_NAME_BYTES_MAX`] bytes, values
    /// [`SETTING_VALUE_BYTES_MAX`].
    ///
    /// # Errors
    /// When one is too long, or the log does not write any more.
    pub async fn store_settings(&self, changes: BTreeMap<String, Option<String>>) -> Result<(), LogError> {
        let too_long = |(name, value): (&String, &Option<String>)| {
            name.len() > SETTING_NAME_BYTES_MAX
                || value.as_ref().is_some_and(|value| value.len() > SETTING_VALUE_BYTES_MAX)
        };
        if changes.iter().any(too_long) {
            return Err(LogError::Misuse("a setting's name or value is too long"));
        }
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Settings { changes, reply })?;
        self.shared.answer(answer).await
    }

    /// What may be changed while the log is open.
    pub fn tunables(&self) -> &Tunables {
        &self.shared.tunables
    }

    /// Lets retention look now rather than in a few seconds.
    ///
    /// # Errors
    /// When the log does not write any more.
    pub async fn apply_retention(&self) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Retain { reply })?;
        self.shared.answer(answer).await
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.shared.options.dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use dbstreamd_model::{Lsn, Op, Timestamp};

    use super::*;
    use crate::{Pump, Rewind, UnitHead};

    /// A log with one visible event, its stream, and the appender.
    async fn with_one_event(folder: &std::path::Path) -> (Log, StreamId, Appender) {
        let log = Log::open(LogOptions { tail_ring_bytes: 0, ..LogOptions::with_dir(folder) }).unwrap();
        let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
        let mut appender = log.appender(stream).unwrap();
        appender.begin_session().await.unwrap();
        unit(&mut appender, 1);
        appender.pump(Pump::Now).unwrap();
        appender.writer_idle().await;
        assert_eq!(log.watermarks(stream).unwrap().visible, Offset(1));
        (log, stream, appender)
    }

    fn unit(appender: &mut Appender, lsn: u64) {
        appender.begin_unit(UnitHead { commit_lsn: Lsn(lsn), commit_time: Timestamp(1), xid: 1 });
        appender.append(Op::Message, None, b"body");
        appender.end_unit(Lsn(lsn + 1));
    }

    async fn until_broken(log: &Log) -> LogError {
        let begun = std::time::Instant::now();
        loop {
            match log.failure() {
                Some(broken @ LogError::Broken(_)) => return broken,
                _ => assert!(begun.elapsed() < Duration::from_secs(60), "it is never given up"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_panic_of_the_writer_is_a_failure_that_everyone_hears_of_and_what_is_visible_is_read_on() {
        let folder = tempfile::tempdir().unwrap();
        let (log, stream, mut appender) = with_one_event(folder.path()).await;
        let mut follower = log.reader(stream, StartAt::Offset(Offset(2))).unwrap();

        log.shared.send(Command::Panic).unwrap();
        unit(&mut appender, 3);
        // The log may have heard of the panic already.
        let _ = appender.pump(Pump::Now);
        appender.writer_idle().await;
        let error = appender.begin_session().await.unwrap_err();
        assert!(error.to_string().contains("the writer panicked: as told"), "{error}");
        assert!(log.apply_retention().await.is_err());
        assert!(log.failure().is_some());
        // The disk is as good as ever; only nothing comes any more.
        let mut reader = log.reader(stream, StartAt::Earliest).unwrap();
        assert_eq!(reader.try_next().await.unwrap().unwrap().range.len(), 1);
        assert!(reader.try_next().await.unwrap().is_none());
        assert!(follower.try_next().await.unwrap().is_none());
        drop(appender);
        let waits = tokio::spawn(async move { follower.next().await });
        assert!(log.close().is_err());
        assert!(matches!(waits.await.unwrap(), Err(LogError::Closed)), "who waits at the end learns of the close");
    }

    #[tokio::test]
    async fn a_log_that_lost_what_was_acknowledged_is_given_up_and_every_read_of_it_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let (log, stream, mut appender) = with_one_event(folder.path()).await;
        let mut before = log.reader(stream, StartAt::Earliest).unwrap();
        log.shared.stream(stream).unwrap().published.claim_confirmed(Lsn(1000));
        log.shared.send(Command::Fail).unwrap();

        let broken = until_broken(&log).await;
        for part in ["stream shop was durable up to offset 1 and 0/3E8", "the disk has offset 1"] {
            assert!(broken.to_string().contains(part), "{part} is not in {broken}");
        }
        let same = |error: LogError| assert_eq!(error.to_string(), broken.to_string());
        same(before.try_next().await.unwrap_err());
        for start in [StartAt::Earliest, StartAt::Offset(Offset(2)), StartAt::Lsn(Lsn(1))] {
            same(log.reader(stream, start).unwrap_err());
        }
        same(appender.begin_session().await.unwrap_err());
        same(log.commit_offset(stream, &"audit".parse().unwrap(), Offset(1), Rewind::Refuse).await.unwrap_err());
        // A restart looks at the disk, not at what was claimed.
        drop((before, appender));
        same(log.close().unwrap_err());
        let log = Log::open(LogOptions::with_dir(folder.path())).unwrap();
        assert_eq!(log.watermarks(stream).unwrap().visible, Offset(1));
    }
}
