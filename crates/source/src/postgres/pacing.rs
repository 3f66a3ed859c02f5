//! When to read: a pause before the next read while catching up, none otherwise. Decisions only; `wal.rs` measures and sleeps.
//!
//! A walsender hands its socket one message at a time. If the reader takes each at once, the kernel sends a small segment
//! and wakes somebody up for every row, and the sender, which is the bottleneck, pays for it: half of its time. If the
//! reader waits a moment, messages gather in the socket's buffers and travel together. The right moment depends on row
//! width, machine and load, so it is steered by what is seen: bytes per segment and bytes per read.
//!
//! Measured over loopback (2 M rows in transactions of 100, two cores, PostgreSQL 15): 285 k to 302 k rows/s with these pauses,
//! 129 k to 137 k without, 107 k to 123 k with `pg_recvlogical`; the walsender's CPU time falls to a half. Over Unix sockets, whose
//! every message stays a buffer of its own, a pause only stops the sender (217 k rows/s against 281 k), so there is none.

use std::time::Duration;

/// Catching up means this many eager reads in a window, or this many bytes: tens of thousands of rows a second. Slower
/// than that the server is busy with other things than segments, and pausing gains nothing.
const WINDOW_READS_MIN: u32 = 10;
const WINDOW_BYTES_MIN: usize = 8 * 1024;
const WINDOW: Duration = Duration::from_millis(1);
/// One paused read that brought less than this per millisecond says that we have caught up: another pause would only be
/// latency. Lower than what begins the pausing, so that the two do not alternate.
const BYTES_PER_MILLISECOND_MIN: usize = 3 * 1024;
/// Fewer bytes per segment than this say that the pause is too short.
const SEGMENT_BYTES_MIN: usize = 4 * 1024;
/// What one read should bring while catching up.
const READ_BYTES_MIN: usize = 64 * 1024;
const READ_BYTES_MAX: usize = 128 * 1024;
const PAUSE_FIRST: Duration = Duration::from_micros(200);
const PAUSE_MIN: Duration = Duration::from_micros(50);
/// Longer ones were measured to end up, from one run to the next, in two very different states.
const PAUSE_MAX: Duration = Duration::from_micros(500);

/// One read, as seen from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadSeen {
    /// How much it brought.
    pub(crate) bytes: usize,
    /// TCP segments with data that arrived since the previous read; none where that is not known.
    pub(crate) segments: Option<u32>,
    /// From the end of the previous read to the end of this one.
    pub(crate) elapsed: Duration,
}

/// Decides how long to wait before each read.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// The pause that suited the last stretch of catching up.
    level: Duration,
    catching_up: bool,
    window_reads: u32,
    window_bytes: usize,
    window_elapsed: Duration,
    read_min: usize,
    read_max: usize,
}

impl Pacer {
    /// For TCP with the receive buffer that the kernel granted.
    pub(crate) fn tcp(receive_buffer: usize) -> Self {
        // Never more than half of the buffer: a full one stops the sender.
        let read_max = READ_BYTES_MAX.min(receive_buffer / 2);
        Self::new(READ_BYTES_MIN.min(read_max / 2), read_max)
    }

    fn new(read_min: usize, read_max: usize) -> Self {
        Self {
            level: PAUSE_FIRST,
            catching_up: false,
            window_reads: 0,
            window_bytes: 0,
            window_elapsed: Duration::ZERO,
            read_min,
            read_max,
        }
    }

    /// How long to wait before the next read; none: read at once.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.catching_up.then_some(self.level)
    }

    /// Learns from a read.
    pub(crate) fn observe(&mut self, seen: ReadSeen) {
        if self.catching_up { self.steer(seen) } else { self.watch(seen) }
    }

    /// Eager reads are small however much is waiting, so it takes several to see that we are behind.
    fn watch(&mut self, seen: ReadSeen) {
        if seen.elapsed >= WINDOW {
            // A quiet moment: whatever came before it was not a backlog, and what suited it is forgotten.
            self.begin_window();
            self.level = PAUSE_FIRST;
        }
        self.window_reads += 1;
        self.window_bytes += seen.bytes;
        self.window_elapsed += seen.elapsed.min(WINDOW);
        if self.window_elapsed >= WINDOW {
            self.catching_up = self.window_reads >= WINDOW_READS_MIN || self.window_bytes >= WINDOW_BYTES_MIN;
            self.begin_window();
        }
    }

    fn begin_window(&mut self) {
        self.window_reads = 0;
        self.window_bytes = 0;
        self.window_elapsed = Duration::ZERO;
    }

    fn steer(&mut self, seen: ReadSeen) {
        if (seen.bytes as u128) * 1000 < (BYTES_PER_MILLISECOND_MIN as u128) * seen.elapsed.as_micros() {
            self.catching_up = false;
            return;
        }
        let segment_bytes = seen.segments.filter(|count| *count > 0).map(|count| seen.bytes / count as usize);
        let small_segments = segment_bytes.is_some_and(|bytes| bytes < SEGMENT_BYTES_MIN);
        if seen.bytes > self.read_max {
            self.level = self.level.mul_f64(0.8).max(PAUSE_MIN);
        } else if seen.bytes < self.read_min || small_segments {
            self.level = self.level.mul_f64(1.25).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    fn read(bytes: usize, segments: u32, micros: u32) -> ReadSeen {
        ReadSeen { bytes, segments: Some(segments), elapsed: MICRO * micros }
    }

    fn catching_up() -> Pacer {
        let mut pacer = Pacer::tcp(512 * 1024);
        for _ in 0..200 {
            if pacer.pause().is_none() {
                pacer.observe(read(400, 2, 10));
            }
        }
        assert!(pacer.pause().is_some(), "a backlog read in small pieces goes unnoticed");
        pacer
    }

    #[test]
    fn live_traffic_is_never_delayed() {
        let mut pacer = Pacer::tcp(512 * 1024);
        // 1,000 transactions a second of 2 KB; then a lone transaction of 1 MB in one piece after silence.
        for _ in 0..1000 {
            pacer.observe(read(2000, 3, 1000));
            assert_eq!(pacer.pause(), None);
        }
    }

    #[test]
    fn one_small_read_ends_the_pausing() {
        let mut pacer = catching_up();
        pacer.observe(read(500, 1, 300));
        assert_eq!(pacer.pause(), None);
    }

    #[test]
    fn the_pause_grows_with_small_segments_and_shrinks_with_big_reads() {
        let mut pacer = catching_up();
        let first = pacer.pause().unwrap();
        pacer.observe(read(70_000, 300, 300));
        let longer = pacer.pause().unwrap();
        assert!(longer > first);
        pacer.observe(read(300_000, 10, 800));
        assert!(pacer.pause().unwrap() < longer);
        for _ in 0..100 {
            pacer.observe(read(20_000, 100, 300));
        }
        assert_eq!(pacer.pause(), Some(PAUSE_MAX));
        for _ in 0..100 {
            pacer.observe(read(400_000, 10, 300));
        }
        assert_eq!(pacer.pause(), Some(PAUSE_MIN));
    }

    #[test]
    fn a_small_receive_buffer_lowers_the_aim() {
        let mut pacer = catching_up();
        pacer.read_max = Pacer::tcp(64 * 1024).read_max;
        let before = pacer.pause().unwrap();
        pacer.observe(read(40_000, 1, 300));
        assert!(pacer.pause().unwrap() < before);
    }
}
