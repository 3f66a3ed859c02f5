//! The boundary between two epochs, as a subscription meets it: it is told, or it ends there.
//!
//! A named consumer keeps a copy of something, made from an epoch whose history did not go on: to let it apply the next
//! epoch's changes to that copy would be a splice. So it gets all of the epoch it is in, and then the call ends with
//! FAILED_PRECONDITION, again and again, until it subscribes with an explicit start in the new epoch, which says that it
//! knows. That is durable: it goes on from there without an explicit start.

use std::collections::VecDeque;

use dbstreamd_log::{EpochRecord, Log};
use dbstreamd_model::{ConsumerName, Epoch, Offset, StreamId};
use tonic::Status;

use super::wire::Response;
use crate::epochs::{Crossing, contract};

/// One subscription's dealings with boundaries.
pub(super) struct Boundary {
    crossing: Crossing,
    /// Who must not cross; none for one who may.
    held: Option<Held>,
    /// Boundaries met and not told.
    untold: VecDeque<EpochRecord>,
}

/// A consumer that must not cross into a later epoch than its own.
struct Held {
    consumer: ConsumerName,
    /// The epoch it goes on in; none while it has had nothing, in this call or before: then it has no copy either.
    epoch: Option<Epoch>,
}

impl Boundary {
    /// Of a subscription whose next event is `next`. `held` is the consumer when it subscribed without an explicit start.
    pub(super) fn new(log: Log, stream: StreamId, next: Offset, held: Option<ConsumerName>) -> Self {
        let held = held.map(|consumer| {
            let epoch = log.consumer(stream, &consumer).and_then(|record| record.epoch);
            Held { consumer, epoch }
        });
        Self { crossing: Crossing::before(log, stream, next), held, untold: VecDeque::new() }
    }

    /// The epoch of what the client has had.
    pub(super) fn epoch(&self) -> Epoch {
        self.crossing.epoch()
    }

    /// The next event is of `epoch`. To be called before anything of it is delivered, and when all before it was.
    pub(super) fn meet(&mut self, epoch: Epoch) -> Result<(), Status> {
        let entered = self.crossing.enter(epoch);
        if let Some(held) = &mut self.held {
            match (held.epoch, entered.last()) {
                (Some(own), Some(newest)) if own < newest.epoch => {
                    return Err(must_resynchronise(&held.consumer, newest));
                }
                (own, _) => held.epoch = own.max(Some(epoch)),
            }
        }
        self.untold.extend(entered);
        Ok(())
    }

    /// Whether there is nothing that the client must be told.
    pub(super) fn is_told(&self) -> bool {
        self.untold.is_empty()
    }

    /// What the client must be told before anything else.
    pub(super) fn response(&mut self) -> Option<Response> {
        self.untold.pop_front().map(|record| Response::EpochStarted(contract(&record)))
    }
}

fn must_resynchronise(consumer: &ConsumerName, newest: &EpochRecord) -> Status {
    let EpochRecord { epoch, first_offset, reason, log_lsn, source_lsn, .. } = newest;
    Status::failed_precondition(format!(
        "consumer {consumer} must resynchronise: its stream has a new epoch, {epoch}, since offset {first_offset}, because {} (the log had the source's changes up to {log_lsn}, and has them from {source_lsn} on since); bring its copy in line with the source, then subscribe with an explicit start (from, such as offset {first_offset}) to accept",
        reason.text()
    ))
}
