//! How much of the tail is kept in memory, for all streams together: the oldest chunk of all goes first.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chunk::Chunk;
use crate::stream::Stream;

/// The budget; only the writer has it.
pub(super) struct RingBudget {
    limit: usize,
    used: usize,
    /// Whose chunk was pushed when: each entry stands for the then newest chunk of that stream.
    order: VecDeque<Arc<Stream>>,
}

impl RingBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, order: VecDeque::new() }
    }

    /// Adds the newest chunk of `stream`, and lets go of the oldest ones while there are too many.
    pub(super) fn push(&mut self, stream: &Arc<Stream>, chunk: Chunk) {
        let bytes = chunk.memory();
        if bytes > self.limit / 4 {
            // One chunk that would push most others out is better read from disk.
            return;
        }
        self.used += bytes;
        self.order.push_back(Arc::clone(stream));
        stream.ring.push(Arc::new(chunk));
        while self.used > self.limit {
            let Some(oldest) = self.order.pop_front().and_then(|stream| stream.ring.pop_oldest()) else { break };
            self.used -= oldest.memory().min(self.used);
        }
    }
}
