//! The clock, dates, and `sleep`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rhai::{Dynamic, NativeCallContext};

use super::fetch::seconds;
use super::state::{State, wait};
use super::table::Table;
use super::{Outcome, fail, invalid};

/// The last second of the year 9999, where both formats end.
const LAST_SECOND: i64 = 253_402_300_799;

pub fn area(table: &mut Table) {
    table.area("Time");
    table
        .function("time::now_ms()", "Milliseconds since 1970.", |c: NativeCallContext| {
            since_epoch(&c).map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
        })
        .example("time::now_ms() / 1000 >= time::unix() - 1")
        .function("time::unix()", "Seconds since 1970.", unix)
        .example("time::unix() > 1700000000")
        .function("time::http_date(unix)", "As in the Date header.", |t: i64| {
            point(t).map(httpdate::fmt_http_date)
        })
        .example(r#"time::http_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT""#)
        .function("time::parse_http_date(text)", "Seconds since 1970.", parse)
        .example(r#"time::parse_http_date("Thu, 01 Jan 1970 00:00:10 GMT") == 10"#)
        .function("time::rfc3339(unix)", "As 1970-01-01T00:00:00Z.", rfc3339)
        .example(r#"time::rfc3339(951782400) == "2000-02-29T00:00:00Z""#)
        .function(
            "sleep(seconds)",
            "Suspends this script; nobody else waits.",
            |c: NativeCallContext, s: i64| sleep(&c, &s.into()),
        )
        .example("sleep(0.001); true")
        .overload("sleep(seconds)", |c: NativeCallContext, s: f64| sleep(&c, &s.into()));
}

fn since_epoch(context: &NativeCallContext) -> Outcome<Duration> {
    Ok(State::of(context)?.now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn unix(context: NativeCallContext) -> Outcome<i64> {
    Ok(i64::try_from(since_epoch(&context)?.as_secs()).unwrap_or(i64::MAX))
}

fn point(unix: i64) -> Outcome<SystemTime> {
    let bounded = Some(unix).filter(|unix| (0..=LAST_SECOND).contains(unix));
    let seconds = bounded.and_then(|unix| u64::try_from(unix).ok());
    let seconds = seconds.ok_or_else(|| invalid("not a time from 1970 to 9999"))?;
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn parse(text: &str) -> Outcome<i64> {
    let time = httpdate::parse_http_date(text).map_err(|error| fail("parse", error.to_string()))?;
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn rfc3339(unix: i64) -> Outcome<String> {
    point(unix)?;
    let (days, second) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// Days since 1970 to a date, in the calendar of eras of 400 years that start in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

fn sleep(context: &NativeCallContext, value: &Dynamic) -> Outcome<()> {
    State::of(context)?.host()?;
    let time = seconds(value)?;
    wait(async move { tokio::time::sleep(time).await })
}
