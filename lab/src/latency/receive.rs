//! The two receivers, each on a thread of its own: the reference, and a subscriber of dbstreamd.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_stream::StreamExt;

use super::server::Connection;
use super::traffic::Ledger;
use crate::error::LabError;
use dbstreamd_client::subscribe_request::Request;
use dbstreamd_client::subscribe_response::Response;
use dbstreamd_client::{Start, SubscribeRequest, cell};

/// Longest wait for what was written.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the reference confirms.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);

/// A receiver that runs until it has all rows of its ledger.
pub(super) struct Receiver {
    ledger: Ledger,
    thread: JoinHandle<Result<(), LabError>>,
}

impl Receiver {
    fn spawn(
        ledger: &Ledger,
        receive: impl FnOnce(&Ledger, mpsc::Sender<()>) -> Result<(), LabError> + Send + 'static,
    ) -> Result<Self, LabError> {
        let (ready, is_ready) = mpsc::channel();
        let own = ledger.clone();
        let thread = std::thread::spawn(move || receive(&own, ready));
        let receiver = Self { ledger: ledger.clone(), thread };
        match is_ready.recv_timeout(PATIENCE) {
            Ok(()) => Ok(receiver),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(receiver.finish().err().unwrap_or_else(too_late)),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(too_late()),
        }
    }

    /// Waits for the last row.
    pub(super) fn finish(self) -> Result<(), LabError> {
        let started = Instant::now();
        while !self.thread.is_finished() {
            if started.elapsed() > PATIENCE {
                return Err(LabError::Failed(format!("{} rows were never received", self.ledger.missing())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.thread.join().unwrap_or_else(|_| Err(LabError::Failed("a receiver panicked".into())))
    }
}

fn too_late() -> LabError {
    LabError::Failed("a receiver did not start in time".into())
}

/// The reference: reads as soon as there is something, looks for sequence numbers, keeps nothing.
pub(super) struct Raw;

impl Raw {
    pub(super) fn start(port: u16, database: &str, slot: &str, ledger: &Ledger) -> Result<Receiver, LabError> {
        let (database, slot) = (database.to_owned(), slot.to_owned());
        Receiver::spawn(ledger, move |ledger, ready| {
            let mut connection = Connection::open(port, &database, &[("replication", "database")])?;
            connection.start_replication(&slot, "lab")?;
            let (mut open, mut end, mut confirmed) = (None, 0, Instant::now());
            // Nobody waits for it any more when the lab gave up.
            let _ = ready.send(());
            loop {
                connection.receive()?;
                let now = Instant::now();
                while let Some((_, body)) = connection.message()? {
                    let Some(message) = body.strip_prefix(b"w").and_then(|body| body.get(24..)) else { continue };
                    match message.first() {
                        Some(b'I') => open = sequence_of(message),
                        Some(b'C') => {
                            end =
                                message.get(10..18).and_then(|lsn| lsn.try_into().ok()).map_or(end, u64::from_be_bytes);
                            if let Some(seq) = open.take()
                                && ledger.received(seq, now)?
                            {
                                return connection.confirm(end);
                            }
                        }
                        _ => {}
                    }
                }
                if confirmed.elapsed() > CONFIRM_INTERVAL {
                    connection.confirm(end)?;
                    confirmed = now;
                }
            }
        })
    }
}

/// The first column of an Insert: tag, table (4), `N`, number of columns (2), then `t`, length (4), text.
fn sequence_of(insert: &[u8]) -> Option<u64> {
    let length = u32::from_be_bytes(*insert.get(9..)?.first_chunk()?);
    std::str::from_utf8(insert.get(13..)?.get(..length as usize)?).ok()?.parse().ok()
}

/// A subscriber over gRPC.
pub(super) struct Subscriber;

impl Subscriber {
    pub(super) fn start(address: &str, ledger: &Ledger) -> Result<Receiver, LabError> {
        let address = address.to_owned();
        Receiver::spawn(ledger, move |ledger, ready| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(crate::error::io("start a runtime"))?;
            runtime.block_on(follow(&address, ledger, ready))
        })
    }
}

async fn follow(address: &str, ledger: &Ledger, ready: mpsc::Sender<()>) -> Result<(), LabError> {
    let failed = |what: String| LabError::Failed(format!("subscriber: {what}"));
    let mut client = dbstreamd_client::connect(address).await.map_err(|error| failed(error.to_string()))?;
    let start = SubscribeRequest { request: Some(Request::Start(Start::default())) };
    // A stream that ends would only say that nothing more is asked for.
    let requests = tokio_stream::once(start).chain(tokio_stream::pending());
    let responses = client.subscribe(requests).await.map_err(|status| failed(status.to_string()))?;
    let mut responses = responses.into_inner();
    while let Some(response) = responses.message().await.map_err(|status| failed(status.to_string()))? {
        let now = Instant::now();
        match response.response {
            // As above.
            Some(Response::Started(_)) => drop(ready.send(())),
            Some(Response::Events(batch)) => {
                for event in batch.events {
                    let row = event.after.unwrap_or_default();
                    let seq = row.cells.first().and_then(|cell| match &cell.value {
                        Some(cell::Value::Text(text)) => std::str::from_utf8(text).ok()?.parse().ok(),
                        _ => None,
                    });
                    let seq = seq.ok_or_else(|| failed("a row without a sequence number".into()))?;
                    if ledger.received(seq, now)? {
                        return Ok(());
                    }
                }
            }
            _ => {}
        }
    }
    Err(failed("the daemon ended the stream".into()))
}
