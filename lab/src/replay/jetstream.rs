//! The reference: JetStream with file storage, filled with the very bytes that a daemon delivers.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;

use super::reader::{Counted, follow};
use crate::error::{LabError, io};
use crate::nats::{Connection, From, JetStream, Operation};

/// How long the server may take to store what it was sent.
const STORE_MAX: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);
/// Messages that are sent before the server is waited for: it has room for these.
const AHEAD: u64 = 1_000;
/// Pause when what is read comes faster than it is stored.
const FULL_PAUSE: Duration = Duration::from_micros(200);
/// Where the reader's messages are sent.
const DELIVER_TO: &str = "replayed";

/// What to fill.
#[derive(clap::Args)]
pub(crate) struct Fill {
    /// `host:port` of the NATS server.
    #[arg(long)]
    server: String,
    /// `host:port` of the daemon whose events are taken.
    #[arg(long)]
    grpc: String,
    /// How many.
    #[arg(long)]
    events: u64,
}

/// What to read.
#[derive(clap::Args)]
pub(crate) struct Read {
    /// `host:port` of the NATS server.
    #[arg(long)]
    server: String,
    /// Ends after so many.
    #[arg(long)]
    messages: u64,
}

/// Stores every event as a message of its own.
pub(crate) fn fill(arguments: &Fill) -> Result<(), LabError> {
    block_on(async {
        let mut jetstream = JetStream::connect(&arguments.server, "fill").await?;
        jetstream.create_stream().await?;
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(1024);
        let sending = tokio::spawn(async move {
            let mut sent = 0_u64;
            while let Some(event) = receiver.recv().await {
                jetstream.send(&event);
                sent += 1;
                if sent.is_multiple_of(AHEAD) {
                    jetstream.sync().await?;
                }
            }
            jetstream.sync().await?;
            Ok::<_, LabError>(jetstream)
        });
        read_into(arguments, sender).await?;
        stored(&mut sending.await.map_err(failed)??, arguments.events).await
    })
}

/// Gives the daemon's events to `sender`, as fast as they are taken.
async fn read_into(arguments: &Fill, sender: tokio::sync::mpsc::Sender<bytes::Bytes>) -> Result<(), LabError> {
    let (grpc, events) = (arguments.grpc.clone(), arguments.events);
    let reading = std::thread::spawn(move || {
        block_on(follow(&grpc, events, |event| {
            let mut event = bytes::Bytes::copy_from_slice(event);
            // Closed when the other side has failed; that is reported there.
            while let Err(TrySendError::Full(back)) = sender.try_send(event) {
                event = back;
                std::thread::sleep(FULL_PAUSE);
            }
        }))
    });
    // The runtime goes on sending meanwhile.
    let waiting = tokio::task::spawn_blocking(move || reading.join());
    waiting.await.map_err(failed)?.map_err(|_| LabError::Failed("the daemon's reader panicked".into()))?.map(drop)
}

/// Waits until the server has stored `messages`.
async fn stored(jetstream: &mut JetStream, messages: u64) -> Result<(), LabError> {
    let started = Instant::now();
    loop {
        let seen = jetstream.messages().await?;
        if seen == messages {
            return Ok(());
        }
        if started.elapsed() > STORE_MAX || seen > messages {
            return Err(LabError::Failed(format!("JetStream has {seen} messages of {messages}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads all messages, checks that no offset is missing, and prints what came as JSON.
pub(crate) fn read(arguments: &Read) -> Result<(), LabError> {
    let counted = block_on(async {
        let mut connection = Connection::open(&arguments.server, "read").await?;
        connection.subscribe(DELIVER_TO, 1);
        // The subscription must be there before the consumer.
        connection.sync().await?;
        let mut jetstream = JetStream::connect(&arguments.server, "control").await?;
        jetstream.create_consumer(DELIVER_TO, From::Beginning).await?;
        let mut counted = Counted::default();
        while counted.events < arguments.messages {
            connection
                .receive(|operation| match operation {
                    Operation::Message { payload, .. } => counted.take(payload),
                    _ => Ok(()),
                })
                .await?;
        }
        Ok(counted)
    })?;
    println!("{}", serde_json::json!(counted));
    Ok(())
}

fn block_on<T>(work: impl Future<Output = Result<T, LabError>>) -> Result<T, LabError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("a runtime"))?.block_on(work)
}

fn failed(error: impl std::fmt::Display) -> LabError {
    LabError::Failed(format!("JetStream: {error}"))
}
