//! Who is connected under a consumer's name: at most one subscription per stream and name.
//!
//! A second one takes the seat: the first is told to leave, stores what it was told to acknowledge, and only then
//! does the second look up where to begin. Committed offsets themselves are the log's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dbstreamd_model::{ConsumerName, StreamId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

type Key = (StreamId, ConsumerName);

/// The seats of all named consumers.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    taken: HashMap<Key, Taken>,
    next_serial: u64,
}

#[derive(Debug)]
struct Taken {
    serial: u64,
    replaced: CancellationToken,
    left: CancellationToken,
}

/// A consumer's seat; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Seat {
    registry: Arc<Registry>,
    key: Key,
    serial: u64,
    left: CancellationToken,
    /// Fires when another subscription took the seat.
    pub(crate) replaced: CancellationToken,
    /// Fires when the one that had the seat before has left.
    pub(crate) predecessor_left: Option<CancellationToken>,
}

impl Registry {
    /// Takes the seat, from whoever has it.
    pub(crate) fn take(self: &Arc<Self>, stream: StreamId, name: ConsumerName) -> Seat {
        let key = (stream, name);
        let (replaced, left) = (CancellationToken::new(), CancellationToken::new());
        let mut seats = self.seats.lock();
        seats.next_serial += 1;
        let serial = seats.next_serial;
        let taken = Taken { serial, replaced: replaced.clone(), left: left.clone() };
        let predecessor_left = seats.taken.insert(key.clone(), taken).map(|before| {
            before.replaced.cancel();
            before.left
        });
        Seat { registry: Arc::clone(self), key, serial, left, replaced, predecessor_left }
    }

    /// Whether somebody has this seat now.
    pub(crate) fn is_taken(&self, stream: StreamId, name: &ConsumerName) -> bool {
        self.seats.lock().taken.contains_key(&(stream, name.clone()))
    }

    /// Who is connected now.
    pub(crate) fn connected(&self) -> HashSet<Key> {
        self.seats.lock().taken.keys().cloned().collect()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.registry.seats.lock();
        if seats.taken.get(&self.key).is_some_and(|taken| taken.serial == self.serial) {
            seats.taken.remove(&self.key);
        }
        self.left.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_takes_the_seat_and_the_first_leaving_does_not_free_it() {
        let registry = Arc::new(Registry::default());
        let name: ConsumerName = "audit".parse().unwrap();
        let first = registry.take(StreamId(1), name.clone());
        let other = registry.take(StreamId(2), name.clone());
        let second = registry.take(StreamId(1), name.clone());
        assert!(first.replaced.is_cancelled() && !second.replaced.is_cancelled() && !other.replaced.is_cancelled());
        let predecessor_left = second.predecessor_left.clone().unwrap();
        assert!(!predecessor_left.is_cancelled());
        drop(first);
        assert!(predecessor_left.is_cancelled());
        assert!(registry.connected().contains(&(StreamId(1), name)));
        drop(second);
        drop(other);
        assert!(registry.connected().is_empty());
    }
}
