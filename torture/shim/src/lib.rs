//! A library to preload into dbstreamd: it slows, fails and journals what the process does to the files below one folder.
//!
//! It stands in front of the C library's file calls and goes to the kernel itself, so that it needs nothing of the
//! function it replaces. Steered by a control page that the harness writes (`control.rs`); what was really made durable
//! goes to a journal (`journal.rs`), from which the harness works out what a power cut would have left. Files elsewhere
//! pass untouched. The environment names everything:
//!
//! | Variable | Meaning |
//! |---|---|
//! | `TORTURE_SHIM_DIR` | absolute path of the folder to watch; nothing is done without it |
//! | `TORTURE_SHIM_CONTROL` | file of the control page, at least one page long |
//! | `TORTURE_SHIM_JOURNAL` | journal, appended to |
//! | `TORTURE_SHIM_GRAVE` | folder on the same file system that keeps unlinked files until their folder is synced |

// Replacing functions of the C library is unsafe by nature; the crate does nothing else, and nobody links it.
#![allow(unsafe_code)]
// Every exported function has the contract of the C function of its name.
#![allow(clippy::missing_safety_doc, missing_docs)]

mod control;
mod journal;
mod kernel;
mod paths;

use std::sync::atomic::Ordering::Relaxed;

use libc::{c_char, c_int, c_uint, c_void, mode_t, off_t, size_t, ssize_t};

use control::Mode;
use journal::journal;
use kernel::{fail, length, result};
use paths::{Path, WATCHED};

/// Runs when the library is loaded: a daemon under torture does not outlive the harness, however that ends.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = {
    extern "C" fn loaded() {
        if paths::variable("TORTURE_SHIM_DIR").is_some() {
            // SAFETY: numbers only.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        }
    }
    loaded
};

/// How an fsync call reaches the kernel.
#[derive(Clone, Copy)]
enum Sync {
    All,
    Data,
}

fn sync(fd: c_int, how: Sync) -> c_int {
    let number = match how {
        Sync::All => libc::SYS_fsync,
        Sync::Data => libc::SYS_fdatasync,
    };
    let Some(path) = paths::of_descriptor(fd).filter(Path::is_watched) else {
        // SAFETY: the call takes a number and no memory.
        return result(unsafe { libc::syscall(number, fd) });
    };
    control::wait_before_sync();
    if control::mode(Mode::FailSync) {
        control::count(Mode::FailSync);
        return fail(libc::EIO);
    }
    // A lie answers like the truth; only the journal knows that nothing became durable.
    let lying = control::mode(Mode::Lie);
    let Some(before) = kernel::stat_descriptor(fd) else { return fail(libc::EBADF) };
    if before.is_dir {
        let mut journal = journal();
        // SAFETY: as above.
        let done = result(unsafe { libc::syscall(number, fd) });
        if done == 0 && !lying {
            journal.folder_synced(&path);
        }
        return done;
    }
    // SAFETY: as above.
    let done = result(unsafe { libc::syscall(number, fd) });
    if done == 0 && !lying {
        // What was there when the call began; more may have been written since.
        journal().synced(before.inode, before.len);
    }
    done
}

#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, Sync::All)
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, Sync::Data)
}

/// Makes nothing durable by its contract, so it is only slowed and failed.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(fd: c_int, offset: i64, length: i64, flags: c_uint) -> c_int {
    if paths::watches(fd) && control::mode(Mode::FailSync) {
        control::count(Mode::FailSync);
        return fail(libc::EIO);
    }
    // SAFETY: numbers only.
    result(unsafe { libc::syscall(libc::SYS_sync_file_range, fd, offset, length, flags) })
}

