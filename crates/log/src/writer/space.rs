//! How much room the data volume has: looked at once a second, so that sources are held before a write fails.

use std::path::Path;
use std::time::{Duration, Instant};

use dbstreamd_model::{Notice, Severity};

use super::Writer;
use crate::error::LogError;
use crate::options::FreeSpace;

/// How often the volume is looked at.
pub(super) const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// Of a volume's size, what is kept free unless told otherwise.
const SHARE: u64 = 20;
/// More than this need not be kept free of a large volume: some seconds of writing, and a flush of what is in memory.
const KEPT_FREE_MAX: u64 = 1024 * 1024 * 1024;

/// To end it, a tenth of the floor must be regained, at most this.
const REGAINED_MAX: u64 = 256 * 1024 * 1024;

/// The room on the data volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// Bytes that may still be written.
    pub available: u64,
    /// Below this many sources are held; 0 when that is switched off.
    pub floor: u64,
    /// Whether sources are held. Ends only when there is a good deal more than `floor`, or it would begin again at once.
    pub low: bool,
}

impl Space {
    /// What `dir`'s volume has now, given what was known before. A volume that cannot be asked is taken to have room: a
    /// write that fails is noticed anyway.
    fn look(dir: &Path, wanted: FreeSpace, before: Self) -> Self {
        let Ok(volume) = rustix::fs::statvfs(dir) else { return Self { low: false, ..before } };
        let available = volume.f_bavail.saturating_mul(volume.f_frsize);
        let floor = match wanted {
            FreeSpace::Share => (volume.f_blocks.saturating_mul(volume.f_frsize) / SHARE).min(KEPT_FREE_MAX),
            FreeSpace::Bytes(bytes) => bytes,
            FreeSpace::Off => 0,
        };
        Self::judge(available, floor, before.low)
    }

    fn judge(available: u64, floor: u64, was_low: bool) -> Self {
        let needed = if was_low { floor.saturating_add((floor / 10).min(REGAINED_MAX)) } else { floor };
        Self { available, floor, low: available < needed }
    }
}

impl Writer {
    /// Looks at the volume, and says so when it became nearly full or has room again.
    pub(super) fn look_at_space(&mut self) -> Result<(), LogError> {
        self.space_seen = Instant::now();
        let options = &self.shared.options;
        let before = *self.shared.space.borrow();
        let now = Space::look(&options.dir, options.free_space_min, before);
        if now == before {
            return Ok(());
        }
        self.shared.space.send_replace(now);
        if now.low == before.low {
            return Ok(());
        }
        let (available, floor) = (now.available / 1_048_576, now.floor / 1_048_576);
        let notice = if now.low {
            let text = format!(
                "the data volume has {available} MiB left, less than the {floor} MiB that are kept free: sources are held, and consumers' holds are given up; free some space or lower log.retention_bytes"
            );
            Notice::new(Severity::Error, "space_low", text)
        } else {
            let text = format!("the data volume has {available} MiB left: sources are read again");
            Notice::new(Severity::Info, "space_back", text)
        };
        options.notices.push(notice);
        if now.low { self.retain() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_low_stays_low_until_there_is_a_tenth_more() {
        let low = |available, was_low| Space::judge(available, 100, was_low).low;
        assert!(!low(100, false) && low(99, false));
        assert!(low(109, true) && !low(110, true));
        assert!(!Space::judge(0, 0, true).low, "switched off");
    }

    #[test]
    fn a_real_volume_has_a_floor_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let look = |wanted| Space::look(dir.path(), wanted, Space::default());
        let share = look(FreeSpace::Share);
        assert!(share.available > 0 && share.floor > 0 && share.floor <= KEPT_FREE_MAX);
        assert!(look(FreeSpace::Bytes(u64::MAX)).low);
        assert!(!look(FreeSpace::Off).low);
        assert!(!Space::look(Path::new("/nonexistent"), FreeSpace::Share, share).low);
    }
}
