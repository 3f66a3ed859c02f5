//! Cleans up when this process dies without doing it: a small shell that waits for our end of a pipe to close.
//!
//! A pipe closes however a process ends, `kill -9` included, and it belongs to the process rather than to
//! the thread that started the server (as `PR_SET_PDEATHSIG` would).

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::ThrowawayError;

/// Waits for the pipe to close, then stops the server of folder `$1` if it still runs, and removes the folder.
/// The process id is believed only if that process names the folder in its command line.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
read -r _
server() {
    pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && [ -n "$pid" ] &&
        tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$1/data"
}
rounds=0
while [ -d "$1" ] && [ "$rounds" -lt 100 ]; do
    if server "$1"; then
        kill -CONT "$pid"
        if [ "$rounds" -lt 60 ]; then kill -QUIT "$pid"; else kill -KILL "$pid"; fi
    else
        rm -rf -- "$1"
    fi 2>/dev/null
    rounds=$((rounds + 1))
    sleep 0.1
done
"#;

/// The watching shell; dropping it ends it, which is harmless once the folder is gone.
#[derive(Debug)]
pub(crate) struct Warden(Child);

impl Warden {
    pub(crate) fn watch(folder: &Path) -> Result<Self, ThrowawayError> {
        Command::new("/bin/sh")
            .args(["-c", SCRIPT, "dbstreamd-throwaway-warden"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal goes to a whole process group; the warden must outlive it.
            .process_group(0)
            .spawn()
            .map(Self)
            .map_err(ThrowawayError::io("start /bin/sh to watch over the throwaway server"))
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It has nothing left to do when the folder is gone, and must finish its work when it is not.
        let _ = self.0.wait();
    }
}
