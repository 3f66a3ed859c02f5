//! What all parts of an open log share: the store while there is one, the streams, the way to the writer, and why the log
//! does not write when it does not. And its end: [`Closer`] stops the writer and gives the directory free.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dbstreamd_model::StreamId;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::chunk::Framer;
use crate::error::LogError;
use crate::metrics::LogMetrics;
use crate::options::LogOptions;
use crate::read::LastRead;
use crate::store::Store;
use crate::stream::Stream;
use crate::tunables::Tunables;
use crate::writer::{Command, Queue, Space, refuse};

/// How long closing waits for reads that are under way.
pub(crate) const CLOSE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What all parts of an open log share.
pub(crate) struct Shared {
    pub(crate) options: LogOptions,
    pub(crate) queue: Queue,
    pub(crate) framer: Framer,
    pub(crate) metrics: LogMetrics,
    /// Becomes true when the log is closed.
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) disk_reads: Arc<Semaphore>,
    /// Turns of readers with chunks from disk in hand: one for each `READ_AHEAD_BYTES_MAX` of the budget.
    pub(crate) read_ahead: Arc<Semaphore>,
    /// What readers of the same part of a stream share.
    pub(crate) last_read: LastRead,
    /// Bytes in the tail ring, encodings included, as the writer last saw.
    pub(crate) ring_bytes: AtomicUsize,
    pub(crate) commits: Arc<Semaphore>,
    pub(crate) store: RwLock<Option<Arc<Store>>>,
    pub(crate) streams: RwLock<BTreeMap<StreamId, Arc<Stream>>>,
    pub(crate) failure: RwLock<Option<LogError>>,
    pub(crate) space: watch::Sender<Space>,
    pub(crate) tunables: Tunables,
    /// Durable settings, by name.
    pub(crate) settings: RwLock<BTreeMap<String, String>>,
}

/// Stops the writer and closes the store, once: when it is told to, or dropped.
pub(crate) struct Closer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn stream(&self, id: StreamId) -> Result<Arc<Stream>, LogError> {
        self.streams.read().get(&id).cloned().ok_or(LogError::UnknownStream(id.0))
    }

    pub(crate) fn all_streams(&self) -> Vec<Arc<Stream>> {
        self.streams.read().values().cloned().collect()
    }

    pub(crate) fn add_stream(&self, stream: Arc<Stream>) {
        self.streams.write().insert(stream.id, stream);
    }

    /// Whether the data volume is nearly full.
    pub(crate) fn space_low(&self) -> bool {
        self.space.borrow().low
    }

    pub(crate) fn store(&self) -> Result<Arc<Store>, LogError> {
        let store = self.store.read().clone();
        store.ok_or_else(|| match self.writing() {
            Err(error @ (LogError::Closed | LogError::Broken(_))) => error,
            _ => LogError::Reopening,
        })
    }

    /// Ends all sessions because a write failed, and says how to tell others of it.
    pub(crate) fn fail(&self, error: LogError) -> LogError {
        self.break_off(LogError::Stopped(Arc::new(error)))
    }

    /// Ends all sessions for this reason, which everyone who asks gets from now on.
    pub(crate) fn break_off(&self, failure: LogError) -> LogError {
        *self.failure.write() = Some(failure.clone());
        self.queue.begin_life();
        failure
    }

    /// The log writes again, in this store.
    pub(crate) fn mend(&self, store: Arc<Store>) {
        *self.store.write() = Some(store);
        *self.failure.write() = None;
    }

    /// Whether the log writes.
    pub(crate) fn writing(&self) -> Result<(), LogError> {
        if let Some(failure) = &*self.failure.read() {
            return Err(failure.clone());
        }
        if *self.closed.borrow() { Err(LogError::Closed) } else { Ok(()) }
    }

    pub(crate) fn send(&self, command: Command) -> Result<(), LogError> {
        self.queue.push(command).map_err(|command| {
            let reason = self.reason_for_silence();
            refuse(command, &reason);
            reason
        })
    }

    /// Waits for the writer's answer.
    pub(crate) async fn answer<T>(&self, answer: oneshot::Receiver<Result<T, LogError>>) -> Result<T, LogError> {
        answer.await.unwrap_or_else(|_| Err(self.reason_for_silence()))
    }

    pub(crate) fn reason_for_silence(&self) -> LogError {
        // Who hears of a failure before it is kept begins anew like everyone.
        self.writing().err().unwrap_or(LogError::Interrupted)
    }
}

impl Closer {
    pub(crate) fn close(&self) -> Result<(), LogError> {
        let Some(thread) = self.thread.lock().take() else { return Ok(()) };
        self.shared.closed.send_replace(true);
        self.shared.read_ahead.close();
        // A refused command is no loss: then the writer has ended by itself.
        let _ = self.shared.queue.push(Command::Close);
        if thread.join().is_err() {
            let reason = "the writer thread panicked".into();
            self.shared.break_off(LogError::Broken(Arc::new(LogError::Store { action: "write", reason })));
        }
        let Some(mut store) = self.shared.store.write().take() else {
            // It was closed to be opened anew, and that failed.
            return self.shared.failure.read().clone().map_or(Ok(()), Err);
        };
        let flushed = match self.shared.failure.read().clone() {
            Some(failure) => Err(failure),
            // What is in table files has checksums that notice damage; the write-ahead log would just end there.
            None => store.flush_all(),
        };
        // Reads that are under way hold the store a moment longer.
        let deadline = Instant::now() + CLOSE_WAIT_MAX;
        loop {
            match Arc::try_unwrap(store) {
                Ok(last) => {
                    drop(last);
                    return flushed;
                }
                Err(held) if Instant::now() < deadline => store = held,
                Err(_) => return flushed,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the log was not closed cleanly");
        }
    }
}
