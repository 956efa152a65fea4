//! What a route says of its way to upstreams: shares of several, regions, repetitions, and who
//! stands in.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::filters::{RawSecret, Secret, resolve_secret};
use super::problem::{Problems, nearest};
use super::read::{At, Named, section};
use super::routes::{
    Action, Condition, ConditionOn, RawRespond, RawRoute, RawTest, find, resolve_respond,
    resolve_tests,
};
use super::upstreams::{self, HashKey, RawHashBy, Retry, Upstream};
use super::values::Percent;

/// Left out, the upstream decides.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    pub retries: Option<u32>,
    pub retry: Option<Retry>,
    /// If there are any, the only regions that requests may go to.
    pub fence: Arc<[Arc<str>]>,
    pub fallback: Option<Fallback>,
    pub sticky: Option<Sticky>,
    pub mirror: Option<Mirror>,
}

/// A cookie that keeps clients at their endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    pub cookie: String,
    pub secret: Secret,
    /// `None`: until the browser is closed.
    pub max_age: Option<Duration>,
}

/// Copies of requests to another upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    pub share: Percent,
    pub timeout: Duration,
    /// Copies under way at once.
    pub max: u32,
}

/// Shares of a route's requests for several upstreams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Requests with the same key go the same way; without one each is drawn by itself.
    pub by: Option<HashKey>,
    /// At least one has a weight above 0.
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    pub weight: u32,
    /// If there are any, a request that fulfils all of them goes here, whatever its share.
    pub conditions: Vec<Condition>,
}

/// Who answers when the upstream cannot be asked.
#[derive(Debug, Clone)]
pub enum Fallback {
    /// Index into `Config::upstreams`.
    Upstream(usize),
    /// [`Action::Respond`].
    Page(Action),
}

section! {
    /// Shares of the requests for several upstreams.
    pub struct RawSplit as "split" {
        /// What keeps a client's requests with one upstream; left out, each is drawn by itself.
        by: Option<RawHashBy>,
        /// The upstreams.
        to: At<Vec<RawPart>>,
    }
}

section! {
    /// An upstream and its share.
    pub struct RawPart as "split part" {
        /// The upstream.
        upstream: At<String>,
        /// Its share among the weights of all; 0 for none but what the conditions send there.
        weight: At<u32>,
        /// Request headers by name, each with a condition: all that fulfil these and `cookies` go
        /// here, whatever the weights.
        headers: Named<RawTest> = "{}",
        /// Cookies by name, each with a condition.
        cookies: Named<RawTest> = "{}",
    }
}

section! {
    /// Who answers when the upstream has no endpoint to try or its circuit is open; exactly one
    /// key.
    pub struct RawFallback as "fallback" {
        /// This upstream.
        upstream: Option<At<String>>,
        /// This page.
        respond: Option<RawRespond>,
    }
}

section! {
    /// Keeps a client at the endpoint that answered it first, by a sealed cookie. When that one
    /// is gone another takes over.
    pub struct RawSticky as "sticky" {
        /// The cookie's name.
        cookie: At<String>,
        /// What the cookie is sealed with; the same in all proxies that serve the route.
        secret: RawSecret,
        /// How long the client keeps it; left out, until the browser is closed.
        max_age: Option<Duration>,
    }
}

section! {
    /// Copies of requests to another upstream, whose answers go into metrics only. Requests with a
    /// body are copied if a filter has it held.
    pub struct RawMirror as "mirror" {
        /// The upstream that gets the copies.
        upstream: At<String>,
        /// The share of requests that are copied.
        percent: At<Percent> = "100%",
        /// The time for a copy's answer.
        timeout: Duration = "10s",
        /// Copies under way at once; what is above is not copied.
        max: At<u32> = "100",
    }
}

/// The largest weight; so many steps are enough for a share of a hundredth of a percent.
const MAX_WEIGHT: u32 = 10_000;
/// Bytes of a secret that nobody guesses.
const SHORTEST_SECRET: usize = 16;
/// Copies under way at once, each with its body.
const MAX_COPIES: u32 = 10_000;

/// What `raw` says beside its action, which is given.
pub fn resolve(
    raw: &RawRoute,
    action: &Action,
    upstreams: &[Upstream],
    problems: &mut Problems,
) -> Traffic {
    if let Some(retries) = &raw.retries {
        upstreams::check_retries(retries, problems);
    }
    let fallback = raw.fallback.as_ref().and_then(|given| {
        let fallback = resolve_fallback(given, upstreams, problems);
        if let (Some(Fallback::Upstream(second)), Action::Upstream(first)) = (&fallback, action)
            && first == second
        {
            given.problem(problems, "a fallback is another upstream than the route's", None);
        }
        fallback
    });
    let fallback_upstream = match fallback {
        Some(Fallback::Upstream(index)) => Some(index),
        _ => None,
    };
    let mirror = raw.mirror.as_ref().and_then(|given| resolve_mirror(given, upstreams, problems));
    let others = fallback_upstream.into_iter().chain(mirror.as_ref().map(|mirror| mirror.upstream));
    let reached = targets(action).into_iter().chain(others);
    check_fence(&raw.fence, reached.filter_map(|index| upstreams.get(index)), problems);
    Traffic {
        retries: raw.retries.as_ref().map(|retries| retries.value),
        retry: raw.retry.clone().map(|retry| upstreams::resolve_retry(retry.value, problems)),
        fence: raw.fence.iter().map(|region| region.value.as_str().into()).collect(),
        fallback,
        sticky: raw.sticky.as_ref().and_then(|given| resolve_sticky(given, problems)),
        mirror,
    }
}

