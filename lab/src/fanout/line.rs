//! One HTTP/2 connection and the subscribers on it, served by one task.
//!
//! Ten thousand subscribers share two processors with the daemon they measure, so they must cost little: there is no task, no queue
//! and no copy for any of them. Frames are taken apart where they were read, and what goes out is a few frames put together by hand:
//! RFC 9113 without what a daemon that keeps its contract never sends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::follower::{Follower, Tally, Wanted, Watch};
use crate::error::{LabError, io};
use crate::lean;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// The largest frame, by HTTP/2's default, and room for several.
const FRAME_BYTES_MAX: usize = 16 * 1024;
const INPUT_BYTES: usize = 64 * 1024;

/// HTTP/2's own default for a stream; the connection's window has room for all its streams.
const STREAM_WINDOW: usize = 64 * 1024 - 1;
const CONNECTION_WINDOW: usize = 64 * 1024 * 1024;

// Types of frames, and their flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// A connection whose calls have begun.
pub(super) struct Line {
    socket: TcpStream,
    calls: Vec<Call>,
    input: Vec<u8>,
    /// How much of it has come and is not yet taken apart.
    filled: usize,
    output: Vec<u8>,
    /// What was taken since the connection's window was widened.
    taken: usize,
}

struct Call {
    follower: Follower,
    /// The beginning of a message whose rest has not come.
    pending: Vec<u8>,
    /// What was taken since the call's window was widened.
    taken: usize,
    is_done: bool,
}

impl Line {
    /// Connects, opens a call for each of these subscribers, and waits until all have begun.
    pub(super) async fn open(
        address: &str,
        subscribers: impl Iterator<Item = (usize, Wanted)>,
        watch: &Watch,
    ) -> Result<Self, LabError> {
        let socket = TcpStream::connect(address).await.map_err(io("connect to the daemon"))?;
        socket.set_nodelay(true).map_err(io("connect to the daemon"))?;
        let mut output = PREFACE.to_vec();
        frame(&mut output, SETTINGS, 0, 0, &[]);
        widen(&mut output, 0, CONNECTION_WINDOW - STREAM_WINDOW);
        let headers = headers(address);
        let mut calls = Vec::new();
        for (number, wanted) in subscribers {
            let stream = stream_of(calls.len())?;
            frame(&mut output, HEADERS, END_HEADERS, stream, &headers);
            let follower = Follower::new(number, wanted);
            frame(&mut output, DATA, 0, stream, &lean::start(follower.start()));
            calls.push(Call { follower, pending: Vec::new(), taken: 0, is_done: false });
        }
        let mut line = Self { socket, calls, input: vec![0; INPUT_BYTES], filled: 0, output, taken: 0 };
        line.flush().await?;
        let mut tally = Tally::new()?;
        while line.calls.iter().any(|call| !call.follower.has_begun()) {
            line.receive(watch, &mut tally).await?;
        }
        Ok(line)
    }

    /// Receives everything up to the last event for all its subscribers, and checks it.
    pub(super) async fn follow(mut self, watch: &Watch) -> Result<(), LabError> {
        let mut tally = Tally::new()?;
        let mut left = self.calls.len();
        while left > 0 {
            let done = self.receive(watch, &mut tally).await?;
            left = left.saturating_sub(done);
            if left == 0 {
                watch.finish(&tally)?;
            }
            watch.report(&mut tally, done);
        }
        Ok(())
    }

    /// Takes what has come. Gives the number of subscribers that have everything with that.
    async fn receive(&mut self, watch: &Watch, tally: &mut Tally) -> Result<usize, LabError> {
        let into = self.input.get_mut(self.filled..).unwrap_or_default();
        let read = self.socket.read(into).await.map_err(io("read from the daemon"))?;
        if read == 0 {
            return Err(LabError::Failed("the daemon closed a connection".into()));
        }
        self.filled += read;
        let input = std::mem::take(&mut self.input);
        let (mut at, mut done) = (0, 0);
        while let Some((head, rest)) =
            input.get(at..self.filled).and_then(|rest| rest.split_first_chunk::<FRAME_HEAD_BYTES>())
        {
            let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *head;
            let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
            if length > FRAME_BYTES_MAX {
                return Err(unexpected(kind));
            }
            let Some(payload) = rest.get(..length) else { break };
            at += FRAME_HEAD_BYTES + length;
            let stream = u32::from_be_bytes([s3, s2, s1, s0]);
            if kind == DATA && flags & (PADDED | END_STREAM) == 0 {
                done += usize::from(self.data(stream, payload, watch, tally)?);
            } else {
                self.other(kind, flags, stream, payload)?;
            }
        }
        self.input = input;
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.taken > CONNECTION_WINDOW / 2 {
            widen(&mut self.output, 0, std::mem::take(&mut self.taken));
        }
        self.flush().await?;
        Ok(done)
    }

