//! Readers that begin at the earliest event and look at nothing but offsets: what is left is what delivery costs.
//!
//! They run as a process of their own (`dbstreamd-lab read`), so that their CPU is their own.

use serde::{Deserialize, Serialize};

use crate::error::{LabError, io};
use crate::lean::{self, Answer, Connection, Empty, Start, StartFrom, Windows};

/// Whom to read from, how far.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `host:port` of the daemon's gRPC port.
    #[arg(long)]
    grpc: String,
    /// Ends with the event at this offset.
    #[arg(long)]
    end_offset: u64,
    /// How many read the same at a time, each on a connection of its own.
    #[arg(long, default_value_t = 1)]
    readers: usize,
}

/// What came, to all readers together.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) events: u64,
    /// Of encoded events.
    pub(crate) bytes: u64,
}

impl Counted {
    /// Counts an encoded event, which must be the next.
    pub(super) fn take(&mut self, event: &[u8]) -> Result<(), LabError> {
        let (seen, due) = (lean::offset(event)?, self.events + 1);
        if seen != due {
            return Err(LabError::Failed(format!("offset {seen} came where {due} was due")));
        }
        self.events = seen;
        self.bytes += event.len() as u64;
        Ok(())
    }
}

/// Reads, and prints what came as JSON.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("a runtime"))?;
    let readers = (0..arguments.readers).map(|_| follow(&arguments.grpc, arguments.end_offset, |_| {}));
    let counted = runtime.block_on(futures_util::future::try_join_all(readers))?;
    let total = counted.iter().fold(Counted::default(), |total, one| Counted {
        events: total.events + one.events,
        bytes: total.bytes + one.bytes,
    });
    println!("{}", serde_json::json!(total));
    Ok(())
}

/// Reads everything up to `end_offset`, gives each encoded event to `take`, and checks that no offset is missing.
pub(super) async fn follow(grpc: &str, end_offset: u64, mut take: impl FnMut(&[u8])) -> Result<Counted, LabError> {
    // As the generated client of a program that wants throughput sets them.
    let windows = Windows { stream: 4 * 1024 * 1024, connection: 8 * 1024 * 1024, frame: 256 * 1024 };
    let connection = Connection::open(grpc, windows).await?;
    let from = StartFrom { earliest: Some(Empty {}), latest: None };
    let mut subscriber = connection.subscribe(Start { from: Some(from), ..Start::default() }).await?;
    let mut counted = Counted::default();
    while counted.events < end_offset {
        subscriber
            .receive(|answer| {
                let Answer::Events(batch) = answer else { return Ok(()) };
                for event in lean::events(batch) {
                    let event = event?;
                    counted.take(event)?;
                    take(event);
                }
                Ok(())
            })
            .await?;
    }
    Ok(counted)
}