/// The upstreams that an action goes to by itself.
fn targets(action: &Action) -> Vec<usize> {
    match action {
        Action::Upstream(index) => vec![*index],
        Action::Split(split) => split.parts.iter().map(|part| part.upstream).collect(),
        Action::Redirect { .. } | Action::Respond { .. } | Action::Aggregate(_) => Vec::new(),
    }
}

pub fn resolve_split(
    raw: RawSplit,
    upstreams: &[Upstream],
    problems: &mut Problems,
) -> Option<Split> {
    let by = match raw.by {
        Some(by) => Some(upstreams::resolve_key(by, &raw.to, problems)?),
        None => None,
    };
    if raw.to.value.iter().all(|part| part.weight.value == 0) {
        raw.to.problem(problems, "a split needs at least one weight above 0", None);
    }
    let mut known = HashSet::new();
    let parts = raw.to.value.into_iter().filter_map(|part| {
        if part.weight.value > MAX_WEIGHT {
            part.weight.problem(problems, format!("a weight is 0 to {MAX_WEIGHT}"), None);
        }
        if !known.insert(part.upstream.value.clone()) {
            let message = format!("the upstream {} stands here twice", part.upstream.value);
            part.upstream.problem(problems, message, None);
        }
        let (header, cookie) = (
            |name: &str| ConditionOn::Header(name.to_ascii_lowercase()),
            |name: &str| ConditionOn::Cookie(name.to_owned()),
        );
        let mut conditions = resolve_tests(part.headers, header, problems);
        conditions.extend(resolve_tests(part.cookies, cookie, problems));
        let names = upstreams.iter().map(|upstream| &*upstream.name);
        let upstream = find(&part.upstream, "upstream", names, problems)?;
        Some(Part { upstream, weight: part.weight.value, conditions })
    });
    Some(Split { by, parts: parts.collect() })
}

fn resolve_fallback(
    given: &At<RawFallback>,
    upstreams: &[Upstream],
    problems: &mut Problems,
) -> Option<Fallback> {
    match (given.value.upstream.clone(), given.value.respond.clone()) {
        (Some(name), None) => {
            let names = upstreams.iter().map(|upstream| &*upstream.name);
            find(&name, "upstream", names, problems).map(Fallback::Upstream)
        }
        (None, Some(page)) => Some(Fallback::Page(resolve_respond(page, problems))),
        _ => {
            given.problem(problems, "a fallback needs exactly one of upstream, respond", None);
            None
        }
    }
}

fn resolve_sticky(given: &At<RawSticky>, problems: &mut Problems) -> Option<Sticky> {
    let RawSticky { cookie, secret, max_age } = given.value.clone();
    // The names of cookies are of the same characters as those of headers (RFC 6265, 4.1.1).
    if cookie.value.parse::<HeaderName>().is_err() {
        cookie.problem(problems, format!("\"{}\" names no cookie", cookie.value), None);
    }
    let secret = resolve_secret(&cookie, secret, problems)?;
    if secret.expose().len() < SHORTEST_SECRET {
        let message = format!("the secret has less than {SHORTEST_SECRET} bytes");
        cookie.problem(problems, message, Some("openssl rand -hex 32".into()));
    }
    Some(Sticky { cookie: cookie.value, secret, max_age })
}

fn resolve_mirror(
    given: &At<RawMirror>,
    upstreams: &[Upstream],
    problems: &mut Problems,
) -> Option<Mirror> {
    let RawMirror { upstream, percent, timeout, max } = given.value.clone();
    if percent.value == Percent(0) {
        percent.problem(problems, "0% copies nothing", None);
    }
    if !(1..=MAX_COPIES).contains(&max.value) {
        max.problem(problems, format!("1 to {MAX_COPIES} copies at once"), None);
    }
    let names = upstreams.iter().map(|upstream| &*upstream.name);
    let upstream = find(&upstream, "upstream", names, problems)?;
    Some(Mirror { upstream, share: percent.value, timeout, max: max.value })
}

/// A fence that leaves nothing inside would refuse every request.
fn check_fence<'u>(
    fence: &[At<String>],
    upstreams: impl Iterator<Item = &'u Upstream>,
    problems: &mut Problems,
) {
    let Some(first) = fence.first() else { return };
    for upstream in upstreams {
        let known = |region: &At<String>| upstream.regions.iter().any(|r| **r == *region.value);
        if !fence.iter().any(known) {
            let message = format!("no region of this fence is one of upstream {}", upstream.name);
            let near = nearest(&first.value, upstream.regions.iter().map(|region| &**region));
            first.problem(problems, message, near);
        }
    }
}
