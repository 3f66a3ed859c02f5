//! What a subscription has produced and its connection has not yet taken: bounded in bytes, for each and for all together.
//!
//! The subscription runs in a task of its own, so that acknowledgements and takeovers are served while the client
//! does not read; this queue between the two is what keeps a slow client from filling memory. Room is taken before a
//! response is produced: from this queue, and from the budget that all subscribers share (`delivery`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use dbstreamd_log::LatencyHistogram;
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::company::Follower;
use super::dozing::Dozing;
use super::express::Lane;
use super::wire::{Response, WireResponse};
use crate::delivery::{BATCH_BYTES, DeliveryBudget, FLOOR_BYTES, Share};

/// Responses waiting for one connection, in bytes; a single larger one passes alone.
const BYTES_MAX: usize = 1024 * 1024;

/// A response costs at least this, so that small ones are bounded in number too.
const RESPONSE_BYTES_MIN: usize = 512;

/// What a subscription hands to its connection.
enum Item {
    /// A response, its room, and since when its events have been visible, if that is to be timed.
    Response(WireResponse, Room, Option<Instant>),
    /// From here on the connection takes the newest events by itself, until it gives that back.
    Follow(Box<Follower>),
}

/// The producing end.
pub(super) struct Outbox {
    room: Arc<Semaphore>,
    budget: DeliveryBudget,
    queue: mpsc::UnboundedSender<Result<Item, Status>>,
}

/// The end that the connection polls.
pub(crate) struct Responses {
    queue: Dozing<UnboundedReceiverStream<Result<Item, Status>>>,
    /// For who gets the newest events without a subscription in between.
    lane: Lane,
    visible_to_sent: LatencyHistogram,
    /// Of the response that the connection took last and may still be sending: it comes for the next one only when its
    /// client has made room.
    sending: Option<Room>,
}

/// Room for one response.
pub(super) struct Room {
    own: OwnedSemaphorePermit,
    /// None for the small piece that everybody gets.
    shared: Option<Share>,
    bytes: usize,
}

/// An empty outbox.
pub(super) fn outbox(budget: DeliveryBudget, visible_to_sent: LatencyHistogram) -> (Outbox, Responses) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(BYTES_MAX));
    let queue = Dozing::new(UnboundedReceiverStream::new(receiver));
    let lane = Lane::new(queue.bell(), visible_to_sent.clone());
    (Outbox { room, budget, queue: sender }, Responses { queue, lane, visible_to_sent, sending: None })
}

impl Room {
    /// How large a response may be, unless it is one event.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn shrink_to(&mut self, bytes: usize) {
        let needed = bytes.clamp(RESPONSE_BYTES_MIN, self.bytes);
        drop(self.own.split(self.own.num_permits().saturating_sub(needed)));
        if let Some(shared) = &mut self.shared {
            shared.shrink_to(needed);
        }
    }
}

impl Outbox {
    /// Waits until a response may be produced. Cancel-safe.
    pub(super) async fn room(&self) -> Option<Room> {
        // The semaphore is never closed, so there is always an answer.
        let own = self.own(BATCH_BYTES).await?;
        if let Some(shared) = self.budget.take(BATCH_BYTES) {
            return Some(Room { own, shared: Some(shared), bytes: BATCH_BYTES });
        }
        drop(own);
        // All of it: then nothing of ours is on its way, and the small piece is free.
        let mut own = self.own(BYTES_MAX).await?;
        drop(own.split(BYTES_MAX - FLOOR_BYTES));
        Some(Room { own, shared: None, bytes: FLOOR_BYTES })
    }

