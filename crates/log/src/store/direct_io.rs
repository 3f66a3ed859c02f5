//! Finds out whether a directory's file system takes direct I/O.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Alignment and size that every file system with direct I/O accepts.
const BLOCK_BYTES: usize = 4096;

/// Whether a file in `dir` can be written past the page cache. Tried rather than guessed from the file system's name:
/// tmpfs and some overlays refuse at open, others only at the first write.
pub(super) fn supported(dir: &Path) -> bool {
    let path = dir.join("direct-io-probe");
    let written =
        OpenOptions::new().create(true).truncate(true).write(true).custom_flags(libc::O_DIRECT).open(&path).and_then(
            |mut file| {
                let buffer = vec![0_u8; 2 * BLOCK_BYTES];
                let start = buffer.as_ptr().align_offset(BLOCK_BYTES);
                file.write_all(buffer.get(start..start + BLOCK_BYTES).unwrap_or_default())
            },
        );
    // Left behind it would do no harm: the next probe writes over it.
    let _ = std::fs::remove_file(&path);
    written.is_ok()
}
