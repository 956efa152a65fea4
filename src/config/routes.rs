//! `routes`: which request goes where, through which filters.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::aggregate::{self, Aggregate, RawAggregate};
use super::cache::{self, RawRouteCache, RouteCache};
use super::filters::Filter;
use super::pattern::{HostPattern, PathPattern};
use super::problem::{Problems, nearest};
use super::read::{At, Named, check_name, choice, section};
use super::traffic::{self, RawFallback, RawMirror, RawSplit, RawSticky, Split, Traffic};
use super::upstreams::{RawRetry, Upstream};
use super::values::Bytes;

#[derive(Debug, Clone)]
pub struct Route {
    pub name: Arc<str>,
    pub matches: Match,
    /// Indexes into `Config::filters`, outermost first.
    pub filters: Vec<usize>,
    pub action: Action,
    pub rewrite: Option<Rewrite>,
    pub ambiguous_path: AmbiguousPath,
    /// Overrides the upstream's total timeout.
    pub timeout: Option<Duration>,
    pub max_body: u64,
    pub traffic: Traffic,
    /// Shared, as each request holds on to it.
    pub cache: Option<Arc<RouteCache>>,
}

/// All that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub host: HostPattern,
    pub path: PathPattern,
    /// Empty: any.
    pub methods: Vec<Method>,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub on: ConditionOn,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionOn {
    Header(String),
    Query(String),
    Cookie(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    Present,
    Absent,
    Equals(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Index into `Config::upstreams`.
    Upstream(usize),
    Split(Split),
    Redirect {
        status: StatusCode,
        to: String,
    },
    Respond {
        status: StatusCode,
        body: Arc<str>,
        headers: Vec<(HeaderName, String)>,
    },
    Aggregate(Aggregate),
}

/// `prefix` (whole segments) is replaced by `with`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    pub prefix: String,
    pub with: String,
}

/// What happens to a path that origins read differently, see `routing::path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmbiguousPath {
    /// 400.
    Reject,
    /// Forward as it came.
    Keep,
}

section! {
    /// Which requests go where, through which filters. Exactly one of upstream, split, redirect,
    /// respond, aggregate.
    pub struct RawRoute as "route" {
        /// The route's name in logs and metrics.
        name: At<String>,
        /// What a request must be; the most specific route wins.
        r#match: RawMatch,
        /// Filters by name, outermost first.
        filters: Vec<At<String>> = "[]",
        /// Forward to this upstream.
        upstream: Option<At<String>>,
        /// Forward to several upstreams, each with its share.
        split: Option<RawSplit>,
        /// Answer with a redirect.
        redirect: Option<RawRedirect>,
        /// Answer with a fixed response.
        respond: Option<RawRespond>,
        /// Answer with the answers of several upstreams in one JSON.
        aggregate: Option<RawAggregate>,
        /// Take this prefix, whole segments, off the path before it is forwarded.
        strip_prefix: Option<At<String>>,
        /// Put this in place of `strip_prefix`.
        replace_prefix: Option<At<String>>,
        /// Paths with `%2f`, `%5c`, `%00`, `\\`, `//` or `..;`, which origins read differently.
        ambiguous_path: AmbiguousPath = "reject",
        /// The upstream's total timeout, for this route.
        timeout: Option<At<Duration>>,
        /// The upstream's `retries`, for this route.
        retries: Option<At<u32>>,
        /// The upstream's `retry`, for this route.
        retry: Option<At<RawRetry>>,
        /// The only regions that a request may go to, whatever fails: see `region` of endpoints.
        fence: Vec<At<String>> = "[]",
        /// Who answers when the upstream cannot be asked.
        fallback: Option<At<RawFallback>>,
        /// Keeps clients at their endpoints by a cookie.
        sticky: Option<At<RawSticky>>,
        /// Copies requests to another upstream.
        mirror: Option<At<RawMirror>>,
        /// The largest request body; above it the answer is 413.
        max_body: Bytes = "100MiB",
        /// What of the responses is stored; left out, nothing.
        cache: Option<At<RawRouteCache>>,
    }
}

section! {
    /// All that is given must hold.
    pub struct RawMatch as "match" {
        /// `shop.test`, or `*.shop.test` for every name below it; left out, any.
        host: HostPattern = "\"*\"",
        /// `/exact`, `/one/{segment}`, `/everything/below/{rest*}`.
        path: PathPattern = "\"/{rest*}\"",
        /// Methods; empty means any but TRACE.
        methods: Vec<Method> = "[]",
        /// Request headers by name, each with a condition.
        headers: Named<RawTest> = "{}",
        /// Query parameters by name, each with a condition.
        query: Named<RawTest> = "{}",
        /// Cookies by name, each with a condition.
        cookies: Named<RawTest> = "{}",
    }
}

