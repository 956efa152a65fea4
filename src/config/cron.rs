//! Times of a schedule, as cron writes them; in UTC, so that no hour is missing or there twice.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `minute hour day month weekday`, or with seconds before them. A day must fit the day of the
/// month or the weekday where both are restricted, as with cron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both kinds of days are restricted.
    either_day: bool,
}

/// What stands in a field: its name, its range, and names for its numbers.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const fn field(name: &'static str, first: u32, last: u32) -> Field {
    Field { name, first, last, names: &[] }
}

const SECOND: Field = field("second", 0, 59);
const MINUTE: Field = field("minute", 0, 59);
const HOUR: Field = field("hour", 0, 23);
const DAY: Field = field("day", 1, 31);
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// Sunday is 0, and also 7.
const WEEKDAY: Field = Field {
    name: "weekday",
    first: 0,
    last: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

const SECONDS_OF_DAY: u64 = 86_400;
/// Between two 29ths of February lie at most eight years.
const LONGEST: u64 = 366 * 8 + 1;

impl Cron {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields: Vec<&str> = text.split_ascii_whitespace().collect();
        if fields.len() == 5 {
            fields.insert(0, "0");
        }
        let [seconds, minutes, hours, days, months, weekdays] = fields[..] else {
            let shape = "minute hour day month weekday, or seconds before them";
            return Err(format!("it has {} fields; write {shape}", fields.len()));
        };
        let weekday_set = WEEKDAY.set(weekdays)?;
        let cron = Self {
            seconds: SECOND.set(seconds)?,
            minutes: MINUTE.set(minutes)?,
            hours: HOUR.set(hours)?,
            days: DAY.set(days)?,
            months: MONTH.set(months)?,
            weekdays: (weekday_set | weekday_set >> 7) & 0x7f,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        match cron.next(UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err("no such day exists".to_owned()),
        }
    }

    /// The first time after `now`.
    pub fn next(&self, now: SystemTime) -> Option<SystemTime> {
        let from = now.duration_since(UNIX_EPOCH).ok()?.as_secs() + 1;
        let (today, second) = (from / SECONDS_OF_DAY, from % SECONDS_OF_DAY);
        let later = (today + 1..today + LONGEST).map(|day| (day, 0));
        let (day, second) =
            std::iter::once((today, second)).chain(later).find_map(|(day, from)| {
                let second = self.fits_day(day).then(|| self.second_of_day(from)).flatten()?;
                Some((day, second))
            })?;
        Some(UNIX_EPOCH + Duration::from_secs(day * SECONDS_OF_DAY + second))
    }

    /// `day` counts from 1970.
    fn fits_day(&self, day: u64) -> bool {
        let (month, of_month) = date(day);
        let by_month_day = has(self.days, of_month);
        // 1970 began on a Thursday.
        let by_weekday = has(self.weekdays, (day + 4) % 7);
        let fits =
            if self.either_day { by_month_day || by_weekday } else { by_month_day && by_weekday };
        has(self.months, month) && fits
    }

    /// The first one of a day, not before `from`.
    fn second_of_day(&self, from: u64) -> Option<u64> {
        let (hour, minute, second) = (from / 3600, from / 60 % 60, from % 60);
        for h in (hour..24).filter(|h| has(self.hours, *h)) {
            let first = if h == hour { minute } else { 0 };
            for m in (first..60).filter(|m| has(self.minutes, *m)) {
                let first = if (h, m) == (hour, minute) { second } else { 0 };
                if let Some(s) = (first..60).find(|s| has(self.seconds, *s)) {
                    return Some(h * 3600 + m * 60 + s);
                }
            }
        }
        None
    }
}

fn has(set: u64, number: u64) -> bool {
    set >> number & 1 == 1
}

/// Month and day of the month, from 1, of a day counted from 1970. By Howard Hinnant's
/// `civil_from_days`, in years that begin in March.
fn date(day: u64) -> (u64, u64) {
    let shifted = day + 719_468;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, of_month)
}

