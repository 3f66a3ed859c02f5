//! The content hash of a unit, by which a unit that the source sends again is recognised.

use dbstreamd_model::{Fingerprint, Op};
use xxhash_rust::xxh3::Xxh3;

/// Hashes the events of one unit: xxh3-64 over, per event, `u8 op`, 16 bytes of fingerprint (zeros for none),
/// `u32` little-endian body length, body.
///
/// It depends on the events alone: not on how they were cut into chunks, nor on schema ids, connections or times.
#[derive(Clone)]
pub struct UnitHasher {
    state: Xxh3,
}

impl UnitHasher {
    /// Of a unit without events so far.
    pub fn new() -> Self {
        Self { state: Xxh3::new() }
    }

    /// Takes in the next event.
    #[inline]
    pub fn event(&mut self, op: Op, schema: Option<Fingerprint>, body: &[u8]) {
        let mut head = [0; 21];
        let (code, rest) = head.split_at_mut(1);
        let (fingerprint, length) = rest.split_at_mut(16);
        code.fill(op as u8);
        fingerprint.copy_from_slice(&schema.map_or([0; 16], |f| f.0));
        // A body is at most 1 GiB, PostgreSQL's own limit of a message.
        length.copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.state.update(&head);
        self.state.update(body);
    }

    /// The hash of all events so far.
    pub fn finish(&self) -> u64 {
        self.state.digest()
    }

    /// Starts over with a new unit; cheaper than a new hasher.
    pub fn reset(&mut self) {
        self.state.reset();
    }
}

impl Default for UnitHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for UnitHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnitHasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_op_schema_order_and_borders_apart_and_never_changes() {
        let hash = |events: &[(Op, Option<Fingerprint>, &[u8])]| {
            let mut hasher = UnitHasher::new();
            events.iter().for_each(|&(op, schema, body)| hasher.event(op, schema, body));
            hasher.finish()
        };
        let (f, g) = (Some(Fingerprint([1; 16])), Some(Fingerprint([2; 16])));
        let all = [
            hash(&[]),
            hash(&[(Op::Insert, f, b"ab")]),
            hash(&[(Op::Delete, f, b"ab")]),
            hash(&[(Op::Insert, g, b"ab")]),
            hash(&[(Op::Insert, None, b"ab")]),
            hash(&[(Op::Insert, f, b"a"), (Op::Insert, f, b"b")]),
            hash(&[(Op::Insert, f, b"b"), (Op::Insert, f, b"a")]),
        ];
        let mut distinct = all.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());
        // Golden: these values are on disk in users' logs.
        assert_eq!(all[1], 10_411_689_121_686_883_455);
    }
}
