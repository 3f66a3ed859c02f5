//! `WalReader`: the receiving half of a replication stream, from the socket to frames, without a copy.
//!
//! One buffer takes what a read brings. The whole messages in it are split off together and shared out as `Bytes`
//! slices; when their user drops them before the next read, the buffer's memory is used again in place.
//! What is in a frame, `pgoutput` says; when to read, `pacing.rs`.

use std::future::poll_fn;
use std::io;
use std::os::fd::RawFd;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use dbstreamd_model::{Lsn, Timestamp};
use tokio::io::AsyncReadExt;

use super::error::{PgError, ServerError, one_line};
use super::feedback::FeedbackWriter;
use super::kernel::{PreciseTimer, tcp_data_segments, tcp_round_trip};
use super::pacing::{Behind, Pacer, RECEIVE_BUFFER_BYTES, ROUND_TRIP_MAX, ReadSeen};
use super::quiet::Arrivals;
use super::socket::{ReadSide, TLS_READ_AHEAD_BYTES};
use super::wire::{HEADER_BYTES, Wire, header, server_error};

/// The read buffer: several paced reads.
const BUFFER_BYTES: usize = 512 * 1024;
/// Room that a read finds at least: the largest read that pacing aims at, and half more.
const ROOM_BYTES_MIN: usize = 192 * 1024;
/// A buffer that a huge row made larger than this is given back.
const BUFFER_KEEP_BYTES_MAX: usize = 2 * BUFFER_BYTES;
/// What a session keeps besides what credit was taken for: two buffers (one that is read into, one whose frames are still in
/// use), the lists of frames and changes, and what TLS reads ahead. A row larger than the buffer comes on top while it is on its way.
pub const SESSION_BYTES_MAX: usize = BUFFER_KEEP_BYTES_MAX + 256 * 1024 + TLS_READ_AHEAD_BYTES;
/// What the kernel may hold for a session: about this much when it is near and its reads are paced; far away the kernel grows
/// its buffer with the round trip, and shrinks it when memory runs short.
pub const KERNEL_BUFFER_BYTES: usize = 1024 * 1024;
/// PostgreSQL's own limit of a message (1 GiB less one byte, `MaxAllocSize`), and the frame's head.
const COPY_DATA_BYTES_MAX: usize = 1024 * 1024 * 1024 + 1024;
/// Errors and notices inside the stream.
const OTHER_BYTES_MAX: usize = 1024 * 1024;
/// `XLogData`: type, start, end, time.
const XLOG_HEAD_BYTES: usize = 25;
/// 2000-01-01 00:00:00 UTC, PostgreSQL's zero, in microseconds since 1970.
pub(super) const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// One message of a replication stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalFrame {
    /// A piece of WAL: with logical decoding, one pgoutput message.
    XLogData {
        /// Where it comes from.
        wal_start: Lsn,
        /// The server's position as it says it.
        wal_end: Lsn,
        /// When the server sent it, by its clock.
        sent_at: Timestamp,
        /// The message, a slice of the read buffer.
        data: Bytes,
    },
    /// Nothing new; everything below `wal_end` has been sent.
    Keepalive {
        /// The server's position.
        wal_end: Lsn,
        /// When it said so, by its clock.
        sent_at: Timestamp,
        /// It wants a status update now.
        reply_requested: bool,
    },
    /// A notice or warning, in its place between the others.
    Notice(Box<ServerError>),
}

/// The receiving half of a replication stream.
pub struct WalReader {
    socket: ReadSide,
    input: BytesMut,
    /// The stream has ended, for this reason; said once the frames before it are handed over.
    ended: Option<PgError>,
    pacer: Option<Pacer>,
    /// Whether what the server sends is old.
    behind: Behind,
    timer: Option<PreciseTimer>,
    /// The pause before the next read ends here. Kept outside of `read` so that a cancelled call does not start it anew.
    wake_at: Option<Instant>,
    last_read: Instant,
    tcp_descriptor: Option<RawFd>,
    /// What TLS said after the bytes that were handed over before it.
    failed: Option<io::Error>,
    /// Muted during pauses: otherwise all that arrives would wake us up, at the sender's expense.
    arrivals: Arrivals,
    segments: Option<u32>,
    bytes_read: u64,
    /// Messages handed over since the read before the last.
    messages: usize,
}