    /// A piece of a call's response. Whether its subscriber has everything with that.
    fn data(&mut self, stream: u32, piece: &[u8], watch: &Watch, tally: &mut Tally) -> Result<bool, LabError> {
        let place = usize::try_from(stream / 2).unwrap_or(usize::MAX);
        let call = self.calls.get_mut(place).ok_or_else(|| unexpected(DATA))?;
        self.taken += piece.len();
        call.taken += piece.len();
        if call.taken > STREAM_WINDOW / 2 {
            widen(&mut self.output, stream, std::mem::take(&mut call.taken));
        }
        if call.pending.is_empty() {
            let used = lean::messages(piece, |answer| call.follower.take(answer, watch, tally))?;
            call.pending.extend_from_slice(piece.get(used..).unwrap_or_default());
        } else {
            call.pending.extend_from_slice(piece);
            let used = lean::messages(&call.pending, |answer| call.follower.take(answer, watch, tally))?;
            call.pending.drain(..used);
        }
        if let Some(offset) = call.follower.acknowledges() {
            frame(&mut self.output, DATA, 0, stream, &lean::acknowledgement(offset));
        }
        let was_done = std::mem::replace(&mut call.is_done, call.follower.has_all(watch));
        Ok(call.is_done && !was_done)
    }

    fn other(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), LabError> {
        match kind {
            HEADERS if flags & END_STREAM == 0 => {}
            SETTINGS if flags & ACK == 0 => frame(&mut self.output, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(&mut self.output, PING, ACK, 0, payload),
            SETTINGS | PING | WINDOW_UPDATE => {}
            HEADERS | DATA => {
                return Err(LabError::Failed(format!("the daemon ended call {}", stream / 2)));
            }
            _ => return Err(unexpected(kind)),
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), LabError> {
        if !self.output.is_empty() {
            self.socket.write_all(&self.output).await.map_err(io("write to the daemon"))?;
            self.output.clear();
        }
        Ok(())
    }
}

/// The stream of a connection's call by its place: odd numbers, from 1.
fn stream_of(place: usize) -> Result<u32, LabError> {
    u32::try_from(2 * place + 1).map_err(|_| LabError::Failed("too many calls for one connection".into()))
}

fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    output.extend_from_slice(&length);
    output.extend_from_slice(&[kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
    output.extend_from_slice(payload);
}

fn widen(output: &mut Vec<u8>, stream: u32, bytes: usize) {
    frame(output, WINDOW_UPDATE, 0, stream, &u32::try_from(bytes).unwrap_or(0).to_be_bytes());
}

/// The headers of a `Subscribe` call, as HPACK has them without any table of ours (RFC 7541).
fn headers(authority: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http` are in the static table.
    let mut block = vec![0x83, 0x86];
    let named: [(&[u8], &str); 3] = [
        (&[0x04], "/dbstreamd.v1.Streams/Subscribe"),
        (&[0x01], authority),
        // `content-type` is entry 31: more than the prefix has room for.
        (&[0x0f, 0x10], "application/grpc"),
    ];
    let text = |text: &str, block: &mut Vec<u8>| {
        block.push(u8::try_from(text.len()).unwrap_or(0));
        block.extend_from_slice(text.as_bytes());
    };
    for (name, value) in named {
        block.extend_from_slice(name);
        text(value, &mut block);
    }
    block.push(0);
    text("te", &mut block);
    text("trailers", &mut block);
    block
}

fn unexpected(kind: u8) -> LabError {
    LabError::Failed(format!("the daemon sent an HTTP/2 frame of type {kind} that is not expected here"))
}
