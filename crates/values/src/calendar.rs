//! Days of the proleptic Gregorian calendar, counted from 2000-01-01 as PostgreSQL does.

/// The first and last days that PostgreSQL's `date` can hold: 4714-11-24 BC and 5874897-12-31.
pub(crate) const DATE_MIN: i64 = -2_451_545;
pub(crate) const DATE_MAX: i64 = 2_145_031_948;

/// Days from 0000-03-01 to 2000-01-01.
const EPOCH: i64 = 730_425;

/// Days in 400 years.
const ERA: i64 = 146_097;

/// How many days a month has.
pub(crate) const fn days_in_month(year: i64, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 2000-01-01. Year 0 is 1 BC. The month must be 1 to 12 and the year at most a few million.
///
/// Counted in years that begin in March, so that the leap day is their last:
/// <https://howardhinnant.github.io/date_algorithms.html>.
pub(crate) const fn days(year: i64, month: u8, day: u8) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * ERA + day_of_era - EPOCH
}

/// The year (0 is 1 BC), month and day of this many days since 2000-01-01.
pub(crate) fn civil(days: i64) -> (i64, u8, u8) {
    let days = days.saturating_add(EPOCH);
    let (era, day_of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, u8::try_from(month).unwrap_or(1), u8::try_from(day).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_count_from_2000_and_back_over_every_leap_rule_and_both_ends() {
        assert_eq!(days(2000, 1, 1), 0);
        assert_eq!(days(2000, 3, 1), 60);
        assert_eq!(days(1970, 1, 1), -10_957);
        assert_eq!(days(-4713, 11, 24), DATE_MIN);
        assert_eq!(days(5_874_897, 12, 31), DATE_MAX);
        let near = (-800_000..800_000).chain(DATE_MIN..DATE_MIN + 1_000).chain(DATE_MAX - 1_000..=DATE_MAX);
        for day in near {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
            assert!((1..=days_in_month(year, month)).contains(&of_month));
        }
    }
}
