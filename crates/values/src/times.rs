//! Dates and times: `date`, `time`, `timetz`, `timestamp`, `timestamptz`, `interval`, in ISO form and IntervalStyle postgres.

use crate::calendar::{self, DATE_MAX, DATE_MIN};
use crate::cursor::{Cursor, signed};
use crate::error::ValueError;
use crate::value::{Interval, Sign, TimeTz, Value};

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// The first and last microseconds of `timestamp`: 4714-11-24 00:00 BC and just before 294277-01-01.
const TIMESTAMP_MIN: i64 = -211_813_488_000_000_000;
const TIMESTAMP_MAX: i64 = 9_223_371_331_199_999_999;

/// Largest year written at all; more would not fit the arithmetic.
const YEAR_MAX: u64 = 5_874_897;

const DATE: &str = "a date, YYYY-MM-DD";
const TIME: &str = "a time, HH:MM:SS";
const TIMETZ: &str = "a time with offset, HH:MM:SS+HH";
const TIMESTAMP: &str = "a timestamp, YYYY-MM-DD HH:MM:SS";
const TIMESTAMPTZ: &str = "a timestamp with offset, YYYY-MM-DD HH:MM:SS+HH";
const INTERVAL: &str = "an interval, 1 year 2 mons 3 days 04:05:06";

pub(crate) fn date(text: &[u8]) -> Result<Value<'static>, ValueError> {
    if let Some(infinity) = infinity(text) {
        return Ok(infinity);
    }
    let mut cursor = Cursor::new(text, DATE);
    let date = year_month_day(&mut cursor)?;
    let days = date.days(cursor.eat_all(b" BC"));
    cursor.end()?;
    match i32::try_from(days) {
        Ok(days) if (DATE_MIN..=DATE_MAX).contains(&days.into()) => Ok(Value::Date(days)),
        _ => Err(ValueError::new(DATE, 0)),
    }
}

pub(crate) fn time(text: &[u8]) -> Result<i64, ValueError> {
    let mut cursor = Cursor::new(text, TIME);
    let time = time_of_day(&mut cursor)?;
    cursor.end()?;
    Ok(time)
}

pub(crate) fn timetz(text: &[u8]) -> Result<TimeTz, ValueError> {
    let mut cursor = Cursor::new(text, TIMETZ);
    let time = time_of_day(&mut cursor)?;
    let utc_offset = utc_offset(&mut cursor)?;
    cursor.end()?;
    Ok(TimeTz { time, utc_offset })
}

pub(crate) fn timestamp(text: &[u8]) -> Result<Value<'static>, ValueError> {
    if let Some(infinity) = infinity(text) {
        return Ok(infinity);
    }
    let mut cursor = Cursor::new(text, TIMESTAMP);
    let date = year_month_day(&mut cursor)?;
    cursor.want(b' ')?;
    let time = time_of_day(&mut cursor)?;
    let days = date.days(cursor.eat_all(b" BC"));
    cursor.end()?;
    microseconds(days, time, TIMESTAMP).map(Value::Timestamp)
}

pub(crate) fn timestamptz(text: &[u8]) -> Result<Value<'static>, ValueError> {
    if let Some(infinity) = infinity(text) {
        return Ok(infinity);
    }
    let mut cursor = Cursor::new(text, TIMESTAMPTZ);
    let date = year_month_day(&mut cursor)?;
    cursor.want(b' ')?;
    let time = time_of_day(&mut cursor)?;
    let offset = i64::from(utc_offset(&mut cursor)?) * SECOND;
    let days = date.days(cursor.eat_all(b" BC"));
    cursor.end()?;
    microseconds(days, time - offset, TIMESTAMPTZ).map(Value::TimestampTz)
}

fn microseconds(days: i64, time: i64, expected: &'static str) -> Result<i64, ValueError> {
    let sum = days.checked_mul(DAY).and_then(|days| days.checked_add(time));
    sum.filter(|sum| (TIMESTAMP_MIN..=TIMESTAMP_MAX).contains(sum)).ok_or(ValueError::new(expected, 0))
}

/// Signed years, months, days and a signed time, each only if it is not zero; `00:00:00` for nothing at all.
pub(crate) fn interval(text: &[u8]) -> Result<Value<'static>, ValueError> {
    if let Some(infinity) = infinity(text) {
        return Ok(infinity);
    }
    let mut cursor = Cursor::new(text, INTERVAL);
    let (mut months, mut days, mut time) = (0_i64, 0_i64, 0_i64);
    // Which part comes next at the earliest: each comes once, in this order.
    let mut next = 0;
    loop {
        let negative = cursor.eat(b'-');
        if !negative {
            cursor.eat(b'+');
        }
        let from = cursor.at();
        let number = cursor.unsigned()?;
        let wrong = ValueError::new(INTERVAL, from);
        if cursor.peek() == Some(b':') {
            time = rest_of_time(&mut cursor, negative, number)?;
            cursor.end()?;
            break;
        }
        cursor.want(b' ')?;
        let number = signed(negative, number).filter(|number| number.unsigned_abs() <= 1 << 31).ok_or(wrong)?;
        let (part, value) = if cursor.eat_all(b"year") {
            (1, &mut months)
        } else if cursor.eat_all(b"mon") {
            (2, &mut months)
        } else if cursor.eat_all(b"day") {
            (3, &mut days)
        } else {
            return Err(cursor.fail());
        };
        cursor.eat(b's');
        if part <= next {
            return Err(wrong);
        }
        next = part;
        *value += if part == 1 { number * 12 } else { number };
        if cursor.end().is_ok() {
            break;
        }
        cursor.want(b' ')?;
    }
    match (i32::try_from(months), i32::try_from(days)) {
        (Ok(months), Ok(days)) => Ok(Value::Interval(Interval { months, days, time })),
        _ => Err(ValueError::new(INTERVAL, 0)),
    }
}

