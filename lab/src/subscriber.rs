//! A gRPC subscriber that counts: it follows a stream from the earliest event to a given one, checks that no offset is missing,
//! and prints what came.
//!
//! It decodes every message and does nothing with it. It runs as a process of its own (`dbstreamd-lab subscribe`), so that
//! its CPU is its own.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt;
use tonic::Streaming;

use crate::daemon::STREAM;
use crate::error::{LabError, io};
use dbstreamd_client::subscribe_request::Request;
use dbstreamd_client::subscribe_response::Response;
use dbstreamd_client::{Empty, EventBatch, Start, StartFrom, SubscribeRequest, SubscribeResponse, start_from};

/// How long the daemon may take until it knows the stream.
const START_MAX: Duration = Duration::from_secs(60);
/// Pause between attempts to subscribe.
const RETRY: Duration = Duration::from_millis(5);

/// Whom to follow, how far.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `host:port` of the daemon's gRPC port.
    #[arg(long)]
    grpc: String,
    /// Ends with the event at this offset.
    #[arg(long)]
    end_offset: u64,
}

/// What came.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) events: u64,
    /// The last event's offset.
    pub(crate) last_offset: u64,
}

impl Counted {
    /// Takes a batch; an error when an offset is missing, or comes again.
    fn take(&mut self, batch: &EventBatch) -> Result<(), LabError> {
        for event in &batch.events {
            if event.offset != self.last_offset + 1 {
                let (seen, expected) = (event.offset, self.last_offset + 1);
                return Err(LabError::Failed(format!("offset {seen} came where {expected} was due")));
            }
            self.last_offset = event.offset;
            self.events += 1;
        }
        Ok(())
    }
}

/// Subscribes, and prints what came as JSON.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    // One thread is enough for one stream, and what others need least of.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("a runtime"))?;
    let counted = runtime.block_on(follow(arguments))?;
    println!("{}", serde_json::json!(counted));
    Ok(())
}

async fn follow(arguments: &Arguments) -> Result<Counted, LabError> {
    let mut responses = subscribe(&arguments.grpc).await?;
    let mut counted = Counted::default();
    while counted.last_offset < arguments.end_offset {
        match responses.next().await {
            Some(Ok(SubscribeResponse { response: Some(Response::Events(batch)) })) => counted.take(&batch)?,
            Some(Ok(_)) => {}
            Some(Err(status)) => return Err(LabError::Failed(format!("subscription: {status}"))),
            None => return Err(LabError::Failed("the daemon ended the subscription".into())),
        }
    }
    Ok(counted)
}

/// Subscribes to the stream from its earliest event as soon as the daemon knows it.
async fn subscribe(grpc: &str) -> Result<Streaming<SubscribeResponse>, LabError> {
    let started = Instant::now();
    loop {
        let problem = match attempt(grpc).await {
            Ok(responses) => return Ok(responses),
            Err(problem) => problem,
        };
        if started.elapsed() > START_MAX {
            return Err(LabError::Failed(format!("subscribing to {grpc}: {problem}")));
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn attempt(grpc: &str) -> Result<Streaming<SubscribeResponse>, String> {
    let mut client = dbstreamd_client::connect(grpc).await.map_err(|error| error.to_string())?;
    let from = StartFrom { from: Some(start_from::From::Earliest(Empty {})) };
    let start = Start { stream: STREAM.into(), from: Some(from), ..Start::default() };
    let first = tokio_stream::once(SubscribeRequest { request: Some(Request::Start(start)) });
    // The requests must not end: that would end the call.
    let requests = first.chain(tokio_stream::pending());
    Ok(client.subscribe(requests).await.map_err(|status| status.to_string())?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbstreamd_client::Event;

    fn batch(offsets: impl IntoIterator<Item = u64>) -> EventBatch {
        EventBatch { events: offsets.into_iter().map(|offset| Event { offset, ..Event::default() }).collect() }
    }

    #[test]
    fn every_offset_is_counted_once_and_a_hole_is_an_error() {
        let mut counted = Counted::default();
        counted.take(&batch(1..=3)).unwrap();
        counted.take(&batch(4..=4)).unwrap();
        assert_eq!(counted, Counted { events: 4, last_offset: 4 });
        assert!(counted.take(&batch([4])).is_err());
        assert!(counted.take(&batch([6])).is_err());
    }
}
