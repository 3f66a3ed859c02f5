//! Which events a reader wants: table patterns and operations.
//!
//! A pattern is `schema.table`; `*` stands for any run of characters within one of the two parts. A part in double
//! quotes is taken literally (`""` for a quote), so that names with dots or asterisks can be said.

use std::collections::HashMap;

use dbstreamd_log::EventRef;
use dbstreamd_model::{Op, SchemaId};

/// More patterns than this are refused: they are tried one after the other.
pub(crate) const PATTERNS_MAX: usize = 256;

/// Longest pattern in bytes: two quoted 63-byte names, with room.
const PATTERN_BYTES_MAX: usize = 300;

/// The filter makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("{0:?} is not a table pattern: expected schema.table, where * stands for any characters, such as shop.* or public.orders")]
    Pattern(String),
    #[error("{0} table patterns are more than the {PATTERNS_MAX} allowed: use * to combine some")]
    TooMany(usize),
    #[error("operation number {0} is not known: use insert, update, delete, truncate or message")]
    Operation(i32),
}

/// One part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Glob(String),
}

impl Part {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Glob(glob) => glob_matches(glob.as_bytes(), name.as_bytes()),
        }
    }
}

/// A table pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    schema: Part,
    table: Part,
}

impl std::str::FromStr for Pattern {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let refused = || FilterError::Pattern(text.chars().take(PATTERN_BYTES_MAX).collect());
        if text.len() > PATTERN_BYTES_MAX {
            return Err(refused());
        }
        let (schema, rest) = take_part(text, true).ok_or_else(refused)?;
        let rest = rest.strip_prefix('.').ok_or_else(refused)?;
        let (table, rest) = take_part(rest, false).ok_or_else(refused)?;
        if rest.is_empty() { Ok(Self { schema, table }) } else { Err(refused()) }
    }
}

/// Reads one part; an unquoted schema ends at the first dot, an unquoted table at the end.
fn take_part(text: &str, ends_at_dot: bool) -> Option<(Part, &str)> {
    let Some(mut quoted) = text.strip_prefix('"') else {
        let (part, rest) = match text.find('.') {
            Some(dot) if ends_at_dot => text.split_at_checked(dot)?,
            _ => (text, ""),
        };
        return (!part.is_empty()).then(|| (Part::Glob(part.to_owned()), rest));
    };
    let mut literal = String::new();
    loop {
        let (before, after) = quoted.split_once('"')?;
        literal.push_str(before);
        match after.strip_prefix('"') {
            Some(rest) => {
                literal.push('"');
                quoted = rest;
            }
            None => return (!literal.is_empty()).then_some((Part::Literal(literal), after)),
        }
    }
}

/// `*` matches any run. Remembers only the last star, which is enough when it is the only wildcard.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n, mut retry) = (0, 0, None);
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                retry = Some((g, n));
                g += 1;
            }
            Some(byte) if name.get(n) == Some(byte) => {
                g += 1;
                n += 1;
            }
            _ => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                g = star + 1;
                n = from + 1;
            }
        }
    }
    glob.get(g..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

/// A reader's filter; remembers its verdict per schema version.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    tables: Vec<Pattern>,
    operations: Vec<Op>,
    verdicts: HashMap<SchemaId, bool>,
}

impl Filter {
    /// Parses a filter.
    pub(crate) fn new<S: AsRef<str>>(tables: &[S], operations: Vec<Op>) -> Result<Self, FilterError> {
        if tables.len() > PATTERNS_MAX {
            return Err(FilterError::TooMany(tables.len()));
        }
        let tables = tables.iter().map(|text| text.as_ref().parse()).collect::<Result<_, _>>()?;
        Ok(Self { tables, operations, verdicts: HashMap::new() })
    }

    /// Whether every event passes.
    pub(crate) fn takes_all(&self) -> bool {
        self.tables.is_empty() && self.operations.is_empty()
    }

    /// Whether this event passes. A logical message belongs to no table and passes only without table patterns.
    pub(crate) fn takes(&mut self, event: &EventRef<'_>) -> bool {
        if !self.operations.is_empty() && !self.operations.contains(&event.op) {
            return false;
        }
        if self.tables.is_empty() {
            return true;
        }
        let Some(stored) = event.schema else { return false };
        let tables = &self.tables;
        *self.verdicts.entry(stored.id).or_insert_with(|| {
            let (schema, table) = (&stored.schema.namespace, &stored.schema.table);
            tables.iter().any(|pattern| pattern.schema.matches(schema) && pattern.table.matches(table))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_part_and_quotes_are_literal() {
        let matches = |pattern: &str, schema: &str, table: &str| {
            let pattern: Pattern = pattern.parse().unwrap();
            pattern.schema.matches(schema) && pattern.table.matches(table)
        };
        assert!(matches("shop.orders", "shop", "orders"));
        assert!(!matches("shop.orders", "shop", "orders2"));
        assert!(matches("shop.*", "shop", "anything.at all"));
        assert!(matches("*.*", "a", ""));
        assert!(matches("s*p.o*e*s", "shop", "oxexs") && !matches("s*p.o*e*s", "shop", "oxex"));
        assert!(matches("public.a*b*ab", "public", "aXbXabab"));
        assert!(matches("\"a.b\".\"c*\"", "a.b", "c*") && !matches("\"a.b\".\"c*\"", "a.b", "cd"));
        assert!(matches("\"a\"\"b\".t", "a\"b", "t"));
        assert!(matches("public.with.dot", "public", "with.dot"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", "orders", ".", "a.", ".b", "\"a.b", "\"\".x", "\"a\"x.b", &"x".repeat(400)] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?} was accepted");
        }
        assert!(matches!(Filter::new(&vec!["a.b"; 300], vec![]), Err(FilterError::TooMany(300))));
    }
}
