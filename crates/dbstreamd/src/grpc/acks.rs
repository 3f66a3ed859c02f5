//! A consumer's acknowledgements: the newest is committed in the background, one commit in flight at most.
//!
//! However often a client acknowledges, the log sees one commit per group commit; what arrives meanwhile is
//! coalesced to its highest offset.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use dbstreamd_log::{Durable, Log, LogError, Rewind};
use dbstreamd_model::{ConsumerName, Offset, StreamId};
use tonic::Status;

type Commit = Pin<Box<dyn Future<Output = Result<Durable<Offset>, LogError>> + Send>>;

/// One subscription's acknowledgements.
pub(super) struct Acks {
    log: Log,
    stream: StreamId,
    consumer: Option<ConsumerName>,
    /// Highest acknowledged offset that is not yet being committed.
    next: Option<Offset>,
    in_flight: Option<Commit>,
    /// The client has everything up to here, as far as it said so or began behind it.
    newest: Option<Offset>,
}

impl Acks {
    /// `has` is what the client is known to have, when it goes on where it stopped.
    pub(super) fn new(log: Log, stream: StreamId, consumer: Option<ConsumerName>, has: Option<Offset>) -> Self {
        Self { log, stream, consumer, next: None, in_flight: None, newest: has }
    }

    /// Notes that everything up to `offset` was processed.
    pub(super) fn acknowledge(&mut self, offset: Offset) -> Result<(), Status> {
        if self.consumer.is_none() {
            return Err(Status::failed_precondition("only a named consumer can acknowledge: set start.consumer"));
        }
        let visible = self.log.watermarks(self.stream).map_err(|error| super::status::from_log(&error))?.visible;
        if offset > visible {
            return Err(Status::out_of_range(format!(
                "offset {offset} cannot be acknowledged: the newest visible event is {visible}"
            )));
        }
        if offset > Offset::NONE {
            self.next = self.next.max(Some(offset));
            self.newest = self.newest.max(Some(offset));
            self.start();
        }
        Ok(())
    }

    /// What lies between the last delivered event and `considered` did not match the filter: a consumer that has acknowledged
    /// all it got has that too. Otherwise one whose filter matches nothing would hold the log for ever.
    pub(super) fn skipped(&mut self, delivered: Offset, considered: Offset) -> Result<(), Status> {
        let has_all = self.newest.is_some_and(|newest| newest >= delivered && newest < considered);
        if self.consumer.is_some() && has_all {
            self.acknowledge(considered)?;
        }
        Ok(())
    }

    fn start(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let (Some(consumer), Some(offset)) = (self.consumer.clone(), self.next.take()) else { return };
        let (log, stream) = (self.log.clone(), self.stream);
        self.in_flight =
            Some(Box::pin(async move { log.commit_offset(stream, &consumer, offset, Rewind::Ignore).await }));
    }

    pub(super) fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Waits for the commit in flight. Cancel-safe: the commit stays in flight.
    pub(super) async fn committed(&mut self) -> Result<Durable<Offset>, LogError> {
        match &mut self.in_flight {
            Some(commit) => commit.await,
            None => std::future::pending().await,
        }
    }

    /// Takes the result of the commit in flight and starts the next.
    pub(super) fn settle(&mut self, result: Result<Durable<Offset>, LogError>) -> Result<(), LogError> {
        self.in_flight = None;
        result?;
        self.start();
        Ok(())
    }

    /// Commits what is left. A failure is logged: the call is over, and the consumer will get the events again.
    pub(super) async fn finish(&mut self, wait_max: Duration) {
        let all = async {
            while self.in_flight() {
                let result = self.committed().await;
                self.settle(result)?;
            }
            Ok::<(), LogError>(())
        };
        let problem = match tokio::time::timeout(wait_max, all).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not durable after {} s", wait_max.as_secs()),
        };
        tracing::warn!(consumer = ?self.consumer, problem, "the last acknowledgement was not stored; its events will be delivered again");
    }
}
