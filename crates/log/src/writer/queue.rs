//! The way to the writer thread: commands in order, idle positions beside them.
//!
//! It has no bound of its own: chunks are bounded by the credit that travels in them, commits by the log's own
//! permits, idle positions by the number of streams.
//!
//! Most commands press: the writer turns to them, and to everything before them, as soon as it is free. A chunk of a
//! source that is behind does not. It waits for others of its kind, so that several share one sync: a sync costs the
//! processor as much as some two hundred rows, and one for each chunk was a fifth of a drain's time (ADR 3).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use dbstreamd_model::{ConsumerName, Lsn, Offset, StreamId, StreamName};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Durable;
use crate::appender::Restart;
use crate::chunk::{Chunk, Framed};
use crate::consumers::Claim;
use crate::credit::Credit;
use crate::epochs::{EpochBreak, EpochRecord};
use crate::error::LogError;
use crate::schemas::StoredSchema;
use crate::skips::Skip;
use crate::store::{SourceIdentity, StoredForm};
use crate::stream::{InFlight, Stream};
use crate::tables::{TableChange, TableName};

/// Everything the writer can be asked to do.
pub(crate) enum Command {
    /// Store a chunk.
    Chunk(Box<ChunkCommand>),
    /// Store a consumer's offset.
    Commit(Box<CommitCommand>),
    /// Create a stream, or find it.
    OpenStream {
        name: StreamName,
        reply: SyncSender<Result<Arc<Stream>, LogError>>,
    },
    /// Delete what is not visible.
    Reset {
        stream: Arc<Stream>,
        reply: Reply<Restart>,
    },
    /// Delete a consumer's offset; answers what it was.
    Forget {
        stream: Arc<Stream>,
        consumer: ConsumerName,
        reply: Reply<Option<Offset>>,
    },
    /// Store whose history a stream is, and that nothing of it past `confirmed_max` may be forgotten yet.
    Skip {
        stream: Arc<Stream>,
        skip: Skip,
        reply: Reply<()>,
    },
    RestoreSchemas {
        stream: Arc<Stream>,
        schemas: Vec<StoredSchema>,
        reply: Reply<()>,
    },
    Bind {
        stream: Arc<Stream>,
        source: SourceIdentity,
        confirmed_max: Lsn,
        reply: Reply<()>,
    },
    /// Store in which form values come from now on.
    Form {
        stream: Arc<Stream>,
        form: StoredForm,
        reply: Reply<()>,
    },
    /// Begin a new epoch behind the last visible event.
    RaiseEpoch {
        stream: Arc<Stream>,
        broken: EpochBreak,
        reply: Reply<EpochRecord>,
    },
    /// A table's rows are again what their events say; answers whether that was news.
    ClearTable {
        stream: Arc<Stream>,
        table: TableName,
        reply: Reply<bool>,
    },
    /// Store settings, or with none delete them.
    Settings {
        changes: BTreeMap<String, Option<String>>,
        reply: Reply<()>,
    },
    /// Remove what retention does not keep.
    Retain {
        reply: Reply<()>,
    },
    /// Finish what was asked before, and end.
    Close,
    /// Panic, to see what becomes of everyone else.
    #[cfg(test)]
    Panic,
    /// Fail as if a write had.
    #[cfg(test)]
    Fail,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, LogError>>;

pub(crate) struct ChunkCommand {
    pub(crate) stream: Arc<Stream>,
    pub(crate) chunk: Chunk,
    /// Its stored form, where it was made already.
    pub(crate) framed: Option<Framed>,
    /// Schema versions first used here or in a chunk soon after.
    pub(crate) schemas: Vec<StoredSchema>,
    /// What became known of tables in the units that end here.
    pub(crate) tables: Vec<(TableName, TableChange)>,
    /// How far the source may forget once this is durable; zero for no further than before.
    pub(crate) confirm: Lsn,
    /// Given back when the chunk is durable.
    pub(crate) credit: Option<Credit>,
    /// Counts as in flight until it is dropped.
    pub(crate) in_flight: InFlight,
    /// When it was handed over.
    pub(crate) appended_at: Instant,
    /// Which life of the log its session was begun in.
    pub(crate) life: u64,
    /// It may wait for others, because what is in it is old anyway, or not to be seen yet.
    pub(crate) patient: bool,
}

impl ChunkCommand {
    fn bytes(&self) -> usize {
        self.chunk.body_bytes()
    }
}

/// Patient chunks are written when there are this many bytes of them, or half of what a group commit may be,
const PATIENT_BYTES_MAX: usize = 1024 * 1024;
/// or when the first of them has waited for so long: a source that fills them more slowly is hardly behind.
const PATIENCE: Duration = Duration::from_millis(20);

pub(crate) struct CommitCommand {
    pub(crate) stream: Arc<Stream>,
    pub(crate) consumer: ConsumerName,
    pub(crate) offset: Offset,
    pub(crate) claim: Claim,
    pub(crate) reply: Reply<Durable<Offset>>,
    /// One of the places of commits that wait.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The queue.
pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    patient_bytes_max: usize,
    /// A copy of the state's, to look at without the lock.
    life: AtomicU64,
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    /// Chunks waiting, by stream: an idle position may not overtake them.
    waiting: HashMap<StreamId, usize>,
    idle: HashMap<StreamId, (Arc<Stream>, Lsn)>,
    /// How many of the commands press.
    pressing: usize,
    /// Those that do not.
    patient: Option<Patient>,
    /// Somebody waits for an idle position, or for what was patient until now.
    urgent: bool,
    /// Rises with each failure: what a session of an earlier life hands over comes behind something that was lost.
    life: u64,
    ended: bool,
}

/// Chunks that wait for others.
struct Patient {
    count: usize,
    bytes: usize,
    /// When the first of them came.
    since: Instant,
}

impl State {
    fn patience_ends(&self, bytes_max: usize) -> Option<Instant> {
        let patient = self.patient.as_ref()?;
        Some(if patient.bytes >= bytes_max { patient.since } else { patient.since + PATIENCE })
    }