impl Field {
    /// Bits of the numbers that a list of ranges names.
    fn set(&self, text: &str) -> Result<u64, String> {
        let mut set = 0;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => {
                    let step = step.parse().ok().filter(|step| (1..=self.last).contains(step));
                    (range, Some(step.ok_or_else(|| self.wrong(part))?))
                }
                None => (part, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.first, self.last),
                Some((first, last)) => (self.number(first, part)?, self.number(last, part)?),
                // `5/15` goes on to the end.
                None if step.is_some() => (self.number(range, part)?, self.last),
                None => (self.number(range, part)?, self.number(range, part)?),
            };
            if first > last {
                return Err(self.wrong(part));
            }
            let step = step.unwrap_or(1) as usize;
            (first..=last).step_by(step).for_each(|number| set |= 1 << number);
        }
        Ok(set)
    }

    fn number(&self, text: &str, part: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.map(|index| self.first + u32::try_from(index).unwrap_or(0));
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = named.or_else(|| text.parse().ok().filter(|_| digits));
        let number = number.filter(|number| (self.first..=self.last).contains(number));
        number.ok_or_else(|| self.wrong(part))
    }

    fn wrong(&self, part: &str) -> String {
        let Self { name, first, last, .. } = self;
        format!("{name}: \"{part}\" is not *, or numbers from {first} to {last} as 1,5-9,*/5")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since 1970 of 2024-02-28T23:59:30Z, a Wednesday.
    const NOW: u64 = 1_709_164_770;
    const HOUR_S: u64 = 3600;
    const DAY_S: u64 = SECONDS_OF_DAY;

    fn after(text: &str, now: u64) -> u64 {
        let cron = Cron::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let next = cron.next(UNIX_EPOCH + Duration::from_secs(now)).expect("some time");
        next.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() - now
    }

    #[test]
    fn the_next_time_is_found() {
        for (text, in_seconds) in [
            ("* * * * *", 30),
            ("*/5 * * * *", 30),
            ("5,35 * * * *", 30 + 5 * 60),
            ("0 2 * * *", 30 + 2 * HOUR_S),
            ("30 4 29 2 *", 30 + 4 * HOUR_S + 1800),
            ("0 0 1 mar *", 30 + DAY_S),
            ("0 0 * * fri", 30 + DAY_S),
            ("0 0 * * 7", 30 + 3 * DAY_S),
            ("0 0 * * Mon-Fri", 30),
            // The 13th or a Friday.
            ("0 0 13 * 5", 30 + DAY_S),
            ("0 12 31 * *", 30 + DAY_S * 31 + 12 * HOUR_S),
            ("*/10 * * * * *", 10),
            ("45 59 23 * * *", 15),
            ("10/20 * * * *", 30 + 10 * 60),
        ] {
            assert_eq!(after(text, NOW), in_seconds, "{text}");
        }
        assert_eq!(after("0 0 29 2 *", NOW + 31), 1461 * DAY_S - 1, "four years later");
        assert_eq!(after("* * * * *", NOW + 30), 60, "a time is not its own next one");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (text, message) in [
            ("", "it has 0 fields"),
            ("* * * *", "it has 4 fields"),
            ("60 * * * *", "minute: \"60\""),
            ("* 24 * * *", "hour: \"24\""),
            ("* * 0 * *", "day: \"0\""),
            ("* * * foo *", "month: \"foo\""),
            ("* * * * 8", "weekday: \"8\""),
            ("*/0 * * * *", "minute: \"*/0\""),
            ("9-5 * * * *", "minute: \"9-5\""),
            ("1,,2 * * * *", "minute: \"\""),
            ("+1 * * * *", "minute: \"+1\""),
            ("0 0 30 2 *", "no such day"),
        ] {
            let error = Cron::parse(text).expect_err(text);
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (day, expected) in [(0, (1, 1)), (58, (2, 28)), (59, (3, 1)), (19_782, (2, 29))] {
            assert_eq!(date(day), expected, "day {day}");
        }
    }
}
