//! What is waited for all the time and seldom happens, polled only when it has asked for that.
//!
//! A subscription waits for its next events and at the same time for the end of the daemon, of its client and of its turn, and
//! for requests. To poll each of those at every event would cost more than the event: they go through several layers, locks and lists of
//! waiters. Here they wake a bell of their own, and as long as it has not rung nothing of them is touched.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use futures_util::{Stream, StreamExt};

/// Something that is polled only after it has woken its waiter.
pub(super) struct Dozing<T> {
    inner: T,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
    /// The one that waits for the bell since it rang last.
    waiter: Option<Waker>,
}

/// Tells whether there is anything to be polled for.
pub(super) struct Bell {
    rung: AtomicBool,
    waiter: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Release);
        self.waiter.wake();
    }
}

impl Bell {
    /// Whether it has not rung since it was last listened to.
    pub(super) fn is_silent(&self) -> bool {
        !self.rung.load(Acquire)
    }
}

impl<T: Unpin> Dozing<T> {
    /// For who asks before polling what this is deep inside of. Silent, it wakes whoever polled last.
    pub(super) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// It is polled once in any case.
    pub(super) fn new(inner: T) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), waiter: AtomicWaker::new() });
        Self { inner, waker: Waker::from(Arc::clone(&bell)), bell, waiter: None }
    }

    fn poll_with<R>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        if self.waiter.as_ref().is_some_and(|waiter| waiter.will_wake(context.waker())) && !self.bell.rung.load(Acquire)
        {
            // It has not rung since that one was enlisted, who is enlisted still.
            return Poll::Pending;
        }
        // Enlisted before looking, so that no ring between the two is missed.
        self.bell.waiter.register(context.waker());
        self.waiter = Some(context.waker().clone());
        if !self.bell.rung.swap(false, AcqRel) {
            return Poll::Pending;
        }
        let polled = poll(&mut self.inner, &mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            // There may be more.
            self.bell.rung.store(true, Release);
        }
        polled
    }
}

impl<F: Future + Unpin> Dozing<F> {
    /// The future's output. Not to be called again after that.
    pub(super) async fn done(&mut self) -> F::Output {
        std::future::poll_fn(|context| self.poll_with(context, |inner, context| Pin::new(inner).poll(context))).await
    }
}

impl<S: Stream + Unpin> Dozing<S> {
    /// The stream's next item. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<S::Item> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next).
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.poll_with(context, StreamExt::poll_next_unpin)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_rings_and_not_when_its_waiter_is_polled_for_another_reason() {
        let polls = Arc::new(AtomicUsize::new(0));
        let (sender, receiver) = mpsc::channel(4);
        let mut receiver = ReceiverStream::new(receiver);
        let counting = Arc::clone(&polls);
        let stream = futures_util::stream::poll_fn(move |context| {
            counting.fetch_add(1, Relaxed);
            receiver.poll_next_unpin(context)
        });
        let mut dozing = Dozing::new(stream);
        for _ in 0..10 {
            assert!(futures_util::poll!(std::pin::pin!(dozing.next())).is_pending());
        }
        assert_eq!(polls.load(Relaxed), 1);
        let sending = tokio::spawn(async move {
            for number in 0..1000 {
                sender.send(number).await.unwrap();
            }
        });
        for number in 0..1000 {
            assert_eq!(dozing.next().await, Some(number));
        }
        assert_eq!(dozing.next().await, None);
        sending.await.unwrap();
    }
}
