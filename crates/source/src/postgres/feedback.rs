//! `FeedbackWriter`: the sending half of a replication stream. Which positions to send, its caller decides.

use bytes::{BufMut, BytesMut};
use dbstreamd_model::{Lsn, Timestamp};
use tokio::io::AsyncWriteExt;

use super::error::PgError;
use super::socket::WriteSide;
use super::wal::PG_EPOCH_MICROS;

/// Tag, length, type, three positions, time, flag.
const STATUS_UPDATE_BYTES: u32 = 1 + 4 + 1 + 3 * 8 + 8 + 1;

/// The sending half of a replication stream. Works while the [`WalReader`](super::WalReader) reads, or does not read.
pub struct FeedbackWriter {
    socket: WriteSide,
    packet: BytesMut,
}

impl FeedbackWriter {
    pub(super) fn new(socket: WriteSide) -> Self {
        Self { socket, packet: BytesMut::with_capacity(STATUS_UPDATE_BYTES as usize) }
    }

    /// Tells the server how far we are: `write` is received, `flush` may be forgotten by the server, `apply` is usually
    /// `flush`. With `reply_requested` the server answers at once with a keepalive.
    ///
    /// # Errors
    /// When the connection broke. Not cancel-safe: half a message may have been sent.
    pub async fn status_update(
        &mut self,
        write: Lsn,
        flush: Lsn,
        apply: Lsn,
        reply_requested: bool,
    ) -> Result<(), PgError> {
        self.packet.clear();
        self.packet.put_u8(b'd');
        self.packet.put_u32(STATUS_UPDATE_BYTES - 1);
        self.packet.put_u8(b'r');
        self.packet.put_u64(write.0);
        self.packet.put_u64(flush.0);
        self.packet.put_u64(apply.0);
        self.packet.put_i64(Timestamp::now().0.saturating_sub(PG_EPOCH_MICROS));
        self.packet.put_u8(reply_requested.into());
        self.send().await
    }

    /// Ends the stream from our side. The server answers the same way, and the reader then says that the stream ended.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn copy_done(&mut self) -> Result<(), PgError> {
        self.packet.clear();
        self.packet.put_slice(&[b'c', 0, 0, 0, 4]);
        self.send().await
    }

    async fn send(&mut self) -> Result<(), PgError> {
        self.socket.write_all(&self.packet).await.map_err(PgError::Lost)?;
        self.socket.flush().await.map_err(PgError::Lost)
    }
}
