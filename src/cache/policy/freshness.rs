//! Whether a response may be stored (RFC 9111, 3), and how long it is fresh (4.2).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::dates;
use super::directives::{Directives, Seconds};
use crate::config::cache::Rules;

/// The longest heuristic lifetime, and the part of the response's age that it is (RFC 9111, 4.2.2).
const LONGEST_HEURISTIC: u64 = 86_400;
const HEURISTIC_PART: u64 = 10;
/// Longer lifetimes and ages mean this (RFC 9111, 1.2.2).
const MOST_SECONDS: u64 = 1 << 31;

/// A response and what of its request matters.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub method: &'a Method,
    pub request: &'a HeaderMap,
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
}

/// What a filter says of one response. It is kept with the response, for the time when a 304 asks
/// again how long that is fresh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    pub ttl: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    pub tags: Vec<String>,
    pub no_store: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Store(Lifetime),
    Refuse(Refusal),
}

/// All of it from now on, except the age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// What is left of it; zero is stored to be revalidated.
    pub fresh: Duration,
    /// How old the response is already.
    pub age: Duration,
    pub stale_while_revalidate: Duration,
    /// For errors of any kind, or for an unreachable origin only: see [`stale_on_error`].
    pub stale_if_error: Duration,
}

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoStore,
    Private,
    Authorization,
    SetCookie,
    VaryAll,
    Status,
    Method,
    NotUnderstood,
    NoLifetime,
    NoValidator,
    TooLarge,
    Filter,
    /// Another upstream stood in.
    Fallback,
}

impl Refusal {
    /// As `detail` in `Cache-Status`.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::VaryAll => "vary-all",
            Self::Status => "status",
            Self::Method => "method",
            Self::NotUnderstood => "not-understood",
            Self::NoLifetime => "no-lifetime",
            Self::NoValidator => "expired-without-validator",
            Self::TooLarge => "too-large",
            Self::Filter => "filter",
            Self::Fallback => "fallback",
        }
    }
}

/// The directives that count for a shared cache here, and whether they come from a targeted field,
/// which takes the place of `Expires` too (RFC 9213, 2.2).
fn directives(headers: &HeaderMap, rules: &Rules) -> (Directives, bool) {
    let surrogate = rules.surrogate_control.then(|| Directives::surrogate(headers)).flatten();
    match surrogate.or_else(|| Directives::cdn(headers)) {
        Some(targeted) => (targeted, true),
        None => (Directives::cache_control(headers), false),
    }
}

/// Whether and how a response is stored.
pub fn judge(answer: Answer<'_>, wishes: &Wishes, rules: &Rules, now: SystemTime) -> Verdict {
    let (directives, targeted) = directives(answer.headers, rules);
    if let Some(refusal) = refusal(answer, &directives, wishes, rules) {
        return Verdict::Refuse(refusal);
    }
    let age = age(answer.headers, now);
    let explicit = explicit_lifetime(answer.headers, &directives, targeted, now);
    if *answer.method == Method::POST && !post_may_answer_get(answer, explicit) {
        return Verdict::Refuse(Refusal::Method);
    }
    let lifetime = match wishes.ttl {
        // A filter's lifetime begins when the filter names it.
        Some(ttl) => Some(age + ttl.as_secs()),
        None => explicit.or_else(|| implied_lifetime(answer, &directives, rules, now)),
    };
    let Some(lifetime) = lifetime else { return Verdict::Refuse(Refusal::NoLifetime) };
    let fresh = lifetime.min(MOST_SECONDS).saturating_sub(age);
    let has_validator = answer.headers.contains_key(header::ETAG)
        || answer.headers.contains_key(header::LAST_MODIFIED);
    let stale = stale(answer.headers, wishes, rules);
    if fresh == 0 && !has_validator && stale.while_revalidate.is_zero() {
        return Verdict::Refuse(Refusal::NoValidator);
    }
    Verdict::Store(Lifetime {
        fresh: Duration::from_secs(fresh),
        age: Duration::from_secs(age),
        stale_while_revalidate: stale.while_revalidate,
        stale_if_error: stale.if_error.max(stale.if_unreachable),
    })
}

