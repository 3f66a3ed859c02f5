//! The writer: one thread, the only one that changes the disk.
//!
//! ```text
//!   wait ─▶ gather what waits, up to so many bytes or µs ─▶ one WriteBatch, one fsync ─▶ publish ─▶ wait
//! ```
//!
//! It is never idle while something waits and never waits while the disk is idle: a quiet stream pays one fsync, not
//! a timer, and a busy one is batched by its own fsyncs. After a failed write or fsync nothing is written any more,
//! since what the disk holds is then unknown (an fsync that failed once may succeed the next time without having
//! written anything): everyone who asks gets the reason until the log could be opened anew (`recover.rs`).

mod control;
mod crowd;
mod epoch;
mod group;
mod partitions;
mod published;
mod queue;
mod recover;
mod retention;
mod ring_budget;
mod space;

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use dbstreamd_model::{Notice, Severity, StreamId};

pub(crate) use control::delete_tail;
pub use crowd::CROWD_MIN;
pub(crate) use crowd::beat;
pub use partitions::retention_classes;
pub use published::Durable;
pub(crate) use published::Published;
pub(crate) use queue::{ChunkCommand, Command, CommitCommand, Queue};
pub(crate) use recover::open_store;
pub use space::Space;

use crate::chunk::Scratch;
use crate::error::LogError;
use crate::shared::Shared;
use crate::store::{Loaded, PartitionSeq, Store, StreamState};
use crate::stream::Stream;
use group::Group;
use partitions::Partitions;
use ring_budget::RingBudget;
use space::SPACE_INTERVAL;

/// Idle positions that nothing else takes along cost an fsync of their own: at most one a second for all streams.
const IDLE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// How often retention looks: partitions are hours and gigabytes, ten seconds are exact enough.
const RETENTION_INTERVAL: Duration = Duration::from_secs(10);

/// The writer's own view of things: what the disk will hold once the group at hand is written.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    store: Arc<Store>,
    streams: HashMap<StreamId, Slot>,
    partitions: Partitions,
    ring: RingBudget,
    scratch: Scratch,
    idle_flushed: Instant,
    retained: Instant,
    space_seen: Instant,
    /// Streams whose followers were not woken when the watermarks moved, and when they must be.
    unwoken: HashMap<StreamId, Instant>,
    /// Why the oldest partition, which should go, cannot.
    retention_held: Option<&'static str>,
}

/// A stream as the disk will hold it.
struct Slot {
    stream: Arc<Stream>,
    state: StreamState,
    /// The newest partition that holds events of it.
    partition: Option<PartitionSeq>,
}

