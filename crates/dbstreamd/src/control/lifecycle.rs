//! Pausing, resuming and draining streams: sets the stream's wish, and waits for what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{Log, LogError};
use dbstreamd_model::{Lsn, Notice, Severity, StreamName, Timestamp};
use dbstreamd_source::{Control, Goal, Lifecycle, PauseNote, SourceError, State, Wish};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::PAUSED;
use crate::directory::{Directory, Entry, RunningSource};

/// How long a pause may take: twice what a polite end of a session may, and a little.
const PAUSE_WAIT_MAX: Duration = Duration::from_secs(25);
/// How long a resumed stream is waited for; setup may take longer, and goes on.
const RESUME_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest word on who and why.
const WORDS_MAX: usize = 200;

/// Who asks, and why.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(super) by: String,
    why: String,
}

impl Asker {
    /// Of what a request says; `otherwise` when it does not say who.
    pub(crate) fn new(by: &str, why: &str, otherwise: &str) -> Self {
        let words = |text: &str| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect()
        };
        Self { by: words(if by.trim().is_empty() { otherwise } else { by }), why: words(why) }
    }

    /// Who, and why if it was said.
    pub(crate) fn words(&self) -> String {
        if self.why.is_empty() { self.by.clone() } else { format!("{}: {}", self.by, self.why) }
    }

    /// Who it is.
    pub(crate) fn by(&self) -> &str {
        &self.by
    }
}

/// Why a stream was not paused, resumed or drained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifecycleError {
    #[error("stream {0} has no source in this daemon's configuration: there is nothing to pause, resume or drain")]
    NoSource(StreamName),
    #[error(
        "stream {stream} has not stopped within {} s, since its log or its server is slow; it will: look at dbstreamd streams", PAUSE_WAIT_MAX.as_secs()
    )]
    StillStopping { stream: StreamName },
    #[error("somebody else paused or resumed stream {0} meanwhile: look at dbstreamd streams")]
    Overruled(StreamName),
    #[error("stream {stream} cannot be drained, since it is stopped: {reason}")]
    Stopped { stream: StreamName, reason: String },
    #[error(
        "stream {stream} did not have everything up to {target} within {} s; it got to {reached} and goes on as before: give it more time (--timeout)", .timeout.as_secs_f64()
    )]
    TooSlow { stream: StreamName, target: Lsn, reached: Lsn, timeout: Duration },
    #[error("stream {stream} cannot be drained, since its source cannot be asked where it ends: {source}")]
    Source { stream: StreamName, source: SourceError },
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Where a drain ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained {
    pub(crate) target: Lsn,
    pub(crate) reached: Lsn,
}

/// What is stored of a stream that stays paused.
#[derive(Serialize, Deserialize)]
struct StoredPause {
    by: String,
    why: String,
    since: i64,
}

/// The goal a stream starts with: paused when it was paused for good.
pub(crate) fn first_goal(log: &Log, stream: &StreamName) -> Goal {
    let Some(text) = log.settings().remove(&format!("{PAUSED}{stream}")) else { return Goal::Run };
    // A record that says less than it should still says that it is paused.
    let stored = serde_json::from_str(&text).unwrap_or_else(|_| StoredPause {
        by: "somebody".to_owned(),
        why: String::new(),
        since: 0,
    });
    let StoredPause { by, why, since } = stored;
    Goal::Pause(Arc::new(PauseNote { by, why, since: Timestamp(since), durable: true }))
}

/// Stops the stream cleanly; returns once it has stopped.
pub(crate) async fn pause(
    directory: &Directory,
    entry: &Entry,
    durable: bool,
    asker: Asker,
) -> Result<(), LifecycleError> {
    let running = source_of(entry)?;
    let turn = directory.pausing.lock().await;
    let note = match running.control.wish().goal {
        // Who paused it first is who is shown.
        Goal::Pause(note) => PauseNote { durable: note.durable || durable, ..(*note).clone() },
        Goal::Run => PauseNote { by: asker.by, why: asker.why, since: Timestamp::now(), durable },
    };
    if note.durable {
        store(directory.log(), entry, Some(&note)).await?;
    }
    let wish = running.control.set(Goal::Pause(Arc::new(note)));
    drop(turn);
    stopped(entry, running, &wish).await
}

/// Whether a stream is paused or has failed.
pub(crate) fn at_rest(entry: &Entry) -> bool {
    let state = entry.running.as_ref().map(|running| running.status.lifecycle().state);
    matches!(state, Some(State::Paused | State::Failed))
}

/// Lets the stream go on, or try again at once; returns once it streams or fails, or when that takes long.
pub(crate) async fn resume(directory: &Directory, entry: &Entry, asker: &Asker) -> Result<(), LifecycleError> {
    let running = source_of(entry)?;
    let turn = directory.pausing.lock().await;
    store(directory.log(), entry, None).await?;
    let mut lifecycle = running.status.watch();
    let before = lifecycle.borrow_and_update().state;
    if before == State::Streaming && running.control.wish().goal == Goal::Run {
        return Ok(());
    }
    running.control.set(Goal::Run);
    drop(turn);
    let text = format!("resumed by {}", asker.by);
    directory.notices.push(Notice::new(Severity::Info, "stream_resumed", text).of_stream(&entry.name));
    let settled = async {
        // Its sender lives as long as the status does.
        while lifecycle.changed().await.is_ok() {
            if matches!(lifecycle.borrow_and_update().state, State::Streaming | State::Failed) {
                break;
            }
        }
    };
    // Not settled in time is no failure: the answer says in which state it is.
    let _ = tokio::time::timeout(RESUME_WAIT_MAX, settled).await;
    Ok(())
}