/// RFC 9111, 3: reasons that no lifetime outweighs.
fn refusal(
    answer: Answer<'_>,
    directives: &Directives,
    wishes: &Wishes,
    rules: &Rules,
) -> Option<Refusal> {
    let understands = directives.has("must-understand");
    let is_shared = ["public", "must-revalidate", "s-maxage"].iter().any(|d| directives.has(d));
    let sets_cookie = answer.headers.contains_key(header::SET_COOKIE)
        && !hidden(directives).any(|field| field == header::SET_COOKIE);
    let reasons = [
        (wishes.no_store, Refusal::Filter),
        (!may_be_stored(answer.status), Refusal::Status),
        (understands && !is_understood(answer.status), Refusal::NotUnderstood),
        (directives.has("no-store") && !understands, Refusal::NoStore),
        (directives.has_for_all("private"), Refusal::Private),
        (answer.request.contains_key(header::AUTHORIZATION) && !is_shared, Refusal::Authorization),
        (super::vary::varies_on_all(answer.headers), Refusal::VaryAll),
        (sets_cookie && !rules.store_set_cookie, Refusal::SetCookie),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, refusal)| refusal)
}

/// Fields that are for this one client (RFC 9111, 5.2.2.4 and 5.2.2.7).
pub(super) fn hidden(directives: &Directives) -> impl Iterator<Item = http::HeaderName> {
    directives.fields("private").chain(directives.fields("no-cache"))
}

/// Final, whole, and no answer to a condition.
fn may_be_stored(status: StatusCode) -> bool {
    status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304)
}

/// The statuses whose caching this program knows (RFC 9110, 15).
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(),
        200 | 203 | 204 | 300..=303 | 307 | 308 | 400..=417 | 421..=426 | 428 | 429 | 431 | 451
        | 500..=505)
}

