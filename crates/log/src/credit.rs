//! The credit window: how many received bytes may wait for the disk, in the whole process.
//!
//! Who reads a socket takes credit first; the credit travels with the bytes into the log and is given back when they
//! are durable. When it is used up the socket is not read, and the database waits. Tokens are handed out first come,
//! first served, and no stream can hold more than its share, so a thousand sources share one window fairly and one
//! huge transaction leaves room for all others.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Bytes in one token: a semaphore counts in `u32` per request, a window may be larger than 4 GiB.
pub(crate) const TOKEN_BYTES: usize = 1024;
/// The part of the window that one stream can hold: enough to hide any ordinary pause of the disk.
const STREAM_SHARE: usize = 8;

/// A process-wide budget of received bytes that are not durable yet.
#[derive(Clone, Debug)]
pub struct CreditWindow {
    pool: Arc<Pool>,
    /// The streams' shares, which change size with the window.
    shares: Arc<Mutex<Vec<Weak<Pool>>>>,
}

impl CreditWindow {
    /// A window of this many bytes, at least 1 KiB; rounded up to whole KiB.
    pub fn new(bytes: usize) -> Self {
        Self { pool: Pool::new(bytes), shares: Arc::default() }
    }

    /// One stream's share of it: an eighth.
    pub fn share(&self) -> CreditShare {
        let mut shares = self.shares.lock();
        let own = Pool::new(self.pool.limit() / STREAM_SHARE);
        shares.retain(|share| share.strong_count() > 0);
        shares.push(Arc::downgrade(&own));
        CreditShare { own, window: Arc::clone(&self.pool) }
    }

    /// Makes the window this many bytes from now on, and each stream's share an eighth of it. What is held beyond a
    /// smaller window stays held until it is durable; until then nobody gets more.
    pub fn resize(&self, bytes: usize) {
        // Under the lock, so that no share is made from the size before.
        let shares = self.shares.lock();
        self.pool.resize(bytes);
        shares.iter().filter_map(Weak::upgrade).for_each(|share| share.resize(self.pool.limit() / STREAM_SHARE));
    }

    /// Waits, in line, until `bytes` may be received. A wish larger than the window gets the whole window.
    pub async fn acquire(&self, bytes: usize) -> Credit {
        Credit { window: self.pool.take(bytes).await, share: None }
    }

    /// Bytes taken and not given back; more than the limit for a while after the window was made smaller.
    pub fn used(&self) -> usize {
        self.pool.used()
    }

    /// The window's size in bytes.
    pub fn limit(&self) -> usize {
        self.pool.limit()
    }
}

/// What one stream may hold of a [`CreditWindow`].
#[derive(Clone, Debug)]
pub struct CreditShare {
    own: Arc<Pool>,
    window: Arc<Pool>,
}

impl CreditShare {
    /// Waits until `bytes` fit into the stream's share and, in line with all other streams, into the window. A wish
    /// larger than the share gets the whole share.
    pub async fn acquire(&self, bytes: usize) -> Credit {
        let share = self.own.take(bytes).await;
        let granted = share.as_ref().map_or(0, Held::bytes);
        Credit { window: self.window.take(granted).await, share }
    }
}

/// Tokens that are taken and come back, and how many there shall be.
#[derive(Debug)]
struct Pool {
    semaphore: Arc<Semaphore>,
    sizes: Mutex<Sizes>,
    /// As in `sizes`, for whoever gives back and mostly owes nothing.
    debt: AtomicUsize,
    /// Told when the size changes: a wish for more than there will ever be must be made anew.
    resized: Notify,
}

#[derive(Debug)]
struct Sizes {
    /// How many tokens there shall be.
    limit: usize,
    /// How many there are beyond that: they are in use, and end when they come back.
    debt: usize,
}

impl Pool {
    fn new(bytes: usize) -> Arc<Self> {
        let limit = clamped(bytes);
        Arc::new(Self {
            semaphore: Arc::new(Semaphore::new(limit)),
            sizes: Mutex::new(Sizes { limit, debt: 0 }),
            debt: AtomicUsize::new(0),
            resized: Notify::new(),
        })
    }

    fn limit(&self) -> usize {
        self.sizes.lock().limit.saturating_mul(TOKEN_BYTES)
    }

    fn used(&self) -> usize {
        let sizes = self.sizes.lock();
        let all = sizes.limit.saturating_add(sizes.debt);
        all.saturating_sub(self.semaphore.available_permits()).saturating_mul(TOKEN_BYTES)
    }

    fn resize(&self, bytes: usize) {
        let wanted = clamped(bytes);
        let mut sizes = self.sizes.lock();
        let there = sizes.limit.saturating_add(sizes.debt);
        if wanted >= there {
            self.semaphore.add_permits(wanted - there);
            sizes.debt = 0;
        } else {
            sizes.debt = there - wanted;
            sizes.debt -= self.semaphore.forget_permits(sizes.debt).min(sizes.debt);
        }
        sizes.limit = wanted;
        self.debt.store(sizes.debt, Release);
        drop(sizes);
        self.resized.notify_waiters();
    }

