//! Messages of the PostgreSQL protocol 3.0 outside of streaming: framing, limits, and the fields we read.
//!
//! While WAL streams, `wal.rs` frames for itself, without a copy.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dbstreamd_model::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{PgError, ServerError};
use super::socket::Stream;

/// Before the server is known to be one, and while it authenticates us: libpq's own limit is 2,000 bytes, but an error
/// with a long detail may be longer.
const STARTUP_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// One row of a catalog query, or a notice. Tables are never read through this.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Tags a server may open the conversation with: Authentication, Error, Notice, NegotiateProtocolVersion.
const OPENING_TAGS: &[u8] = b"RENv";
/// A message's tag and length.
pub(crate) const HEADER_BYTES: usize = 5;

/// One message of the server.
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// A stream with the bytes that came and are not used yet.
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    /// Who is there, for errors.
    pub(crate) address: String,
    /// The server has proved to be PostgreSQL, and us to be who we say.
    pub(crate) established: bool,
}

impl Wire {
    pub(crate) fn new(stream: Stream, address: String) -> Self {
        Self { stream, input: BytesMut::new(), address, established: false }
    }

    /// Sends bytes that are whole messages.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), PgError> {
        self.stream.write_all(bytes).await.map_err(PgError::Lost)?;
        self.stream.flush().await.map_err(PgError::Lost)
    }

    /// The next message; notices are logged and left out.
    pub(crate) async fn receive(&mut self) -> Result<Message, PgError> {
        loop {
            if let Some(message) = self.buffered()? {
                if message.tag == b'N' {
                    tracing::debug!(notice = %server_error(&message.body), "server notice");
                    continue;
                }
                return Ok(message);
            }
            let read = match self.stream.read_buf(&mut self.input).await {
                Ok(read) => read,
                Err(error) if !self.established => return Err(self.hung_up(&error.to_string())),
                Err(error) => return Err(PgError::Lost(error)),
            };
            if read == 0 {
                return Err(match self.established {
                    false => self.hung_up("it closed the connection"),
                    true => PgError::Lost(io::ErrorKind::UnexpectedEof.into()),
                });
            }
        }
    }

    fn hung_up(&self, how: &str) -> PgError {
        let how =
            if self.input.is_empty() { format!("{how} without an answer") } else { format!("{how} inside an answer") };
        PgError::HungUp { address: self.address.clone(), how }
    }

    fn stranger(&self, detail: String) -> PgError {
        PgError::NotPostgres { address: self.address.clone(), detail }
    }

    fn buffered(&mut self) -> Result<Option<Message>, PgError> {
        let Some((&tag, _)) = self.input.split_first() else { return Ok(None) };
        if !self.established && !OPENING_TAGS.contains(&tag) {
            return Err(self.stranger(format!("it answered with byte 0x{tag:02x}")));
        }
        let Some((_, length)) = header(&self.input) else { return Ok(None) };
        let limit = if self.established { MESSAGE_BYTES_MAX } else { STARTUP_MESSAGE_BYTES_MAX };
        let Some(length) = length.filter(|length| *length <= limit) else {
            let detail = format!("message {:?} has an impossible length", char::from(tag));
            return Err(if self.established { PgError::protocol(detail) } else { self.stranger(detail) });
        };
        if self.input.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.input.advance(HEADER_BYTES);
        Ok(Some(Message { tag, body: self.input.split_to(length).freeze() }))
    }
}

/// Tag and body length of the message that `bytes` begins with; the length is none when the field makes no sense.
/// None altogether: not enough bytes yet.
pub(crate) fn header(bytes: &[u8]) -> Option<(u8, Option<usize>)> {
    let (&[tag, a, b, c, d], _) = bytes.split_first_chunk()?;
    // The length counts itself.
    let length = usize::try_from(i32::from_be_bytes([a, b, c, d])).ok().and_then(|length| length.checked_sub(4));
    Some((tag, length))
}

/// A zero-terminated text and what follows it.
pub(crate) fn c_text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = memchr_zero(bytes)?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((String::from_utf8_lossy(text).into_owned(), rest.get(1..)?))
}

fn memchr_zero(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0)
}

/// The fields of an ErrorResponse or NoticeResponse.
pub(crate) fn server_error(body: &[u8]) -> ServerError {
    let mut error = ServerError::default();
    let mut localized_severity = String::new();
    let mut rest = body;
    while let Some((&field, after)) = rest.split_first() {
        let Some((text, next)) = c_text(after) else { break };
        match field {
            b'V' => error.severity = text,
            b'S' => localized_severity = text,
            b'C' => error.sqlstate = text,
            b'M' => error.message = text,
            b'D' => error.detail = Some(text),
            b'H' => error.hint = Some(text),
            _ => {}
        }
        rest = next;
    }
    if error.severity.is_empty() {
        error.severity = localized_severity;
    }
    error
}

/// The cells of a DataRow.
pub(crate) fn data_row(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let count = body.try_get_u16().ok()?;
    let mut row = Vec::with_capacity(count.into());
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                let (cell, rest) = body.split_at_checked(length)?;
                body = rest;
                // What is not UTF-8 is a name of a database without an encoding.
                Some(match std::str::from_utf8(cell) {
                    Ok(text) => text.to_owned(),
                    Err(_) => Name::new(cell).to_text().into_owned(),
                })
            }
        });
    }
    Some(row)
}

/// A startup packet: no tag, version, zero-terminated pairs.
pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    const PROTOCOL_3_0: i32 = 3 << 16;
    let mut packet = vec![0; 4];
    packet.put_i32(PROTOCOL_3_0);
    for (key, value) in parameters {
        packet.put_slice(key.as_bytes());
        packet.put_u8(0);
        packet.put_slice(value.as_bytes());
        packet.put_u8(0);
    }
    packet.put_u8(0);
    let length = i32::try_from(packet.len()).unwrap_or(i32::MAX);
    if let Some(head) = packet.first_chunk_mut() {
        *head = length.to_be_bytes();
    }
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_response_is_read_field_by_field() {
        let error = server_error(b"SFEHLER\0VFATAL\0C28P01\0Mno\0Hask\0\0");
        assert_eq!(
            (error.severity.as_str(), error.sqlstate.as_str(), error.message.as_str()),
            ("FATAL", "28P01", "no")
        );
        assert_eq!(error.hint.as_deref(), Some("ask"));
        assert!(error.is_fatal());
    }

    #[test]
    fn a_length_below_its_own_size_makes_no_sense() {
        assert_eq!(header(b"R\0\0\0"), None);
        assert_eq!(header(b"R\0\0\0\x03"), Some((b'R', None)));
        assert_eq!(header(b"R\xff\xff\xff\xff"), Some((b'R', None)));
        assert_eq!(header(b"R\0\0\0\x04x"), Some((b'R', Some(0))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = server_error(&bytes);
            let _ = data_row(&bytes);
            let _ = c_text(&bytes);
            let _ = header(&bytes);
        }
    }
}
