//! Randomness that can be replayed: every cycle, and everything in a cycle, has a seed of its own.

use std::time::SystemTime;

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// A seed for a run that was given none.
pub(crate) fn from_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

/// The seed of one cycle. The first cycle's is the run's own, so that `CYCLES=1 SEED=<it>` replays any cycle alone.
pub(crate) fn of_cycle(run: u64, cycle: u64) -> u64 {
    if cycle == 0 { run } else { mix(run.wrapping_add(cycle.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 16 }
}

/// A generator for one purpose within a cycle; purposes do not disturb each other's sequence.
pub(crate) fn generator(cycle_seed: u64, purpose: &str) -> SmallRng {
    SmallRng::seed_from_u64(mix(cycle_seed ^ xxhash_rust::xxh3::xxh3_64(purpose.as_bytes())))
}

/// SplitMix64's finalizer: neighbours become strangers.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_replayed_alone_by_its_own_seed() {
        for cycle in 0..50 {
            assert_eq!(of_cycle(of_cycle(7, cycle), 0), of_cycle(7, cycle));
        }
        assert_ne!(of_cycle(7, 1), of_cycle(7, 2));
    }
}