section! {
    /// A test of one header, query parameter or cookie; exactly one key.
    pub struct RawTest as "condition" {
        /// The exact value.
        equals: Option<String>,
        /// Whether it must be there, or must not.
        present: Option<bool>,
    }
}

section! {
    /// A redirect.
    pub struct RawRedirect as "redirect" {
        /// 301, 302, 303, 307 or 308.
        status: At<StatusCode> = "308",
        /// The target. In it `{path}` and `{query}` stand for the request's own, `{host}` for its host.
        to: At<String>,
    }
}

section! {
    /// A fixed response.
    pub struct RawRespond as "respond" {
        /// Its status; 204, 205 and 304 have no body.
        status: At<StatusCode> = "200",
        /// Its body.
        body: String = "\"\"",
        /// Its media type.
        content_type: At<String> = "text/plain; charset=utf-8",
    }
}

/// What a redirect's target may hold.
const PLACEHOLDERS: [&str; 3] = ["{path}", "{query}", "{host}"];

choice!(AmbiguousPath { "reject" => AmbiguousPath::Reject, "keep" => AmbiguousPath::Keep });

/// Routes refer to upstreams and filters by name; here the names become indexes.
pub fn resolve(
    raw: Vec<RawRoute>,
    upstreams: &[Upstream],
    filters: &[Filter],
    problems: &mut Problems,
) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::with_capacity(raw.len());
    let mut names = HashSet::with_capacity(raw.len());
    for route in raw {
        if let Err(message) = check_name(&route.name.value) {
            route.name.problem(problems, message, None);
        }
        if !names.insert(route.name.value.clone()) {
            let message = format!("a second route named \"{}\"", route.name.value);
            route.name.problem(problems, message, None);
        }
        routes.extend(resolve_one(route, upstreams, filters, problems));
    }
    routes
}

fn resolve_one(
    raw: RawRoute,
    upstreams: &[Upstream],
    filters: &[Filter],
    problems: &mut Problems,
) -> Option<Route> {
    refuse_without_upstream(&raw, problems);
    let rewrite = resolve_rewrite(&raw, problems);
    let matches = resolve_match(raw.r#match.clone(), problems);
    let cache = raw
        .cache
        .clone()
        .map(|raw_cache| cache::resolve(raw_cache.value, &raw.name.value, problems));
    let filters = raw.filters.iter().filter_map(|name| {
        let names = filters.iter().map(|f| &*f.name);
        find(name, "filter", names, problems)
    });
    let filters = filters.collect();
    let action = resolve_action(&raw, &matches, upstreams, problems)?;
    Some(Route {
        name: raw.name.value.as_str().into(),
        filters,
        rewrite,
        ambiguous_path: raw.ambiguous_path,
        timeout: raw.timeout.as_ref().map(|timeout| timeout.value),
        max_body: raw.max_body.0,
        traffic: traffic::resolve(&raw, &action, upstreams, problems),
        cache: cache.map(Arc::new),
        action,
        matches,
    })
}

/// Keys that say how to forward have no effect on a route that answers by itself.
fn refuse_without_upstream(raw: &RawRoute, problems: &mut Problems) {
    let answers = raw.redirect.is_some() || raw.respond.is_some() || raw.aggregate.is_some();
    if raw.upstream.is_some() || raw.split.is_some() || !answers {
        return;
    }
    no_effect("strip_prefix", raw.strip_prefix.as_ref(), problems);
    no_effect("replace_prefix", raw.replace_prefix.as_ref(), problems);
    no_effect("timeout", raw.timeout.as_ref(), problems);
    no_effect("retries", raw.retries.as_ref(), problems);
    no_effect("retry", raw.retry.as_ref(), problems);
    no_effect("fence", raw.fence.first(), problems);
    no_effect("fallback", raw.fallback.as_ref(), problems);
    no_effect("sticky", raw.sticky.as_ref(), problems);
    no_effect("mirror", raw.mirror.as_ref(), problems);
    no_effect("cache", raw.cache.as_ref(), problems);
}

fn no_effect<T>(key: &str, given: Option<&At<T>>, problems: &mut Problems) {
    if let Some(given) = given {
        given.problem(problems, format!("{key} has an effect with upstream and split only"), None);
    }
}

pub(super) fn find<'a>(
    name: &At<String>,
    what: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    problems: &mut Problems,
) -> Option<usize> {
    let found = known.clone().position(|known| known == name.value);
    if found.is_none() {
        let message = format!("there is no {what} named \"{}\"", name.value);
        name.problem(problems, message, nearest(&name.value, known));
    }
    found
}

