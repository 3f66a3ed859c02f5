//! Frames of many calls on one connection leave together.
//!
//! HTTP/2 flushes after every data frame of any size, and a task that has produced a frame has its connection woken right
//! behind it: a hundred calls that follow the same stream would be a hundred small writes to one socket for each commit. Here
//! a flush only asks for the connection's task to be run once more, behind whatever else is ready to run by then, and what all
//! of that has produced is written when it comes to that. Nothing waits for a timer: where nothing else runs, that is at once.
//!
//! A turn of the connection's task begins with reading, so what was gathered before is written there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most, on each connection: a write of that size costs little for each of its frames.
pub(crate) const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// As much at once needs no company, and no copy.
const LARGE_BYTES_MIN: usize = 8 * 1024;

/// A socket whose small writes are gathered.
pub(super) struct Gather<S> {
    socket: S,
    gathered: Vec<u8>,
    /// How much of that is written.
    written: usize,
    /// The task is to run once more for what is gathered.
    asked: bool,
    /// The socket had no room when it was last tried.
    blocked: bool,
}

impl<S> Gather<S> {
    pub(super) const fn new(socket: S) -> Self {
        Self { socket, gathered: Vec::new(), written: 0, asked: false, blocked: false }
    }

    pub(super) const fn socket(&self) -> &S {
        &self.socket
    }

    fn is_empty(&self) -> bool {
        self.gathered.is_empty()
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
        // An idle connection keeps nothing.
        self.gathered = Vec::new();
        self.written = 0;
        self.asked = false;
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
        if !self.is_empty() && (large || self.gathered.len() + bytes > GATHERED_BYTES_MAX) {
            ready!(self.poll_written(context))?;
        }
        if large {
            return Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        }
        slices.iter().for_each(|slice| self.gathered.extend_from_slice(slice));
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

    #[tokio::test]
    async fn small_writes_leave_together_at_the_next_turn_and_large_ones_at_once_behind_them() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Gather::new(near);
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
    async fn a_peer_that_reads_slowly_gets_everything_in_order_and_the_buffer_stays_small() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut near = Gather::new(near);
        let sending = tokio::spawn(async move {
            for number in 0_u32..50_000 {
                near.write_all(&number.to_be_bytes()).await.unwrap();
                near.flush().await.unwrap();
                assert!(near.gathered.len() <= GATHERED_BYTES_MAX);
            }
            near.shutdown().await.unwrap();
        });
        for number in 0_u32..50_000 {
            assert_eq!(far.read_u32().await.unwrap(), number);
        }
        assert!(far.read_u32().await.is_err(), "and nothing else");
        sending.await.unwrap();
    }
}
