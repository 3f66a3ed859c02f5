//! The file system of the data directory: a small one of its own that can be filled, or the ordinary one.
//!
//! Mounts need root. They are made in a mount namespace of the harness alone (see `enter_namespace`), so that they end
//! with it however it ends.

use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{TortureError, io};

/// Room for a cycle's log several times over.
const SIZE: &str = "512m";
/// Set in the process that runs in the namespace.
const INSIDE: &str = "TORTURE_MOUNT_NAMESPACE";

/// Starts this program again in a mount namespace of its own, when that is possible. Returns when it is not, or when
/// that was done already.
pub(crate) fn enter_namespace() {
    if !rustix::process::geteuid().is_root() || std::env::var_os(INSIDE).is_some() {
        return;
    }
    let works = Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|done| done.status.success());
    let Ok(program) = std::env::current_exe() else { return };
    if works {
        // Comes back only when it could not be run; then we go on without.
        let error = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        eprintln!("no mount namespace: {error}");
    }
}

/// Whether small file systems can be mounted.
pub(crate) fn can_mount() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Where the data directory and the grave are.
pub(crate) struct Disk {
    pub(crate) folder: PathBuf,
    mounted: bool,
}

impl Disk {
    /// A folder, with a file system of its own when `mounted`.
    pub(crate) fn new(folder: &Path, mounted: bool) -> Result<Self, TortureError> {
        std::fs::create_dir(folder).map_err(io("create the disk's folder"))?;
        if mounted {
            let options = format!("size={SIZE},mode=700");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder))?;
        }
        Ok(Self { folder: folder.to_owned(), mounted })
    }

    pub(crate) fn can_be_filled(&self) -> bool {
        self.mounted
    }

    /// Fills the file system to the last byte.
    pub(crate) fn fill(&self) -> Result<(), TortureError> {
        static BLOCK: [u8; 256 * 1024] = [0x55; 256 * 1024];
        let mut ballast = std::fs::File::create(self.folder.join("ballast")).map_err(io("create the ballast"))?;
        let mut block: &[u8] = &BLOCK;
        while !block.is_empty() {
            match ballast.write(block) {
                Ok(_) => {}
                // Smaller and smaller pieces, until not a page is left.
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    block = block.get(..block.len() / 2).unwrap_or_default()
                }
                Err(error) => return Err(io("write the ballast")(error)),
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn drain(&self) -> Result<(), TortureError> {
        match std::fs::remove_file(self.folder.join("ballast")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove the ballast")(error)),
            _ => Ok(()),
        }
    }

    /// Copies everything to `to`, which outlives the mount.
    pub(crate) fn keep(&self, to: &Path) -> Result<(), TortureError> {
        run(Command::new("cp").arg("-a").arg(&self.folder).arg(to))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: the daemon's last files may be just closing. What fails here ends with the namespace.
            let _ = Command::new("umount").arg("--lazy").arg(&self.folder).output();
        }
    }
}

fn run(command: &mut Command) -> Result<(), TortureError> {
    let output = command.output().map_err(io(format!("run {:?}", command.get_program())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(TortureError::Failed(format!("{:?}: {said}", command.get_program())))
}
