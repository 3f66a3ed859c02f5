//! Identifiers and names: streams, epochs, schemas, consumers.

use std::fmt;
use std::str::FromStr;

/// A stream's number inside one data directory; given once, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u32);

/// A stream's epoch: rises whenever continuity with the source is broken. Starts at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch of a new stream.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A schema version's number inside one stream; what events in the log carry. Starts at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SchemaId(pub u32);

/// Longest name of a stream or consumer, in bytes: PostgreSQL's own identifier limit.
const NAME_BYTES_MAX: usize = 63;

/// The text cannot name a stream or a consumer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot name a {what}: use 1 to 63 of the characters a-z A-Z 0-9 _ - . and start with a letter or digit"
)]
pub struct NameError {
    what: &'static str,
    name: String,
}

fn checked(what: &'static str, name: &str) -> Result<Box<str>, NameError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if fits && starts && name.bytes().all(allowed) {
        Ok(name.into())
    } else {
        Err(NameError { what, name: name.chars().take(80).collect() })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                checked($what, name).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type!(
    /// A stream's name: the `name` of its `[[source]]`, unique in a daemon.
    StreamName,
    "stream"
);
name_type!(
    /// A named consumer; its committed offset is kept by the daemon, per stream.
    ConsumerName,
    "consumer"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_and_never_hidden_files() {
        for good in ["shop", "a", "9", "eu-1.shop_2", &"x".repeat(63)] {
            assert!(good.parse::<StreamName>().is_ok(), "{good:?} was refused");
        }
        for bad in ["", ".", "-a", "_a", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<ConsumerName>().is_err(), "{bad:?} was accepted");
        }
    }
}
