//! What the log counts and times. The handles are shared: whoever exposes them registers clones.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::latency::LatencyHistogram;

/// The log's own figures, all streams together.
#[derive(Clone, Debug)]
pub struct LogMetrics {
    /// Group commits written and fsynced.
    pub flushes: Counter,
    /// Bytes per group commit, as stored.
    pub flush_bytes: Histogram,
    /// Seconds per group commit, from the first write to the fsync's end.
    pub flush_seconds: Histogram,
    /// From the read that brought the end of a chunk's oldest transaction (of a piece of a large one: its newest event) to
    /// when the chunk is handed to the writer; one for each chunk.
    pub receive_to_append: LatencyHistogram,
    /// From there to the end of the fsync that made the chunk durable; one for each chunk.
    pub append_to_fsync: LatencyHistogram,
    /// From there to when readers find what the group made visible; one for each group commit.
    pub fsync_to_visible: LatencyHistogram,
    /// Chunks written.
    pub chunks: Counter,
    /// Events written.
    pub events: Counter,
    /// Bytes of event bodies written, before compression.
    pub body_bytes: Counter,
    /// Bytes of chunks written, as stored.
    pub stored_bytes: Counter,
    /// Chunks served from memory.
    pub ring_hits: Counter,
    /// Chunks read from disk.
    pub disk_chunks: Counter,
    /// Partitions removed by retention.
    pub partitions_dropped: Counter,
    /// Chunks that could not be read back as they were written.
    pub damaged_chunks: Counter,
}

impl Default for LogMetrics {
    fn default() -> Self {
        Self {
            flushes: Counter::default(),
            // 256 B to 16 MiB.
            flush_bytes: Histogram::new(exponential_buckets(256.0, 4.0, 9)),
            // 50 µs to 3 s.
            flush_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 17)),
            receive_to_append: LatencyHistogram::for_many(),
            append_to_fsync: LatencyHistogram::for_one(),
            fsync_to_visible: LatencyHistogram::for_one(),
            chunks: Counter::default(),
            events: Counter::default(),
            body_bytes: Counter::default(),
            stored_bytes: Counter::default(),
            ring_hits: Counter::default(),
            disk_chunks: Counter::default(),
            partitions_dropped: Counter::default(),
            damaged_chunks: Counter::default(),
        }
    }
}