    async fn own(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).acquire_many_owned(u32::try_from(bytes).ok()?).await.ok()
    }

    /// Queues a response, whose events have been visible since then if that is to be timed. Whether anybody still listens
    /// is seen by [`closed`](Self::closed).
    pub(super) fn send(&self, response: Response, mut room: Room, visible_at: Option<Instant>) {
        room.shrink_to(size(&response));
        let _ = self.queue.send(Ok(Item::Response(response.into(), room, visible_at)));
    }

    /// Lets the connection take the newest events by itself, behind everything that was sent before. One piece of them at a time is on
    /// its way, no larger than what everybody gets, so they need no room.
    pub(super) fn follow(&self, follower: Follower) {
        // As above.
        let _ = self.queue.send(Ok(Item::Follow(Box::new(follower))));
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

/// Bytes a response keeps in memory, roughly.
fn size(response: &Response) -> usize {
    match response {
        Response::Events(bytes) => bytes.len(),
        Response::Schema(schema) => prost::Message::encoded_len(schema.as_ref()),
        Response::Started(_) | Response::Progress(_) | Response::EpochStarted(_) => 64,
        Response::Skipped(skipped) => prost::Message::encoded_len(skipped),
    }
}

impl Stream for Responses {
    type Item = Result<WireResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Whoever asks for more has sent what it took before, but for what is under HTTP/2's and the kernel's own limits.
        self.sending = None;
        loop {
            let item = match self.queue.poll_next(context) {
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(item)) => item?,
                Poll::Pending => return Poll::Pending,
            };
            match item {
                Item::Response(response, room, visible_at) => {
                    self.time(visible_at);
                    self.sending = Some(room);
                    return Poll::Ready(Some(Ok(response)));
                }
                Item::Follow(follower) => self.lane.put(follower),
            }
        }
    }
}

impl Responses {
    /// The way by the codec, for the response that has these.
    pub(super) fn lane(&self) -> Lane {
        self.lane.clone()
    }

    fn time(&self, visible_at: Option<Instant>) {
        if let Some(visible_at) = visible_at {
            self.visible_to_sent.observe(visible_at.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn events(bytes: usize) -> Response {
        Response::Events(vec![7; bytes].into())
    }

    async fn room_now(outbox: &Outbox) -> Option<Room> {
        tokio::select! {
            biased;
            room = tokio::task::unconstrained(outbox.room()) => room,
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn clients_that_do_not_read_keep_the_shared_budget_and_others_still_get_their_piece() {
        let budget = DeliveryBudget::new(2 * BATCH_BYTES);
        let (lazy, mut unread) = outbox(budget.clone(), LatencyHistogram::for_one());
        for _ in 0..2 {
            let room = room_now(&lazy).await.unwrap();
            assert_eq!(room.bytes(), BATCH_BYTES);
            lazy.send(events(BATCH_BYTES), room, None);
        }
        assert_eq!(budget.used(), 2 * BATCH_BYTES);
        assert!(room_now(&lazy).await.is_none(), "who has something on its way waits");

        let (busy, mut read) = outbox(budget.clone(), LatencyHistogram::for_one());
        for _ in 0..100 {
            let room = room_now(&busy).await.unwrap();
            assert_eq!(room.bytes(), FLOOR_BYTES);
            busy.send(events(FLOOR_BYTES), room, None);
            assert!(room_now(&busy).await.is_none(), "one piece at a time");
            assert!(read.next().await.unwrap().is_ok());
            assert!(room_now(&busy).await.is_none(), "the connection may still be sending it");
            assert!(futures_util::poll!(read.next()).is_pending());
        }
        // As soon as somebody reads, there are whole batches again.
        for _ in 0..2 {
            unread.next().await.unwrap().unwrap();
        }
        assert_eq!(room_now(&busy).await.unwrap().bytes(), BATCH_BYTES);
        drop(unread);
        drop(lazy);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn one_outbox_takes_a_megabyte_and_gives_back_what_its_responses_do_not_need() {
        let budget = DeliveryBudget::new(64 * BYTES_MAX);
        let (outbox, mut responses) = outbox(budget.clone(), LatencyHistogram::for_one());
        let mut sent = 0;
        while let Some(room) = room_now(&outbox).await {
            outbox.send(events(1000), room, None);
            sent += 1;
        }
        assert!((700..=1048).contains(&sent), "{sent} responses of 1000 bytes");
        assert!(budget.used() <= BYTES_MAX + sent * 512);
        drop(outbox);
        while responses.next().await.is_some() {}
        drop(responses);
        assert_eq!(budget.used(), 0);
    }
}
