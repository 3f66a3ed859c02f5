//! A minimal raw receiver: reads the replication stream eagerly, answers keepalives, counts rows, and throws all away.
//!
//! What the simplest client in the daemon's own language costs, without decoding and without a log: a reference. It runs as a
//! process of its own (`dbstreamd-lab receive`), so that its CPU is its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::error::{LabError, io};

/// As `pg_recvlogical`'s default.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// One read fetches at most this much.
const READ_BYTES_MAX: usize = 512 * 1024;
/// XLogData: its tag, two positions and a time.
const XLOG_HEADER_BYTES: usize = 1 + 3 * 8;
/// Where a keepalive says whether it wants an answer: behind its tag, a position and a time.
const KEEPALIVE_REPLY_AT: usize = 1 + 2 * 8;
/// Every message: its tag and its length.
const HEADER_BYTES: usize = 5;
/// Kinds of authentication requests.
const SASL: u8 = 10;
const SASL_CONTINUE: u8 = 11;
const SASL_FINAL: u8 = 12;

/// What to receive, from where.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of the server's Unix socket, or its address.
    #[arg(long)]
    host: String,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    user: String,
    #[arg(long)]
    database: String,
    #[arg(long)]
    slot: String,
    #[arg(long)]
    publication: String,
    /// Ends once the server has sent everything before this LSN.
    #[arg(long)]
    end_lsn: String,
    /// Pause before each read, in microseconds.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// What is asked of the kernel as the socket's receive buffer, in bytes; by default it decides itself.
    #[arg(long)]
    receive_buffer: Option<usize>,
}

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(crate) rows: u64,
    pub(crate) commits: u64,
    /// Messages of pgoutput, of any kind.
    pub(crate) messages: u64,
    /// Bytes of pgoutput.
    pub(crate) bytes: u64,
    /// The end of the last transaction's commit record.
    pub(crate) last_commit_lsn: u64,
}

/// Receives, and prints what came as JSON. The password comes from `PGPASSWORD`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LabError> {
    let password = std::env::var("PGPASSWORD").unwrap_or_default();
    let end = parse_lsn(&arguments.end_lsn)
        .ok_or_else(|| LabError::Failed(format!("{} is not an LSN", arguments.end_lsn)))?;
    let received = if arguments.host.starts_with('/') {
        let path = PathBuf::from(&arguments.host).join(format!(".s.PGSQL.{}", arguments.port));
        receive(UnixStream::connect(&path).map_err(io(path.display().to_string()))?, arguments, &password, end)?
    } else {
        let address = format!("{}:{}", arguments.host, arguments.port);
        let stream = TcpStream::connect(&address).map_err(io(address))?;
        stream.set_nodelay(true).map_err(io("TCP_NODELAY"))?;
        if let Some(bytes) = arguments.receive_buffer {
            SockRef::from(&stream).set_recv_buffer_size(bytes).map_err(io("SO_RCVBUF"))?;
        }
        receive(stream, arguments, &password, end)?
    };
    println!("{}", serde_json::json!(received));
    Ok(())
}

/// An LSN as PostgreSQL writes it: two hexadecimal halves.
pub(crate) fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

fn receive(stream: impl Read + Write, arguments: &Arguments, password: &str, end: u64) -> Result<Received, LabError> {
    let mut wire = Wire {
        stream,
        input: vec![0; READ_BYTES_MAX],
        from: 0,
        to: 0,
        output: BytesMut::new(),
        pause: Duration::from_micros(arguments.pause),
    };
    wire.log_in(arguments, password)?;
    let (slot, publication) = (&arguments.slot, &arguments.publication);
    let start = format!(
        "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 (proto_version '1', publication_names '\"{publication}\"')"
    );
    frontend::query(&start, &mut wire.output).map_err(io("START_REPLICATION"))?;
    wire.flush()?;
    while wire.message()?.0 != b'W' {}
    wire.drain(end)
}

/// One connection.
struct Wire<S> {
    stream: S,
    /// What was read and not taken yet lies in `from..to`.
    input: Vec<u8>,
    from: usize,
    to: usize,
    output: BytesMut,
    /// Before each read of the drain.
    pause: Duration,
}

