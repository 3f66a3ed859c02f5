//! After a write or sync failed: nothing is written any more until a probe succeeds; then the log is opened anew.
//!
//! ```text
//!   fail ─▶ answer everyone with the reason ─▶ probe ─▶ close the store, open it again ─▶ compare ─▶ write again
//!                        ▲                       │ refused        │ refused
//!                        └───────────────────────┴────────────────┘
//! ```
//! Opening anew is what a restart would do, and for the same reason: after a failed fsync nobody knows which pages the
//! disk has, and a second fsync may succeed without having written them. What the write-ahead log still gives back is
//! written to table files again before it counts. What had been acknowledged must be there; if it is not, nothing is
//! ever written again.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbstreamd_model::{Notice, Severity};

use super::{Command, Writer, delete_tail, refuse};
use crate::error::LogError;
use crate::options::LogOptions;
use crate::shared::{CLOSE_WAIT_MAX, Shared};
use crate::store::{DATABASE_DIR, Loaded, Store};
use crate::stream::Stream;

/// Pauses between probes.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What a probe writes: as much as a small group commit.
const PROBE_BYTES: usize = 1024 * 1024;
/// The probe's file, in the data directory.
const PROBE_FILE: &str = "probe";

/// Opens the store, and deletes what is not visible.
pub(crate) fn open_store(options: &LogOptions) -> Result<(Store, Loaded), LogError> {
    let (store, mut loaded) = Store::open(options)?;
    for (id, stream) in &mut loaded.streams {
        delete_tail(&store, *id, &mut stream.state, &mut stream.directory)?;
    }
    Ok((store, loaded))
}

impl Writer {
    /// Waits for the cause of `failure` to go away, answering everyone with it; the writer that goes on then, or none when
    /// the log was closed or must never write again.
    pub(super) fn recover(self, failure: LogError) -> Option<Self> {
        let shared = self.shared;
        let mut store = Some(self.store);
        let mut pause = PAUSE_MIN;
        loop {
            if refuse_for(&shared, &failure, pause).is_closed() {
                return None;
            }
            pause = (pause * 2).min(PAUSE_MAX);
            if let Err(error) = probe(&shared.options.dir).and_then(|()| room(&shared.options.dir)) {
                tracing::debug!(%error, "the data volume still refuses to be written");
                continue;
            }
            if let Some(open) = store.take()
                && let Err(still_open) = close(&shared, open)
            {
                store = Some(still_open);
                continue;
            }
            match reopen(&shared) {
                Ok((opened, mut loaded)) => {
                    *shared.settings.write() = std::mem::take(&mut loaded.settings);
                    shared.mend(Arc::clone(&opened));
                    let text = "the log writes again: the disk takes writes, and everything acknowledged is there";
                    shared.options.notices.push(Notice::new(Severity::Info, "log_recovered", text));
                    return Some(Self::new(shared, opened, &loaded));
                }
                Err(lost @ LogError::Broken(_)) => {
                    shared.break_off(lost.clone());
                    shared.options.notices.push(Notice::new(Severity::Error, "log_broken", lost.to_string()));
                    while !refuse_for(&shared, &lost, PAUSE_MAX).is_closed() {}
                    return None;
                }
                Err(error) => tracing::warn!(%error, "the log could not be opened again yet"),
            }
        }
    }
}

enum Answered {
    TimeIsUp,
    Closed,
}

impl Answered {
    const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// Answers everything that is asked for this long.
fn refuse_for(shared: &Shared, error: &LogError, time: Duration) -> Answered {
    let until = Instant::now() + time;
    loop {
        shared.queue.wait(until);
        while let Some(command) = shared.queue.take() {
            if matches!(command, Command::Close) {
                shared.queue.end().into_iter().for_each(|command| refuse(command, error));
                return Answered::Closed;
            }
            refuse(command, error);
        }
        // An idle position that is urgent wakes as well, and is not durable either.
        shared.queue.take_idle();
        if Instant::now() >= until {
            return Answered::TimeIsUp;
        }
    }
}

/// Whether the volume takes a write and a sync, of some size and to a new file.
fn probe(dir: &Path) -> std::io::Result<()> {
    let path = dir.join(PROBE_FILE);
    let mut file = std::fs::File::create(&path)?;
    let written = file.write_all(&vec![0xA5; PROBE_BYTES]).and_then(|()| file.sync_all());
    drop(file);
    std::fs::remove_file(&path)?;
    written
}

/// Whether there is room to open the log: what its write-ahead log holds is written to table files then. Until there is, the
/// store that is open can still be read.
fn room(dir: &Path) -> std::io::Result<()> {
    let volume = rustix::fs::statvfs(dir)?;
    let available = volume.f_bavail.saturating_mul(volume.f_frsize);
    let mut needed = PROBE_BYTES as u64;
    for file in std::fs::read_dir(dir.join(DATABASE_DIR))? {
        let file = file?;
        if file.path().extension().is_some_and(|extension| extension == "log") {
            needed = needed.saturating_add(file.metadata()?.len());
        }
    }
    if available >= needed { Ok(()) } else { Err(std::io::ErrorKind::StorageFull.into()) }
}

/// Closes the store once nobody reads from it any more; gives it back when that takes too long.
fn close(shared: &Shared, store: Arc<Store>) -> Result<(), Arc<Store>> {
    *shared.store.write() = None;
    let deadline = Instant::now() + CLOSE_WAIT_MAX;
    let mut store = store;
    loop {
        match Arc::try_unwrap(store) {
            Ok(last) => {
                drop(last);
                return Ok(());
            }
            Err(held) if Instant::now() < deadline => store = held,
            Err(held) => {
                *shared.store.write() = Some(Arc::clone(&held));
                return Err(held);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Opens the store, compares it with what was made known, and brings the streams in line with it.
fn reopen(shared: &Shared) -> Result<(Arc<Store>, Loaded), LogError> {
    let (store, loaded) = open_store(&shared.options)?;
    for stream in shared.all_streams() {
        check(&stream, &loaded)?;
    }
    for (id, found) in &loaded.streams {
        match shared.stream(*id) {
            Ok(stream) => stream.restore(found),
            // Its creation was written, and the answer lost.
            Err(_) => {
                shared.add_stream(Arc::new(Stream::new(*id, found, shared.options.notices.clone())));
            }
        }
    }
    Ok((Arc::new(store), loaded))
}

/// Everything that was made known must be there.
fn check(stream: &Stream, loaded: &Loaded) -> Result<(), LogError> {
    let known = stream.published.watermarks();
    let loaded = loaded.streams.get(&stream.id);
    let found = loaded.map(|loaded| loaded.state);
    // What is visible never goes back. `confirmed_through` does with a new epoch, or with another source of the same: either
    // may have been written although the answer was lost.
    let rebound = loaded.is_some_and(|loaded| loaded.source != *stream.source.lock());
    let whole = found.is_some_and(|found| {
        found.visible >= known.visible
            && (found.epoch > known.epoch
                || (found.epoch == known.epoch && (rebound || found.confirmed_through >= known.confirmed_through)))
    });
    if whole {
        return Ok(());
    }
    let reason = format!(
        "stream {} was durable up to offset {} and {}, and after a failed write the disk has {}",
        stream.name,
        known.visible,
        known.confirmed_through,
        found.map_or_else(
            || "nothing of it".to_owned(),
            |found| format!("offset {} and {}", found.visible, found.confirmed_through)
        )
    );
    Err(LogError::Broken(Arc::new(LogError::Store { action: "keep what was acknowledged", reason })))
}
