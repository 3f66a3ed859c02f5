//! Sockets: dialling TCP and Unix, their kernel options, and one type for plain and encrypted streams.
//!
//! Encryption itself is in `tls.rs`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, UnixStream};
use tokio_rustls::client::TlsStream;

use super::error::PgError;
use super::options::{ConnectOptions, Endpoint, Host};
use super::quiet::{Arrivals, Quiet, QuietRead, QuietWrite};

/// rustls fetches 4 KiB at a time; through this buffer one system call fetches what many TLS records need.
pub(crate) const TLS_READ_AHEAD_BYTES: usize = 128 * 1024;

/// An encrypted stream.
pub(crate) type Encrypted = TlsStream<BufReader<Quiet>>;

/// A connected stream of any kind.
pub(crate) enum Stream {
    Tcp(Quiet),
    Unix(Quiet),
    Tls(Box<Encrypted>),
}

/// Connects to the endpoint.
pub(crate) async fn dial(options: &ConnectOptions, endpoint: &Endpoint) -> Result<Stream, PgError> {
    let unreachable = |source| PgError::Unreachable { address: endpoint.to_string(), source };
    if let Some(path) = endpoint.socket_path() {
        let stream = UnixStream::connect(path).await.and_then(Quiet::unix);
        return stream.map(Stream::Unix).map_err(unreachable);
    }
    let mut last = None;
    for address in resolve(endpoint).await? {
        match connect(options, address).await {
            Ok(stream) => return Ok(Stream::Tcp(stream)),
            Err(error) => last = Some(error),
        }
    }
    Err(unreachable(last.unwrap_or_else(|| io::Error::other("the name has no address"))))
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, PgError> {
    if let Some(address) = endpoint.address {
        return Ok(vec![SocketAddr::new(address, endpoint.port)]);
    }
    let Host::Name(name) = &endpoint.host else { return Ok(Vec::new()) };
    match tokio::net::lookup_host((name.as_str(), endpoint.port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(source) => Err(PgError::UnknownHost { host: name.clone(), source }),
    }
}

async fn connect(options: &ConnectOptions, address: SocketAddr) -> io::Result<Quiet> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    let reference = SockRef::from(&socket);
    if let Some(keepalive) = options.keepalive {
        let probes = TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count);
        reference.set_tcp_keepalive(&probes)?;
    }
    if options.tcp_user_timeout.is_some() {
        reference.set_tcp_user_timeout(options.tcp_user_timeout)?;
    }
    Quiet::tcp(socket.connect(address).await?)
}

impl Stream {
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The TCP socket below.
    fn tcp(&self) -> Option<&Quiet> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Tls(stream) => Some(stream.get_ref().0.get_ref()),
            Self::Unix(_) => None,
        }
    }

    /// The TCP socket's descriptor, for its statistics.
    pub(crate) fn tcp_descriptor(&self) -> Option<RawFd> {
        self.tcp().map(AsRawFd::as_raw_fd)
    }

    /// The socket's switch.
    pub(crate) fn arrivals(&self) -> Arrivals {
        match self {
            Self::Tcp(socket) | Self::Unix(socket) => socket.arrivals(),
            Self::Tls(stream) => stream.get_ref().0.get_ref().arrivals(),
        }
    }

    /// Keeps the kernel from taking in more than this (it doubles it) before we read; whether there is such a limit.
    pub(crate) fn limit_receive_buffer(&self, bytes: usize) -> bool {
        self.tcp().is_some_and(|tcp| tcp.as_socket().set_recv_buffer_size(bytes).is_ok())
    }

    /// Halves that work at the same time on different tasks.
    pub(crate) fn split(self) -> (ReadSide, WriteSide) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadSide::Tcp(read), WriteSide::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadSide::Unix(read), WriteSide::Unix(write))
            }
            Self::Tls(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadSide::Tls(read), WriteSide::Tls(write))
            }
        }
    }
}

/// The receiving half of a [`Stream`].
pub(crate) enum ReadSide {
    Tcp(QuietRead),
    Unix(QuietRead),
    Tls(ReadHalf<Box<Encrypted>>),
}

/// The sending half of a [`Stream`].
pub(crate) enum WriteSide {
    Tcp(QuietWrite),
    Unix(QuietWrite),
    Tls(WriteHalf<Box<Encrypted>>),
}

macro_rules! forward_read {
    ($type:ident) => {
        impl AsyncRead for $type {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
                    Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
                    Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
                }
            }
        }
    };
}

macro_rules! forward_write {
    ($type:ident) => {
        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
                    Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
                    Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
                    Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
                    Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
                    Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
                    Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
                }
            }
        }
    };
}

forward_read!(Stream);
forward_read!(ReadSide);
forward_write!(Stream);
forward_write!(WriteSide);