/// Streams until everything the source has now is durable and visible, then pauses.
pub(crate) async fn drain(
    directory: &Directory,
    entry: &Entry,
    durable: bool,
    asker: Asker,
    timeout: Duration,
) -> Result<Drained, LifecycleError> {
    let running = source_of(entry)?;
    let deadline = Instant::now() + timeout;
    let stream = || entry.name.clone();
    let reached = || directory.log().watermarks(entry.id).map(|marks| marks.confirmed_through);
    let too_slow = |target, reached| LifecycleError::TooSlow { stream: stream(), target, reached, timeout };
    let target = match tokio::time::timeout_at(deadline, running.inquiry.end()).await {
        Ok(end) => end.map_err(|source| LifecycleError::Source { stream: stream(), source })?,
        Err(_) => return Err(too_slow(Lsn::ZERO, reached()?)),
    };
    let before = running.control.wish();
    if reached()? < target {
        // A paused stream is let go for as long as it takes, and is paused again however this ends.
        let wish = match before.goal {
            Goal::Run => before.clone(),
            Goal::Pause(_) => running.control.set(Goal::Run),
        };
        let restore = Restore { control: &running.control, before: &before, set: &wish };
        let text = format!("{} drains it: it streams up to {target} and is then paused", asker.by);
        directory.notices.push(Notice::new(Severity::Info, "stream_draining", text).of_stream(&entry.name));
        let mut marks = directory.log().watch(entry.id)?;
        let mut wishes = running.control.watch();
        let (mut lifecycle, paused_before) = (running.status.watch(), before.goal != Goal::Run);
        tokio::select! {
            biased;
            all = marks.wait_for(|marks| marks.confirmed_through >= target) => {
                all.map_err(|_| LogError::Closed)?;
            }
            _ = wishes.wait_for(|now| now.serial != wish.serial) => return Err(LifecycleError::Overruled(stream())),
            reason = given_up(&mut lifecycle, paused_before) => {
                return Err(LifecycleError::Stopped { stream: stream(), reason });
            }
            () = tokio::time::sleep_until(deadline) => return Err(too_slow(target, reached()?)),
        }
        restore.keep();
    }
    // What was paused for good before stays so.
    let durable = durable || matches!(&before.goal, Goal::Pause(note) if note.durable);
    let why = if asker.why.is_empty() { format!("drained up to {target}") } else { asker.why };
    pause(directory, entry, durable, Asker { by: asker.by, why }).await?;
    Ok(Drained { target, reached: reached()? })
}

/// What an operator should know of a source whose stream is paused.
pub(crate) fn warning(entry: &Entry) -> String {
    let Some(running) = &entry.running else { return String::new() };
    let kept = match running.status.slot() {
        Some(slot) => format!(" (now {} MiB, wal_status {})", slot.retained_bytes / 1_048_576, slot.wal_status),
        None => String::new(),
    };
    format!(
        "slot {} stays, so the server keeps its WAL{kept} until stream {} is resumed; the slot is still watched",
        running.slot, entry.name
    )
}

fn source_of(entry: &Entry) -> Result<&RunningSource, LifecycleError> {
    entry.running.as_ref().ok_or_else(|| LifecycleError::NoSource(entry.name.clone()))
}

/// Stores that the stream stays paused, or that it does not.
async fn store(log: &Log, entry: &Entry, note: Option<&PauseNote>) -> Result<(), LifecycleError> {
    let name = format!("{PAUSED}{}", entry.name);
    if note.is_none() && !log.settings().contains_key(&name) {
        return Ok(());
    }
    let text =
        note.map(|note| serde_json::json!({ "by": note.by, "why": note.why, "since": note.since.0 }).to_string());
    Ok(log.store_settings([(name, text)].into()).await?)
}

/// Waits until the stream has stopped because of this wish.
async fn stopped(entry: &Entry, running: &RunningSource, wish: &Wish) -> Result<(), LifecycleError> {
    let (mut lifecycle, mut wishes) = (running.status.watch(), running.control.watch());
    tokio::select! {
        biased;
        // Both senders live as long as the stream does.
        _ = lifecycle.wait_for(|now| now.state == State::Paused) => Ok(()),
        _ = wishes.wait_for(|now| now.goal == Goal::Run && now.serial > wish.serial) => {
            Err(LifecycleError::Overruled(entry.name.clone()))
        }
        () = tokio::time::sleep(PAUSE_WAIT_MAX) => Err(LifecycleError::StillStopping { stream: entry.name.clone() }),
    }
}

/// Resolves with the reason once the stream has failed for good; one that was paused before gets a chance to leave that
/// state first.
async fn given_up(lifecycle: &mut watch::Receiver<Lifecycle>, paused_before: bool) -> String {
    if paused_before {
        // Its sender lives as long as the stream does.
        let _ = lifecycle.wait_for(|now| now.state != State::Paused).await;
    }
    let failed = lifecycle.wait_for(|now| now.state == State::Failed && !now.retrying).await;
    let reason = failed.map(|now| now.error.as_deref().unwrap_or_default().to_owned());
    match reason {
        Ok(reason) => reason,
        Err(_) => std::future::pending().await,
    }
}

/// Puts back the wish of before, when a drain ends without having drained: also when its caller goes away.
struct Restore<'a> {
    control: &'a Control,
    before: &'a Wish,
    set: &'a Wish,
}

impl Restore<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if self.before != self.set && self.control.wish() == *self.set {
            self.control.set(self.before.goal.clone());
        }
    }
}
