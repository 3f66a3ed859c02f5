//! A TCP or Unix socket that can be left alone: while its arrivals are muted, nothing that arrives wakes anybody up.
//!
//! A pause before a read saves the sender nothing as long as the socket stays in an epoll set: every segment that
//! arrives runs the set's callback and wakes a thread, at the sender's expense, as if nobody paused (91,000 wake-ups were
//! counted for 11,000 reads). tokio's sockets cannot be taken out of the set and put back, so this one does it
//! itself: it reads at once without asking, and is put into the set only when there was nothing to read. The halves
//! are registered each on their own descriptor, so that muting one does not touch the other.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::kernel;

/// Both halves.
pub(crate) struct Quiet {
    read: QuietRead,
    write: QuietWrite,
}

/// The receiving half.
pub(crate) struct QuietRead {
    socket: Arc<Socket>,
    /// The place in the runtime's epoll set; none while nobody needs to know what arrives.
    arrivals: Option<AsyncFd<Arc<Socket>>>,
    switch: Arc<Switch>,
}

/// The sending half.
pub(crate) struct QuietWrite {
    socket: AsyncFd<Socket>,
}

/// Says what arrivals do; the socket itself may be deep inside a TLS stream.
#[derive(Clone)]
pub(crate) struct Arrivals(Arc<Switch>);

#[derive(Default)]
struct Switch {
    muted: AtomicBool,
    present_only: AtomicBool,
}

impl Arrivals {
    /// Muted, the socket is read when its reader comes by itself; a reader that then finds nothing is woken up all the same.
    pub(crate) fn mute(&self, muted: bool) {
        self.0.muted.store(muted, Relaxed);
    }

    /// From now on who reads gets what is there already; when that is nothing, "pending", and is *not* woken up.
    pub(crate) fn present_only(&self, present_only: bool) {
        self.0.present_only.store(present_only, Relaxed);
    }
}

impl Quiet {
    /// Takes over a connected TCP socket.
    pub(crate) fn tcp(stream: tokio::net::TcpStream) -> io::Result<Self> {
        Self::new(stream.into_std()?.into())
    }

    /// Takes over a connected Unix socket.
    pub(crate) fn unix(stream: tokio::net::UnixStream) -> io::Result<Self> {
        Self::new(stream.into_std()?.into())
    }

    fn new(read: Socket) -> io::Result<Self> {
        let write = kernel::registered(read.try_clone()?, Interest::WRITABLE)?;
        let read = QuietRead { socket: Arc::new(read), arrivals: None, switch: Arc::default() };
        Ok(Self { read, write: QuietWrite { socket: write } })
    }

    pub(crate) fn arrivals(&self) -> Arrivals {
        Arrivals(Arc::clone(&self.read.switch))
    }

    pub(crate) fn as_socket(&self) -> &Socket {
        &self.read.socket
    }

    pub(crate) fn into_split(self) -> (QuietRead, QuietWrite) {
        (self.read, self.write)
    }
}

impl AsRawFd for Quiet {
    fn as_raw_fd(&self) -> RawFd {
        self.read.socket.as_raw_fd()
    }
}

impl AsyncRead for QuietRead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.switch.present_only.load(Relaxed) {
            return match kernel::receive(&this.socket, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                done => Poll::Ready(done),
            };
        }
        if this.switch.muted.load(Relaxed) {
            this.arrivals = None;
        }
        loop {
            let arrivals = match &this.arrivals {
                Some(arrivals) => arrivals,
                None => {
                    match kernel::receive(&this.socket, buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        done => return Poll::Ready(done),
                    }
                    // What arrived meanwhile is not missed: registering looks at the socket.
                    let socket = Arc::clone(&this.socket);
                    this.arrivals.insert(kernel::registered(socket, Interest::READABLE)?)
                }
            };
            let mut ready = ready!(arrivals.poll_read_ready(cx))?;
            if let Ok(done) = ready.try_io(|socket| kernel::receive(socket.get_ref(), buffer)) {
                return Poll::Ready(done);
            }
        }
    }
}

impl AsyncWrite for QuietWrite {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let mut ready = ready!(this.socket.poll_write_ready(cx))?;
            if let Ok(done) = ready.try_io(|socket| socket.get_ref().write(bytes)) {
                return Poll::Ready(done);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown(Shutdown::Write))
    }
}

impl AsyncRead for Quiet {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().read).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().write).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().write).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().write).poll_shutdown(cx)
    }
}