impl<S: Read + Write> Wire<S> {
    fn log_in(&mut self, arguments: &Arguments, password: &str) -> Result<(), LabError> {
        let parameters = [
            ("user", arguments.user.as_str()),
            ("database", arguments.database.as_str()),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut self.output).map_err(io("startup message"))?;
        self.flush()?;
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            let (tag, body) = self.message()?;
            match (tag, body.get(..4), body.get(4..).unwrap_or_default()) {
                (b'R', Some([0, 0, 0, SASL]), _) => {
                    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut self.output)
                        .map_err(io("SCRAM"))?;
                    self.flush()?;
                }
                (b'R', Some([0, 0, 0, SASL_CONTINUE]), data) => {
                    scram.update(data).map_err(io("SCRAM"))?;
                    frontend::sasl_response(scram.message(), &mut self.output).map_err(io("SCRAM"))?;
                    self.flush()?;
                }
                (b'R', Some([0, 0, 0, SASL_FINAL]), data) => scram.finish(data).map_err(io("SCRAM"))?,
                (b'R', Some([0, 0, 0, 0]), _) => {}
                (b'R', ..) => return Err(LabError::Failed("the server asks for something else than SCRAM".into())),
                (b'Z', ..) => return Ok(()),
                _ => {}
            }
        }
    }

    fn flush(&mut self) -> Result<(), LabError> {
        self.stream.write_all(&self.output).map_err(io("write to the server"))?;
        self.output.clear();
        Ok(())
    }

    /// Reads once, whatever there is.
    fn fill(&mut self) -> Result<(), LabError> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.to == self.input.len() {
            self.input.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            if self.to == self.input.len() {
                // One message fills it all.
                self.input.resize(2 * self.to, 0);
            }
        }
        let room = self.input.get_mut(self.to..).unwrap_or_default();
        let read = self.stream.read(room).map_err(io("read from the server"))?;
        self.to += read;
        if read == 0 {
            return Err(LabError::Failed("the server closed the connection".into()));
        }
        Ok(())
    }

    /// Tag and length of the first whole message in the buffer, if there is one.
    fn whole(&self) -> Option<(u8, usize)> {
        let input = self.input.get(self.from..self.to)?;
        let length = u32::from_be_bytes(input.get(1..HEADER_BYTES)?.try_into().ok()?) as usize + 1;
        (input.len() >= length).then_some((*input.first()?, length))
    }

    /// Takes the next message, which must be there whole: its body.
    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.from;
        self.from += length;
        self.input.get(from + HEADER_BYTES..from + length).unwrap_or_default()
    }

    /// The next message, read if need be. An error of the server is an error here.
    fn message(&mut self) -> Result<(u8, Vec<u8>), LabError> {
        loop {
            if let Some((tag, length)) = self.whole() {
                let body = self.take(length).to_vec();
                return if tag == b'E' { Err(LabError::Failed(error_text(&body))) } else { Ok((tag, body)) };
            }
            self.fill()?;
        }
    }

    /// Everything up to `end`.
    fn drain(&mut self, end: u64) -> Result<Received, LabError> {
        let mut received = Received::default();
        let mut position = 0;
        let mut told = Instant::now();
        loop {
            if !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
            self.fill()?;
            let mut asked = false;
            while let Some((tag, length)) = self.whole() {
                let body = self.take(length);
                match (tag, body.first()) {
                    (b'd', Some(b'w')) => {
                        position = position.max(long(body, 1));
                        received.take(body.get(XLOG_HEADER_BYTES..).unwrap_or_default());
                    }
                    (b'd', Some(b'k')) => {
                        position = position.max(long(body, 1));
                        asked |= body.get(KEEPALIVE_REPLY_AT) == Some(&1);
                        // Keepalives follow everything that was sent below them.
                        if position >= end {
                            self.tell(position)?;
                            return Ok(received);
                        }
                    }
                    (b'E', _) => return Err(LabError::Failed(error_text(body))),
                    _ => {
                        return Err(LabError::Failed(
                            "the server ended the stream, or sent what has no place in it".into(),
                        ));
                    }
                }
            }
            if asked || told.elapsed() >= STATUS_INTERVAL {
                self.tell(position)?;
                told = Instant::now();
            }
        }
    }

    /// Standby status update: everything up to `position` was written, flushed and applied.
    fn tell(&mut self, position: u64) -> Result<(), LabError> {
        let mut status = Vec::with_capacity(34);
        status.push(b'r');
        for value in [position, position, position, 0] {
            status.extend_from_slice(&value.to_be_bytes());
        }
        status.push(0);
        frontend::CopyData::new(&status[..]).map_err(io("status update"))?.write(&mut self.output);
        self.flush()
    }
}

impl Received {
    /// Takes account of one message of pgoutput.
    fn take(&mut self, message: &[u8]) {
        self.messages += 1;
        self.bytes += message.len() as u64;
        match message.first() {
            Some(b'I' | b'U' | b'D') => self.rows += 1,
            Some(b'C') => {
                self.commits += 1;
                // Behind flags and the record's start.
                self.last_commit_lsn = long(message, 10);
            }
            _ => {}
        }
    }
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    eight.map_or(0, u64::from_be_bytes)
}

/// The message of an ErrorResponse: fields of a type byte and a text that ends with zero.
fn error_text(body: &[u8]) -> String {
    let message = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"M"));
    format!("the server says: {}", String::from_utf8_lossy(message.unwrap_or(b"(nothing)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_read_as_the_server_writes_it() {
        assert_eq!(parse_lsn("1/A0"), Some(0x1_0000_00A0));
        assert_eq!(parse_lsn("1A0"), None);
        assert_eq!(parse_lsn("x/0"), None);
    }

    #[test]
    fn rows_are_inserts_updates_and_deletes_and_nothing_else() {
        let mut received = Received::default();
        let commit = [&b"C\0"[..], &7u64.to_be_bytes(), &9u64.to_be_bytes(), &0u64.to_be_bytes()].concat();
        for message in [&b"B..."[..], b"R...", b"I...", b"U...", b"D...", b"T...", &commit] {
            received.take(message);
        }
        let bytes = 6 * 4 + commit.len() as u64;
        assert_eq!(received, Received { rows: 3, commits: 1, messages: 7, bytes, last_commit_lsn: 9 });
    }

    #[test]
    fn the_servers_complaint_is_quoted() {
        assert_eq!(error_text(b"SERROR\0C42704\0Mno such slot\0\0"), "the server says: no such slot");
    }
}
