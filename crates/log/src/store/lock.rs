//! One process per data directory, and only its owner.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::error::LogError;

/// Holds the lock and the process id of its holder.
const LOCK_FILE: &str = "dbstreamd.pid";

/// The right to use a data directory; given back on drop, by the system if need be.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Creates `dir` when missing, checks its owner and locks it.
    pub(super) fn take(dir: &Path) -> Result<Self, LogError> {
        // Only the owner may read it: it holds whole tables.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| LogError::io("create", dir, e))?;
        check_owner(dir)?;
        let path = dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| LogError::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it may be just writing its id: then the error says less, which is all that is lost.
                let _ = file.read_to_string(&mut text);
                return Err(LogError::Locked { dir: dir.into(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(LogError::io("lock", &path, error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| LogError::io("write", &path, e))?;
        Ok(Self { _file: file })
    }
}

fn check_owner(dir: &Path) -> Result<(), LogError> {
    let owner = std::fs::metadata(dir).map_err(|e| LogError::io("read", dir, e))?.uid();
    // What this process creates belongs to its effective user; asking a file of ours would need one first.
    let us = std::fs::metadata("/proc/self").map_err(|e| LogError::io("read", "/proc/self", e))?.uid();
    if owner == us {
        return Ok(());
    }
    Err(LogError::NotOwner { dir: dir.into(), owner: user_name(owner), us: user_name(us) })
}

/// The user's name, or its number when it has none.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}
