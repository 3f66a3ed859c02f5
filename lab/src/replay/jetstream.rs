//! The reference: a NATS server with JetStream's file storage, filled with the very bytes that a daemon delivers.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy, push};
use async_nats::jetstream::stream::{Config, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use tokio::sync::mpsc::error::TrySendError;

use super::reader::{Counted, follow};
use crate::daemon::free_address;
use crate::error::{LabError, io};

const STREAM: &str = "LAB";
const SUBJECT: &str = "lab";
/// How long the server may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(30);
/// How long it may take to store what it was sent.
const STORE_MAX: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);
/// Messages between two flushes: the server has room for these.
const FLUSH_EVERY: u64 = 10_000;

/// Pause when what is read comes faster than it is stored.
const FULL_PAUSE: Duration = Duration::from_micros(200);

/// A running server; killed when dropped.
pub(super) struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts it with its files in `folder`.
    pub(super) fn start(program: &Path, folder: &Path) -> Result<Self, LabError> {
        let address = free_address()?;
        let (host, port) = address.split_once(':').ok_or_else(|| LabError::Failed("no free port".into()))?;
        let child = Command::new(program)
            .args(["--addr", host, "--port", port, "--jetstream", "--store_dir"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io(program.display().to_string()))?;
        let server = Self { child, url: address.clone() };
        let started = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            if started.elapsed() > START_MAX {
                return Err(LabError::Failed(format!("{} does not answer", program.display())));
            }
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It keeps nothing that anybody needs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
        let client = async_nats::connect(&arguments.server).await.map_err(failed)?;
        let context = jetstream::new(client.clone());
        let config = Config {
            name: STREAM.into(),
            subjects: vec![SUBJECT.into()],
            storage: StorageType::File,
            ..Config::default()
        };
        let mut stream = context.create_stream(config).await.map_err(failed)?;
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(1024);
        let sending = tokio::spawn(async move {
            let mut sent = 0_u64;
            while let Some(event) = receiver.recv().await {
                client.publish(SUBJECT, event).await.map_err(failed)?;
                sent += 1;
                if sent % FLUSH_EVERY == 0 {
                    client.flush().await.map_err(failed)?;
                }
            }
            client.flush().await.map_err(failed)
        });
        read_into(arguments, sender).await?;
        sending.await.map_err(failed)??;
        stored(&mut stream, arguments.events).await
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
async fn stored(stream: &mut Stream, messages: u64) -> Result<(), LabError> {
    let started = Instant::now();
    loop {
        let seen = stream.info().await.map_err(failed)?.state.messages;
        if seen == messages {
            return Ok(());
        }
        if started.elapsed() > STORE_MAX || seen > messages {
            return Err(LabError::Failed(format!("JetStream has {seen} messages of {messages}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads all messages with an ordered consumer, and prints what came as JSON.
pub(crate) fn read(arguments: &Read) -> Result<(), LabError> {
    let counted = block_on(async {
        let client = async_nats::connect(&arguments.server).await.map_err(failed)?;
        let context: Context = jetstream::new(client.clone());
        let stream = context.get_stream(STREAM).await.map_err(failed)?;
        let config = push::OrderedConfig {
            deliver_subject: client.new_inbox(),
            deliver_policy: DeliverPolicy::All,
            replay_policy: ReplayPolicy::Instant,
            ..push::OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(failed)?;
        let mut messages = consumer.messages().await.map_err(failed)?;
        let mut counted = Counted::default();
        while counted.events < arguments.messages {
            let message = messages.next().await.ok_or_else(|| LabError::Failed("JetStream ended".into()))?;
            counted.bytes += message.map_err(failed)?.payload.len() as u64;
            counted.events += 1;
        }
        Ok::<_, LabError>(counted)
    })?;
    println!("{}", serde_json::json!(counted));
    Ok(())
}

fn block_on<T>(work: impl Future<Output = Result<T, LabError>>) -> Result<T, LabError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("a runtime"))?.block_on(work)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: impl std::fmt::Display) -> LabError {
    LabError::Failed(format!("JetStream: {error}"))
}
