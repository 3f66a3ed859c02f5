//! What is wrong with a configuration: where, which key, and what is expected. One line, no secret in it.

use std::path::PathBuf;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}: check the path given with --config", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not as expected.
    #[error("{place}: {problem}")]
    File {
        /// `file:line`.
        place: String,
        /// The key, what is there and what is expected.
        problem: String,
    },
    /// An environment variable is not as expected.
    #[error("environment variable {variable}: {problem}")]
    Variable {
        /// Its name.
        variable: String,
        /// What is there and what is expected.
        problem: String,
    },
    /// A command line argument is not as expected.
    #[error("{argument}: {problem}")]
    Argument {
        /// Its name.
        argument: &'static str,
        /// What is there and what is expected.
        problem: String,
    },
    /// A source's setting is not as expected.
    #[error("{source_name}: {problem}")]
    Source {
        /// The source.
        source_name: String,
        /// What is there and what is expected.
        problem: String,
    },
    /// Nothing to stream from.
    #[error(
        "no source is configured: give --source postgres://user@host/database, or a [[source]] with a url in dbstreamd.toml"
    )]
    NoSource,
}

impl ConfigError {
    /// An error at a place in the file. The parser may quote what it found, and that may be a URL with a password.
    pub(super) fn in_file(path: &std::path::Path, text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count();
        let key = key_at(text, line).map(|key| format!("{key}: ")).unwrap_or_default();
        let problem = redact(&format!("{key}{}", error.message().replace('\n', ", ")));
        Self::File { place: format!("{}:{}", path.display(), line + 1), problem }
    }
}

/// The dotted key that the line (from 0) sets.
fn key_at(text: &str, line: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().take(line + 1).collect();
    let current = lines.last()?.trim();
    let header = |line: &str| {
        let line = line.trim();
        line.starts_with('[')
            .then(|| line.trim_matches(|c: char| "[] \t".contains(c)).to_owned())
            .filter(|name| !name.contains('='))
    };
    if let Some(section) = header(current) {
        return Some(section);
    }
    let key = current.split_once('=')?.0.trim();
    match lines.iter().rev().skip(1).find_map(|line| header(line)) {
        Some(section) => Some(format!("{section}.{key}")),
        None => Some(key.to_owned()),
    }
}

/// Takes the password out of anything that looks like a URL or a connection string.
pub(super) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at_checked(at + 3).unwrap_or((rest, ""));
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/\"'`".contains(c)).unwrap_or(after.len());
        let (authority, next) = after.split_at_checked(end).unwrap_or((after, ""));
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                out.push_str(user.split(':').next().unwrap_or_default());
                if user.contains(':') {
                    out.push_str(":***");
                }
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = next;
    }
    out.push_str(rest);
    match out.find("password=") {
        Some(at) => format!("{}password=***", out.get(..at).unwrap_or_default()),
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_survive_in_messages() {
        let text = redact("invalid type: string \"postgres://me:s3cret@db/shop\", expected a sequence");
        assert_eq!(text, "invalid type: string \"postgres://me:***@db/shop\", expected a sequence");
        assert!(!redact("host=x password=s3cret dbname=y").contains("s3cret"));
        assert!(!redact("postgres://u:p@ss@h/x").contains("p@ss"));
    }
}
