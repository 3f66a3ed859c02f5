//! The two spellings of a connection: URL and `key=value`. Both become a list of libpq keywords with values.
//!
//! Knows nothing of what a keyword means.

use super::OptionsError;

/// Longer than any sane connection string; a limit on what is parsed at all.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Takes a connection string apart.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, OptionsError> {
    if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
        return Err(syntax("it is too long or contains a NUL character"));
    }
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        return url(rest);
    }
    if let Some((scheme, _)) = text.split_once("://")
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        return Err(OptionsError::Syntax(format!("scheme {scheme:?} instead of postgres://")));
    }
    pairs(text)
}

/// Quotes a value so that [`parse`] reads it back.
pub(super) fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ',' | ':');
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    let escaped = value.replace('\\', r"\\").replace('\'', r"\'");
    format!("'{escaped}'")
}

/// Errors of this module carry no part of the text beyond keywords: it holds a password.
fn syntax(problem: &str) -> OptionsError {
    OptionsError::Syntax(problem.to_owned())
}

/// `user:password@host:port,host:port/database?key=value&…`
fn url(rest: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let (before_query, query) = rest.split_once('?').map_or((rest, None), |(head, query)| (head, Some(query)));
    let (authority, path) =
        before_query.split_once('/').map_or((before_query, None), |(authority, path)| (authority, Some(path)));
    let (login, hosts) = authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));

    let mut found = Vec::new();
    let mut push = |key: &str, value: String| {
        if !value.is_empty() {
            found.push((key.to_owned(), value));
        }
    };
    if let Some(login) = login {
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        push("user", decode(user, "the user name")?);
        if let Some(password) = password {
            push("password", decode(password, "the password")?);
        }
    }
    if !hosts.is_empty() {
        let mut names = Vec::new();
        let mut ports = Vec::new();
        for part in hosts.split(',') {
            let (name, port) = host_and_port(part)?;
            names.push(decode(name, "the host")?);
            ports.push(port);
        }
        push("host", names.join(","));
        if ports.iter().any(|port| !port.is_empty()) {
            push("port", ports.join(","));
        }
    }
    if let Some(path) = path {
        push("dbname", decode(path, "the database name")?);
    }
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            // Not repeated: after a literal ? in a password this is its rest.
            return Err(syntax("a query parameter has no value (a literal ? in a name or password is written %3F)"));
        };
        let key = decode(key, "a query parameter")?;
        let value = decode(value, "a query parameter")?;
        // JDBC's habit, which libpq takes too.
        if key == "ssl" && value == "true" {
            found.push(("sslmode".to_owned(), "require".to_owned()));
        } else {
            found.push((key, value));
        }
    }
    Ok(found)
}

fn host_and_port(part: &str) -> Result<(&str, &str), OptionsError> {
    let Some(inside) = part.strip_prefix('[') else {
        return match part.split_once(':') {
            Some((_, port)) if port.contains(':') => Err(syntax("an IPv6 address needs brackets, as in [::1]:5432")),
            Some((name, port)) => Ok((name, port)),
            None => Ok((part, "")),
        };
    };
    match inside.split_once(']') {
        Some((address, "")) => Ok((address, "")),
        Some((address, port)) if port.starts_with(':') => Ok((address, port.trim_start_matches(':'))),
        _ => Err(syntax("the brackets of an IPv6 address do not fit, expected [::1]:5432")),
    }
}

fn decode(text: &str, what: &str) -> Result<String, OptionsError> {
    let broken = || OptionsError::Syntax(format!("{what} has a broken percent-encoding (a literal % is written %25)"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(broken);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).map_err(|_| broken())?);
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(broken()),
    }
}

/// `key = value key='quoted \' value'`
fn pairs(text: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=' && !c.is_ascii_whitespace()) {
            key.push(c);
        }
        while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        if key.is_empty() && rest.peek().is_none() {
            return Ok(found);
        }
        // The word is not repeated: a forgotten quote makes it the middle of a password.
        if rest.next_if_eq(&'=').is_none() || key.is_empty() {
            return Err(syntax(
                "expected postgres://user@host/database, or key=value pairs with values like 'it\\'s' in quotes",
            ));
        }
        while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let value = value(&mut rest)?;
        found.push((key, value));
    }
}

fn value(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, OptionsError> {
    let mut value = String::new();
    if rest.next_if_eq(&'\'').is_none() {
        while let Some(c) = rest.next_if(|c| !c.is_ascii_whitespace()) {
            match c {
                '\\' => value.extend(rest.next()),
                c => value.push(c),
            }
        }
        return Ok(value);
    }
    loop {
        match rest.next() {
            Some('\'') => break,
            Some('\\') => value.extend(rest.next()),
            Some(c) => value.push(c),
            None => return Err(syntax("a quote is not closed")),
        }
    }
    match rest.peek() {
        Some(c) if !c.is_ascii_whitespace() => {
            Err(syntax("a quoted value is followed by more; a quote inside is written \\'"))
        }
        _ => Ok(value),
    }
}
