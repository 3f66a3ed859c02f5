//! What really became durable, written down for the harness, which outlives this process.
//!
//! One line per event; paths are last, so they may hold blanks. A file is its inode: it stays the same over renames, and
//! is not reused while the file lies in the grave.
//!
//! | Line | Meaning |
//! |---|---|
//! | `C inode path` | created, length 0 |
//! | `S inode length` | the first `length` bytes are durable |
//! | `R inode from<TAB>to` | renamed |
//! | `U inode path` | unlinked |
//! | `D path` | the folder was synced: all names in it are durable as they are |

use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::c_int;

use crate::kernel::keeping_errno;
use crate::paths::{Path, variable};

/// The open journal, and what lies in the grave.
pub(crate) struct Journal {
    fd: Option<c_int>,
    grave: Option<CString>,
    /// Path in the grave, and the folder whose sync lets it go.
    buried: Vec<(CString, Vec<u8>)>,
}

static JOURNAL: Mutex<Journal> = Mutex::new(Journal { fd: None, grave: None, buried: Vec::new() });

/// The journal, for this thread alone: whoever changes names holds it over the change.
pub(crate) fn journal() -> MutexGuard<'static, Journal> {
    // A panic cannot leave it half done; the process would be gone.
    let mut journal = JOURNAL.lock().unwrap_or_else(PoisonError::into_inner);
    if journal.fd.is_none() {
        journal.open();
    }
    journal
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').and_then(|at| path.get(..at)).unwrap_or_default()
}

impl Journal {
    fn open(&mut self) {
        let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
        self.grave = variable("TORTURE_SHIM_GRAVE");
        self.fd = variable("TORTURE_SHIM_JOURNAL").and_then(|name| {
            // SAFETY: the name ends with NUL.
            let fd = keeping_errno(|| unsafe {
                libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), flags, 0o600)
            });
            c_int::try_from(fd).ok().filter(|&fd| fd >= 0)
        });
    }

    fn line(&self, line: &[u8]) {
        let Some(fd) = self.fd else { return };
        // One call per line: a killed process leaves whole lines only.
        // SAFETY: the bytes are ours.
        keeping_errno(|| unsafe { libc::syscall(libc::SYS_write, fd, line.as_ptr(), line.len()) });
    }

    fn file_line(&self, kind: char, inode: u64, rest: &[&[u8]]) {
        let mut line = format!("{kind} {inode} ").into_bytes();
        rest.iter().for_each(|part| line.extend_from_slice(part));
        line.push(b'\n');
        self.line(&line);
    }

    pub(crate) fn created(&self, inode: u64, path: &Path) {
        self.file_line('C', inode, &[path.bytes()]);
    }

    pub(crate) fn synced(&self, inode: u64, length: u64) {
        self.file_line('S', inode, &[length.to_string().as_bytes()]);
    }

    pub(crate) fn renamed(&self, inode: u64, from: &Path, to: &Path) {
        self.file_line('R', inode, &[from.bytes(), b"\t", to.bytes()]);
    }

    pub(crate) fn unlinked(&self, inode: u64, path: &Path) {
        self.file_line('U', inode, &[path.bytes()]);
    }

    pub(crate) fn folder_synced(&mut self, path: &Path) {
        self.line(&[b"D ", path.bytes(), b"\n"].concat());
        self.buried.retain(|(grave, folder)| {
            let keep = folder != path.bytes();
            if !keep {
                // SAFETY: the name ends with NUL. It is ours, and nobody needs it any more.
                keeping_errno(|| unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, grave.as_ptr(), 0) });
            }
            keep
        });
    }

    /// Keeps a file whose name is about to go.
    pub(crate) fn bury(&mut self, inode: u64, path: &Path) {
        let Some(grave) = &self.grave else { return };
        let Ok(to) = CString::new([grave.to_bytes(), b"/", inode.to_string().as_bytes()].concat()) else { return };
        // SAFETY: both names end with NUL.
        let done = keeping_errno(|| unsafe {
            libc::syscall(libc::SYS_linkat, libc::AT_FDCWD, path.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0)
        });
        if done == 0 {
            self.buried.push((to, parent(path.bytes()).to_vec()));
        }
    }
}
