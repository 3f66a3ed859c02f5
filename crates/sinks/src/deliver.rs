//! The delivery loop: read, write, commit the position; after a fault wait and begin again where it is committed.
//!
//! A position moves only after `write` said that everything up to it is durable at the destination. Nothing is ever
//! skipped: what a sink refuses for good stops this delivery, with the reason, and no other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{ChunkSlice, Log, LogError, Reader, Rewind, StartAt};
use dbstreamd_model::{ConsumerName, Epoch, Offset, SchemaId, StreamId};
use tokio_util::sync::CancellationToken;

use crate::status::{DeliveryState, DeliveryStatus};
use crate::{Batch, Sink, SinkError};

/// One stream on its way to one destination.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The log.
    pub log: Log,
    /// The stream to deliver.
    pub stream: StreamId,
    /// Under which name the position is kept.
    pub consumer: ConsumerName,
    /// How long to wait after faults.
    pub retry: RetryPolicy,
    /// Who wants to know.
    pub status: Arc<DeliveryStatus>,
}

/// Backoff between attempts.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// First pause; doubles each time.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(30) }
    }
}

impl RetryPolicy {
    fn pause(&self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.longest)
    }
}

/// What ends an attempt.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The destination.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The destination is ahead of the log.
    #[error(
        "the destination has events up to offset {destination}, but the stream ends at {visible}: it was written from another log; empty it, or deliver under another name"
    )]
    Ahead {
        /// The destination's position.
        destination: Offset,
        /// The newest visible offset.
        visible: Offset,
    },
    /// The source's history broke, and the destination holds what was made from the one before.
    #[error(
        "the stream has a new epoch, {epoch}, since offset {first}, and the destination holds changes of the one before, which cannot be continued: empty it, and deliver under another name"
    )]
    NewEpoch {
        /// The epoch.
        epoch: Epoch,
        /// Its first offset.
        first: Offset,
    },
}

impl DeliverError {
    /// The one table from fault to retry or operator.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Sink(SinkError::Passing(_)))
    }
}

/// Delivers until `shutdown` fires, or somebody must act: then waits for `shutdown` with the reason in the status.
pub async fn deliver(delivery: Delivery, mut sink: Box<dyn Sink>, shutdown: CancellationToken) {
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        let before = *delivery.status.committed().borrow();
        let Err(error) = attempt(&delivery, sink.as_mut(), &shutdown).await else { return };
        let reason: Arc<str> = Arc::from(error.to_string());
        if !error.may_pass() {
            tracing::error!(consumer = %delivery.consumer, %error, "delivery stopped; it waits for an operator");
            delivery.status.enter(DeliveryState::Stopped(reason));
            return shutdown.cancelled().await;
        }
        // Progress since the last fault makes this the first one again.
        failures = if *delivery.status.committed().borrow() > before { 1 } else { failures + 1 };
        let pause = delivery.retry.pause(failures);
        tracing::warn!(consumer = %delivery.consumer, %error, retry_in_ms = pause.as_millis(), "delivery interrupted");
        delivery.status.enter(DeliveryState::Retrying(reason));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// From the committed position until a fault. `Ok` when asked to stop.
async fn attempt(delivery: &Delivery, sink: &mut dyn Sink, shutdown: &CancellationToken) -> Result<(), DeliverError> {
    let Delivery { log, stream, consumer, status, .. } = delivery;
    let position = match sink.committed().await? {
        Some(destination) => {
            let visible = log.watermarks(*stream)?.visible;
            if destination > visible {
                return Err(DeliverError::Ahead { destination, visible });
            }
            destination
        }
        None => log.consumer(*stream, consumer).map_or(Offset::NONE, |record| record.committed),
    };
    let start = if position == Offset::NONE { StartAt::Earliest } else { StartAt::Offset(position.next()) };
    let mut reader = open(log.clone(), *stream, start).await?;
    status.enter(DeliveryState::Delivering);
    // Of what the destination has; none while it has nothing.
    let mut epoch = (position > Offset::NONE).then(|| log.epoch_at(*stream, position));
    let mut prepared: HashSet<SchemaId> = HashSet::new();
    loop {
        // A batch that was begun is finished: stopping in the middle would only deliver it twice.
        let slice = tokio::select! {
            slice = reader.next() => slice?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let Some(batch) = Batch::of(slice) else { continue };
        let next = batch.events.chunk.epoch();
        if epoch.replace(next).is_some_and(|had| had < next) {
            return Err(DeliverError::NewEpoch { epoch: next, first: batch.first });
        }
        for event in batch.events.events() {
            let Some(schema) = event.schema else { continue };
            if !prepared.contains(&schema.id) {
                sink.prepare(schema).await?;
                prepared.insert(schema.id);
            }
        }
        sink.write(&batch).await?;
        log.commit_offset(*stream, consumer, batch.last, Rewind::Ignore).await?;
        status.reach(batch.last);
    }
}

/// Opens a reader off the async threads: the seek may touch the disk.
async fn open(log: Log, stream: StreamId, start: StartAt) -> Result<Reader, LogError> {
    match tokio::task::spawn_blocking(move || log.reader(stream, start)).await {
        Ok(opened) => opened,
        Err(join) => match join.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(LogError::Closed),
        },
    }
}

impl Batch {
    /// The batch of a slice; none when the slice is empty.
    fn of(events: ChunkSlice) -> Option<Self> {
        let first = events.events().next()?.offset;
        let last = first.advance(events.range.len() as u64).previous();
        Some(Self { events, first, last })
    }
}

#[cfg(test)]
mod tests;