/// RFC 9110, 15.1.
fn is_cacheable_by_default(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// A POST's response stands for a later GET only with a lifetime of its own and its own URL in
/// `Content-Location` (RFC 9110, 9.3.3); whether that is the URL, the caller has seen.
fn post_may_answer_get(answer: Answer<'_>, explicit: Option<u64>) -> bool {
    answer.status == StatusCode::OK
        && explicit.is_some()
        && answer.headers.contains_key(header::CONTENT_LOCATION)
}

/// RFC 9111, 4.2.1.
fn explicit_lifetime(
    headers: &HeaderMap,
    directives: &Directives,
    targeted: bool,
    now: SystemTime,
) -> Option<u64> {
    if directives.has_for_all("no-cache") {
        return Some(0);
    }
    for name in ["s-maxage", "max-age"] {
        match directives.seconds(name) {
            Seconds::Absent => {}
            Seconds::Given(seconds) => return Some(seconds),
            Seconds::Invalid => return Some(0),
        }
    }
    let mut lines = headers.get_all(header::EXPIRES).iter();
    let expires = lines.next().filter(|_| !targeted)?;
    // A second line is as invalid as what is no date, and that is in the past (RFC 9111, 5.3).
    let valid = expires.to_str().ok().filter(|_| lines.next().is_none());
    let expires = valid.and_then(|text| dates::parse(text, now)).unwrap_or(0);
    Some(u64::try_from(expires - date(headers, now)).unwrap_or(0))
}

/// A tenth of the time since the last change (RFC 9111, 4.2.2), or what the route says.
fn implied_lifetime(
    answer: Answer<'_>,
    directives: &Directives,
    rules: &Rules,
    now: SystemTime,
) -> Option<u64> {
    if !is_cacheable_by_default(answer.status) && !directives.has("public") {
        return None;
    }
    if let Some(ttl) = rules.ttl {
        return Some(ttl.as_secs());
    }
    let modified = answer.headers.get(header::LAST_MODIFIED)?.to_str().ok()?;
    let unchanged = date(answer.headers, now) - dates::parse(modified, now)?;
    let unchanged = u64::try_from(unchanged).ok().filter(|seconds| *seconds > 0)?;
    Some((unchanged / HEURISTIC_PART).min(LONGEST_HEURISTIC))
}

/// `Date`, or now where there is none.
fn date(headers: &HeaderMap, now: SystemTime) -> i64 {
    let text = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    text.and_then(|text| dates::parse(text, now)).unwrap_or_else(|| dates::seconds(now))
}

/// RFC 9111, 4.2.3: the larger of what `Age` says and what the clock says. Of several values the
/// first counts, and what is no number is none.
fn age(headers: &HeaderMap, now: SystemTime) -> u64 {
    let text = headers.get(header::AGE).and_then(|age| age.to_str().ok()).unwrap_or_default();
    let first = text.split(',').next().unwrap_or_default().trim();
    let digits = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
    let stated = if digits { first.parse().unwrap_or(MOST_SECONDS).min(MOST_SECONDS) } else { 0 };
    let apparent = u64::try_from(dates::seconds(now) - date(headers, now)).unwrap_or(0);
    stated.max(apparent).min(MOST_SECONDS)
}

/// How long a response may be used beyond its lifetime.
struct Stale {
    while_revalidate: Duration,
    if_error: Duration,
    if_unreachable: Duration,
}

fn stale(headers: &HeaderMap, wishes: &Wishes, rules: &Rules) -> Stale {
    let (directives, _) = directives(headers, rules);
    let forbidden = ["must-revalidate", "proxy-revalidate"].iter().any(|d| directives.has(d))
        || directives.has_for_all("no-cache");
    // RFC 5861 is the origin's own word; what is only configured gives way to `s-maxage`, which
    // implies `proxy-revalidate` (RFC 9111, 5.2.2.10).
    let silent = !forbidden && !directives.has("s-maxage");
    let of = |name: &str, wish: Option<Duration>, rule: Option<Duration>| {
        let stated = match directives.seconds(name) {
            Seconds::Given(seconds) if !forbidden => Some(Duration::from_secs(seconds)),
            _ => None,
        };
        wish.or(stated).or(rule.filter(|_| silent)).unwrap_or_default()
    };
    let while_revalidate = wishes.stale_while_revalidate;
    Stale {
        while_revalidate: of(
            "stale-while-revalidate",
            while_revalidate,
            rules.stale_while_revalidate,
        ),
        if_error: of("stale-if-error", wishes.stale_if_error, rules.stale_if_error),
        if_unreachable: rules.stale_if_unreachable.filter(|_| silent).unwrap_or_default(),
    }
}

/// How long a stored response may stand in for an error's (RFC 5861, 4), other than for an origin
/// that cannot be reached at all.
pub fn stale_on_error(headers: &HeaderMap, wishes: &Wishes, rules: &Rules) -> Duration {
    stale(headers, wishes, rules).if_error
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_000_000);

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: http::HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW
    }

    fn ago(seconds: u64) -> String {
        httpdate::fmt_http_date(now() - Duration::from_secs(seconds))
    }

    struct Given<'a> {
        request: &'a [(&'a str, &'a str)],
        status: u16,
        rules: Rules,
        wishes: Wishes,
        method: Method,
    }

    impl Default for Given<'_> {
        fn default() -> Self {
            Self {
                request: &[],
                status: 200,
                rules: Rules::default(),
                wishes: Wishes::default(),
                method: Method::GET,
            }
        }
    }

    impl Given<'_> {
        fn judge(self, lines: &[(&str, &str)]) -> Verdict {
            let (request, headers) = (headers(self.request), headers(lines));
            let status = StatusCode::from_u16(self.status).expect("a status");
            let answer =
                Answer { method: &self.method, request: &request, status, headers: &headers };
            judge(answer, &self.wishes, &self.rules, now())
        }

        fn fresh(self, lines: &[(&str, &str)]) -> Result<u64, Refusal> {
            match self.judge(lines) {
                Verdict::Store(lifetime) => Ok(lifetime.fresh.as_secs()),
                Verdict::Refuse(refusal) => Err(refusal),
            }
        }
    }

    fn fresh(lines: &[(&str, &str)]) -> Result<u64, Refusal> {
        Given::default().fresh(lines)
    }

    fn lifetime(given: Given<'_>, lines: &[(&str, &str)]) -> Lifetime {
        match given.judge(lines) {
            Verdict::Store(lifetime) => lifetime,
            Verdict::Refuse(refusal) => panic!("refused: {refusal:?}"),
        }
    }

    #[test]
    fn s_maxage_before_max_age_before_expires_9111_4_2_1() {
        let date = ago(0);
        let expires = httpdate::fmt_http_date(now() + Duration::from_secs(30));
        let lines = [
            ("cache-control", "max-age=20, s-maxage=10"),
            ("expires", &*expires),
            ("date", &*date),
        ];
        assert_eq!(fresh(&lines), Ok(10));
        assert_eq!(fresh(&[("cache-control", "max-age=20"), lines[1], lines[2]]), Ok(20));
        assert_eq!(fresh(&lines[1..]), Ok(30));
    }

    #[test]
    fn what_is_no_date_expired_long_ago_9111_5_3() {
        let etag = ("etag", "\"a\"");
        assert_eq!(fresh(&[("expires", "0"), etag]), Ok(0));
        let valid = httpdate::fmt_http_date(now() + Duration::from_secs(30));
        assert_eq!(fresh(&[("expires", &valid), ("expires", &valid), etag]), Ok(0));
        assert_eq!(fresh(&[("expires", "0")]), Err(Refusal::NoValidator));
    }

    #[test]
    fn age_is_the_larger_of_age_and_clock_9111_4_2_3() {
        let (old, young) = (ago(40), ago(5));
        let cc = ("cache-control", "max-age=100");
        assert_eq!(fresh(&[cc, ("age", "10"), ("date", &old)]), Ok(60));
        assert_eq!(fresh(&[cc, ("age", "10"), ("date", &young)]), Ok(90));
        assert_eq!(fresh(&[cc, ("age", "-1")]), Ok(100));
        assert_eq!(fresh(&[cc, ("age", "7, 9")]), Ok(93));
        assert_eq!(fresh(&[cc, ("age", "99999999999999999999"), ("etag", "\"a\"")]), Ok(0));
    }

    #[test]
    fn a_tenth_since_the_last_change_at_most_a_day_9111_4_2_2() {
        let date = ago(0);
        let changed = |seconds| [("date", date.clone()), ("last-modified", ago(seconds))];
        let of = |given: Given<'_>, seconds| {
            let lines = changed(seconds);
            let lines: Vec<(&str, &str)> = lines.iter().map(|(n, v)| (*n, &**v)).collect();
            given.fresh(&lines)
        };
        assert_eq!(of(Given::default(), 1000), Ok(100));
        assert_eq!(of(Given::default(), 100_000_000), Ok(86_400));
        let other = Given { status: 201, ..Given::default() };
        assert_eq!(of(other, 1000), Err(Refusal::NoLifetime), "not by default cacheable");
        let rules = Rules { ttl: Some(Duration::from_secs(7)), ..Rules::default() };
        assert_eq!(of(Given { rules, ..Given::default() }, 1000), Ok(7), "the route's word");
        assert_eq!(fresh(&[]), Err(Refusal::NoLifetime));
    }

    #[test]
    fn what_is_not_for_all_is_not_stored_9111_3() {
        let cases = [
            ("no-store, max-age=5", Refusal::NoStore),
            ("private, max-age=5", Refusal::Private),
            ("max-age=5, PRIVATE", Refusal::Private),
        ];
        for (cc, refusal) in cases {
            assert_eq!(fresh(&[("cache-control", cc)]), Err(refusal), "{cc}");
        }
        let etag = ("etag", "\"a\"");
        assert_eq!(fresh(&[("cache-control", "no-cache, max-age=5"), etag]), Ok(0));
        assert_eq!(
            fresh(&[("cache-control", "max-age=5"), ("vary", "a, *")]),
            Err(Refusal::VaryAll)
        );
    }

    #[test]
    fn only_fields_that_are_named_are_private_9111_5_2_2_7() {
        let named = ("cache-control", r#"private="set-cookie", max-age=5"#);
        assert_eq!(fresh(&[named, ("set-cookie", "a=1")]), Ok(5));
    }

    #[test]
    fn cookies_are_stored_only_where_the_route_says_so() {
        let lines = [("cache-control", "max-age=5"), ("set-cookie", "a=1")];
        assert_eq!(fresh(&lines), Err(Refusal::SetCookie));
        let rules = Rules { store_set_cookie: true, ..Rules::default() };
        assert_eq!(Given { rules, ..Given::default() }.fresh(&lines), Ok(5));
    }

    #[test]
    fn authorised_answers_need_permission_9111_3_5() {
        let of = |cc: &str| {
            let given = Given { request: &[("authorization", "Basic x")], ..Given::default() };
            given.fresh(&[("cache-control", cc)])
        };
        assert_eq!(of("max-age=5"), Err(Refusal::Authorization));
        for cc in ["max-age=5, public", "max-age=5, must-revalidate", "s-maxage=5"] {
            assert_eq!(of(cc), Ok(5), "{cc}");
        }
    }

    #[test]
    fn statuses_9111_3_and_5_2_2_3() {
        let of =
            |status, cc: &str| Given { status, ..Given::default() }.fresh(&[("cache-control", cc)]);
        assert_eq!(of(206, "max-age=5"), Err(Refusal::Status));
        assert_eq!(of(304, "max-age=5"), Err(Refusal::Status));
        assert_eq!(of(599, "max-age=5"), Ok(5), "explicit is enough");
        assert_eq!(of(599, "max-age=5, must-understand"), Err(Refusal::NotUnderstood));
        assert_eq!(of(200, "max-age=5, no-store, must-understand"), Ok(5), "5.2.2.3");
    }

    #[test]
    fn targeted_fields_take_over_9213_2_2() {
        let valid = httpdate::fmt_http_date(now() + Duration::from_secs(30));
        let cc = ("cache-control", "no-store");
        assert_eq!(fresh(&[("cdn-cache-control", "max-age=9"), cc, ("expires", &valid)]), Ok(9));
        assert_eq!(fresh(&[("cdn-cache-control", "max-age=\"9\""), cc]), Err(Refusal::NoStore));
        assert_eq!(
            fresh(&[("cdn-cache-control", "no-store"), ("cache-control", "max-age=9")]),
            Err(Refusal::NoStore)
        );
        let surrogate = ("surrogate-control", "max-age=3");
        let lines = [surrogate, ("cache-control", "max-age=9")];
        assert_eq!(fresh(&lines), Ok(9), "off by default");
        let rules = Rules { surrogate_control: true, ..Rules::default() };
        assert_eq!(Given { rules, ..Given::default() }.fresh(&lines), Ok(3));
    }

    #[test]
    fn stale_is_allowed_by_the_origin_or_the_route_5861_and_9111_4_2_4() {
        let rules = || Rules {
            stale_while_revalidate: Some(Duration::from_secs(3)),
            stale_if_unreachable: Some(Duration::from_secs(60)),
            ..Rules::default()
        };
        let of = |cc: &str| {
            let given = Given { rules: rules(), ..Given::default() };
            let found = lifetime(given, &[("cache-control", cc), ("etag", "\"a\"")]);
            (found.stale_while_revalidate.as_secs(), found.stale_if_error.as_secs())
        };
        assert_eq!(of("max-age=5"), (3, 60));
        assert_eq!(of("max-age=5, stale-while-revalidate=9, stale-if-error=90"), (9, 90));
        assert_eq!(of("max-age=5, must-revalidate, stale-while-revalidate=9"), (0, 0));
        assert_eq!(of("max-age=5, proxy-revalidate"), (0, 0));
        assert_eq!(of("no-cache"), (0, 0));
        assert_eq!(of("s-maxage=5"), (0, 0));
        assert_eq!(of("s-maxage=5, stale-if-error=9"), (0, 9));
    }

    #[test]
    fn only_an_explicit_word_covers_errors_that_the_origin_answered() {
        let rules =
            Rules { stale_if_unreachable: Some(Duration::from_secs(60)), ..Rules::default() };
        let on_error = |cc: &str, wishes: &Wishes| {
            stale_on_error(&headers(&[("cache-control", cc)]), wishes, &rules).as_secs()
        };
        assert_eq!(on_error("max-age=5", &Wishes::default()), 0);
        assert_eq!(on_error("max-age=5, stale-if-error=7", &Wishes::default()), 7);
        let wishes = Wishes { stale_if_error: Some(Duration::from_secs(10)), ..Wishes::default() };
        assert_eq!(on_error("max-age=5", &wishes), 10);
    }

    #[test]
    fn a_filter_names_the_lifetime_but_makes_nothing_public() {
        let wishes = || Wishes { ttl: Some(Duration::from_secs(50)), ..Wishes::default() };
        let of = |lines: &[(&str, &str)]| {
            let given = Given { wishes: wishes(), ..Given::default() };
            given.fresh(lines)
        };
        assert_eq!(of(&[]), Ok(50));
        assert_eq!(of(&[("cache-control", "max-age=5"), ("age", "30")]), Ok(50));
        assert_eq!(of(&[("cache-control", "private")]), Err(Refusal::Private));
        let no_store = Wishes { no_store: true, ..Wishes::default() };
        let given = Given { wishes: no_store, ..Given::default() };
        assert_eq!(given.fresh(&[("cache-control", "max-age=5")]), Err(Refusal::Filter));
    }

    #[test]
    fn a_post_stands_for_a_get_only_by_its_own_word_9110_9_3_3() {
        let of = |lines: &[(&str, &str)]| {
            Given { method: Method::POST, ..Given::default() }.fresh(lines)
        };
        assert_eq!(of(&[("cache-control", "max-age=5"), ("content-location", "/a")]), Ok(5));
        assert_eq!(of(&[("cache-control", "max-age=5")]), Err(Refusal::Method));
        assert_eq!(of(&[("content-location", "/a"), ("etag", "\"a\"")]), Err(Refusal::Method));
    }
}
