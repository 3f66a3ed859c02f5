//! The way to the kernel past the C library's functions that this library replaces.

use libc::{c_int, c_long};

/// What is asked about a file.
pub(crate) struct Stat {
    pub(crate) inode: u64,
    pub(crate) len: u64,
    pub(crate) is_dir: bool,
}

/// A call's answer as the C function gives it. `syscall` has set errno.
pub(crate) fn result(answer: c_long) -> c_int {
    c_int::try_from(answer).unwrap_or(-1)
}

/// A call's answer that is a number of bytes.
pub(crate) fn length(answer: c_long) -> libc::ssize_t {
    libc::ssize_t::try_from(answer).unwrap_or(-1)
}

/// Fails with this error.
pub(crate) fn fail(error: c_int) -> c_int {
    // SAFETY: errno is this thread's own.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// Runs `inner` and leaves errno as it was before.
pub(crate) fn keeping_errno<T>(inner: impl FnOnce() -> T) -> T {
    // SAFETY: errno is this thread's own.
    let before = unsafe { *libc::__errno_location() };
    let value = inner();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = before };
    value
}

pub(crate) fn stat_descriptor(fd: c_int) -> Option<Stat> {
    // The empty path: the descriptor itself.
    stat_at(fd, c"".as_ptr(), libc::AT_EMPTY_PATH)
}

pub(crate) fn stat_at(at: c_int, name: *const libc::c_char, flags: c_int) -> Option<Stat> {
    if at < 0 && at != libc::AT_FDCWD {
        return None;
    }
    // SAFETY: all zeros is a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends with NUL, `stat` is ours and large enough.
    let answer = keeping_errno(|| unsafe { libc::fstatat(at, name, &raw mut stat, flags) });
    (answer == 0).then(|| Stat {
        inode: stat.st_ino,
        len: u64::try_from(stat.st_size).unwrap_or(0),
        is_dir: stat.st_mode & libc::S_IFMT == libc::S_IFDIR,
    })
}
