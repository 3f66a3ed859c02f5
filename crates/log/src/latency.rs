//! Histograms of durations for hot paths: counters in memory of a few cores' own, no lock, no allocation.
//!
//! `prometheus_client`'s own histogram is a mutex over a list. This one is an array of atomics, as many times as there are
//! threads that observe into it at once, added up when somebody asks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The first bound; each further one is twice the one before.
const FIRST_BOUND_NANOS: u64 = 10_000;
/// Bounds: from 10 µs to 84 s.
const BOUNDS: usize = 24;
/// Copies of a histogram that any thread may observe into. More threads than that share them, which costs a cache miss
/// now and then and counts all the same.
const SHARDS: usize = 8;

/// One copy, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// By bound; the last is for what is longer than all of them.
    buckets: [AtomicU64; BOUNDS + 1],
    sum_nanos: AtomicU64,
}

/// A histogram of durations, from 10 µs to 84 s in doublings. Clones are the same histogram.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    shards: Arc<[Shard]>,
}

impl LatencyHistogram {
    /// For one thread or task at a time; others count too, only slower.
    pub fn for_one() -> Self {
        Self { shards: Arc::from([Shard::default()]) }
    }

    /// For many threads at once.
    pub fn for_many() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }

    /// Counts a duration: two atomic additions.
    #[inline]
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let Some(shard) = self.shards.get(own_place() % self.shards.len().max(1)) else { return };
        if let Some(bucket) = shard.buckets.get(bucket_of(nanos)) {
            bucket.fetch_add(1, Relaxed);
            shard.sum_nanos.fetch_add(nanos, Relaxed);
        }
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.shards.iter().flat_map(|shard| &shard.buckets).map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// Sum of what was counted; durations of centuries would wrap around.
    pub fn sum(&self) -> Duration {
        let nanos = self.shards.iter().fold(0, |sum: u64, shard| sum.wrapping_add(shard.sum_nanos.load(Relaxed)));
        Duration::from_nanos(nanos)
    }

    /// Upper bounds in seconds, the last infinite, and how many durations are within each and above the one before.
    fn buckets(&self) -> [(f64, u64); BOUNDS + 1] {
        std::array::from_fn(|index| {
            let bound = if index < BOUNDS {
                Duration::from_nanos(FIRST_BOUND_NANOS << index).as_secs_f64()
            } else {
                f64::INFINITY
            };
            let counts = self.shards.iter().filter_map(|shard| shard.buckets.get(index));
            (bound, counts.map(|count| count.load(Relaxed)).sum())
        })
    }
}

impl TypedMetric for LatencyHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for LatencyHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        // One reading for both, or what is counted meanwhile would be in one of them only.
        let buckets = self.buckets();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum().as_secs_f64(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// The bucket whose bound is the first that is not below `nanos`.
#[inline]
fn bucket_of(nanos: u64) -> usize {
    let doublings = nanos.div_ceil(FIRST_BOUND_NANOS).next_power_of_two().trailing_zeros();
    (doublings as usize).min(BOUNDS)
}

/// A number that neighbouring threads do not have in common.
#[inline]
fn own_place() -> usize {
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: usize = NEXT.fetch_add(1, Relaxed);
    }
    // While its thread ends there is no number any more; any will do.
    PLACE.try_with(|place| *place).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_whose_bound_it_does_not_pass() {
        let micros = |micros: u64| bucket_of(micros * 1000);
        assert_eq!((bucket_of(0), micros(1), micros(10)), (0, 0, 0));
        assert_eq!((bucket_of(10_001), micros(20), micros(21), micros(40), micros(41)), (1, 1, 2, 2, 3));
        assert_eq!((micros(60_000_000), bucket_of(FIRST_BOUND_NANOS << 23), micros(90_000_000)), (23, 23, 24));
        assert_eq!(bucket_of(u64::MAX), BOUNDS);
    }

    #[test]
    fn what_many_threads_count_adds_up_and_is_rendered_with_its_sum() {
        for histogram in [LatencyHistogram::for_one(), LatencyHistogram::for_many()] {
            std::thread::scope(|scope| {
                for _ in 0..20 {
                    scope.spawn(|| (0..1000).for_each(|_| histogram.observe(Duration::from_micros(30))));
                }
            });
            histogram.observe(Duration::from_secs(100));
            assert_eq!((histogram.count(), histogram.sum()), (20_001, Duration::from_millis(100_600)));
            let mut registry = prometheus_client::registry::Registry::default();
            registry.register("wait_seconds", "A wait", histogram);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            for line in [
                "# TYPE wait_seconds histogram",
                "wait_seconds_sum 100.6",
                "wait_seconds_count 20001",
                "wait_seconds_bucket{le=\"0.00002\"} 0",
                "wait_seconds_bucket{le=\"0.00004\"} 20000",
                "wait_seconds_bucket{le=\"83.88608\"} 20000",
                "wait_seconds_bucket{le=\"+Inf\"} 20001",
            ] {
                assert!(text.lines().any(|found| found == line), "{line:?} in {text}");
            }
        }
    }
}
