//! Chunks are brought into their stored form by who builds them, as many at a time as there are processors; the one
//! writer thread only stores them.
//!
//! That bounds what one log can take by the disk, and beside a reader of a socket with little room there is one busy thread
//! less. What is ready before the writer can take it is memory that nobody's credit counts, so it is bounded: beyond
//! that, and for huge chunks, the writer does it when their turn has come.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use super::Chunk;
use super::frame::{Scratch, encode};

/// A larger chunk, of one huge event, would keep everyone else on the builder's thread waiting.
const CHUNK_BYTES_MAX: usize = 512 * 1024;

/// Makes frames, and knows how many wait.
pub(crate) struct Framer {
    /// Buffers for the next chunks: as many as were ever in use at a time, one for each thread at most.
    idle: Mutex<Vec<Scratch>>,
    ahead_bytes: Arc<AtomicUsize>,
    ahead_bytes_max: usize,
}

/// A chunk as it is stored, ready for the writer.
pub(crate) struct Framed {
    value: Vec<u8>,
    ahead_bytes: Arc<AtomicUsize>,
}

impl Framer {
    /// Frames that wait for the writer are at most so many bytes.
    pub(crate) fn new(ahead_bytes_max: usize) -> Self {
        Self { idle: Mutex::default(), ahead_bytes: Arc::default(), ahead_bytes_max }
    }

    /// The chunk's frame; none when there are enough of them, or when making it fails, which the writer will find too.
    pub(crate) fn frame(&self, chunk: &Chunk) -> Option<Framed> {
        let raw_bytes = chunk.body_bytes();
        if raw_bytes > CHUNK_BYTES_MAX || self.ahead_bytes.load(Relaxed) + raw_bytes > self.ahead_bytes_max {
            return None;
        }
        let mut scratch = self.idle.lock().pop().unwrap_or_default();
        let value = encode(chunk, &chunk.key(), &mut scratch).ok().map(<[u8]>::to_vec);
        self.idle.lock().push(scratch);
        let value = value?;
        self.ahead_bytes.fetch_add(value.len(), Relaxed);
        Some(Framed { value, ahead_bytes: Arc::clone(&self.ahead_bytes) })
    }
}

impl Framed {
    /// The value to store.
    pub(crate) fn value(&self) -> &[u8] {
        &self.value
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        self.ahead_bytes.fetch_sub(self.value.len(), Relaxed);
    }
}
