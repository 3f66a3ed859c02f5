//! Whose account the server runs under: the caller's, or an unprivileged one when the caller is root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::ThrowawayError;

/// The user of the server's processes and files.
#[derive(Clone, Debug)]
pub(crate) enum Account {
    /// The caller itself.
    Caller,
    /// Another user; only root gets here.
    Other { name: String, uid: u32, gid: u32 },
}

impl Account {
    /// The account a server started by this process runs under.
    pub(crate) fn for_server() -> Result<Self, ThrowawayError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Caller);
        }
        let users = std::fs::read("/etc/passwd").map_err(ThrowawayError::io("read /etc/passwd"))?;
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| find_user(&users, name))
            .ok_or(ThrowawayError::NoUnprivilegedUser)
    }

    /// A command that will run under this account, without surprises from the caller's environment.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE").stdin(std::process::Stdio::null());
        if let Self::Other { uid, gid, .. } = self {
            // Setting the user as root also drops root's supplementary groups.
            command.gid(*gid).uid(*uid);
        }
        command
    }

    /// Gives a file or folder to the account.
    pub(crate) fn own(&self, path: &Path) -> Result<(), ThrowawayError> {
        match self {
            Self::Caller => Ok(()),
            Self::Other { uid, gid, .. } => std::os::unix::fs::chown(path, Some(*uid), Some(*gid))
                .map_err(ThrowawayError::io(format!("give {} to another user", path.display()))),
        }
    }

    /// Checks that the account may enter `folder` and everything above it.
    pub(crate) fn check_reach(&self, folder: &Path) -> Result<(), ThrowawayError> {
        let Self::Other { name, uid, gid } = self else { return Ok(()) };
        for ancestor in folder.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            let meta = ancestor.metadata().map_err(ThrowawayError::io(format!("look at {}", ancestor.display())))?;
            let bit = if meta.uid() == *uid {
                0o100
            } else if meta.gid() == *gid {
                0o010
            } else {
                0o001
            };
            if meta.mode() & bit == 0 {
                let (needed, folder) = (folder.to_owned(), ancestor.to_owned());
                return Err(ThrowawayError::Unreachable { user: name.clone(), needed, folder });
            }
        }
        Ok(())
    }
}

/// Finds a user in the text of /etc/passwd; never one with root's id.
fn find_user(users: &[u8], name: &str) -> Option<Account> {
    users.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        if fields.next()? != name.as_bytes() {
            return None;
        }
        let mut number = |skip: usize| OsStr::from_bytes(fields.nth(skip)?).to_str()?.parse::<u32>().ok();
        let (uid, gid) = (number(1)?, number(0)?);
        (uid != 0).then(|| Account::Other { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name_and_root_is_never_chosen() {
        let text = b"root:x:0:0::/root:/bin/sh\nnobody2:x:7:8::/:/\nnobody:x:65534:65533::/:/\npostgres:x:0:0::/:/";
        assert!(matches!(find_user(text, "nobody"), Some(Account::Other { uid: 65534, gid: 65533, .. })));
        assert!(find_user(text, "postgres").is_none());
        assert!(find_user(text, "missing").is_none());
    }

    #[test]
    fn a_folder_below_a_closed_one_is_refused_with_both_names() {
        let open = tempfile::tempdir().unwrap();
        let closed = open.path().join("closed");
        let needed = closed.join("bin");
        std::fs::create_dir_all(&needed).unwrap();
        let mode = |path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(open.path(), 0o755);
        mode(&needed, 0o755);
        // Neither its user nor its group has the folders.
        let other = Account::Other { name: "somebody".into(), uid: u32::MAX - 1, gid: u32::MAX - 1 };
        mode(&closed, 0o755);
        other.check_reach(&needed).unwrap();
        Account::Caller.check_reach(&needed).unwrap();
        mode(&closed, 0o700);
        let error = other.check_reach(&needed).unwrap_err().to_string();
        assert!(error.contains(&format!("cannot enter {}, so", closed.display())), "{error}");
        assert!(error.contains(&format!("cannot use {}. ", needed.display())), "{error}");
    }
}