/// `:MM:SS[.ffffff]` behind so many hours.
fn rest_of_time(cursor: &mut Cursor<'_>, negative: bool, hours: u64) -> Result<i64, ValueError> {
    let wrong = cursor.fail();
    cursor.want(b':')?;
    let minutes = sixty(cursor)?;
    cursor.want(b':')?;
    let seconds = sixty(cursor)?;
    let rest = i64::from(minutes) * MINUTE + i64::from(seconds) * SECOND + fraction(cursor)?;
    let magnitude = hours.checked_mul(HOUR.unsigned_abs()).and_then(|hours| hours.checked_add(rest.unsigned_abs()));
    magnitude.and_then(|magnitude| signed(negative, magnitude)).ok_or(wrong)
}

fn infinity(text: &[u8]) -> Option<Value<'static>> {
    match text {
        b"infinity" => Some(Value::Infinity(Sign::Positive)),
        b"-infinity" => Some(Value::Infinity(Sign::Negative)),
        _ => None,
    }
}

/// A date before it is known whether it lies before Christ: that is written last.
struct YearMonthDay {
    year: i64,
    month: u8,
    day: u8,
    valid_bc: bool,
    valid_ad: bool,
}

impl YearMonthDay {
    /// Days since 2000-01-01; out of every type's range for a day that does not exist.
    fn days(&self, bc: bool) -> i64 {
        let (year, valid) = if bc { (1 - self.year, self.valid_bc) } else { (self.year, self.valid_ad) };
        if valid { calendar::days(year, self.month, self.day) } else { i64::MAX }
    }
}

fn year_month_day(cursor: &mut Cursor<'_>) -> Result<YearMonthDay, ValueError> {
    let start = cursor.at();
    let number = cursor.unsigned()?;
    let wrong = || ValueError::new(DATE, start);
    if cursor.at() - start < 4 || !(1..=YEAR_MAX).contains(&number) {
        return Err(wrong());
    }
    let year = i64::try_from(number).map_err(|_| wrong())?;
    cursor.want(b'-')?;
    let month = cursor.two()?;
    cursor.want(b'-')?;
    let day = cursor.two()?;
    if !(1..=12).contains(&month) || day == 0 {
        return Err(wrong());
    }
    let fits = |year| day <= calendar::days_in_month(year, month);
    Ok(YearMonthDay { year, month, day, valid_bc: fits(1 - year), valid_ad: fits(year) })
}

/// `HH:MM:SS[.ffffff]`, up to and including 24:00:00.
#[inline]
fn time_of_day(cursor: &mut Cursor<'_>) -> Result<i64, ValueError> {
    let wrong = cursor.fail();
    let hours = cursor.two()?;
    cursor.want(b':')?;
    let minutes = sixty(cursor)?;
    cursor.want(b':')?;
    let seconds = sixty(cursor)?;
    let time = i64::from(hours) * HOUR + i64::from(minutes) * MINUTE + i64::from(seconds) * SECOND + fraction(cursor)?;
    if time <= DAY { Ok(time) } else { Err(wrong) }
}

/// Two digits below sixty.
fn sixty(cursor: &mut Cursor<'_>) -> Result<u8, ValueError> {
    let wrong = cursor.fail();
    cursor.two()?.checked_rem(100).filter(|&value| value < 60).ok_or(wrong)
}

/// Microseconds behind a dot, if there is one: one to six digits.
fn fraction(cursor: &mut Cursor<'_>) -> Result<i64, ValueError> {
    if !cursor.eat(b'.') {
        return Ok(0);
    }
    let mut micros = i64::from(cursor.digit().ok_or_else(|| cursor.fail())?);
    let mut places = 1;
    while places < 6 {
        micros = micros * 10 + cursor.digit().map_or(0, i64::from);
        places += 1;
    }
    Ok(micros)
}

/// `+HH[:MM[:SS]]` east of UTC, in seconds.
fn utc_offset(cursor: &mut Cursor<'_>) -> Result<i32, ValueError> {
    let negative = cursor.eat(b'-');
    if !negative {
        cursor.want(b'+')?;
    }
    let mut seconds = i32::from(cursor.two()?) * 3_600;
    if cursor.eat(b':') {
        seconds += i32::from(sixty(cursor)?) * 60;
        if cursor.eat(b':') {
            seconds += i32::from(sixty(cursor)?);
        }
    }
    Ok(if negative { -seconds } else { seconds })
}
