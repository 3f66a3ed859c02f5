//! Which files are watched: the environment's folder, paths against it, and a flag per descriptor.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libc::{c_char, c_int};

use crate::kernel::{self, Stat, keeping_errno};

/// More descriptors than the daemon opens files; those above are not watched for writes.
const DESCRIPTORS_MAX: usize = 65_536;

/// Which descriptors are open on watched files. Asked at every write, so it must cost nothing.
pub(crate) static WATCHED: [AtomicBool; DESCRIPTORS_MAX] = [const { AtomicBool::new(false) }; DESCRIPTORS_MAX];

/// An absolute path.
pub(crate) struct Path(CString);

/// Reads a variable without the C library's file functions.
pub(crate) fn variable(name: &str) -> Option<CString> {
    CString::new(std::env::var_os(name)?.as_bytes()).ok()
}

fn folder() -> Option<&'static [u8]> {
    static FOLDER: OnceLock<Option<CString>> = OnceLock::new();
    FOLDER.get_or_init(|| variable("TORTURE_SHIM_DIR")).as_deref().map(CStr::to_bytes)
}

impl Path {
    pub(crate) fn is_watched(&self) -> bool {
        folder().is_some_and(|folder| {
            self.0.to_bytes().strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.0.as_ptr()
    }

    pub(crate) fn stat(&self) -> Option<Stat> {
        kernel::stat_at(libc::AT_FDCWD, self.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    }
}

/// Marks a descriptor that was just opened on a watched file.
pub(crate) fn watch(fd: c_int) {
    if let Some(watched) = usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)) {
        watched.store(true, Relaxed);
    }
}

pub(crate) fn watches(fd: c_int) -> bool {
    usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)).is_some_and(|watched| watched.load(Relaxed))
}

/// The path a call names. RocksDB and the daemon use absolute paths; a relative one is not watched, except the names
/// below a folder's descriptor that Rust's `remove_dir_all` uses.
///
/// # Safety
/// `name` is null or ends with NUL.
pub(crate) unsafe fn of_name(at: c_int, name: *const c_char) -> Option<Path> {
    folder()?;
    if name.is_null() {
        return None;
    }
    // SAFETY: by this function's contract.
    let name = unsafe { CStr::from_ptr(name) };
    let bytes = name.to_bytes();
    if bytes.first() == Some(&b'/') {
        // RocksDB writes some paths with two slashes.
        let mut clean = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte != b'/' || clean.last() != Some(&b'/') {
                clean.push(byte);
            }
        }
        return CString::new(clean).ok().map(Path);
    }
    if at == libc::AT_FDCWD {
        return None;
    }
    let parent = of_descriptor(at)?;
    CString::new([parent.bytes(), b"/", bytes].concat()).ok().map(Path)
}

/// The path a descriptor was opened under, as the kernel has it now.
pub(crate) fn of_descriptor(fd: c_int) -> Option<Path> {
    folder()?;
    let link = CString::new(format!("/proc/self/fd/{fd}")).ok()?;
    let mut buffer = [0_u8; 4096];
    // SAFETY: `link` ends with NUL; the kernel writes at most the buffer's length.
    let length = keeping_errno(|| unsafe { libc::readlink(link.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) });
    let bytes = buffer.get(..usize::try_from(length).ok()?)?;
    (bytes.first() == Some(&b'/')).then(|| CString::new(bytes).ok().map(Path)).flatten()
}
