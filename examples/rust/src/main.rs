//! A consumer of dbstreamd in Rust: subscribes under a name, prints changes as JSON, commits what it printed.
//!
//! Run it again, and it goes on behind the last change it committed:
//!
//! ```text
//! cargo run --release -p dbstreamd-example -- --consumer my-service
//! ```
//!
//! It uses the client that the dbstreamd crate generates. A program outside this repository generates the same from
//! `proto/dbstreamd/v1/dbstreamd.proto` with `tonic-prost-build`.

use dbstreamd::json::Renderer;
use dbstreamd::proto::subscribe_request::Request;
use dbstreamd::proto::subscribe_response::Response;
use dbstreamd::proto::{Acknowledge, CommitOffsetRequest, Start, SubscribeRequest, connect};
use tokio_stream::wrappers::ReceiverStream;

const USAGE: &str = "usage: dbstreamd-example [--server ADDRESS] [--stream NAME] [--consumer NAME] [--limit N]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut server, mut stream, mut consumer) =
        ("127.0.0.1:7400".to_owned(), String::new(), "rust-example".to_owned());
    let mut limit = 0;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match name.as_str() {
            "--server" => server = value,
            "--stream" => stream = value,
            "--consumer" => consumer = value,
            "--limit" => limit = value.parse::<u64>()?,
            _ => return Err(USAGE.into()),
        }
    }

    // What we send: the start, then acknowledgements.
    let (requests, outgoing) = tokio::sync::mpsc::channel(16);
    let start = Start { stream, consumer: consumer.clone(), credit_events: limit, ..Start::default() };
    requests.send(SubscribeRequest { request: Some(Request::Start(start)) }).await?;

    let mut client = connect(&server).await?;
    let mut responses = client.subscribe(ReceiverStream::new(outgoing)).await?.into_inner();
    let (mut renderer, mut stream, mut printed) = (Renderer::default(), String::new(), 0);
    while let Some(response) = responses.message().await? {
        match response.response {
            Some(Response::Started(started)) => stream = started.stream,
            Some(Response::Schema(schema)) => renderer.learn(&schema),
            Some(Response::Events(batch)) => {
                for event in &batch.events {
                    println!("{}", renderer.event_json(event)?);
                    printed += 1;
                }
                let Some(last) = batch.events.last() else { continue };
                // Only now is it processed. Acknowledging is cheap and durable soon after.
                let acknowledge = Request::Acknowledge(Acknowledge { offset: last.offset });
                requests.send(SubscribeRequest { request: Some(acknowledge) }).await?;
                if limit > 0 && printed >= limit {
                    // Before we leave, make sure: this one returns when the position is on disk.
                    let offset = last.offset;
                    client.commit_offset(CommitOffsetRequest { stream, consumer, offset, allow_rewind: false }).await?;
                    return Ok(());
                }
            }
            // Progress says how far the stream is when a filter hides what moves it. A consumer without an explicit start
            // is not led into a new epoch: the call ends there with FAILED_PRECONDITION.
            // Skipped says what an operator gave up because it could not be read.
            Some(Response::Progress(_) | Response::EpochStarted(_) | Response::Skipped(_)) | None => {}
        }
    }
    Err("the daemon closed the stream".into())
}
