//! `TablePattern`: which tables a stream takes, as written in its configuration: `shop.orders`, `public.*`, `*.*`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// PostgreSQL's longest name, in bytes; a longer one can match nothing.
const NAME_BYTES_MAX: usize = 63;

/// A schema and a table, each a name or a pattern.
///
/// As in SQL, a part without quotes is folded to lower case and a quoted one is taken literally (`"Orders"`, `"a.b"`,
/// `""""`). A `*` outside quotes stands for any run of characters.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TablePattern {
    schema: NamePattern,
    table: NamePattern,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum NamePattern {
    /// This name.
    Exact(String),
    /// These pieces, with anything between them; at least two.
    Wild(Vec<String>),
}

/// The text is no table pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a table pattern: {reason}; write schema.table, such as public.*, shop.orders or \"Shop\".\"Order Lines\""
)]
pub struct TablePatternError {
    text: String,
    reason: &'static str,
}

impl TablePattern {
    /// `*.*`: every table of every user schema.
    pub fn everything() -> Self {
        let any = || NamePattern::Wild(vec![String::new(), String::new()]);
        Self { schema: any(), table: any() }
    }

    /// Whether it takes this table.
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        self.schema.matches(schema) && self.table.matches(table)
    }

    /// Whether it names one table, without any `*`.
    pub const fn is_exact(&self) -> bool {
        matches!((&self.schema, &self.table), (NamePattern::Exact(_), NamePattern::Exact(_)))
    }
}

impl NamePattern {
    fn matches(&self, name: &str) -> bool {
        let pieces = match self {
            Self::Exact(exact) => return exact == name,
            Self::Wild(pieces) => pieces,
        };
        let [first, middle @ .., last] = pieces.as_slice() else { return false };
        let Some(mut rest) = name.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
            return false;
        };
        // The earliest place for each piece leaves the most room for the next one.
        for piece in middle {
            match rest.split_once(piece.as_str()) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        true
    }
}

impl FromStr for TablePattern {
    type Err = TablePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason| TablePatternError { text: text.chars().take(200).collect(), reason };
        let (schema, rest) = take_part(text.trim()).map_err(error)?;
        let rest = rest.strip_prefix('.').ok_or_else(|| error("the schema is missing"))?;
        let (table, rest) = take_part(rest).map_err(error)?;
        if !rest.is_empty() {
            return Err(error("it has more than two parts"));
        }
        Ok(Self { schema, table })
    }
}

/// One name or pattern from the front of `text`, and what follows it.
fn take_part(text: &str) -> Result<(NamePattern, &str), &'static str> {
    let (part, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let (name, rest) = take_quoted(quoted)?;
            (NamePattern::Exact(name), rest)
        }
        None => {
            let (word, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
            if word.contains(|c: char| c == '"' || c.is_whitespace() || c.is_control()) {
                return Err("a name with blanks or quotes must be quoted as a whole");
            }
            (unquoted(word), rest)
        }
    };
    let longest = match &part {
        NamePattern::Exact(name) if name.is_empty() => return Err("a part of it is empty"),
        NamePattern::Exact(name) => name.len(),
        NamePattern::Wild(pieces) => pieces.iter().map(String::len).sum(),
    };
    if longest > NAME_BYTES_MAX {
        return Err("a name in it is longer than PostgreSQL's 63 bytes");
    }
    Ok((part, rest))
}

fn unquoted(word: &str) -> NamePattern {
    let folded = word.to_lowercase();
    if folded.contains('*') {
        NamePattern::Wild(folded.split('*').map(str::to_owned).collect())
    } else {
        NamePattern::Exact(folded)
    }
}

/// The name before the closing quote, where a doubled quote stands for one.
fn take_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Ok((name, after)),
        }
    }
}

impl TryFrom<String> for TablePattern {
    type Error = TablePatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TablePattern> for String {
    fn from(pattern: TablePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(&pattern_for(name)),
            Self::Wild(pieces) => f.write_str(&pieces.join("*")),
        }
    }
}

/// The pattern that takes exactly the table of this name.
pub(crate) fn exact_pattern(schema: &str, table: &str) -> String {
    format!("{}.{}", pattern_for(schema), pattern_for(table))
}

fn pattern_for(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$';
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, takes: &[(&str, &str)], leaves: &[(&str, &str)]) {
        let parsed: TablePattern = pattern.parse().unwrap();
        for (schema, table) in takes {
            assert!(parsed.matches(schema, table), "{pattern} should take {schema}.{table}");
        }
        for (schema, table) in leaves {
            assert!(!parsed.matches(schema, table), "{pattern} should leave {schema}.{table}");
        }
        // What is printed means the same.
        assert_eq!(parsed.to_string().parse(), Ok(parsed));
    }

    #[test]
    fn patterns_follow_sql_names_and_a_star_is_anything() {
        check("*.*", &[("public", "orders"), ("a.b", "\"")], &[]);
        check("public.*", &[("public", "Orders")], &[("Public", "orders"), ("public2", "x")]);
        check("Shop.Orders", &[("shop", "orders")], &[("Shop", "Orders")]);
        check("shop.order_*", &[("shop", "order_"), ("shop", "order_lines")], &[("shop", "order")]);
        check(
            "shop.*_20*_x",
            &[("shop", "e_2024_x"), ("shop", "a_20_20_x")],
            &[("shop", "e_2024_y"), ("shop", "_20_x2")],
        );
        check("*.aa*aa", &[("s", "aaaa")], &[("s", "aaa")]);
        check(r#""Shop"."Order ""Lines"".*""#, &[("Shop", "Order \"Lines\".*")], &[("Shop", "Order \"Lines\".x")]);
        assert!("a.b".parse::<TablePattern>().unwrap().is_exact());
        assert!(!"a.*".parse::<TablePattern>().unwrap().is_exact());
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_a_reason() {
        for (text, reason) in [
            ("orders", "the schema is missing"),
            ("", "a part of it is empty"),
            ("a.", "a part of it is empty"),
            (".b", "a part of it is empty"),
            ("a.b.c", "it has more than two parts"),
            ("\"a.b", "a quote is not closed"),
            ("a b.c", "a name with blanks or quotes must be quoted as a whole"),
            ("a\"b\".c", "a name with blanks or quotes must be quoted as a whole"),
        ] {
            assert_eq!(text.parse::<TablePattern>().map_err(|error| error.reason), Err(reason), "{text:?}");
        }
        let long = format!("a.{}", "x".repeat(64));
        assert!(long.parse::<TablePattern>().is_err());
        assert!(format!("a.{}", "x".repeat(63)).parse::<TablePattern>().is_ok());
    }

    #[test]
    fn a_suggested_pattern_takes_exactly_that_table() {
        for (schema, table) in [("public", "orders"), ("Shop", "a b"), ("*", "\""), ("a.b", "ä")] {
            check(&exact_pattern(schema, table), &[(schema, table)], &[("public", "other")]);
        }
    }
}
