//! When to read: a pause before the next read while catching up, none otherwise. Decisions only; `wal.rs` measures and sleeps.
//!
//! A walsender hands its socket one message at a time. As long as the connection's window is open the kernel sends each
//! at once as a segment of its own, and the sender, which is the bottleneck of any drain, pays for it with half of its
//! time. When the window is closed, messages gather in the sender's socket buffer and leave in segments of 64 KiB.
//! So what is wanted is a sender that always has a backlog in its own buffer: the receive buffer is made small, the
//! whole of it is read after each pause, and the pause is just so long that this is no more than the sender makes. How
//! long that is depends on row width, machine and load, so it is steered by what is seen: large segments say that there
//! is a backlog and that reads may come a little sooner; small ones that it is used up, and then one long pause lets
//! it grow again, during which the sender goes on working.
//!
//! That holds whatever the congestion control: a window of few segments (BBR in its first phase) makes a sender gather
//! too, but that ends when it has seen enough; cubic has no such phase. Measurements: docs/adr/0003-paced-reads.md.
//!
//! Over a Unix socket every message stays a buffer of its own, and the sender's socket has room for some hundred of them,
//! whatever their size: long pauses stop it. What it can be spared there is to wake us up for each message. So the pauses are
//! short, and just so long that a read brings some of that.
//!
//! Far away a small window would be the bottleneck itself: there are no pauses.

use std::time::Duration;

/// The receive buffer of a paced connection. The kernel doubles it and opens a window of about 100 KiB: more than one segment
/// of the loopback device (64 KiB), and little enough to be full in a millisecond or two.
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;
/// Servers farther away than this are read eagerly: such a window per round trip would be the limit.
pub(crate) const ROUND_TRIP_MAX: Duration = Duration::from_millis(1);

/// How old a commit must be, when the server sends it, for the server to be behind; and how old to stay so.
const LAG_BEGIN: Duration = Duration::from_millis(100);
const LAG_END: Duration = Duration::from_millis(50);
/// And this many eager reads in a window, or this many bytes: tens of thousands of rows a second. Slower than that the
/// server is busy with other things than segments, and pausing gains nothing.
const WINDOW_READS_MIN: u32 = 10;
const WINDOW_BYTES_MIN: usize = 8 * 1024;
const WINDOW: Duration = Duration::from_millis(1);
/// A long pause that brought less than this per millisecond says that the server has no more. Lower than what begins
/// the pausing, so that the two do not alternate.
const BYTES_PER_MILLISECOND_MIN: usize = 3 * 1024;
/// From a backlog come segments larger than this; a message sent at once is one of its own.
const BACKLOG_SEGMENT_BYTES_MIN: usize = 12 * 1024;
/// Fewer segments than this say nothing: a read may end in the middle of one, or between two.
const SMALL_SEGMENTS_MIN: u32 = 8;

const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_MIN: Duration = Duration::from_micros(200);
const PAUSE_MAX: Duration = Duration::from_millis(8);
/// Each read from a backlog makes the pause this much shorter: slowly, as a backlog of a megabyte hides for a hundred
/// reads that they come too soon.
const SOONER: f64 = 0.998;
/// A backlog used up makes it this much longer.
const LATER: f64 = 1.1;
/// Lets a backlog grow: a megabyte, at the usual speed of a walsender.
const REFILL: Duration = Duration::from_millis(16);
/// Over a Unix socket: what a message takes of the sender's room beside its bytes.
const MESSAGE_ROOM: usize = 640;
/// And how much of that room a read should free: of the usual 208 KiB two fifths to a half, so that the sender never waits.
const ROOM_MIN: usize = 80 * 1024;
const ROOM_MAX: usize = 112 * 1024;
const MESSAGES_PAUSE_FIRST: Duration = Duration::from_micros(100);
const MESSAGES_PAUSE_MIN: Duration = Duration::from_micros(20);
const MESSAGES_PAUSE_MAX: Duration = Duration::from_millis(1);
/// Each read beyond these makes the pause so much shorter or longer.
const MESSAGES_SOONER: f64 = 0.95;
const MESSAGES_LATER: f64 = 1.05;
/// Reads after a refill that still bring what was sent before there was a backlog.
const UNJUDGED_READS: u8 = 2;

/// One read, as seen from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadSeen {
    /// How much it brought.
    pub(crate) bytes: usize,
    /// Messages that ended in the read before.
    pub(crate) messages: usize,
    /// TCP segments with data that arrived since the previous read; none where that is not known.
    pub(crate) segments: Option<u32>,
    /// From the end of the previous read to the end of this one.
    pub(crate) elapsed: Duration,
}

