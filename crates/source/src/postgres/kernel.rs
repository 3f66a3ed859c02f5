//! What we ask the Linux kernel that no safe crate here offers: a socket's segment count, a read into memory that was
//! not zeroed before, a precise timer, and whether there is io_uring.
//!
//! The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// How many segments with data a TCP socket has received so far (it wraps); none when the kernel does not say.
pub(crate) fn tcp_data_segments(socket: RawFd) -> Option<u32> {
    let needed = std::mem::offset_of!(libc::tcp_info, tcpi_data_segs_in) + size_of::<u32>();
    Some(tcp_info(socket, needed)?.tcpi_data_segs_in)
}

/// How long a TCP socket's segments take to the other side and back: the shortest that the kernel has seen of late.
///
/// Not its mean: into that goes whatever the other side thinks before it answers (its acknowledgement travels with the answer),
/// and after a login over loopback, of 10 µs there and back, that is half a millisecond, or several on a busy machine.
pub(crate) fn tcp_round_trip(socket: RawFd) -> Option<Duration> {
    let needed = std::mem::offset_of!(libc::tcp_info, tcpi_min_rtt) + size_of::<u32>();
    Some(Duration::from_micros(tcp_info(socket, needed)?.tcpi_min_rtt.into()))
}

/// `TCP_INFO`, if the kernel fills in its first `needed` bytes.
fn tcp_info(socket: RawFd, needed: usize) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: `info` is writable for `length` bytes, and the kernel writes no more than that; on a descriptor that is
    // closed or no TCP socket the call fails and writes nothing.
    let result =
        unsafe { libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length) };
    if result != 0 || (length as usize) < needed {
        return None;
    }
    // SAFETY: `tcp_info` is plain integers, and all of it was zeroed before the kernel filled in a part.
    Some(unsafe { info.assume_init() })
}

/// Whether the kernel, and whatever stands before it (a container's filter of system calls), offers io_uring.
///
/// # Errors
/// Its refusal.
pub fn probe_io_uring() -> io::Result<()> {
    /// `struct io_uring_params` of linux/io_uring.h; zero throughout asks for nothing special.
    const PARAMS_BYTES: usize = 120;
    let mut params = [0_u64; PARAMS_BYTES / size_of::<u64>()];
    // SAFETY: `params` is writable and as large as the kernel's structure; a result that is not negative is a new
    // descriptor that nobody else owns.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let Ok(ring @ 0..) = RawFd::try_from(ring) else { return Err(io::Error::last_os_error()) };
    // SAFETY: see above.
    drop(unsafe { OwnedFd::from_raw_fd(ring) });
    Ok(())
}

/// An owned socket in the runtime's epoll set.
pub(crate) fn registered<T: OwnsSocket>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: who implements `OwnsSocket` keeps one descriptor open until it is dropped, after the registration.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Types that own one socket and never exchange it for another.
pub(crate) trait OwnsSocket: AsRawFd {}
impl OwnsSocket for Socket {}
impl OwnsSocket for Arc<Socket> {}

/// One read of a socket, of what fits into the buffer; nothing read is the end of the stream.
pub(crate) fn receive(socket: &Socket, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
    // SAFETY: nothing but `recv` writes to it, and that writes initialised bytes only.
    let room = unsafe { buffer.unfilled_mut() };
    let received = socket.recv(room)?;
    // SAFETY: the kernel has just written that many bytes to the front of it.
    unsafe { buffer.assume_init(received) };
    buffer.advance(received);
    Ok(())
}

/// A timer that keeps microseconds, where tokio's rounds up to whole milliseconds.
///
/// It is a `timerfd` in the runtime's epoll set: the task sleeps, the thread does not, so a thousand paced streams share
/// two threads. A blocking sleep would be one system call less and would stop every other task of that thread.
pub(crate) struct PreciseTimer {
    descriptor: AsyncFd<File>,
}

impl PreciseTimer {
    /// A timer that is not running.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; a non-negative result is a new descriptor that nobody else owns.
        let raw = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` is open and owned here alone, see above.
        let owned = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: the file owns its descriptor for as long as the registration lives, and is never exchanged for another.
        Ok(Self { descriptor: unsafe { AsyncFd::register_with_interest(File::from(owned), Interest::READABLE) }? })
    }

    /// Sleeps this long. Cancel-safe: the next call starts anew.
    pub(crate) async fn sleep(&mut self, pause: Duration) -> io::Result<()> {
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(pause.as_secs()).unwrap_or(libc::time_t::MAX),
            // At least one: zero would disarm the timer.
            tv_nsec: libc::c_long::from(pause.subsec_nanos().max(1).cast_signed()),
        };
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the descriptor is open, `once` is readable, and a null pointer declines the old value.
        let result =
            unsafe { libc::timerfd_settime(self.descriptor.as_raw_fd(), 0, &raw const once, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let mut ready = self.descriptor.readable_mut().await?;
            // Setting the timer forgot an earlier expiry, so a readiness left over from it finds nothing to read.
            match ready.try_io(|descriptor| descriptor.get_mut().read(&mut [0; 8])) {
                Ok(expired) => return expired.map(drop),
                Err(_not_yet) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn the_timer_sleeps_for_microseconds_and_survives_cancellation() {
        let mut timer = PreciseTimer::new().unwrap();
        let cancelled = tokio::time::timeout(Duration::from_millis(1), timer.sleep(Duration::from_secs(60))).await;
        assert!(cancelled.is_err());
        let mut best = Duration::MAX;
        for _ in 0..50 {
            let start = Instant::now();
            timer.sleep(Duration::from_micros(200)).await.unwrap();
            let slept = start.elapsed();
            assert!(slept >= Duration::from_micros(200));
            best = best.min(slept);
        }
        assert!(best < Duration::from_micros(900), "best of 50 sleeps of 200 µs took {best:?}");
    }

    #[test]
    fn a_server_that_thinks_before_it_answers_is_no_farther_away() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mean = || tcp_info(client.as_raw_fd(), size_of::<libc::tcp_info>()).unwrap().tcpi_rtt;
        // Whoever answers acknowledges with the answer, or at the latest when the kernel finds that it takes too long (40 ms).
        for _ in 0..1000 {
            (&client).write_all(b"?").unwrap();
            server.read_exact(&mut [0]).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            server.write_all(b"!").unwrap();
            (&client).read_exact(&mut [0]).unwrap();
            if mean() > 2000 {
                break;
            }
        }
        assert!(mean() > 2000, "{}", mean());
        let round_trip = tcp_round_trip(client.as_raw_fd()).unwrap();
        assert!(round_trip <= Duration::from_millis(1), "{round_trip:?}");
    }

    #[tokio::test]
    async fn segments_are_counted_on_tcp_only() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(tcp_data_segments(client.as_raw_fd()), Some(0));
        std::io::Write::write_all(&mut server, b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert_eq!(tcp_data_segments(client.as_raw_fd()), Some(1));
        assert_eq!(tcp_data_segments(listener.as_raw_fd()).unwrap_or(0), 0);
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(tcp_data_segments(unix.as_raw_fd()), None);
    }
}
