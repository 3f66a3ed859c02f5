//! How much of the tail is kept in memory, for all streams together: the oldest chunk of all goes first.
//!
//! Encodings that subscribers made of chunks in the ring count as well. They come to be between two pushes, so that the
//! ring may be over its limit by what is encoded until the next one; once full it holds about half as many chunks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::chunk::Chunk;
use crate::stream::Stream;

/// The budget; only the writer has it.
pub(super) struct RingBudget {
    limit: usize,
    /// Of the chunks themselves.
    used: usize,
    /// Of their encodings, also of chunks that left the ring and are still being read.
    encoded: Arc<AtomicUsize>,
    /// Whose chunk was pushed when: each entry stands for the then newest chunk of that stream.
    order: VecDeque<Arc<Stream>>,
}

impl RingBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, encoded: Arc::default(), order: VecDeque::new() }
    }

    /// Bytes of chunks and encodings.
    pub(super) fn used(&self) -> usize {
        self.used + self.encoded.load(Relaxed)
    }

    /// Adds the newest chunk of `stream`, if somebody follows it, and lets go of the oldest ones while there are too many.
    pub(super) fn push(&mut self, stream: &Arc<Stream>, mut chunk: Chunk) {
        if stream.published.followers() == 0 {
            // Who comes later begins on disk. Until then a chunk's memory is the next one's, still in the processor's cache.
            return self.release(stream);
        }
        let bytes = chunk.memory();
        if bytes > self.limit / 4 {
            // One chunk that would push most others out is better read from disk.
            return;
        }
        self.used += bytes;
        self.order.push_back(Arc::clone(stream));
        chunk.encoded_bytes = Some(Arc::clone(&self.encoded));
        stream.ring.push(Arc::new(chunk));
        // The newest stays: whoever follows is about to ask for it.
        while self.order.len() > 1 && self.used + self.encoded.load(Relaxed) > self.limit {
            let Some(oldest) = self.order.pop_front().and_then(|stream| stream.ring.pop_oldest()) else { break };
            self.used -= oldest.memory().min(self.used);
        }
    }

    /// Lets go of all chunks of a stream.
    fn release(&mut self, stream: &Arc<Stream>) {
        let chunks = stream.ring.take();
        if chunks.is_empty() {
            return;
        }
        let bytes: usize = chunks.iter().map(|chunk| chunk.memory()).sum();
        self.used -= bytes.min(self.used);
        self.order.retain(|other| !Arc::ptr_eq(other, stream));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use dbstreamd_model::{Epoch, Lsn, NoticeSink, Offset, StreamId, Timestamp};

    use super::*;
    use crate::chunk::{EncodedRun, EventEntry};
    use crate::store::LoadedStream;

    fn chunk(offset: u64) -> Chunk {
        Chunk {
            stream: StreamId(1),
            epoch: Epoch::FIRST,
            first_offset: Offset(offset),
            lsn_end: Lsn(offset),
            commit_time_max: Timestamp(0),
            events: vec![EventEntry { body_end: 1000, schema: 0, op: dbstreamd_model::Op::Message }],
            units: Vec::new(),
            schemas: Vec::new(),
            body_start: 0,
            bytes: vec![0; 1000],
            encoded: OnceLock::new(),
            encoded_bytes: None,
            visible_at: None,
        }
    }

    fn stream() -> Arc<Stream> {
        Arc::new(Stream::new(StreamId(1), &LoadedStream::new("shop".parse().unwrap()), NoticeSink::default()))
    }

    fn kept(stream: &Stream, offsets: std::ops::RangeInclusive<u64>) -> usize {
        offsets.filter(|offset| stream.ring.find(Offset(*offset)).is_some()).count()
    }

    #[test]
    fn what_nobody_follows_is_not_kept() {
        let (left, followed) = (stream(), stream());
        let _follower = followed.published.watch();
        let mut ring = RingBudget::new(20 * chunk(1).memory());
        ring.push(&left, chunk(1));
        assert_eq!((kept(&left, 1..=9), ring.used()), (0, 0));
        let follower = left.published.watch();
        for offset in 2..=9 {
            ring.push(&left, chunk(offset));
            ring.push(&followed, chunk(offset));
        }
        assert_eq!((kept(&left, 1..=9), kept(&followed, 1..=9)), (8, 8));
        drop(follower);
        ring.push(&left, chunk(10));
        assert_eq!((kept(&left, 1..=10), kept(&followed, 1..=9)), (0, 8));
        assert_eq!(ring.used(), 8 * chunk(1).memory());
        // And what is kept is let go in its order.
        (10..=27).for_each(|offset| ring.push(&followed, chunk(offset)));
        assert_eq!((kept(&followed, 2..=7), kept(&followed, 8..=27), ring.used()), (0, 20, 20 * chunk(1).memory()));
    }

    #[test]
    fn encodings_take_their_part_of_the_budget_and_give_it_back() {
        let stream = stream();
        let _follower = stream.published.watch();
        let mut ring = RingBudget::new(20 * chunk(1).memory());
        (1..=30).for_each(|offset| ring.push(&stream, chunk(offset)));
        assert_eq!(kept(&stream, 1..=60), 20);
        for offset in 11..=30 {
            stream
                .ring
                .find(Offset(offset))
                .unwrap()
                .encoded(|chunk| EncodedRun { bytes: vec![0; chunk.memory()].into(), ends: Vec::new() });
        }
        ring.push(&stream, chunk(31));
        assert_eq!(kept(&stream, 1..=60), 10, "chunk and encoding together are twice as large");
        (32..=60).for_each(|offset| ring.push(&stream, chunk(offset)));
        assert_eq!((kept(&stream, 1..=60), ring.encoded.load(Relaxed)), (20, 0));
    }
}