impl WalReader {
    /// Takes over a connection in CopyBoth mode.
    pub(super) fn start(wire: Wire) -> Result<(Self, FeedbackWriter), PgError> {
        let Wire { stream, input, .. } = wire;
        let tcp_descriptor = stream.tcp_descriptor();
        let round_trip = tcp_descriptor.and_then(tcp_round_trip);
        let near = round_trip.is_some_and(|time| time <= ROUND_TRIP_MAX);
        let pacer = match &stream {
            stream if stream.is_unix() => Some(Pacer::of_messages()),
            stream => (near && stream.limit_receive_buffer(RECEIVE_BUFFER_BYTES)).then(Pacer::of_segments),
        };
        tracing::debug!(?round_trip, paced = pacer.is_some(), "replication stream taken over");
        let arrivals = stream.arrivals();
        let (read, write) = stream.split();
        let reader = Self {
            socket: read,
            input,
            ended: None,
            pacer,
            behind: Behind::default(),
            timer: None,
            wake_at: None,
            last_read: Instant::now(),
            tcp_descriptor,
            failed: None,
            arrivals,
            segments: tcp_descriptor.and_then(tcp_data_segments),
            bytes_read: 0,
            messages: 0,
        };
        Ok((reader, FeedbackWriter::new(write)))
    }

    /// Switches paced reading off, for comparison.
    pub fn read_eagerly(&mut self) {
        self.pacer = None;
        self.read_at_once();
    }

    /// Whether the server has more than it can send at once, so that more is coming soon anyway: reads are paced then, where
    /// they can be.
    pub fn is_catching_up(&self) -> bool {
        self.wake_at.is_some() || (self.pacer.is_none() && self.behind.is_far())
    }

    /// Says how old the newest commit was when the server sent it, by the server's own clock: reads of what is fresh
    /// are never paced.
    pub fn note_lag(&mut self, lag: Duration) {
        self.behind.note(lag);
        if let Some(pacer) = &mut self.pacer {
            pacer.behind(self.behind.is_far());
            if pacer.pause().is_none() {
                self.read_at_once();
            }
        }
    }

    fn read_at_once(&mut self) {
        self.wake_at = None;
        self.arrivals.mute(false);
    }

    /// When the socket last gave something.
    pub(super) fn last_read(&self) -> Instant {
        self.last_read
    }

    /// Bytes received since streaming began.
    pub fn bytes_read_total(&self) -> u64 {
        self.bytes_read
    }

    /// Waits for at least one frame and appends what is complete; reads the socket once, or as often as one large frame
    /// needs. While catching up it pauses before it reads (`pacing.rs`).
    ///
    /// Cancel-safe: nothing is lost when the future is dropped, and `frames` is touched only in the poll that completes it.
    /// How long silence may last is the caller's decision.
    ///
    /// # Errors
    /// When the stream ended or makes no sense; every frame before that has been handed over. Then only errors follow.
    pub async fn read(&mut self, frames: &mut Vec<WalFrame>) -> Result<(), PgError> {
        let before = frames.len();
        loop {
            if self.ended.is_none() {
                self.ended = self.take_frames(frames).err();
            }
            if frames.len() > before {
                self.messages += frames.len() - before;
                return Ok(());
            }
            if let Some(error) = self.ended.take() {
                self.ended = Some(PgError::StreamEnded);
                return Err(error);
            }
            self.rest_before_read().await;
            self.fill().await?;
        }
    }

