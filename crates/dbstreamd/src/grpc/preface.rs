//! Connections of the gRPC port: bounded in number, and HTTP/2 from their first bytes or closed.
//!
//! The 24 bytes every HTTP/2 client sends first are read here under a deadline, so that a port scan, a plain HTTP
//! request or a silent connection costs one small task and never reaches the server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::company::Companies;
use super::gather::{Gather, SharedBuffers};
use super::schema_cache::SchemaCache;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a new connection may take to send it.
const PREFACE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Pause after `accept` failed, most likely for want of file descriptors.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A connection that has said it speaks HTTP/2.
pub(super) struct Connection {
    stream: Gather<TcpStream>,
    companies: Companies,
    /// How much of the preface the server has been given back.
    replayed: usize,
    _seat: OwnedSemaphorePermit,
}

/// What a call knows of its connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: Option<SocketAddr>,
    pub(super) companies: Companies,
}

/// Accepts connections until shutdown.
pub(super) fn incoming(
    listener: TcpListener,
    connections_max: usize,
    shutdown: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(accept(listener, connections_max, sender, shutdown));
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

async fn accept(
    listener: TcpListener,
    connections_max: usize,
    accepted: mpsc::Sender<io::Result<Connection>>,
    shutdown: CancellationToken,
) {
    let seats = Arc::new(Semaphore::new(connections_max));
    let schemas = Arc::new(SchemaCache::default());
    let buffers = Arc::new(SharedBuffers::new(connections_max));
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            () = shutdown.cancelled() => return,
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a gRPC connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            tracing::warn!(connections_max, "a gRPC connection was refused: grpc.max_connections is reached");
            continue;
        };
        let (accepted, companies) = (accepted.clone(), Companies::new(&schemas));
        let buffers = Arc::clone(&buffers);
        tokio::spawn(async move {
            if let Some(stream) = greet(stream).await {
                let stream = Gather::new(stream, buffers);
                let connection = Connection { stream, companies, replayed: 0, _seat: seat };
                // Fails only when the server has stopped.
                let _ = accepted.send(Ok(connection)).await;
            }
        });
    }
}

/// The connection, when it says that it speaks HTTP/2.
async fn greet(mut stream: TcpStream) -> Option<TcpStream> {
    let mut preface = [0; PREFACE.len()];
    let greeted = tokio::time::timeout(PREFACE_WAIT_MAX, async {
        let mut have = 0;
        while have < preface.len() {
            let into = preface.get_mut(have..)?;
            let read = stream.read(into).await.ok().filter(|&read| read > 0)?;
            have += read;
            if preface.get(..have) != PREFACE.get(..have) {
                return None;
            }
        }
        Some(())
    });
    match greeted.await {
        Ok(Some(())) => {}
        Ok(None) | Err(_) => {
            tracing::debug!(peer = ?stream.peer_addr().ok(), "a connection that does not speak gRPC was closed");
            return None;
        }
    }
    // Small responses at the tail must not wait for an acknowledgement of the last packet.
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { address: self.stream.socket().peer_addr().ok(), companies: self.companies.clone() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = PREFACE.get(self.replayed..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let part = left.get(..left.len().min(into.remaining())).unwrap_or_default();
        into.put_slice(part);
        self.replayed += part.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
