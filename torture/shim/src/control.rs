//! The page through which the harness steers: words of 64 bits, native byte order, in a file both sides know.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::paths::variable;

/// Words 0 to 3 are set by the harness, 8 to 11 counted here: how often each was applied.
const WORDS: usize = 512;
const COUNTERS: usize = 8;

/// What can be switched on, by its word.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    /// Milliseconds to wait before each sync.
    DelaySync = 0,
    /// Syncs fail with EIO, and nothing becomes durable.
    FailSync = 1,
    /// Writes fail with ENOSPC.
    Full = 2,
    /// Syncs succeed, and nothing becomes durable.
    Lie = 3,
}

fn page() -> Option<&'static [AtomicU64; WORDS]> {
    static PAGE: OnceLock<Option<&'static [AtomicU64; WORDS]>> = OnceLock::new();
    *PAGE.get_or_init(|| {
        let name = variable("TORTURE_SHIM_CONTROL")?;
        map(&name)
    })
}

fn map(name: &CStr) -> Option<&'static [AtomicU64; WORDS]> {
    // SAFETY: the name ends with NUL; the mapping is shared, never unmapped, page-aligned and as long as the array,
    // and only accessed through atomics.
    unsafe {
        let flags = libc::O_RDWR | libc::O_CLOEXEC;
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), flags, 0);
        let fd = libc::c_int::try_from(fd).ok().filter(|&fd| fd >= 0)?;
        let length = WORDS * size_of::<AtomicU64>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let page = libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0);
        libc::syscall(libc::SYS_close, fd);
        (page != libc::MAP_FAILED).then(|| &*page.cast::<[AtomicU64; WORDS]>())
    }
}

fn word(index: usize) -> Option<&'static AtomicU64> {
    page()?.get(index)
}

pub(crate) fn mode(mode: Mode) -> bool {
    word(mode as usize).is_some_and(|word| word.load(Relaxed) != 0)
}

/// Counts that a mode was applied.
pub(crate) fn count(mode: Mode) {
    if let Some(word) = word(COUNTERS + mode as usize) {
        word.fetch_add(1, Relaxed);
    }
}

/// A slow disk. Looked at in small steps, so that it gets fast again when the harness says so.
pub(crate) fn wait_before_sync() {
    const STEP_MS: u64 = 5;
    let Some(word) = word(Mode::DelaySync as usize) else { return };
    let mut waited = 0;
    while waited < word.load(Relaxed) {
        if waited == 0 {
            count(Mode::DelaySync);
        }
        std::thread::sleep(std::time::Duration::from_millis(STEP_MS));
        waited += STEP_MS;
    }
}
