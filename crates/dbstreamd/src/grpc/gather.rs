//! Frames of many calls on one connection leave together.
//!
//! HTTP/2 flushes after every data frame of any size, and a task that has produced a frame has its connection woken right
//! behind it: a hundred calls that follow the same stream would be a hundred small writes to one socket for each commit. Here
//! a flush only asks for the connection's task to be run once more, behind whatever else is ready to run by then, and what all
//! of that has produced is written when it comes to that. Nothing waits for a timer: where nothing else runs, that is at once.
//!
//! A turn of the connection's task begins with reading, so what was gathered before is written there.
//!
//! What is gathered lies in one of a few buffers that all connections share: it is there from a call's frame to the next
//! turn, so they are soon free again. When all are taken, by clients that do not read perhaps, a connection gathers less, in memory
//! of its own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most, on each connection, when no buffer is free.
pub(crate) const OWN_BYTES_MAX: usize = 16 * 1024;
/// A shared buffer. A write costs a wake-up of whoever reads, and that as much as copying this; larger ones no longer fit the
/// processor's nearest caches.
const SHARED_BYTES: usize = 64 * 1024;
/// So many of them are enough for any number of connections.
const SHARED_COUNT_MAX: usize = 128;
/// Fewer connections have one shared buffer for every so many.
const CONNECTIONS_PER_SHARED: usize = 16;

/// As much at once needs no company, and no copy.
const LARGE_BYTES_MIN: usize = 8 * 1024;

/// Buffers for what is gathered, for all connections.
pub(super) struct SharedBuffers(Mutex<Free>);

struct Free {
    idle: Vec<Vec<u8>>,
    /// How many more may be made.
    unmade: usize,
}

/// How many buffers so many connections share.
const fn shared_count(connections_max: usize) -> usize {
    let count = connections_max / CONNECTIONS_PER_SHARED;
    if count < SHARED_COUNT_MAX { count } else { SHARED_COUNT_MAX }
}

/// What the shared buffers of so many connections take at most.
pub(crate) const fn shared_bytes_max(connections_max: usize) -> usize {
    shared_count(connections_max) * SHARED_BYTES
}

impl SharedBuffers {
    /// For so many connections; made when they are needed.
    pub(super) fn new(connections_max: usize) -> Self {
        Self(Mutex::new(Free { idle: Vec::new(), unmade: shared_count(connections_max) }))
    }

    /// An empty one, unless all are taken.
    fn take(&self) -> Option<Vec<u8>> {
        let mut free = self.0.lock();
        if let Some(buffer) = free.idle.pop() {
            return Some(buffer);
        }
        free.unmade = free.unmade.checked_sub(1)?;
        Some(Vec::with_capacity(SHARED_BYTES))
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().idle.push(buffer);
    }
}

/// A socket whose small writes are gathered.
pub(super) struct Gather<S> {
    socket: S,
    buffers: Arc<SharedBuffers>,
    gathered: Vec<u8>,
    /// That is a shared buffer.
    shared: bool,
    /// How much of it is written.
    written: usize,
    /// The task is to run once more for what is gathered.
    asked: bool,
    /// The socket had no room when it was last tried.
    blocked: bool,
}

impl<S> Gather<S> {
    pub(super) const fn new(socket: S, buffers: Arc<SharedBuffers>) -> Self {
        Self { socket, buffers, gathered: Vec::new(), shared: false, written: 0, asked: false, blocked: false }
    }

    pub(super) const fn socket(&self) -> &S {
        &self.socket
    }

    fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Whether so much more fits.
    fn has_room(&self, bytes: usize) -> bool {
        self.gathered.len() + bytes <= if self.shared { SHARED_BYTES } else { OWN_BYTES_MAX }
    }

