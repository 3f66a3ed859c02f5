//! Bytes written as digits: `bytea`, `uuid`, bit strings. They stay digits until somebody wants the bytes.

use crate::cursor::Cursor;
use crate::error::ValueError;

const BYTEA: &str = "a bytea in hex form, \\x";

/// The bytes of a `bytea`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Octets<'a> {
    /// As they are.
    Raw(&'a [u8]),
    /// As pairs of hexadecimal digits, checked.
    Hex(&'a [u8]),
}

impl Octets<'_> {
    /// How many bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Raw(bytes) => bytes.len(),
            Self::Hex(digits) => digits.len() / 2,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, in pieces of any length.
    pub fn for_each_piece(&self, mut take: impl FnMut(&[u8])) {
        match self {
            Self::Raw(bytes) => take(bytes),
            Self::Hex(digits) => {
                let mut buffer = [0; 256];
                for piece in digits.chunks(2 * buffer.len()) {
                    for (byte, pair) in buffer.iter_mut().zip(piece.chunks_exact(2)) {
                        *byte = pair.iter().fold(0, |byte, &digit| byte << 4 | nibble(digit));
                    }
                    take(buffer.get(..piece.len() / 2).unwrap_or_default());
                }
            }
        }
    }
}

/// A digit's value; only for what was checked.
const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

pub(crate) fn bytea(text: &[u8]) -> Result<Octets<'_>, ValueError> {
    let digits = text.strip_prefix(br"\x").ok_or(ValueError::new(BYTEA, 0))?;
    // Eight at a time without a branch, which matters for megabytes; the place is looked for only when there is one.
    let wrong = |digits: &[u8]| !digits.iter().fold(true, |fits, digit| fits & digit.is_ascii_hexdigit());
    if !digits.len().is_multiple_of(2) || digits.chunks(64).any(wrong) {
        let at = digits.iter().position(|digit| !digit.is_ascii_hexdigit()).unwrap_or(digits.len());
        return Err(ValueError::new(BYTEA, 2 + at));
    }
    Ok(Octets::Hex(digits))
}

/// A string of bits: its text is `0` and `1`, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bits<'a>(&'a [u8]);

impl<'a> Bits<'a> {
    /// In bits.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Eight to a byte, the first the highest; what is left over in the last is 0.
    pub fn packed(&self) -> impl ExactSizeIterator<Item = u8> {
        self.0.chunks(8).map(|eight| {
            eight.iter().zip([7, 6, 5, 4, 3, 2, 1, 0]).fold(0, |byte, (&bit, place)| byte | (bit & 1) << place)
        })
    }

    /// The digits.
    pub fn as_text(&self) -> &'a [u8] {
        self.0
    }
}

pub(crate) fn bits(text: &[u8]) -> Result<Bits<'_>, ValueError> {
    match text.iter().position(|bit| !matches!(bit, b'0' | b'1')) {
        None => Ok(Bits(text)),
        Some(at) => Err(ValueError::new("a bit string, 0 and 1", at)),
    }
}

pub(crate) fn uuid(text: &[u8]) -> Result<[u8; 16], ValueError> {
    let mut cursor = Cursor::new(text, "a uuid, 8-4-4-4-12 hexadecimal digits");
    let mut uuid = [0; 16];
    for (place, byte) in uuid.iter_mut().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            cursor.want(b'-')?;
        }
        *byte = hex_pair(&mut cursor)?;
    }
    cursor.end()?;
    Ok(uuid)
}

/// A byte as two digits.
pub(crate) fn hex_pair(cursor: &mut Cursor<'_>) -> Result<u8, ValueError> {
    let mut byte = 0;
    for _ in 0..2 {
        let digit = cursor.peek().filter(u8::is_ascii_hexdigit).ok_or_else(|| cursor.fail())?;
        byte = byte << 4 | nibble(digit);
        cursor.skip(1);
    }
    Ok(byte)
}
