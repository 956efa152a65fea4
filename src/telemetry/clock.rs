//! Civil dates in UTC for log lines; no time zones, no parsing.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Utc {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
    millis: u32,
}

impl From<SystemTime> for Utc {
    /// Moments before 1970 become 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (year, month, day) = civil(since.as_secs() / 86_400);
        Self {
            year,
            month,
            day,
            second_of_day: since.as_secs() % 86_400,
            millis: since.subsec_millis(),
        }
    }
}

/// Days since 1970 to year, month, day (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms": years begin in March, so the leap day comes last).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

impl Utc {
    fn clock(self) -> String {
        let second = self.second_of_day;
        format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    }

    /// As in `2026-11-25T07:10:26.123Z`.
    pub(super) fn rfc3339(self) -> String {
        let Self { year, month, day, millis, .. } = self;
        format!("{year:04}-{month:02}-{day:02}T{}.{millis:03}Z", self.clock())
    }

    /// As in `25/Nov/2026:07:10:26 +0000`, the form of the common log format.
    pub(super) fn common(self) -> String {
        let month = MONTHS[(self.month as usize - 1) % 12];
        format!("{:02}/{month}/{:04}:{} +0000", self.day, self.year, self.clock())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_moments() {
        let at = |millis| Utc::from(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_827_696_789).rfc3339(), "2000-02-29T12:34:56.789Z");
        assert_eq!(at(1_735_689_599_000).rfc3339(), "2024-12-31T23:59:59.000Z");
        assert_eq!(at(1_735_689_599_000).common(), "31/Dec/2024:23:59:59 +0000");
        assert_eq!(at(4_107_542_400_000).rfc3339(), "2100-03-01T00:00:00.000Z");
    }
}