/// Whether a write to this descriptor must fail for want of space.
fn is_full(fd: c_int) -> bool {
    if paths::watches(fd) && control::mode(Mode::Full) {
        control::count(Mode::Full);
        return true;
    }
    false
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    if is_full(fd) {
        return length(fail(libc::ENOSPC).into());
    }
    // SAFETY: the caller's buffer is passed on as it came.
    unsafe { length(libc::syscall(libc::SYS_write, fd, buffer, count)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    if is_full(fd) {
        return length(fail(libc::ENOSPC).into());
    }
    // SAFETY: as in `write`.
    unsafe { length(libc::syscall(libc::SYS_pwrite64, fd, buffer, count, offset)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { pwrite(fd, buffer, count, offset) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> ssize_t {
    if is_full(fd) {
        return length(fail(libc::ENOSPC).into());
    }
    // SAFETY: as in `write`.
    unsafe { length(libc::syscall(libc::SYS_writev, fd, parts, count)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    if is_full(fd) {
        return fail(libc::ENOSPC);
    }
    // SAFETY: numbers only.
    result(unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, offset, length) })
}

#[unsafe(no_mangle)]
pub extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    fallocate(fd, mode, offset, length)
}

/// Opens, and journals a file that this call created.
unsafe fn open_any(at: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's string is passed on as it came.
    let call = || result(unsafe { libc::syscall(libc::SYS_openat, at, name, flags, mode) });
    // SAFETY: the caller gives a C string.
    let Some(path) = (unsafe { paths::of_name(at, name) }).filter(Path::is_watched) else { return call() };
    if flags & libc::O_CREAT == 0 {
        let fd = call();
        paths::watch(fd);
        return fd;
    }
    // Held, so that the journal has names in the order in which the kernel got them.
    let journal = journal();
    let existed = path.stat().is_some();
    if !existed && control::mode(Mode::Full) {
        control::count(Mode::Full);
        return fail(libc::ENOSPC);
    }
    let fd = call();
    paths::watch(fd);
    if let (false, Some(stat)) = (existed, kernel::stat_descriptor(fd)) {
        journal.created(stat.inode, &path);
    }
    fd
}

// The C functions take their mode as a variable argument, which on the platforms we build for comes the same way as a
// named one; without O_CREAT it is garbage, and the kernel ignores it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { open_any(libc::AT_FDCWD, name, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { open_any(libc::AT_FDCWD, name, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(at: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { open_any(at, name, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(at: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { open_any(at, name, flags, mode) }
}

#[unsafe(no_mangle)]
pub extern "C" fn close(fd: c_int) -> c_int {
    if let Some(watched) = usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)) {
        watched.store(false, Relaxed);
    }
    // SAFETY: a number.
    result(unsafe { libc::syscall(libc::SYS_close, fd) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's strings are passed on as they came.
    let call = || result(unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) });
    // SAFETY: the caller gives C strings.
    let names = unsafe { (paths::of_name(libc::AT_FDCWD, from), paths::of_name(libc::AT_FDCWD, to)) };
    let (Some(from), Some(to)) = names else { return call() };
    if !from.is_watched() && !to.is_watched() {
        return call();
    }
    let mut journal = journal();
    let replaced = to.stat();
    if let Some(replaced) = &replaced {
        journal.bury(replaced.inode, &to);
    }
    let moved = from.stat();
    let done = call();
    if let (0, Some(moved)) = (done, moved) {
        journal.renamed(moved.inode, &from, &to);
    }
    done
}

/// Unlinks a file; its content stays in the grave until the loss of its name is durable.
unsafe fn unlink_any(at: c_int, name: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's string is passed on as it came.
    let call = || result(unsafe { libc::syscall(libc::SYS_unlinkat, at, name, flags) });
    // SAFETY: the caller gives a C string.
    let Some(path) = (unsafe { paths::of_name(at, name) }).filter(Path::is_watched) else { return call() };
    if flags & libc::AT_REMOVEDIR != 0 {
        return call();
    }
    let mut journal = journal();
    let stat = path.stat();
    if let Some(stat) = &stat {
        journal.bury(stat.inode, &path);
    }
    let done = call();
    if let (0, Some(stat)) = (done, stat) {
        journal.unlinked(stat.inode, &path);
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(name: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { unlink_any(libc::AT_FDCWD, name, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(at: c_int, name: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the same contract.
    unsafe { unlink_any(at, name, flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn remove(name: *const c_char) -> c_int {
    // SAFETY: the same contract. A folder is removed in the second step, as the C library does.
    unsafe {
        let done = unlink_any(libc::AT_FDCWD, name, 0);
        if done == 0 || *libc::__errno_location() != libc::EISDIR {
            return done;
        }
        unlink_any(libc::AT_FDCWD, name, libc::AT_REMOVEDIR)
    }
}