fn resolve_action(
    raw: &RawRoute,
    matches: &Match,
    upstreams: &[Upstream],
    problems: &mut Problems,
) -> Option<Action> {
    let (upstream, split, redirect) =
        (raw.upstream.clone(), raw.split.clone(), raw.redirect.clone());
    match (upstream, split, redirect, raw.respond.clone(), raw.aggregate.clone()) {
        (Some(upstream), None, None, None, None) => {
            let names = upstreams.iter().map(|u| &*u.name);
            find(&upstream, "upstream", names, problems).map(Action::Upstream)
        }
        (None, Some(split), None, None, None) => {
            traffic::resolve_split(split, upstreams, problems).map(Action::Split)
        }
        (None, None, Some(redirect), None, None) => Some(resolve_redirect(redirect, problems)),
        (None, None, None, Some(page), None) => Some(resolve_respond(page, problems)),
        (None, None, None, None, Some(raw)) => {
            Some(Action::Aggregate(aggregate::resolve(raw, matches, upstreams, problems)))
        }
        _ => {
            let message =
                "a route needs exactly one of upstream, split, redirect, respond, aggregate";
            raw.name.problem(problems, message, None);
            None
        }
    }
}

fn resolve_redirect(RawRedirect { status, to }: RawRedirect, problems: &mut Problems) -> Action {
    if !matches!(status.value.as_u16(), 301 | 302 | 303 | 307 | 308) {
        status.problem(problems, "a redirect is 301, 302, 303, 307 or 308", None);
    }
    let printable = to.value.bytes().all(|b| b.is_ascii_graphic());
    if to.value.is_empty() || !printable {
        to.problem(problems, "a redirect's target is printable ASCII without spaces", None);
    }
    if PLACEHOLDERS.iter().fold(to.value.clone(), |to, p| to.replace(p, "")).contains(['{', '}']) {
        let message = format!("a redirect's target knows {} only", PLACEHOLDERS.join(", "));
        to.problem(problems, message, None);
    }
    Action::Redirect { status: status.value, to: to.value }
}

/// An [`Action::Respond`].
pub(super) fn resolve_respond(raw: RawRespond, problems: &mut Problems) -> Action {
    let RawRespond { status, body, content_type } = raw;
    if matches!(status.value.as_u16(), 204 | 205 | 304) && !body.is_empty() {
        status.problem(problems, format!("a {} has no body", status.value.as_u16()), None);
    }
    if HeaderValue::from_str(&content_type.value).is_err() {
        content_type.problem(problems, "a media type is printable ASCII", None);
    }
    Action::Respond {
        status: status.value,
        body: body.into(),
        headers: vec![(http::header::CONTENT_TYPE, content_type.value)],
    }
}

fn resolve_match(raw: RawMatch, problems: &mut Problems) -> Match {
    let header = |name: &str| ConditionOn::Header(name.to_ascii_lowercase());
    let query = |name: &str| ConditionOn::Query(name.to_owned());
    let cookie = |name: &str| ConditionOn::Cookie(name.to_owned());
    let mut conditions = Vec::new();
    conditions.extend(resolve_tests(raw.headers, header, problems));
    conditions.extend(resolve_tests(raw.query, query, problems));
    conditions.extend(resolve_tests(raw.cookies, cookie, problems));
    Match { host: raw.host, path: raw.path, methods: raw.methods, conditions }
}

pub(super) fn resolve_tests(
    raw: Named<RawTest>,
    on: impl Fn(&str) -> ConditionOn,
    problems: &mut Problems,
) -> Vec<Condition> {
    let resolve_one = |(name, test): (At<String>, RawTest)| {
        let test = match (test.equals, test.present) {
            (Some(value), None) => Test::Equals(value),
            (None, Some(true)) => Test::Present,
            (None, Some(false)) => Test::Absent,
            _ => {
                let message = "a condition needs exactly one of equals, present";
                name.problem(problems, message, None);
                return None;
            }
        };
        Some(Condition { on: on(&name.value), test })
    };
    raw.0.into_iter().filter_map(resolve_one).collect()
}

fn resolve_rewrite(raw: &RawRoute, problems: &mut Problems) -> Option<Rewrite> {
    let prefix = match (&raw.strip_prefix, &raw.replace_prefix) {
        (Some(prefix), _) => prefix,
        (None, Some(with)) => {
            with.problem(problems, "replace_prefix needs strip_prefix", None);
            return None;
        }
        (None, None) => return None,
    };
    for path in [Some(prefix), raw.replace_prefix.as_ref()].into_iter().flatten() {
        if !path.value.starts_with('/') {
            path.problem(problems, "a prefix begins with /", None);
        }
    }
    if !raw.r#match.path.can_begin_with(&prefix.value) {
        let message = format!("no path of {} begins with {}", raw.r#match.path, prefix.value);
        prefix.problem(problems, message, None);
    }
    let trimmed = |path: &str| path.trim_end_matches('/').to_owned();
    let with = raw.replace_prefix.as_ref().map_or(String::new(), |with| trimmed(&with.value));
    Some(Rewrite { prefix: trimmed(&prefix.value), with })
}