    /// Counts a command that comes; whether the writer must hear of it.
    fn count_in(&mut self, command: &Command, bytes_max: usize) -> bool {
        let Command::Chunk(chunk) = command else {
            self.pressing += 1;
            return true;
        };
        *self.waiting.entry(chunk.stream.id).or_default() += 1;
        if !chunk.patient {
            self.pressing += 1;
            return true;
        }
        let first = self.patient.is_none();
        let patient = self.patient.get_or_insert_with(|| Patient { count: 0, bytes: 0, since: Instant::now() });
        patient.count += 1;
        patient.bytes += chunk.bytes();
        // Of the first, to know until when it can sleep.
        first || patient.bytes >= bytes_max
    }

    /// Counts a command that is taken.
    fn count_out(&mut self, command: &Command) {
        let Command::Chunk(chunk) = command else {
            self.pressing -= 1;
            return;
        };
        if let Some(waiting) = self.waiting.get_mut(&chunk.stream.id) {
            *waiting -= 1;
            if *waiting == 0 {
                self.waiting.remove(&chunk.stream.id);
            }
        }
        if !chunk.patient {
            self.pressing -= 1;
        } else if let Some(patient) = &mut self.patient {
            patient.count -= 1;
            patient.bytes -= chunk.bytes();
            if patient.count == 0 {
                self.patient = None;
            }
        }
    }
}

impl Queue {
    /// Where a group commit is at most so many bytes.
    pub(crate) fn new(group_bytes_max: usize) -> Self {
        let patient_bytes_max = PATIENT_BYTES_MAX.min(group_bytes_max / 2);
        Self { state: Mutex::default(), ready: Condvar::new(), patient_bytes_max, life: AtomicU64::new(0) }
    }

    /// Hands a command over; gives it back when the writer has ended.
    pub(crate) fn push(&self, command: Command) -> Result<(), Command> {
        let mut state = self.state.lock();
        let stale = matches!(&command, Command::Chunk(chunk) if chunk.life != state.life);
        if state.ended || stale {
            return Err(command);
        }
        let wake = state.count_in(&command, self.patient_bytes_max);
        state.commands.push_back(command);
        drop(state);
        if wake {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Somebody waits for the patient chunks now.
    pub(crate) fn hurry(&self) {
        let mut state = self.state.lock();
        if state.patient.is_some() {
            state.urgent = true;
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Notes an idle position. Unless it is urgent it wakes nobody: the writer takes it along, or looks now and then.
    pub(crate) fn note_idle(&self, stream: &Arc<Stream>, lsn: Lsn, urgent: bool, life: u64) {
        let mut state = self.state.lock();
        if state.life != life {
            return;
        }
        let (_, noted) = state.idle.entry(stream.id).or_insert_with(|| (Arc::clone(stream), lsn));
        *noted = lsn.max(*noted);
        if urgent {
            state.urgent = true;
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Waits until something is due, but no longer than until `deadline`; whether something is.
    pub(crate) fn wait(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let patience_ends = state.patience_ends(self.patient_bytes_max);
            let due = state.pressing > 0 || state.urgent || patience_ends.is_some_and(|end| end <= now);
            if due || now >= deadline {
                return due;
            }
            let until = patience_ends.map_or(deadline, |end| end.min(deadline));
            // Whether it was woken or the time has come is seen above.
            self.ready.wait_until(&mut state, until);
        }
    }

    /// The next command, if one waits.
    pub(crate) fn take(&self) -> Option<Command> {
        let mut state = self.state.lock();
        let command = state.commands.pop_front()?;
        state.count_out(&command);
        Some(command)
    }

    /// Takes the idle positions of streams that have no chunk waiting.
    pub(crate) fn take_idle(&self) -> Vec<(Arc<Stream>, Lsn)> {
        let mut state = self.state.lock();
        state.urgent = false;
        if state.idle.is_empty() {
            return Vec::new();
        }
        let State { idle, waiting, .. } = &mut *state;
        idle.extract_if(|stream, _| !waiting.contains_key(stream)).map(|(_, position)| position).collect()
    }

    /// Which life of the log this is.
    pub(crate) fn life(&self) -> u64 {
        self.life.load(Relaxed)
    }

    /// A write failed: nothing of the sessions that were is taken any more, and no position behind it is idle.
    pub(crate) fn begin_life(&self) {
        let mut state = self.state.lock();
        state.life += 1;
        self.life.store(state.life, Relaxed);
        state.idle.clear();
        state.urgent = false;
    }

    /// Refuses everything from now on and gives out what still waits.
    pub(crate) fn end(&self) -> VecDeque<Command> {
        let mut state = self.state.lock();
        state.ended = true;
        state.idle.clear();
        (state.pressing, state.patient) = (0, None);
        std::mem::take(&mut state.commands)
    }
}
