//! Reads the stream over the public contract: live, over restarts of the daemon, and again from the beginning.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::consumers::digest;
use crate::daemon::STREAM;
use crate::error::TortureError;
use dbstreamd_client::subscribe_request::Request;
use dbstreamd_client::subscribe_response::Response;
use dbstreamd_client::{
    Empty, Event, EventBatch, Row, Schema, Start, StartFrom, SubscribeRequest, SubscribeResponse, ValueForm, cell,
    start_from,
};

/// Pause before subscribing again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Batches that are read ahead of who takes them.
const AHEAD: usize = 16;
/// Silence after which a reader is taken to be stuck.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// What comes.
pub(crate) enum Item {
    Schema(Box<Schema>),
    Events(EventBatch),
    /// A subscription that was refused for good, or ended so.
    Refused(Status),
}

/// A reader that subscribes again, behind what it has, whenever the daemon is gone.
pub(crate) struct Live {
    items: mpsc::Receiver<Item>,
    task: JoinHandle<()>,
}

impl Live {
    pub(crate) fn start(grpc: &str) -> Self {
        let (sender, items) = mpsc::channel(AHEAD);
        let grpc = grpc.to_owned();
        let task = tokio::spawn(async move {
            let mut seen = 0;
            while !sender.is_closed() {
                let Err(status) = follow(&grpc, &mut seen, &sender).await else { return };
                if final_refusal(&status) && sender.send(Item::Refused(status)).await.is_err() {
                    return;
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        });
        Self { items, task }
    }

    pub(crate) async fn next(&mut self) -> Result<Item, TortureError> {
        let item = tokio::time::timeout(SILENCE_MAX, self.items.recv()).await;
        let seconds = SILENCE_MAX.as_secs();
        item.ok().flatten().ok_or_else(|| TortureError::Failed(format!("nothing came within {seconds} s")))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A daemon that is down or on its way is unavailable; everything else is an answer.
fn final_refusal(status: &Status) -> bool {
    use tonic::Code::{DataLoss, FailedPrecondition, InvalidArgument, OutOfRange, Unimplemented};
    matches!(status.code(), DataLoss | FailedPrecondition | InvalidArgument | OutOfRange | Unimplemented)
}

async fn follow(grpc: &str, seen: &mut u64, sender: &mpsc::Sender<Item>) -> Result<(), Status> {
    let (mut responses, _requests) = subscribe(grpc, *seen + 1, ValueForm::Text).await?;
    while let Some(response) = responses.message().await? {
        let item = match response.response {
            Some(Response::Schema(schema)) => Item::Schema(Box::new(schema)),
            Some(Response::Events(batch)) => {
                *seen = batch.events.last().map_or(*seen, |event| event.offset);
                Item::Events(batch)
            }
            _ => continue,
        };
        if sender.send(item).await.is_err() {
            return Ok(());
        }
    }
    Err(Status::unavailable("the daemon closed the call"))
}

type Responses = (tonic::Streaming<SubscribeResponse>, mpsc::Sender<SubscribeRequest>);

async fn subscribe(grpc: &str, offset: u64, values: ValueForm) -> Result<Responses, Status> {
    let unreachable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let mut client = dbstreamd_client::connect(grpc).await.map_err(unreachable)?;
    let from = match offset {
        1 => start_from::From::Earliest(Empty {}),
        offset => start_from::From::Offset(offset),
    };
    let from = Some(StartFrom { from: Some(from) });
    let start = Start { stream: STREAM.into(), from, values: values.into(), ..Start::default() };
    let (requests, outgoing) = mpsc::channel(1);
    let start = SubscribeRequest { request: Some(Request::Start(start)) };
    requests.send(start).await.map_err(|_| Status::internal("the request could not be queued"))?;
    Ok((client.subscribe(ReceiverStream::new(outgoing)).await?.into_inner(), requests))
}

/// What is remembered of each event, to be compared with a replay.
#[derive(Default)]
pub(crate) struct Trace {
    /// Of everything that the contract says of it.
    pub(crate) digests: Vec<u64>,
    /// Which of its values are null, unchanged or there: the same in text and in typed form.
    shapes: Vec<u64>,
}

impl Trace {
    pub(crate) fn take(&mut self, event: &Event) {
        self.digests.push(digest(event));
        let mut shape = vec![u8::try_from(event.operation).unwrap_or(u8::MAX)];
        for row in [&event.before, &event.after] {
            shape.push(b'|');
            row.iter().for_each(|row| shape_of(row, &mut shape));
        }
        self.shapes.push(xxhash_rust::xxh3::xxh3_64(&shape));
    }
}

fn shape_of(row: &Row, shape: &mut Vec<u8>) {
    use dbstreamd_client::value::Kind;
    shape.extend(row.cells.iter().map(|cell| match &cell.value {
        None => b'n',
        Some(cell::Value::Unchanged(_)) => b'u',
        Some(_) => b'v',
    }));
    shape.extend(row.values.iter().map(|value| match &value.kind {
        None => b'n',
        Some(Kind::Unchanged(_)) => b'u',
        Some(_) => b'v',
    }));
}

/// Reads everything again and compares; what differs, in words.
pub(crate) async fn replay(grpc: &str, live: &Trace, form: ValueForm) -> Result<Option<String>, TortureError> {
    let count = live.digests.len();
    let failed = |status: Status| TortureError::Failed(format!("replay ({form:?}): {status}"));
    let (mut responses, _requests) = subscribe(grpc, 1, form).await.map_err(failed)?;
    let mut trace = Trace::default();
    while trace.digests.len() < count {
        let message = tokio::time::timeout(SILENCE_MAX, responses.message()).await;
        let message = message.map_err(|_| TortureError::Failed(format!("replay ({form:?}): nothing came any more")))?;
        let closed = || TortureError::Failed(format!("replay ({form:?}): the daemon closed the stream"));
        if let Some(Response::Events(batch)) = message.map_err(failed)?.ok_or_else(closed)?.response {
            batch.events.iter().for_each(|event| trace.take(event));
        }
    }
    let differs = |live: &[u64], replay: &[u64]| live.iter().zip(replay).position(|(live, replay)| live != replay);
    let at = match form {
        ValueForm::Typed => differs(&live.shapes, &trace.shapes),
        _ => differs(&live.digests, &trace.digests),
    };
    Ok(at.map(|at| format!("offset {} in {form:?}: a replay has another event than was seen live", at + 1)))
}