    async fn rest_before_read(&mut self) {
        let Some(wake_at) = self.wake_at else { return };
        let rest = wake_at.saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            if self.timer.is_none() {
                self.timer = PreciseTimer::new().ok();
            }
            // Without a timer (no descriptors left) reading eagerly is right, only slower.
            if let Some(timer) = &mut self.timer
                && let Err(error) = timer.sleep(rest).await
            {
                tracing::debug!(%error, "precise timer failed; reading without pauses");
                self.read_eagerly();
            }
        }
        self.wake_at = None;
    }

    /// One read of the socket.
    async fn fill(&mut self) -> Result<(), PgError> {
        self.make_room();
        if let Some(error) = self.failed.take() {
            return Err(PgError::Lost(error));
        }
        let read = poll_fn(|cx| self.poll_fill(cx)).await.map_err(PgError::Lost)?;
        if read == 0 {
            return Err(PgError::Lost(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )));
        }
        self.bytes_read += read as u64;
        self.learn(read);
        Ok(())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut total = 0;
        // TLS hands out one record at a time: take what is already here, as one read of a plain socket would. While that
        // is done the socket is not put into the epoll set, or muting it would be for nothing.
        if matches!(self.socket, ReadSide::Tls(_)) {
            self.arrivals.present_only(true);
            while total < ROOM_BYTES_MIN / 2 {
                match poll_read(&mut self.socket, cx, &mut self.input) {
                    Poll::Ready(Ok(more)) if more > 0 => total += more,
                    Poll::Ready(Err(error)) => {
                        self.failed = Some(error);
                        break;
                    }
                    // Nothing more now; an end shows again.
                    Poll::Ready(Ok(_)) | Poll::Pending => break,
                }
            }
            self.arrivals.present_only(false);
        }
        match self.failed.take_if(|_| total == 0) {
            Some(error) => Poll::Ready(Err(error)),
            None if total > 0 => Poll::Ready(Ok(total)),
            None => poll_read(&mut self.socket, cx, &mut self.input),
        }
    }

    fn learn(&mut self, bytes: usize) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.last_read);
        self.last_read = now;
        let Some(pacer) = &mut self.pacer else { return };
        // Only while pausing do segments say something; an eager reader is spared the system call.
        let mut segments = None;
        let was_pausing = pacer.pause().is_some();
        if was_pausing {
            let count = self.tcp_descriptor.and_then(tcp_data_segments);
            segments = count.zip(self.segments).map(|(count, before)| count.wrapping_sub(before));
            self.segments = count;
        }
        pacer.observe(ReadSeen { bytes, messages: std::mem::take(&mut self.messages), segments, elapsed });
        if pacer.pause().is_some() && !was_pausing {
            self.segments = self.tcp_descriptor.and_then(tcp_data_segments);
        }
        self.wake_at = pacer.pause().map(|pause| now + pause);
        self.arrivals.mute(self.wake_at.is_some());
    }

    /// Sees to it that the next read finds room: for what is missing of a large frame, or for an ordinary read.
    fn make_room(&mut self) {
        let buffered = self.input.len();
        if buffered == 0 && self.input.capacity() > BUFFER_KEEP_BYTES_MAX {
            self.input = BytesMut::new();
        }
        let room = self.input.capacity() - buffered;
        let missing = match header(&self.input) {
            Some((_, Some(length))) => (HEADER_BYTES + length).saturating_sub(buffered),
            _ => 0,
        };
        if missing > room {
            // At most as much again as is already here: a length is believed as far as bytes have followed it, and
            // doubling copies each byte about once.
            self.input.reserve(missing.min(buffered.max(BUFFER_BYTES)));
        } else if buffered < ROOM_BYTES_MIN || room == 0 {
            // What moves along is the start of one message. When nobody uses the frames any more, what is read lands where the last
            // read did, which the processor still has in its cache.
            let wanted = BUFFER_BYTES.saturating_sub(buffered).max(ROOM_BYTES_MIN);
            if !self.input.try_reclaim(wanted) && room < ROOM_BYTES_MIN {
                self.input.reserve(wanted);
            }
        }
    }

    /// Appends every whole frame of the buffer.
    fn take_frames(&mut self, frames: &mut Vec<WalFrame>) -> Result<(), PgError> {
        let mut end = 0;
        while let Some(length) = whole_message(self.input.get(end..).unwrap_or_default())? {
            end += HEADER_BYTES + length;
        }
        if end == 0 {
            return Ok(());
        }
        let mut block = self.input.split_to(end).freeze();
        self.release_large_buffer();
        while let Some((tag, Some(length))) = header(&block) {
            block.advance(HEADER_BYTES);
            let body = block.split_to(length);
            match tag {
                b'd' => frames.push(frame(body)?),
                b'E' => return Err(PgError::Server { error: Box::new(server_error(&body)) }),
                b'N' => frames.push(WalFrame::Notice(Box::new(server_error(&body)))),
                b'S' | b'A' => {}
                // CopyDone, CommandComplete (a walsender's goodbye at shutdown), ReadyForQuery.
                b'c' | b'C' | b'Z' => return Err(PgError::StreamEnded),
                tag => {
                    return Err(PgError::protocol(format!("message {:?} in the replication stream", char::from(tag))));
                }
            }
        }
        Ok(())
    }

    /// After a huge row: its memory goes with the frame, the few bytes behind it move.
    fn release_large_buffer(&mut self) {
        if self.input.capacity() > BUFFER_KEEP_BYTES_MAX && self.input.len() < BUFFER_BYTES {
            let mut fresh = BytesMut::with_capacity(BUFFER_BYTES);
            fresh.extend_from_slice(&self.input);
            self.input = fresh;
        }
    }
}