enum Next {
    Continue,
    Close,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, store: Arc<Store>, loaded: &Loaded) -> Self {
        let streams = shared.all_streams().into_iter().filter_map(|stream| {
            let loaded = loaded.streams.get(&stream.id)?;
            let partition = loaded.directory.last().map(|(seq, _)| *seq);
            Some((stream.id, Slot { stream, state: loaded.state, partition }))
        });
        Self {
            streams: streams.collect(),
            partitions: Partitions::restored(&store, loaded),
            ring: RingBudget::new(shared.options.tail_ring_bytes),
            scratch: Scratch::default(),
            idle_flushed: Instant::now(),
            retained: Instant::now(),
            space_seen: Instant::now(),
            unwoken: HashMap::new(),
            retention_held: None,
            shared,
            store,
        }
    }

    /// The thread's whole life.
    pub(crate) fn run(mut self) {
        // Outlives a failing turn: whoever waits for something in it must find the failure when it wakes up.
        let mut group = Group::default();
        loop {
            // A bug must not leave appenders waiting for a thread that is gone. What a turn that panicked left half done
            // is not used any more: after a failure only the queue is answered.
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn(&mut group)));
            match turn.unwrap_or_else(|panic| Err(panicked(&*panic))) {
                Ok(Next::Continue) => {}
                Ok(Next::Close) => return self.refuse_all(&LogError::Closed, false),
                Err(error) => {
                    // A panic is a bug, which would come back.
                    let broken = matches!(error, LogError::Broken(_));
                    let failure = if broken { self.shared.break_off(error) } else { self.shared.fail(error) };
                    let notice = Notice::new(Severity::Error, "log_stopped", failure.to_string());
                    self.shared.options.notices.push(notice);
                    drop(std::mem::take(&mut group));
                    if broken {
                        return self.refuse_all(&failure, true);
                    }
                    match self.recover(failure) {
                        Some(writer) => self = writer,
                        None => return,
                    }
                }
            }
        }
    }

    fn turn(&mut self, group: &mut Group) -> Result<Next, LogError> {
        if self.space_seen.elapsed() >= SPACE_INTERVAL {
            self.look_at_space()?;
        }
        let deadline = (self.idle_flushed + IDLE_FLUSH_INTERVAL)
            .min(self.retained + RETENTION_INTERVAL)
            .min(self.space_seen + SPACE_INTERVAL);
        let deadline = self.unwoken.values().copied().fold(deadline, Instant::min);
        let woken = self.shared.queue.wait(deadline.max(Instant::now()));
        self.wake_crowds();
        let control = self.gather(group)?;
        if woken || self.idle_flushed.elapsed() >= IDLE_FLUSH_INTERVAL {
            self.gather_idle(group);
        }
        self.write(group)?;
        // At least once a second, since encodings come and go without the writer.
        self.shared.ring_bytes.store(self.ring.used(), Relaxed);
        let next = match control {
            Some(control) => self.control(control)?,
            None => Next::Continue,
        };
        if self.retained.elapsed() >= RETENTION_INTERVAL {
            self.retain()?;
        }
        Ok(next)
    }

    /// Wakes those whose time has come.
    fn wake_crowds(&mut self) {
        if self.unwoken.is_empty() {
            return;
        }
        let now = Instant::now();
        let due = self.unwoken.extract_if(|_, due| *due <= now);
        for (id, _) in due {
            if let Some(slot) = self.streams.get(&id) {
                slot.stream.published.wake(now);
            }
        }
    }

    /// Takes what waits into `group`, until it is full or a command comes that must stand alone.
    fn gather(&mut self, group: &mut Group) -> Result<Option<Command>, LogError> {
        let started = Instant::now();
        let tunables = &self.shared.tunables;
        let (bytes_max, delay_max) = (tunables.group_commit_bytes_max(), tunables.group_commit_delay_max());
        while let Some(command) = self.shared.queue.take() {
            match command {
                Command::Chunk(chunk) => self.gather_chunk(group, *chunk)?,
                Command::Commit(commit) => self.gather_commit(group, *commit)?,
                control => return Ok(Some(control)),
            }
            if group.bytes() as u64 >= bytes_max || started.elapsed() >= delay_max {
                break;
            }
        }
        Ok(None)
    }

    /// Answers everything that waits, and after a failure everything that still comes, with `error`.
    fn refuse_all(&self, error: &LogError, keep_answering: bool) {
        if keep_answering {
            loop {
                self.shared.queue.wait(Instant::now() + RETENTION_INTERVAL);
                while let Some(command) = self.shared.queue.take() {
                    if matches!(command, Command::Close) {
                        return self.refuse_all(error, false);
                    }
                    refuse(command, error);
                }
            }
        }
        self.shared.queue.end().into_iter().for_each(|command| refuse(command, error));
    }
}

fn panicked(panic: &(dyn Any + Send)) -> LogError {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let reason = format!("the writer panicked: {}", said.unwrap_or("no reason given"));
    LogError::Broken(Arc::new(LogError::Store { action: "write", reason }))
}

/// Answers a command with an error. Who does not wait for the answer does not need it.
pub(crate) fn refuse(command: Command, error: &LogError) {
    match command {
        Command::Chunk(chunk) => drop(chunk),
        Command::Commit(commit) => drop(commit.reply.send(Err(error.clone()))),
        Command::OpenStream { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::Reset { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::RaiseEpoch { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::Forget { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::ClearTable { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::Bind { reply, .. }
        | Command::RestoreSchemas { reply, .. }
        | Command::Skip { reply, .. }
        | Command::Form { reply, .. }
        | Command::Settings { reply, .. }
        | Command::Retain { reply } => {
            drop(reply.send(Err(error.clone())));
        }
        Command::Close => {}
        #[cfg(test)]
        Command::Panic | Command::Fail => {}
    }
}
