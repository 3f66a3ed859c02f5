//! Schema versions as messages, made once for all who need them at about the same time: a crowd, at a table's first event.

use std::collections::VecDeque;

use bytes::Bytes;
use dbstreamd_log::Tail;
use dbstreamd_model::{SchemaId, StreamId};
use parking_lot::Mutex;

use super::wire;
use crate::delivery::FLOOR_BYTES;
use crate::schemas;

/// What all of them together may take.
pub(crate) const SCHEMA_CACHE_BYTES_MAX: usize = 256 * 1024;

/// Those that were needed last, of all streams.
#[derive(Default)]
pub(super) struct SchemaCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Newest first.
    messages: VecDeque<((StreamId, SchemaId), Bytes)>,
    bytes: usize,
}

impl SchemaCache {
    /// A schema version of a stream as a gRPC message; none when the stream has none such, or when it is larger than what
    /// everybody gets in any case.
    pub(super) fn message(&self, stream: StreamId, id: SchemaId, tail: &Tail) -> Option<Bytes> {
        // Made under the lock: who comes meanwhile wants the same.
        let mut kept = self.0.lock();
        if let Some((_, message)) = kept.messages.iter().find(|(other, _)| *other == (stream, id)) {
            return Some(message.clone());
        }
        let stored = tail.schema(id)?;
        let message = wire::message(wire::Response::Schema(Box::new(schemas::contract(&stored))));
        if message.len() > FLOOR_BYTES {
            return None;
        }
        kept.keep((stream, id), message.clone());
        Some(message)
    }
}

impl Kept {
    fn keep(&mut self, key: (StreamId, SchemaId), message: Bytes) {
        self.bytes += message.len();
        self.messages.push_front((key, message));
        while self.bytes > SCHEMA_CACHE_BYTES_MAX
            && let Some((_, oldest)) = self.messages.pop_back()
        {
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_all_together_would_take_more_than_the_bound() {
        let mut kept = Kept::default();
        let each = SCHEMA_CACHE_BYTES_MAX / 16;
        for id in 1..=20 {
            kept.keep((StreamId(1), SchemaId(id)), vec![0; each].into());
        }
        assert_eq!(kept.bytes, SCHEMA_CACHE_BYTES_MAX);
        assert_eq!(kept.bytes, kept.messages.iter().map(|(_, message)| message.len()).sum::<usize>());
        let left: Vec<_> = kept.messages.iter().map(|((_, id), _)| id.0).collect();
        assert_eq!(left, (5..=20).rev().collect::<Vec<_>>());
    }
}
