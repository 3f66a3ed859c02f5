//! Keeps one stream alive: open, ingest, and after a fault wait and open again; or rest while it is paused.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use dbstreamd_log::{Appender, CreditShare, CreditWindow, Log};
use dbstreamd_model::StreamId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::control::{Control, Goal, Wish};
use crate::error::SourceError;
use crate::ingest::Ingest;
use crate::retry::RetryPolicy;
use crate::status::{State, StreamStatus};
use crate::{Source, epochs};

/// Streams from `source` into `stream` of `log`, as `control` wants it, until its shutdown fires.
///
/// ```text
///            ┌──────────── Run ◀─────────────┐
///            ▼                               │
///   SETUP ─▶ STREAMING ── Pause wanted ──▶ PAUSED      (received is durable and confirmed, the connection closed)
///     ▲      │ fault                         ▲
///     └── FAILED (waits, or for ever) ── Pause wanted
///            └── Run wanted again: no more waiting
/// ```
///
/// Faults never escape: they are in `status`, with cause and remedy. Returns after everything received and
/// complete is durable and has been confirmed to the source, or at once when the stream was not running.
pub async fn run(
    mut source: Box<dyn Source>,
    log: Log,
    stream: StreamId,
    window: CreditWindow,
    status: Arc<StreamStatus>,
    retry: RetryPolicy,
    control: Control,
) {
    let mut appender = match log.appender(stream) {
        Ok(appender) => appender,
        Err(error) => return status.fail(&error.to_string(), false),
    };
    let window = window.share();
    let _guard = AbortOnDropHandle::new(tokio::spawn(source.guard(Arc::clone(&status))));
    let shutdown = control.shutdown();
    let mut wishes = control.watch();
    let mut failures = 0;
    let mut fresh = true;
    while !shutdown.is_cancelled() {
        let goal = wishes.borrow_and_update().goal.clone();
        if let Goal::Pause(note) = goal {
            let_go(&mut appender, &status).await;
            status.pause(&note);
            wait_for_wish(&mut wishes, shutdown).await;
            fresh = true;
            continue;
        }
        if std::mem::take(&mut fresh) {
            failures = 0;
            status.enter(State::Setup);
        }
        let (started, reached) = (Instant::now(), status.received_lsn());
        let stop = shutdown.child_token();
        let session = Box::pin(session(source.as_mut(), &mut appender, &window, &status, &stop));
        let error = match stoppable(session, &stop, &mut wishes).await {
            Ok(()) => {
                // A pause that is taken back before the session has ended leaves nothing to be retried.
                fresh = true;
                continue;
            }
            Err(error) => error,
        };
        if stop.is_cancelled() {
            tracing::warn!(stream = %status.name(), %error, "the session broke while it was being ended");
            fresh = true;
            continue;
        }
        // A session that opens and breaks at once is no progress, or it would be opened ten times a second for ever.
        if status.received_lsn() > reached || started.elapsed() > retry.longest {
            failures = 0;
        }
        failures += 1;
        let pause = retry.pause(error.retry(), failures);
        status.fail(&error.to_string(), pause.is_some());
        let Some(pause) = pause else {
            let_go(&mut appender, &status).await;
            wait_for_wish(&mut wishes, shutdown).await;
            fresh = true;
            continue;
        };
        tracing::debug!(stream = %status.name(), %error, retry_in_ms = pause.as_millis(), "stream interrupted");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wait_for_wish(&mut wishes, shutdown) => fresh = true,
        }
    }
}

/// Runs a session to its end, which is asked for as soon as a pause is wanted.
async fn stoppable(
    mut session: impl Future<Output = Result<(), SourceError>> + Unpin,
    stop: &CancellationToken,
    wishes: &mut watch::Receiver<Wish>,
) -> Result<(), SourceError> {
    tokio::select! {
        ended = &mut session => return ended,
        // The sender lives in the caller's control.
        _ = wishes.wait_for(|wish| matches!(wish.goal, Goal::Pause(_))) => stop.cancel(),
    }
    session.await
}

/// Until something else, or the same again, is wanted, or all shall end.
async fn wait_for_wish(wishes: &mut watch::Receiver<Wish>, shutdown: &CancellationToken) {
    tokio::select! {
        // The sender lives in the caller's control.
        _ = wishes.changed() => {}
        () = shutdown.cancelled() => {}
    }
}

/// What a stream left unfinished holds credit, and partitions that retention wants.
async fn let_go(appender: &mut Appender, status: &StreamStatus) {
    if let Err(error) = appender.begin_session().await {
        tracing::debug!(stream = %status.name(), %error, "the unfinished tail stays until the next start");
    }
}

/// One session from open to end. `Ok` means that it was asked to stop and did.
async fn session(
    source: &mut dyn Source,
    appender: &mut Appender,
    window: &CreditShare,
    status: &StreamStatus,
    stop: &CancellationToken,
) -> Result<(), SourceError> {
    // What an earlier session left behind invisibly is gone, durably, before anything is read.
    let resume = appender.begin_session().await?;
    let space = *appender.space().borrow();
    if space.low {
        return Err(SourceError::short_of_space(space));
    }
    let mut session = tokio::select! {
        session = source.open(&resume) => session?,
        () = stop.cancelled() => return Ok(()),
    };
    let resume = epochs::adopt(appender, status, &mut session, resume).await?;
    let number = status.begin_session();
    status.source_lsn.fetch_max(session.source_end.0, Relaxed);
    status.stream(resume.confirmed_through, resume.next_offset);
    let (source_lsn, identity) = (session.resends_from, session.identity);
    let ingest = Ingest::new(session, resume, appender, window, status);
    let ended = tokio::select! {
        biased;
        // Not even what is durable is confirmed any more: the source keeps its place for who has to decide.
        publication = status.unpublished(number) => Err(SourceError::Unpublished(publication)),
        ended = ingest.run(stop) => ended,
    };
    match ended {
        Err(SourceError::Broken(broken)) => {
            // Nothing of the session was confirmed, so the source still stands where it stood at its beginning.
            let broken = epochs::permit(broken, source.on_gap(), &resume)?;
            epochs::raise(appender, status, source_lsn, identity, &broken).await?;
            Err(SourceError::NewEpoch(broken))
        }
        ended => ended,
    }
}