    fn gather(&mut self, slices: &[IoSlice<'_>]) {
        if self.is_empty()
            && !self.shared
            && let Some(buffer) = self.buffers.take()
        {
            (self.gathered, self.shared) = (buffer, true);
        }
        slices.iter().for_each(|slice| self.gathered.extend_from_slice(slice));
    }

    /// An idle connection keeps nothing.
    fn let_go(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        if std::mem::take(&mut self.shared) {
            self.buffers.give_back(gathered);
        }
        self.written = 0;
        self.asked = false;
    }
}

impl<S> Drop for Gather<S> {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Writes what is gathered.
    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.gathered.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = Pin::new(&mut self.socket).poll_write(context, rest);
            self.blocked = written.is_pending();
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.let_go();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.is_empty() {
            // Without room now, it goes on when there is some; reading need not wait for it.
            if let Poll::Ready(written) = self.poll_written(context) {
                written?;
            }
        }
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.as_mut().poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let large = bytes >= LARGE_BYTES_MIN;
        if !self.is_empty() && (large || !self.has_room(bytes)) {
            ready!(self.poll_written(context))?;
        }
        if large {
            return Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        }
        self.gather(slices);
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.blocked {
            ready!(self.poll_written(context))?;
        }
        if !self.is_empty() && !self.asked {
            self.asked = true;
            context.waker().wake_by_ref();
        }
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// One for all.
    fn few() -> Arc<SharedBuffers> {
        Arc::new(SharedBuffers::new(CONNECTIONS_PER_SHARED))
    }

    #[tokio::test]
    async fn small_writes_leave_together_at_the_next_turn_and_large_ones_at_once_behind_them() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Gather::new(near, few());
        near.write_all(b"one ").await.unwrap();
        near.flush().await.unwrap();
        near.write_all(b"two ").await.unwrap();
        near.flush().await.unwrap();
        let mut seen = [0; 8];
        assert!(futures_util::poll!(std::pin::pin!(far.read(&mut seen))).is_pending(), "nothing has left yet");
        let mut nothing = [0; 1];
        assert!(futures_util::poll!(std::pin::pin!(near.read(&mut nothing))).is_pending());
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"one two ");

        near.write_all(b"three").await.unwrap();
        near.write_all(&[7; LARGE_BYTES_MIN]).await.unwrap();
        let mut seen = vec![0; 5 + LARGE_BYTES_MIN];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!((seen.get(..5), seen.get(5)), (Some(&b"three"[..]), Some(&7)));
        assert!(near.is_empty());
    }

    #[tokio::test]
    async fn peers_that_read_slowly_get_everything_in_order_and_the_buffers_stay_small() {
        let buffers = few();
        let (mut sending, mut reading) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (near, mut far) = tokio::io::duplex(1000);
            let mut near = Gather::new(near, Arc::clone(&buffers));
            sending.push(tokio::spawn(async move {
                let mut most = 0;
                for number in 0_u32..50_000 {
                    near.write_all(&number.to_be_bytes()).await.unwrap();
                    near.flush().await.unwrap();
                    most = most.max(near.gathered.len());
                    assert!(near.gathered.len() <= if near.shared { SHARED_BYTES } else { OWN_BYTES_MAX });
                }
                near.shutdown().await.unwrap();
                most
            }));
            reading.push(tokio::spawn(async move {
                for number in 0_u32..50_000 {
                    assert_eq!(far.read_u32().await.unwrap(), number);
                }
                assert!(far.read_u32().await.is_err(), "and nothing else");
            }));
        }
        for reading in reading {
            reading.await.unwrap();
        }
        let mut most = Vec::new();
        for sending in sending {
            most.push(sending.await.unwrap());
        }
        assert!(most.iter().any(|most| *most > OWN_BYTES_MAX), "the shared one was used: {most:?}");
    }

    #[tokio::test]
    async fn a_shared_buffer_is_free_again_when_all_is_written_and_when_its_connection_is_gone() {
        let buffers = few();
        let gathering = || async {
            let (near, far) = tokio::io::duplex(1000);
            let mut near = Gather::new(near, Arc::clone(&buffers));
            near.write_all(b"something").await.unwrap();
            (near, far)
        };
        let ((mut first, _far), (second, _other)) = (gathering().await, gathering().await);
        assert!(first.shared && !second.shared, "there is one");
        first.shutdown().await.unwrap();
        let (third, _far) = gathering().await;
        assert!(third.shared, "it was written");
        drop(third);
        assert!(gathering().await.0.shared, "its connection is gone");
    }
}
