//! Whether a request may have what is stored (RFC 9111, 4 and 5.2.1; RFC 5861, 3; RFC 8246).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

use super::directives::{Directives, Seconds};

/// What a client says in `Cache-Control`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    pub no_cache: bool,
    pub no_store: bool,
    pub only_if_cached: bool,
    max_age: Option<Duration>,
    min_fresh: Option<Duration>,
    /// How stale a response may be.
    max_stale: Option<Duration>,
}

impl RequestDirectives {
    pub fn of(request: &HeaderMap) -> Self {
        let directives = Directives::cache_control(request);
        if directives.is_empty() {
            // RFC 9111, 5.4: of old, and only where nothing newer is said.
            let pragma = request.get(header::PRAGMA).and_then(|value| value.to_str().ok());
            let no_cache = pragma.is_some_and(|text| text.eq_ignore_ascii_case("no-cache"));
            return Self { no_cache, ..Self::default() };
        }
        let seconds = |name| match directives.seconds(name) {
            Seconds::Given(seconds) => Some(Duration::from_secs(seconds)),
            Seconds::Absent | Seconds::Invalid => None,
        };
        let any = directives.has_for_all("max-stale").then_some(Duration::MAX);
        Self {
            no_cache: directives.has("no-cache"),
            no_store: directives.has("no-store"),
            only_if_cached: directives.has("only-if-cached"),
            max_age: seconds("max-age"),
            min_fresh: seconds("min-fresh"),
            max_stale: seconds("max-stale").or(any),
        }
    }

    /// Of a client whose wishes a route does not follow.
    pub fn ignored() -> Self {
        Self::default()
    }
}

/// What of a stored response decides.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    pub headers: &'a HeaderMap,
    pub fresh_until: SystemTime,
    pub age: Duration,
    pub stale_while_revalidate: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    Fresh,
    /// Stale, but the client takes that.
    Stale,
    /// Stale, and to be refreshed in the background.
    StaleWhileRevalidate,
    /// It is not the age that forbids it, but the client.
    ClientWantsNew,
    Expired,
}

/// Whether `stored` may answer without asking the origin.
pub fn reuse(stored: Stored<'_>, request: &RequestDirectives, now: SystemTime) -> Reuse {
    let left = stored.fresh_until.duration_since(now);
    let fresh = left.is_ok();
    if request.no_cache {
        return if fresh { Reuse::ClientWantsNew } else { Reuse::Expired };
    }
    let directives = Directives::cache_control(stored.headers);
    // A reload asks for what cannot have changed (RFC 8246, 2).
    let immutable = fresh && directives.has("immutable");
    if request.max_age.is_some_and(|most| stored.age > most) && !immutable {
        return if fresh { Reuse::ClientWantsNew } else { Reuse::Expired };
    }
    match left {
        Ok(left) if request.min_fresh.is_some_and(|least| left < least) => Reuse::ClientWantsNew,
        Ok(_) => Reuse::Fresh,
        Err(error) => {
            let (since, strict) = (error.duration(), is_strict(&directives));
            if since <= stored.stale_while_revalidate && request.min_fresh.is_none() {
                Reuse::StaleWhileRevalidate
            } else if !strict && request.max_stale.is_some_and(|most| since <= most) {
                Reuse::Stale
            } else {
                Reuse::Expired
            }
        }
    }
}

/// Whether no client's word allows a stale response (RFC 9111, 4.2.4).
fn is_strict(directives: &Directives) -> bool {
    let strict = ["must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"];
    strict.iter().any(|name| directives.has(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_000_000);

    /// `left` seconds of freshness, negative when stale for so long.
    fn of(left: i64, stored: &str, request: &str) -> Reuse {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, stored.parse().expect("a value"));
        let mut asked = HeaderMap::new();
        if !request.is_empty() {
            asked.insert(header::CACHE_CONTROL, request.parse().expect("a value"));
        }
        let now = SystemTime::UNIX_EPOCH + NOW;
        let distance = Duration::from_secs(left.unsigned_abs());
        let stored = Stored {
            headers: &headers,
            fresh_until: if left >= 0 { now + distance } else { now - distance },
            age: Duration::from_secs(100),
            stale_while_revalidate: Duration::from_secs(10),
        };
        reuse(stored, &RequestDirectives::of(&asked), now)
    }

    #[test]
    fn fresh_is_used_and_stale_is_refreshed_5861_3() {
        assert_eq!(of(5, "max-age=105", ""), Reuse::Fresh);
        assert_eq!(of(-5, "max-age=95", ""), Reuse::StaleWhileRevalidate);
        assert_eq!(of(-11, "max-age=89", ""), Reuse::Expired);
    }

    #[test]
    fn a_client_may_want_it_newer_9111_5_2_1() {
        assert_eq!(of(50, "max-age=150", "no-cache"), Reuse::ClientWantsNew);
        assert_eq!(of(50, "max-age=150", "max-age=0"), Reuse::ClientWantsNew);
        assert_eq!(of(50, "max-age=150", "max-age=99"), Reuse::ClientWantsNew);
        assert_eq!(of(50, "max-age=150", "max-age=100"), Reuse::Fresh);
        assert_eq!(of(50, "max-age=150", "min-fresh=51"), Reuse::ClientWantsNew);
        assert_eq!(of(50, "max-age=150", "min-fresh=50"), Reuse::Fresh);
        assert_eq!(of(-5, "max-age=95", "no-cache"), Reuse::Expired);
    }

    #[test]
    fn a_client_may_take_it_older_9111_5_2_1_2() {
        assert_eq!(of(-50, "max-age=50", "max-stale"), Reuse::Stale);
        assert_eq!(of(-50, "max-age=50", "max-stale=50"), Reuse::Stale);
        assert_eq!(of(-50, "max-age=50", "max-stale=49"), Reuse::Expired);
        assert_eq!(of(-50, "max-age=50, must-revalidate", "max-stale"), Reuse::Expired);
        assert_eq!(of(-50, "s-maxage=50", "max-stale"), Reuse::Expired);
    }

    #[test]
    fn a_reload_does_not_ask_for_the_immutable_8246_2() {
        assert_eq!(of(50, "max-age=150, immutable", "max-age=0"), Reuse::Fresh);
        assert_eq!(of(50, "max-age=150, immutable", "no-cache"), Reuse::ClientWantsNew);
        assert_eq!(of(-50, "max-age=50, immutable", "max-age=0"), Reuse::Expired);
    }

    #[test]
    fn pragma_counts_where_nothing_newer_is_said_9111_5_4() {
        let mut asked = HeaderMap::new();
        asked.insert(header::PRAGMA, "No-Cache".parse().expect("a value"));
        assert!(RequestDirectives::of(&asked).no_cache);
        asked.insert(header::CACHE_CONTROL, "max-age=5".parse().expect("a value"));
        assert!(!RequestDirectives::of(&asked).no_cache);
    }
}
