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
pub(super) fn key_at(text: &str, line: usize) -> Option<String> {
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
    // Anything else is the middle of a value, which is not repeated.
    if !key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
        return None;
    }
    match lines.iter().rev().skip(1).find_map(|line| header(line)) {
        Some(section) => Some(format!("{section}.{key}")),
        None => Some(key.to_owned()),
    }
}

/// Takes out whatever may hold a password: a quoted value that looks like a URL or a connection string goes as a
/// whole, since where a password ends is guesswork once the value is not well formed.
pub(super) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, quoted)) = rest.find(['"', '`']).and_then(|at| rest.split_at_checked(at)) {
        if !redact_unquoted(before, &mut out) {
            return out;
        }
        let (literal, next) = quoted.split_at_checked(literal_length(quoted)).unwrap_or((quoted, ""));
        out.push_str(if literal.contains("://") || password_at(literal).is_some() { "…" } else { literal });
        rest = next;
    }
    redact_unquoted(rest, &mut out);
    out
}

/// How long the quoted value at the start of the text is, with its quotes. Only `"` knows escapes.
fn literal_length(quoted: &str) -> usize {
    let mut chars = quoted.char_indices();
    let Some((_, quote)) = chars.next() else { return 0 };
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return at + c.len_utf8();
        }
        if c == '\\' && quote == '"' {
            chars.next();
        }
    }
    quoted.len()
}

/// Appends what is our own words most of the time. False when a password may go on behind this text.
fn redact_unquoted(text: &str, out: &mut String) -> bool {
    let (text, cut) = match password_at(text).and_then(|at| text.split_at_checked(at)) {
        Some((before, _)) => (before, true),
        None => (text, false),
    };
    for word in text.split_inclusive(char::is_whitespace) {
        match word.split_once("://") {
            Some((scheme, after)) if after.contains(':') => {
                out.push_str(scheme);
                out.push_str("://…");
                out.push_str(word.get(word.trim_end().len()..).unwrap_or_default());
            }
            _ => out.push_str(word),
        }
    }
    if cut {
        out.push('…');
    }
    !cut
}

/// Where `password =` begins, in any case and with any blanks, also escaped ones.
fn password_at(text: &str) -> Option<usize> {
    const WORD: &str = "password";
    // Changes ASCII only, so places in it are places in the text.
    let lower = text.to_ascii_lowercase();
    lower.match_indices(WORD).map(|(at, _)| at).find(|at| {
        let mut rest = lower.get(at + WORD.len()..).unwrap_or_default();
        loop {
            let next = rest.trim_start();
            match ["\\t", "\\n", "\\r", "\\u{b}", "\\u{c}"].iter().find_map(|escape| next.strip_prefix(escape)) {
                Some(after) => rest = after,
                None => return next.starts_with('='),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_survive_in_messages() {
        let text = redact("invalid type: string \"postgres://me:s3cret@db/shop\", expected a sequence");
        assert_eq!(text, "invalid type: string …, expected a sequence");
        assert!(!redact("host=x password=s3cret dbname=y").contains("s3cret"));
        assert!(!redact("postgres://u:p@ss@h/x").contains("p@ss"));
        for leaky in [
            r#"string "postgres://u:p/s3cret@h/d", expected"#,
            r#"string "postgres://u:p\"s3cret@h/d", expected"#,
            r#"string "postgres://u:p s3cret@h/d", expected"#,
            r#"string "host=h password = s3cret", expected"#,
            r#"string "host=h PassWord\t=\n's3cret'", expected"#,
            "unknown variant `password  =s3cret`, expected",
            "unknown variant `a` password = s3cret`, expected",
            "mysql://u:p/s3cret@h/d is nothing",
            "host=h password = 's3cret \"s3cret\"'",
            "an open \"postgres://u:s3cret",
        ] {
            assert!(!redact(leaky).contains("s3cret"), "{leaky}: {}", redact(leaky));
        }
        for harmless in [
            "scheme \"mysql\" instead of postgres://",
            "expected postgres://user@host/database, or key=value pairs with values like 'it\\'s' in quotes",
            "unknown field `password`, expected `url` or \"ä\\\"ß\"",
        ] {
            assert_eq!(redact(harmless), harmless);
        }
    }
}
