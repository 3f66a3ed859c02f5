//! Sizes and durations as people write them: `512MiB`, `4 KiB`, `1GB`, `500us`, `1h30m`, `7d`.

use std::time::Duration;

/// Reads a size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "{text:?} is not a size: expected a number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB, such as 512MiB"
        )
    };
    let (number, unit) = split(text.trim()).ok_or_else(expected)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(expected()),
    };
    number.checked_mul(factor).ok_or_else(expected)
}

/// Reads a duration; several parts add up.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!("{text:?} is not a duration: expected a number with us, ms, s, m, h, d or w, such as 500us, 30s or 7d")
    };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(expected());
    }
    while !rest.is_empty() {
        let (number, after) = split(rest).ok_or_else(expected)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(end).ok_or_else(expected)?;
        let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
        let part = match unit.trim() {
            "us" | "µs" => Some(Duration::from_micros(number)),
            "ms" => Some(Duration::from_millis(number)),
            "s" => seconds(1),
            "m" | "min" => seconds(60),
            "h" => seconds(3_600),
            "d" => seconds(86_400),
            "w" => seconds(604_800),
            "" if number == 0 && next.is_empty() => Some(Duration::ZERO),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(expected)?;
        rest = next.trim_start();
    }
    Ok(total)
}

/// The leading number and what follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size(" 4 KiB"), Ok(4096));
        assert_eq!(size("1GB"), Ok(1_000_000_000));
        assert_eq!(size("77"), Ok(77));
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "MiB", "1.5GiB", "-1", "1QiB", "99999999999TiB"] {
            assert!(size(bad).is_err(), "{bad:?} was accepted");
        }
        for bad in ["", "5", "5 parsecs", "s", "1h30", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
