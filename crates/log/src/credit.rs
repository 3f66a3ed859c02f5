//! The credit window: how many received bytes may wait for the disk, in the whole process.
//!
//! Who reads a socket takes credit first; the credit travels with the bytes into the log and is given back when they
//! are durable. When it is used up the socket is not read, and the database waits. Tokens are handed out first come,
//! first served, and no stream can hold more than its share, so a thousand sources share one window fairly and one
//! huge transaction leaves room for all others.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes in one token: a semaphore counts in `u32` per request, a window may be larger than 4 GiB.
pub(crate) const TOKEN_BYTES: usize = 1024;
/// The part of the window that one stream can hold: enough to hide any ordinary pause of the disk.
const STREAM_SHARE: usize = 8;

/// A process-wide budget of received bytes that are not durable yet.
#[derive(Clone, Debug)]
pub struct CreditWindow {
    semaphore: Arc<Semaphore>,
    limit: usize,
}

impl CreditWindow {
    /// A window of this many bytes, at least 1 KiB; rounded up to whole KiB.
    pub fn new(bytes: usize) -> Self {
        let tokens = tokens(bytes).clamp(1, Semaphore::MAX_PERMITS);
        Self { semaphore: Arc::new(Semaphore::new(tokens)), limit: tokens.saturating_mul(TOKEN_BYTES) }
    }

    /// One stream's share of it: an eighth.
    pub fn share(&self) -> CreditShare {
        CreditShare { own: Self::new(self.limit / STREAM_SHARE), window: self.clone() }
    }

    /// Waits, in line, until `bytes` may be received. A wish larger than the window gets the whole window.
    pub async fn acquire(&self, bytes: usize) -> Credit {
        Credit { window: self.permit(bytes).await, share: None }
    }

    async fn permit(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let wanted = tokens(bytes).min(self.limit / TOKEN_BYTES);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        // The semaphore is never closed, so an error cannot happen; an empty credit would only be generous.
        Arc::clone(&self.semaphore).acquire_many_owned(wanted).await.ok()
    }

    /// Bytes taken and not given back.
    pub fn used(&self) -> usize {
        self.limit.saturating_sub(self.semaphore.available_permits().saturating_mul(TOKEN_BYTES))
    }

    /// The window's size in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

/// What one stream may hold of a [`CreditWindow`].
#[derive(Clone, Debug)]
pub struct CreditShare {
    own: CreditWindow,
    window: CreditWindow,
}

impl CreditShare {
    /// Waits until `bytes` fit into the stream's share and, in line with all other streams, into the window. A wish
    /// larger than the share gets the whole share.
    pub async fn acquire(&self, bytes: usize) -> Credit {
        let share = self.own.permit(bytes).await;
        let granted = share.as_ref().map_or(0, |permit| permit.num_permits().saturating_mul(TOKEN_BYTES));
        Credit { window: self.window.permit(granted).await, share }
    }
}

/// The right to hold some received bytes in memory; given back on drop.
#[derive(Debug)]
pub struct Credit {
    window: Option<OwnedSemaphorePermit>,
    /// As much of the stream's share, when it was taken through one.
    share: Option<OwnedSemaphorePermit>,
}

impl Credit {
    /// How many bytes it stands for, in whole KiB.
    pub fn bytes(&self) -> usize {
        self.window.as_ref().map_or(0, |permit| permit.num_permits().saturating_mul(TOKEN_BYTES))
    }

    /// Gives back what is not needed for `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        drop(self.split(self.bytes().saturating_sub(tokens(bytes).saturating_mul(TOKEN_BYTES))));
    }

    /// Takes in another credit of the same window.
    pub fn merge(&mut self, other: Self) {
        merge(&mut self.window, other.window);
        merge(&mut self.share, other.share);
    }

    /// Parts off up to `bytes`, rounded up to whole KiB.
    pub fn split(&mut self, bytes: usize) -> Self {
        let part = tokens(bytes);
        Self { window: split(&mut self.window, part), share: split(&mut self.share, part) }
    }
}

fn merge(ours: &mut Option<OwnedSemaphorePermit>, theirs: Option<OwnedSemaphorePermit>) {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if Arc::ptr_eq(ours.semaphore(), theirs.semaphore()) => ours.merge(theirs),
        (none @ None, theirs) => *none = theirs,
        // Of another window: cannot be merged, so it is given back here.
        _ => {}
    }
}

fn split(permit: &mut Option<OwnedSemaphorePermit>, part: usize) -> Option<OwnedSemaphorePermit> {
    match permit {
        Some(held) if part < held.num_permits() => held.split(part),
        all => all.take(),
    }
}

const fn tokens(bytes: usize) -> usize {
    bytes.div_ceil(TOKEN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credit_comes_back_whichever_way_it_is_cut() {
        let window = CreditWindow::new(64 * 1024);
        let mut credit = window.acquire(40_000).await;
        assert_eq!((credit.bytes(), window.used()), (40 * 1024, 40 * 1024));
        credit.shrink_to(30_000);
        let part = credit.split(10 * 1024);
        assert_eq!((part.bytes(), credit.bytes(), window.used()), (10 * 1024, 20 * 1024, 30 * 1024));
        credit.merge(part);
        credit.merge(window.acquire(1).await);
        assert_eq!(credit.bytes(), 31 * 1024);
        drop(credit);
        assert_eq!(window.used(), 0);
    }

    #[tokio::test]
    async fn a_wish_beyond_the_window_waits_for_the_whole_window_and_no_longer() {
        let window = CreditWindow::new(8 * 1024);
        let small = window.acquire(1024).await;
        let big = window.acquire(usize::MAX);
        tokio::pin!(big);
        assert!(futures_poll(big.as_mut()).is_none(), "the window is in use");
        drop(small);
        assert_eq!(big.await.bytes(), 8 * 1024);
    }

    #[tokio::test]
    async fn one_stream_holds_at_most_its_share_and_others_still_find_room() {
        let window = CreditWindow::new(128 * 1024);
        let (greedy, modest) = (window.share(), window.share());
        let mut held = greedy.acquire(usize::MAX).await;
        assert_eq!((held.bytes(), window.used()), (16 * 1024, 16 * 1024));
        let more = greedy.acquire(1);
        tokio::pin!(more);
        assert!(futures_poll(more.as_mut()).is_none(), "its share is in use");
        assert_eq!(modest.acquire(8 * 1024).await.bytes(), 8 * 1024);
        drop(held.split(1024));
        assert_eq!(more.await.bytes(), 1024);
        drop(held);
        assert_eq!(window.used(), 0);
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