impl ReadSeen {
    fn is_little(&self) -> bool {
        (self.bytes as u128) * 1000 < (BYTES_PER_MILLISECOND_MIN as u128) * self.elapsed.as_micros()
    }
}

/// Whether the server is behind with its own history.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    far: bool,
}

impl Behind {
    /// How old the newest commit was when the server sent it, by the server's own clock.
    pub(crate) fn note(&mut self, lag: Duration) {
        self.far = lag > if self.far { LAG_END } else { LAG_BEGIN };
    }

    /// What it sends is old.
    pub(crate) fn is_far(&self) -> bool {
        self.far
    }
}

/// How the kernel keeps what the sender is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// In few large segments: TCP.
    Segments,
    /// Each message by itself: Unix sockets.
    Messages,
}

/// Decides how long to wait before each read.
#[derive(Debug)]
pub(crate) struct Pacer {
    kept: Kept,
    /// What the server sends is old.
    lagging: bool,
    catching_up: bool,
    /// The pause that suited the last stretch of catching up.
    level: Duration,
    /// The next pause is a long one.
    refill: bool,
    /// So many more reads may bring small segments without meaning anything.
    unjudged: u8,
    window_reads: u32,
    window_bytes: usize,
    window_elapsed: Duration,
}

impl Pacer {
    /// For a TCP connection whose receive buffer is [`RECEIVE_BUFFER_BYTES`].
    pub(crate) fn of_segments() -> Self {
        Self::new(Kept::Segments, PAUSE_FIRST)
    }

    /// For a Unix socket.
    pub(crate) fn of_messages() -> Self {
        Self::new(Kept::Messages, MESSAGES_PAUSE_FIRST)
    }

    fn new(kept: Kept, first: Duration) -> Self {
        Self {
            kept,
            lagging: false,
            catching_up: false,
            level: first,
            refill: false,
            unjudged: 0,
            window_reads: 0,
            window_bytes: 0,
            window_elapsed: Duration::ZERO,
        }
    }

