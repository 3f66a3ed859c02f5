//! Names as a server sends them, which need not be UTF-8, and as text, which must be.

use std::borrow::Cow;

/// What text begins with that stands for a name's bytes: hexadecimal digits follow, two per byte, to the end.
const MARK: &str = "\\x";

/// The name of a schema, table, column, type or origin, as bytes of the session's encoding.
///
/// A database with the encoding `SQL_ASCII` may have names that are not UTF-8. As [text](Self::to_text) such a name is
/// `\x` and its bytes in lower-case hexadecimal; so is, to be told apart, a name that itself looks like that. So
/// different names have different texts, and [`name_from_text`] finds the name again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// A name of these bytes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The name as text: itself, or marked bytes.
    pub fn to_text(self) -> Cow<'a, str> {
        match std::str::from_utf8(self.0) {
            Ok(text) if marked_bytes(text).is_none() => Cow::Borrowed(text),
            _ => Cow::Owned(self.0.iter().fold(MARK.to_owned(), |text, byte| text + &format!("{byte:02x}"))),
        }
    }
}

impl PartialEq<str> for Name<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Name<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

/// The bytes of a name from its text: what [`Name::to_text`] made of them.
pub fn name_from_text(text: &str) -> Cow<'_, [u8]> {
    marked_bytes(text).map_or(Cow::Borrowed(text.as_bytes()), Cow::Owned)
}

/// The bytes that a marked text stands for.
fn marked_bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix(MARK)?.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_not_utf8_or_looks_like_it_is_marked() {
        assert_eq!(Name::new(b"orders").to_text(), "orders");
        assert_eq!(Name::new("\\xyz \u{e9}".as_bytes()).to_text(), "\\xyz é");
        assert_eq!(Name::new(b"caf\xe9").to_text(), "\\x636166e9");
        assert_eq!(Name::new(b"\\xe9").to_text(), "\\x5c786539");
        assert_eq!(Name::new(b"\\x").to_text(), "\\x");
        assert_eq!(Name::new(b"\\xE9").to_text(), "\\xE9");
    }

    proptest! {
        #[test]
        fn every_name_comes_back_from_its_text(bytes in proptest::collection::vec(any::<u8>(), 0..20), text in "(\\\\x)?[0-9a-fx]{0,6}") {
            for name in [bytes.as_slice(), text.as_bytes()] {
                let text = Name::new(name).to_text();
                prop_assert_eq!(name_from_text(&text), name);
            }
        }
    }
}
