//! The process's own log, on stderr.
//!
//! What a client or one bad origin can cause at will belongs into the access log and the metrics;
//! here it must not make a line per request.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ::log::{Level, LevelFilter, Log, Metadata, Record};

use super::access_format::escape_controls;
use super::clock::Utc;

/// The filter if none is given.
///
/// `pingora_proxy` logs each failed request and each retry, which the access log has as well;
/// `pingora_core::protocols` warns of what single messages look like.
pub const DEFAULT_FILTER: &str = "info,pingora_core=warn,pingora_core::protocols=error,\
                                  pingora_proxy=off,rustls=error,h2=error";

/// Where Pingora reports failed handshakes at ERROR, beside failures to accept, which matter.
const LISTENING: &str = "pingora_core::services::listening";
const HANDSHAKE: &str = "Downstream handshake";
/// Lines a second from Pingora, so that no client or origin fills the disk.
const LIBRARY_LINES: u32 = 10;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Plain,
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log filter: `{0}` is neither a level nor target=level")]
    Filter(String),
    #[error("a logger is set already")]
    Taken(#[from] ::log::SetLoggerError),
}

/// Sets the process's logger. `filter` is as in `info,selvedge=debug`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    check(filter)?;
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    builder.format(move |out, record| {
        let time = Utc::from(SystemTime::now()).rfc3339();
        writeln!(out, "{}", line(format, &time, record))
    });
    let inner = builder.build();
    let max = inner.filter();
    ::log::set_boxed_logger(Box::new(Calm { inner, pingora: RateLimited::new(LIBRARY_LINES) }))?;
    ::log::set_max_level(max);
    Ok(())
}

/// env_logger only grumbles about what it cannot read; we refuse to start.
fn check(filter: &str) -> Result<(), LogError> {
    for directive in filter.split(',').map(str::trim) {
        let (target, level) = directive.split_once('=').unwrap_or(("any", directive));
        if target.trim().is_empty() || level.trim().parse::<LevelFilter>().is_err() {
            return Err(LogError::Filter(directive.to_owned()));
        }
    }
    Ok(())
}

fn line(format: LogFormat, time: &str, record: &Record<'_>) -> String {
    let (level, target) = (record.level(), record.target());
    let message = record.args().to_string();
    match format {
        LogFormat::Plain => format!("{time} {level:<5} {target}: {}", escape_controls(&message)),
        LogFormat::Json => serde_json::json!({
            "time": time, "level": level.as_str(), "target": target, "message": message,
        })
        .to_string(),
    }
}

/// Passes on what is worth a line.
struct Calm {
    inner: env_logger::Logger,
    pingora: RateLimited,
}

impl Log for Calm {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.inner.matches(record) {
            return;
        }
        if !record.target().starts_with("pingora") {
            return self.inner.log(record);
        }
        if is_handshake(record) && !self.wants_debug(record.target()) {
            return;
        }
        match self.pingora.admit() {
            None => {}
            Some(0) => self.inner.log(record),
            Some(suppressed) => self.inner.log(
                &Record::builder()
                    .metadata(record.metadata().clone())
                    .args(format_args!("{} ({suppressed} lines suppressed)", record.args()))
                    .build(),
            ),
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

impl Calm {
    fn wants_debug(&self, target: &str) -> bool {
        self.inner.enabled(&Metadata::builder().target(target).level(Level::Debug).build())
    }
}

fn is_handshake(record: &Record<'_>) -> bool {
    record.target() == LISTENING && record.args().to_string().starts_with(HANDSHAKE)
}

/// Lets a call site log at most so many lines a second. To be kept beside what it reports on.
#[derive(Debug)]
pub struct RateLimited {
    per_second: u32,
    /// The second in the upper half, the calls in it in the lower.
    window: AtomicU64,
    suppressed: AtomicU64,
}

impl RateLimited {
    /// At most `per_second` lines in each second of the clock.
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, window: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Some if the line may be written, with the number of those that were not since the last.
    pub fn admit(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.admit_at(now.as_secs())
    }

    fn admit_at(&self, second: u64) -> Option<u64> {
        let second = second & u64::from(u32::MAX);
        let next = |window: u64| {
            if window >> 32 != second {
                return Some((second << 32) | 1);
            }
            let calls = window & u64::from(u32::MAX);
            (calls < u64::from(self.per_second)).then_some(window + 1)
        };
        // Relaxed: the counts guard no other memory.
        if self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(target: &'a str, args: std::fmt::Arguments<'a>) -> Record<'a> {
        Record::builder().level(Level::Error).target(target).args(args).build()
    }

    #[test]
    fn limits_and_counts() {
        let limit = RateLimited::new(2);
        let calls: Vec<_> = (0..5).map(|_| limit.admit_at(7)).collect();
        assert_eq!(calls, [Some(0), Some(0), None, None, None]);
        assert_eq!(limit.admit_at(8), Some(3));
        assert_eq!(limit.admit_at(8), Some(0));
        assert_eq!(limit.admit_at(8), None);
        assert_eq!(limit.admit_at(5), Some(1), "a clock set back");
    }

    #[test]
    fn filters_are_checked() {
        assert!(check(DEFAULT_FILTER).is_ok());
        for bad in ["", "inof", "info,", "selvedge=", "=info", "selvedge=loud"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines() {
        let args = "a\n\"b\"";
        let plain = line(LogFormat::Plain, "T", &record("t", format_args!("{args}")));
        assert_eq!(plain, r#"T ERROR t: a\x0a"b""#);
        let json = line(LogFormat::Json, "T", &record("t", format_args!("{args}")));
        assert_eq!(json, r#"{"time":"T","level":"ERROR","target":"t","message":"a\n\"b\""}"#);
    }

    #[test]
    fn handshakes_are_told_from_accepts() {
        assert!(is_handshake(&record(LISTENING, format_args!("Downstream handshake error: x"))));
        assert!(!is_handshake(&record(LISTENING, format_args!("Accept() failed x"))));
        assert!(!is_handshake(&record("selvedge", format_args!("Downstream handshake"))));
    }

    #[test]
    fn the_default_filter_mutes_failed_requests_only() {
        let inner = env_logger::Builder::new().parse_filters(DEFAULT_FILTER).build();
        let enabled = |target: &str, level| {
            inner.enabled(&Metadata::builder().target(target).level(level).build())
        };
        assert!(!enabled("pingora_proxy", Level::Error));
        assert!(!enabled("pingora_core::protocols::http::v1::body", Level::Warn));
        assert!(enabled(LISTENING, Level::Error));
        assert!(enabled("selvedge::proxy", Level::Info));
    }
}
