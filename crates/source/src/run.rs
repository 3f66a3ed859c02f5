//! Keeps one stream alive: open, ingest, and after a fault wait and open again.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use dbstreamd_log::{Appender, CreditShare, CreditWindow, Log};
use dbstreamd_model::StreamId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::SourceError;
use crate::ingest::Ingest;
use crate::retry::RetryPolicy;
use crate::status::{State, StreamStatus};
use crate::{Source, epochs};

/// Streams from `source` into `stream` of `log` until `shutdown` fires.
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
    shutdown: CancellationToken,
) {
    let mut appender = match log.appender(stream) {
        Ok(appender) => appender,
        Err(error) => return status.fail(&error.to_string(), false),
    };
    let window = window.share();
    let _guard = AbortOnDropHandle::new(tokio::spawn(source.guard(Arc::clone(&status))));
    let mut failures = 0;
    status.enter(State::Setup);
    while !shutdown.is_cancelled() {
        let (started, reached) = (Instant::now(), status.received_lsn());
        let error = match session(source.as_mut(), &mut appender, &window, &status, &shutdown).await {
            Ok(()) => break,
            Err(error) => error,
        };
        // A session that opens and breaks at once is no progress, or it would be opened ten times a second for ever.
        if status.received_lsn() > reached || started.elapsed() > retry.longest {
            failures = 0;
        }
        failures += 1;
        let pause = retry.pause(error.retry(), failures);
        status.fail(&error.to_string(), pause.is_some());
        let Some(pause) = pause else {
            tracing::error!(stream = %status.name(), %error, "stream stopped; it waits for an operator");
            // What it left unfinished holds credit, and partitions that retention wants.
            if let Err(error) = appender.begin_session().await {
                tracing::debug!(stream = %status.name(), %error, "the unfinished tail stays until the next start");
            }
            shutdown.cancelled().await;
            break;
        };
        tracing::warn!(stream = %status.name(), %error, retry_in_ms = pause.as_millis(), "stream interrupted");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => break,
        }
    }
}

/// One session from open to end. `Ok` means that it was asked to stop and did.
async fn session(
    source: &mut dyn Source,
    appender: &mut Appender,
    window: &CreditShare,
    status: &StreamStatus,
    shutdown: &CancellationToken,
) -> Result<(), SourceError> {
    // What an earlier session left behind invisibly is gone, durably, before anything is read.
    let resume = appender.begin_session().await?;
    let mut session = tokio::select! {
        session = source.open(&resume) => session?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let resume = epochs::adopt(appender, status, &mut session, resume).await?;
    status.sessions.fetch_add(1, Relaxed);
    status.source_lsn.fetch_max(session.source_end.0, Relaxed);
    status.enter(State::Streaming);
    tracing::info!(stream = %status.name(), confirmed_through = %resume.confirmed_through, next_offset = %resume.next_offset, "streaming");
    let (source_lsn, identity) = (session.resends_from, session.identity);
    let ended = Ingest::new(session, resume, appender, window, status).run(shutdown).await;
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