    /// How long to wait before the next read; none: read at once.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.catching_up.then_some(if self.refill { REFILL } else { self.level })
    }

    /// Whether what the server sends is old.
    pub(crate) fn behind(&mut self, far: bool) {
        self.lagging = far;
        self.catching_up &= far;
    }

    /// Learns from a read.
    pub(crate) fn observe(&mut self, seen: ReadSeen) {
        match self.kept {
            _ if !self.catching_up => self.watch(seen),
            Kept::Segments => self.steer(seen),
            Kept::Messages => self.steer_by_messages(seen),
        }
    }

    /// Eager reads are small however much is waiting, so it takes several to see that there is more.
    fn watch(&mut self, seen: ReadSeen) {
        if seen.elapsed >= WINDOW {
            // A quiet moment: whatever came before it was not a backlog.
            self.begin_window();
        }
        self.window_reads += 1;
        self.window_bytes += seen.bytes;
        self.window_elapsed += seen.elapsed.min(WINDOW);
        if self.window_elapsed >= WINDOW {
            let busy = self.window_reads >= WINDOW_READS_MIN || self.window_bytes >= WINDOW_BYTES_MIN;
            self.catching_up = busy && self.lagging;
            (self.refill, self.unjudged) = (self.catching_up && self.kept == Kept::Segments, UNJUDGED_READS);
            self.begin_window();
        }
    }

    fn begin_window(&mut self) {
        self.window_reads = 0;
        self.window_bytes = 0;
        self.window_elapsed = Duration::ZERO;
    }

    fn steer_by_messages(&mut self, seen: ReadSeen) {
        let room = seen.bytes + seen.messages * MESSAGE_ROOM;
        if room > ROOM_MAX {
            self.level = self.level.mul_f64(MESSAGES_SOONER).max(MESSAGES_PAUSE_MIN);
        } else if room < ROOM_MIN && self.level < MESSAGES_PAUSE_MAX {
            self.level = self.level.mul_f64(MESSAGES_LATER).min(MESSAGES_PAUSE_MAX);
        } else if seen.is_little() {
            self.catching_up = false;
            self.level = MESSAGES_PAUSE_FIRST;
        }
    }

    fn steer(&mut self, seen: ReadSeen) {
        let little = seen.is_little();
        if std::mem::take(&mut self.refill) || (little && seen.elapsed >= REFILL) {
            self.catching_up = !little;
            return;
        }
        if little {
            // It may have been stopped for a moment: one long pause decides.
            (self.refill, self.unjudged) = (true, UNJUDGED_READS);
            return;
        }
        // Where segments are not counted the first pause stays.
        let Some(segments) = seen.segments.filter(|count| *count > 0) else { return };
        if segments < SMALL_SEGMENTS_MIN || seen.bytes / segments as usize >= BACKLOG_SEGMENT_BYTES_MIN {
            self.unjudged = 0;
            self.level = self.level.mul_f64(SOONER).max(PAUSE_MIN);
        } else if self.unjudged > 0 {
            self.unjudged -= 1;
        } else {
            self.level = self.level.mul_f64(LATER).min(PAUSE_MAX);
            (self.refill, self.unjudged) = (true, UNJUDGED_READS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    fn read(bytes: usize, segments: u32, micros: u32) -> ReadSeen {
        ReadSeen { bytes, messages: bytes / 180, segments: Some(segments), elapsed: MICRO * micros }
    }

    fn catching_up() -> Pacer {
        let mut pacer = Pacer::of_segments();
        pacer.behind(true);
        for _ in 0..200 {
            if pacer.pause().is_none() {
                pacer.observe(read(400, 2, 10));
            }
        }
        assert_eq!(pacer.pause(), Some(REFILL), "a backlog read in small pieces goes unnoticed");
        pacer.observe(read(100_000, 500, 16_000));
        assert_eq!(pacer.pause(), Some(PAUSE_FIRST));
        pacer
    }

    #[test]
    fn what_is_fresh_is_never_delayed_however_much_it_is() {
        let mut pacer = Pacer::of_segments();
        for _ in 0..1000 {
            pacer.behind(false);
            pacer.observe(read(30_000, 100, 100));
            assert_eq!(pacer.pause(), None);
        }
    }

    #[test]
    fn what_is_old_but_little_is_never_delayed() {
        let mut pacer = Pacer::of_segments();
        for _ in 0..1000 {
            pacer.behind(true);
            pacer.observe(read(2000, 3, 1000));
            assert_eq!(pacer.pause(), None);
        }
    }

    #[test]
    fn the_pausing_ends_with_the_lag() {
        let (mut pacer, mut behind) = (catching_up(), Behind::default());
        for (lag, far) in [(80, false), (120, true), (80, true), (20, false), (80, false)] {
            behind.note(Duration::from_millis(lag));
            assert_eq!(behind.is_far(), far, "{lag} ms");
        }
        pacer.behind(true);
        assert!(pacer.pause().is_some());
        pacer.behind(false);
        assert_eq!(pacer.pause(), None);
    }

    #[test]
    fn the_pausing_ends_when_a_long_pause_brings_little() {
        // Also when it comes in few segments, and when it comes after silence.
        for (bytes, segments) in [(5000, 30), (400, 2)] {
            let mut pacer = catching_up();
            pacer.observe(read(bytes, segments, 2000));
            assert_eq!(pacer.pause(), Some(REFILL));
            pacer.observe(read(bytes, segments, 16_000));
            assert_eq!(pacer.pause(), None);
        }
        let mut pacer = catching_up();
        pacer.observe(read(400, 2, 1_000_000));
        assert_eq!(pacer.pause(), None);
    }

    #[test]
    fn large_segments_shorten_the_pause_and_small_ones_lengthen_it_after_a_refill() {
        let mut pacer = catching_up();
        for _ in 0..100 {
            pacer.observe(read(100_000, 2, 2000));
        }
        let shorter = pacer.pause().unwrap();
        assert!(shorter < PAUSE_FIRST);
        pacer.observe(read(50_000, 300, 2000));
        assert_eq!(pacer.pause(), Some(REFILL));
        // What was sent before there was a backlog is not judged again.
        pacer.observe(read(100_000, 500, 16_000));
        pacer.observe(read(100_000, 50, 2000));
        assert!(pacer.pause().unwrap() > shorter && pacer.pause() != Some(REFILL));
        for _ in 0..10_000 {
            pacer.observe(read(100_000, 2, 1000));
        }
        assert_eq!(pacer.pause(), Some(PAUSE_MIN));
    }

    #[test]
    fn over_a_unix_socket_a_pause_brings_some_dozens_of_messages_and_ends_with_them() {
        let mut pacer = Pacer::of_messages();
        pacer.behind(true);
        while pacer.pause().is_none() {
            pacer.observe(read(180, 0, 10));
        }
        assert_eq!(pacer.pause(), Some(MESSAGES_PAUSE_FIRST));
        // A sender of one message in six microseconds.
        for _ in 0..1000 {
            let micros = u32::try_from(pacer.pause().unwrap().as_micros()).unwrap() + 50;
            pacer.observe(read(30 * micros as usize, 0, micros));
        }
        let settled = pacer.pause().unwrap() + MICRO * 50;
        assert!((MICRO * 570..MICRO * 870).contains(&settled), "{settled:?}");
        let mut reads = 0;
        while pacer.pause().is_some() {
            pacer.observe(read(200, 0, 1000));
            reads += 1;
        }
        assert!(reads < 100, "{reads}");
    }
}
