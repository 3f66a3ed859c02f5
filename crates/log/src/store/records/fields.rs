//! How records are laid out: a version byte, numbers in big-endian order, texts behind their lengths.

use crate::error::LogError;

/// First byte of every record but those that say otherwise.
pub(super) const RECORD_VERSION: u8 = 1;

pub(super) fn encode_numbers(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + numbers.len() * 8);
    out.push(RECORD_VERSION);
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
    out
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

pub(super) fn read<T>(
    what: &str,
    bytes: &[u8],
    fields: impl FnOnce(&mut Input<'_>) -> Option<T>,
) -> Result<T, LogError> {
    read_versions(what, bytes, RECORD_VERSION, |_, input| fields(input))
}

/// Of a record that has versions up to `newest`.
pub(super) fn read_versions<T>(
    what: &str,
    bytes: &[u8],
    newest: u8,
    fields: impl FnOnce(u8, &mut Input<'_>) -> Option<T>,
) -> Result<T, LogError> {
    let damaged = |reason: &str| LogError::DamagedRecord { what: what.into(), reason: reason.into() };
    let (&version, rest) = bytes.split_first().ok_or_else(|| damaged("it is empty"))?;
    if !(RECORD_VERSION..=newest).contains(&version) {
        return Err(damaged(&format!("its version {version} is not known to this version")));
    }
    let mut input = Input(rest);
    let value = fields(version, &mut input).ok_or_else(|| damaged("its fields do not fit"))?;
    if input.0.is_empty() { Ok(value) } else { Err(damaged("it is too long")) }
}
