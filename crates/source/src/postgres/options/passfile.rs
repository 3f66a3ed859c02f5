//! The password file: `host:port:database:user:password` lines, as libpq reads `~/.pgpass`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Endpoint, Host};
use crate::postgres::secret::Secret;

/// Far more than a password file holds; the file is read whole.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The first fitting line's password. A file that others can read is not used, and said so, as libpq does.
pub(super) fn lookup(path: &Path, endpoint: &Endpoint, database: &str, user: &str) -> Option<Secret> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "password file ignored: others can read it; chmod 600 it");
        return None;
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "password file cannot be read");
            return None;
        }
    };
    let host = match &endpoint.host {
        Host::Name(name) => name.clone(),
        Host::Socket(directory) if directory == Path::new("/var/run/postgresql") || directory == Path::new("/tmp") => {
            "localhost".to_owned()
        }
        Host::Socket(directory) => directory.display().to_string(),
    };
    let port = endpoint.port.to_string();
    text.lines().find_map(|line| matching(line, [&host, &port, database, user]))
}

/// The line's password if all four fields fit.
fn matching(line: &str, wanted: [&str; 4]) -> Option<Secret> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line.chars();
    for wanted in wanted {
        let (field, literal) = field(&mut rest, true)?;
        if field != wanted && (literal || field != "*") {
            return None;
        }
    }
    let (password, _) = field(&mut rest, false)?;
    (!password.is_empty()).then(|| Secret::new(password))
}

/// One field up to a colon, or up to the end for the last one; and whether an escape was in it.
fn field(rest: &mut std::str::Chars<'_>, needs_colon: bool) -> Option<(String, bool)> {
    let mut text = String::new();
    let mut literal = false;
    loop {
        match rest.next() {
            Some(':') if needs_colon => return Some((text, literal)),
            Some('\\') => {
                literal = true;
                text.extend(rest.next());
            }
            Some(c) => text.push(c),
            None => return (!needs_colon).then_some((text, literal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fitting_line_wins_and_colons_can_be_escaped() {
        let wanted = ["h", "5432", "d", "u"];
        let password = |line: &str| matching(line, wanted).map(|secret| secret.reveal().to_owned());
        assert_eq!(password("h:5432:d:u:s3c:ret"), Some("s3c:ret".into()));
        assert_eq!(password(r"*:*:*:u:a\:b\\c"), Some(r"a:b\c".into()));
        assert_eq!(password("# h:5432:d:u:x"), None);
        assert_eq!(password("h:5432:d:other:x"), None);
        assert_eq!(password("h:5432"), None);
        assert_eq!(password(""), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        fs::write(&path, "h:1:d:u:p\n").unwrap();
        let endpoint = Endpoint { host: Host::Name("h".into()), address: None, port: 1 };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(lookup(&path, &endpoint, "d", "u"), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(lookup(&path, &endpoint, "d", "u").unwrap().reveal(), "p");
        assert_eq!(lookup(&directory.path().join("none"), &endpoint, "d", "u"), None);
    }
}
