//! Dates as servers write them: all three forms of RFC 9110, 5.6.7, and no stricter than needed.
//!
//! Names of months and the zone in any case, the weekday unread. What has another zone, a missing
//! second or a day that is no number is no date.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAY: i64 = 86_400;
/// The mean year of the Gregorian calendar.
const YEAR: i64 = 31_556_952;

/// Seconds since 1970, of a date that may lie before.
pub fn parse(text: &str, now: SystemTime) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    match text.split_once(", ") {
        Some((_, rest)) => imf_fixdate(rest).or_else(|| rfc850(rest, now)),
        None => asctime(&text),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, without its weekday.
fn imf_fixdate(rest: &str) -> Option<i64> {
    let [day, month_name, year, clock, "gmt"] = words(rest)? else { return None };
    Some(civil(number(year, 4)?, month(month_name)?, number(day, 2)?)? * DAY + time(clock)?)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`. A year that seems to be more than 50 years ahead is one of
/// the century before (RFC 9110, 5.6.7).
fn rfc850(rest: &str, now: SystemTime) -> Option<i64> {
    let [date, clock, "gmt"] = words(rest)? else { return None };
    let mut parts = date.split('-');
    let (day, month_name, year) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let this_year = 1970 + seconds(now) / YEAR;
    let mut full = this_year / 100 * 100 + number(year, 2)?;
    if full > this_year + 50 {
        full -= 100;
    }
    Some(civil(full, month(month_name)?, number(day, 2)?)? * DAY + time(clock)?)
}

/// `Sun Nov  6 08:49:37 1994`.
fn asctime(text: &str) -> Option<i64> {
    // A day of one digit has two spaces before it.
    let text = text.replace("  ", " ");
    let [_, month_name, day, clock, year] = words(&text)?;
    let day = number(day, 2).or_else(|| number(day, 1))?;
    Some(civil(number(year, 4)?, month(month_name)?, day)? * DAY + time(clock)?)
}

/// Exactly so many words, one space between them.
fn words<const N: usize>(text: &str) -> Option<[&str; N]> {
    let words: Vec<&str> = text.split(' ').collect();
    words.try_into().ok()
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

fn month(name: &str) -> Option<i64> {
    let index = MONTHS.iter().position(|known| *known == name)?;
    i64::try_from(index + 1).ok()
}

/// `08:49:37`; a leap second counts as the one after.
fn time(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let mut next = || number(parts.next()?, 2);
    let (hour, minute, second) = (next()?, next()?, next()?);
    let valid = hour < 24 && minute < 60 && second <= 60 && parts.next().is_none();
    valid.then_some(hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, by Howard Hinnant's algorithm.
fn civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=31).contains(&day) {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Whole seconds since 1970; a clock before that counts as 1970.
pub fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06T08:49:37Z.
    const THEN: i64 = 784_111_777;
    const NOW: Duration = Duration::from_secs(1_795_000_000);

    fn read(text: &str) -> Option<i64> {
        parse(text, UNIX_EPOCH + NOW)
    }

    #[test]
    fn all_three_forms_are_read_9110_5_6_7() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "sun, 06 NOV 1994 08:49:37 gmt",
            "Xyz, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(read(text), Some(THEN), "{text}");
        }
    }

    #[test]
    fn two_digits_of_a_year_are_at_most_fifty_years_ahead() {
        let year = |text: &str| read(text).map(|seconds| 1970 + seconds / YEAR);
        assert_eq!(year("Friday, 01-Jul-76 00:00:00 GMT"), Some(2076));
        assert_eq!(year("Friday, 01-Jul-77 00:00:00 GMT"), Some(1977));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 PST",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
