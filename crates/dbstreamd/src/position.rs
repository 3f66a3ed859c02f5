//! Where to begin reading, as people write it: `earliest`, `latest`, an offset, `lsn:X/Y`, `time:RFC3339`.

use dbstreamd_log::StartAt;
use dbstreamd_model::{Lsn, Offset, Timestamp};

/// Reads a position.
pub(crate) fn parse(text: &str) -> Result<StartAt, String> {
    let expected = || {
        format!(
            "{text:?} is not a position: expected earliest, latest, an offset from 1, lsn:X/Y or time:2026-01-31T12:00:00Z"
        )
    };
    match text.split_once(':') {
        None if text == "earliest" => Ok(StartAt::Earliest),
        None if text == "latest" => Ok(StartAt::Latest),
        None => text
            .parse()
            .ok()
            .filter(|&offset| offset > 0)
            .map(|offset| StartAt::Offset(Offset(offset)))
            .ok_or_else(expected),
        Some(("lsn", lsn)) => lsn.parse::<Lsn>().map(StartAt::Lsn).map_err(|error| error.to_string()),
        Some(("time", time)) => {
            let time = time.parse::<jiff::Timestamp>().map_err(|_| expected())?;
            Ok(StartAt::Time(Timestamp(time.as_microsecond())))
        }
        Some(_) => Err(expected()),
    }
}

/// A time as RFC 3339 with microseconds; none for "never".
pub(crate) fn rfc3339(time: Timestamp) -> Option<String> {
    let time = jiff::Timestamp::from_microsecond(time.0).ok().filter(|_| time.0 != 0)?;
    Some(format!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_documented() {
        assert!(matches!(parse("earliest"), Ok(StartAt::Earliest)));
        assert!(matches!(parse("latest"), Ok(StartAt::Latest)));
        assert!(matches!(parse("17"), Ok(StartAt::Offset(Offset(17)))));
        assert!(matches!(parse("lsn:16/B374D848"), Ok(StartAt::Lsn(Lsn(0x16_B374_D848)))));
        assert!(matches!(parse("time:1970-01-01T00:00:01.5Z"), Ok(StartAt::Time(Timestamp(1_500_000)))));
        for bad in ["", "0", "-1", "lsn:", "lsn:x/y", "time:yesterday", "first", "offset:1"] {
            assert!(parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(rfc3339(Timestamp(1_500_000)).as_deref(), Some("1970-01-01T00:00:01.500000Z"));
        assert_eq!(rfc3339(Timestamp(0)), None);
    }
}
