//! Addresses: `inet`, `cidr`, `macaddr`, `macaddr8`.

use std::net::IpAddr;

use crate::cursor::Cursor;
use crate::error::ValueError;
use crate::octets::hex_pair;
use crate::value::Network;

const NETWORK: &str = "an IP address, with /bits unless it is a single inet address";

pub(crate) fn network(text: &[u8], cidr: bool) -> Result<Network, ValueError> {
    let slash = memchr::memchr(b'/', text);
    let (address, bits) = text.split_at(slash.unwrap_or(text.len()));
    let wrong = ValueError::new(NETWORK, 0);
    let address: IpAddr = std::str::from_utf8(address).ok().and_then(|text| text.parse().ok()).ok_or(wrong)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits.is_empty() {
        // A cidr is always printed with them.
        return if cidr { Err(wrong) } else { Ok(Network { address, prefix: most, cidr }) };
    }
    let mut cursor = Cursor::new(bits, NETWORK);
    cursor.want(b'/')?;
    let number = cursor.unsigned().and_then(|number| cursor.end().map(|()| number));
    let number = number.map_err(|error| error.within(text.len() - bits.len()))?;
    match u8::try_from(number) {
        Ok(prefix) if prefix <= most => Ok(Network { address, prefix, cidr }),
        _ => Err(ValueError::new(NETWORK, text.len() - bits.len() + 1)),
    }
}

pub(crate) fn mac<const N: usize>(text: &[u8], expected: &'static str) -> Result<[u8; N], ValueError> {
    let mut cursor = Cursor::new(text, expected);
    let mut mac = [0; N];
    for (place, byte) in mac.iter_mut().enumerate() {
        if place > 0 {
            cursor.want(b':')?;
        }
        *byte = hex_pair(&mut cursor)?;
    }
    cursor.end()?;
    Ok(mac)
}
