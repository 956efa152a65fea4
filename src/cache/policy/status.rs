//! `Cache-Status` (RFC 9211): what this cache did, on every answer of a route that has one.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// How a request was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Out of the store, fresh until then.
    Hit {
        fresh_until: SystemTime,
    },
    Forwarded {
        why: Forwarded,
        status: Option<u16>,
        stored: bool,
        collapsed: bool,
    },
}

/// Why a request went to the origin (RFC 9211, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    Bypass,
    Method,
    /// Nothing is stored for the URL, or not the variant.
    Miss,
    /// The request's own directives.
    Request,
    Stale,
}

impl Forwarded {
    fn token(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
        }
    }
}

/// This cache's member of the list.
pub fn cache_status(handled: Handled, detail: Option<&str>, now: SystemTime) -> String {
    let mut text = String::from("selvedge");
    // Writing to a String cannot fail.
    let _ = match handled {
        Handled::Hit { fresh_until } => write!(text, "; hit; ttl={}", ttl(fresh_until, now)),
        Handled::Forwarded { why, status, stored, collapsed } => {
            let _ = write!(text, "; fwd={}", why.token());
            if let Some(status) = status {
                let _ = write!(text, "; fwd-status={status}");
            }
            text.push_str(if stored { "; stored" } else { "" });
            text.push_str(if collapsed { "; collapsed" } else { "" });
            Ok(())
        }
    };
    if let Some(detail) = detail {
        let _ = write!(text, "; detail={detail}");
    }
    text
}

/// Seconds left, negative for what is stale.
fn ttl(fresh_until: SystemTime, now: SystemTime) -> i64 {
    let seconds = |left: Duration| i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    match fresh_until.duration_since(now) {
        Ok(left) => seconds(left),
        Err(error) => -seconds(error.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_as_9211_2_has_them() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let hit = |fresh_until| cache_status(Handled::Hit { fresh_until }, None, now);
        assert_eq!(hit(now + Duration::from_secs(30)), "selvedge; hit; ttl=30");
        assert_eq!(hit(now - Duration::from_secs(3)), "selvedge; hit; ttl=-3");
        let forwarded = |why, status, stored| {
            cache_status(
                Handled::Forwarded { why, status, stored, collapsed: false },
                (!stored).then_some("private"),
                now,
            )
        };
        assert_eq!(forwarded(Forwarded::Miss, None, true), "selvedge; fwd=miss; stored");
        assert_eq!(
            forwarded(Forwarded::Stale, Some(200), false),
            "selvedge; fwd=stale; fwd-status=200; detail=private"
        );
    }
}
