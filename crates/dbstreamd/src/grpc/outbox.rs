//! What a subscription has produced and its connection has not yet taken: bounded in bytes.
//!
//! The subscription runs in a task of its own, so that acknowledgements and takeovers are served while the client
//! does not read; this queue between the two is what keeps a slow client from filling memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use super::wire::{Response, WireResponse};

/// Responses waiting for one connection, in bytes; a single larger one passes alone.
const BYTES_MAX: u32 = 1024 * 1024;

/// A response costs at least this, so that small ones are bounded in number too.
const RESPONSE_BYTES_MIN: u32 = 512;

type Item = Result<(WireResponse, OwnedSemaphorePermit), Status>;

/// The producing end.
pub(super) struct Outbox {
    room: Arc<Semaphore>,
    queue: mpsc::UnboundedSender<Item>,
}

/// The end that the connection polls.
pub(crate) struct Responses {
    queue: mpsc::UnboundedReceiver<Item>,
}

/// An empty outbox.
pub(super) fn outbox() -> (Outbox, Responses) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(BYTES_MAX as usize));
    (Outbox { room, queue: sender }, Responses { queue: receiver })
}

impl Outbox {
    /// Waits until a response of this many bytes may be queued. Cancel-safe.
    pub(super) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes).unwrap_or(BYTES_MAX).clamp(RESPONSE_BYTES_MIN, BYTES_MAX);
        // The semaphore is never closed, so there is always an answer.
        Arc::clone(&self.room).acquire_many_owned(permits).await.ok()
    }

    /// Queues a response. Whether anybody still listens is seen by [`closed`](Self::closed).
    pub(super) fn send(&self, response: Response, room: OwnedSemaphorePermit) {
        let _ = self.queue.send(Ok((response.into(), room)));
    }

    /// Ends the response stream with a status.
    pub(super) fn fail(self, status: Status) {
        let _ = self.queue.send(Err(status));
    }

    /// Resolves when the client is gone.
    pub(super) async fn closed(&self) {
        self.queue.closed().await;
    }
}

impl Stream for Responses {
    type Item = Result<WireResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The permit falls here: from now on the bytes are under HTTP/2's own flow control.
        self.queue.poll_recv(context).map(|item| item.map(|item| item.map(|(response, _room)| response)))
    }
}