/// `read_buf` keeps no state between polls, so one poll of a fresh future is one attempt to read.
fn poll_read(socket: &mut ReadSide, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
    pin!(socket.read_buf(input)).poll(cx)
}

/// The body length of the message at the start, when all of it is there.
fn whole_message(bytes: &[u8]) -> Result<Option<usize>, PgError> {
    let Some((tag, length)) = header(bytes) else { return Ok(None) };
    let limit = if tag == b'd' { COPY_DATA_BYTES_MAX } else { OTHER_BYTES_MAX };
    match length {
        Some(length) if length <= limit => Ok((bytes.len() - HEADER_BYTES >= length).then_some(length)),
        _ => Err(PgError::protocol(format!(
            "message {} in the replication stream has an impossible length",
            one_line(&char::from(tag).to_string())
        ))),
    }
}

/// What a CopyData message holds.
fn frame(mut body: Bytes) -> Result<WalFrame, PgError> {
    let short = |_| PgError::protocol("a replication message that is cut short");
    if let Some(&[b'w', ref numbers @ ..]) = body.first_chunk::<XLOG_HEAD_BYTES>() {
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|number| u64::from_be_bytes(*number));
        let mut next = || numbers.next().unwrap_or_default();
        let (wal_start, wal_end, sent_at) = (Lsn(next()), Lsn(next()), unix_time(next().cast_signed()));
        body.advance(XLOG_HEAD_BYTES);
        return Ok(WalFrame::XLogData { wal_start, wal_end, sent_at, data: body });
    }
    match body.first() {
        Some(b'k') => {
            body.advance(1);
            let wal_end = Lsn(body.try_get_u64().map_err(short)?);
            let sent_at = unix_time(body.try_get_i64().map_err(short)?);
            let reply_requested = body.try_get_u8().map_err(short)? != 0;
            Ok(WalFrame::Keepalive { wal_end, sent_at, reply_requested })
        }
        Some(b'w') | None => Err(PgError::protocol("a replication message that is cut short")),
        Some(tag) => Err(PgError::protocol(format!("replication message of unknown type 0x{tag:02x}"))),
    }
}

fn unix_time(pg_micros: i64) -> Timestamp {
    Timestamp(pg_micros.saturating_add(PG_EPOCH_MICROS))
}