    async fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        loop {
            let resized = self.resized.notified();
            tokio::pin!(resized);
            // Enlisted before looking at the size, so that no change of it is missed.
            resized.as_mut().enable();
            let wanted = tokens(bytes).min(self.sizes.lock().limit);
            let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
            tokio::select! {
                biased;
                // The semaphore is never closed, so an error cannot happen; an empty credit would only be generous.
                permit = Arc::clone(&self.semaphore).acquire_many_owned(wanted) => {
                    return permit.ok().map(|permit| Held { permit: Some(permit), pool: Arc::clone(self) });
                }
                () = resized => {}
            }
        }
    }
}

/// Tokens of one pool; they go back on drop, or end there when the pool became smaller.
#[derive(Debug)]
struct Held {
    /// None only while it is dropped.
    permit: Option<OwnedSemaphorePermit>,
    pool: Arc<Pool>,
}

impl Held {
    fn tokens(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    fn bytes(&self) -> usize {
        self.tokens().saturating_mul(TOKEN_BYTES)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut permit) = self.permit.take() else { return };
        if self.pool.debt.load(Acquire) == 0 {
            return;
        }
        // Before they go back: a token that goes back belongs to whoever waits at once.
        let mut sizes = self.pool.sizes.lock();
        let end = sizes.debt.min(permit.num_permits());
        if let Some(ended) = permit.split(end) {
            ended.forget();
            sizes.debt -= end;
            self.pool.debt.store(sizes.debt, Release);
        }
    }
}

/// The right to hold some received bytes in memory; given back on drop.
#[derive(Debug)]
pub struct Credit {
    window: Option<Held>,
    /// As much of the stream's share, when it was taken through one.
    share: Option<Held>,
}

impl Credit {
    /// How many bytes it stands for, in whole KiB.
    pub fn bytes(&self) -> usize {
        self.window.as_ref().map_or(0, Held::bytes)
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

fn merge(ours: &mut Option<Held>, theirs: Option<Held>) {
    match (ours, theirs) {
        (Some(ours), Some(mut theirs)) if Arc::ptr_eq(&ours.pool, &theirs.pool) => {
            if let (Some(ours), Some(theirs)) = (&mut ours.permit, theirs.permit.take()) {
                ours.merge(theirs);
            }
        }
        (none @ None, theirs) => *none = theirs,
        // Of another window: cannot be merged, so it is given back here.
        _ => {}
    }
}

fn split(held: &mut Option<Held>, part: usize) -> Option<Held> {
    match held {
        Some(held) if part < held.tokens() => {
            let permit = held.permit.as_mut().and_then(|permit| permit.split(part));
            permit.map(|permit| Held { permit: Some(permit), pool: Arc::clone(&held.pool) })
        }
        all => all.take(),
    }
}

fn clamped(bytes: usize) -> usize {
    tokens(bytes).clamp(1, Semaphore::MAX_PERMITS)
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

    #[tokio::test]
    async fn a_smaller_window_holds_as_soon_as_credit_comes_back_also_for_who_waits() {
        let window = CreditWindow::new(64 * 1024);
        let mut held = window.acquire(64 * 1024).await;
        let waiting = window.acquire(8 * 1024);
        let whole = window.acquire(64 * 1024);
        tokio::pin!(waiting);
        assert!(futures_poll(waiting.as_mut()).is_none());
        window.resize(16 * 1024);
        assert_eq!((window.limit(), window.used()), (16 * 1024, 64 * 1024));
        // 48 KiB too many: they end as they come back, although somebody waits for them.
        drop(held.split(48 * 1024));
        assert_eq!(window.used(), 16 * 1024);
        assert!(futures_poll(waiting.as_mut()).is_none(), "the smaller window is in use");
        drop(held.split(8 * 1024));
        let small = waiting.await;
        assert_eq!((small.bytes(), window.used()), (8 * 1024, 16 * 1024));
        // A wish from before for more than there is now gets what there is.
        tokio::pin!(whole);
        assert!(futures_poll(whole.as_mut()).is_none());
        drop((held, small));
        assert_eq!(whole.await.bytes(), 16 * 1024);
        assert_eq!(window.used(), 0);
    }

    #[tokio::test]
    async fn a_wish_that_a_smaller_window_can_never_grant_gets_all_there_is() {
        let window = CreditWindow::new(128 * 1024);
        let share = window.share();
        let held = share.acquire(16 * 1024).await;
        let big = share.acquire(16 * 1024);
        tokio::pin!(big);
        assert!(futures_poll(big.as_mut()).is_none());
        window.resize(64 * 1024);
        assert!(futures_poll(big.as_mut()).is_none(), "its share is in use");
        drop(held);
        assert_eq!(big.await.bytes(), 8 * 1024);
        assert_eq!(window.used(), 0);
    }

    #[tokio::test]
    async fn a_larger_window_is_there_at_once_and_pays_what_a_smaller_one_owed() {
        let window = CreditWindow::new(32 * 1024);
        let share = window.share();
        let held = window.acquire(32 * 1024).await;
        window.resize(8 * 1024);
        let waiting = window.acquire(8 * 1024);
        tokio::pin!(waiting);
        assert!(futures_poll(waiting.as_mut()).is_none());
        window.resize(64 * 1024);
        assert_eq!(waiting.await.bytes(), 8 * 1024);
        assert_eq!((window.limit(), window.used()), (64 * 1024, 32 * 1024));
        drop(held);
        assert_eq!(window.used(), 0);
        assert_eq!(share.acquire(usize::MAX).await.bytes(), 8 * 1024, "the share has grown with it");
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
