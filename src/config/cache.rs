//! `cache`: how large the store is, and what of a route's responses is kept in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::problem::Problems;
use super::read::{At, check_name, choice, section};
use super::values::Bytes;

/// What a route keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteCache {
    /// Entries are shared within it: the route's own name, or that of a group.
    pub scope: Arc<str>,
    pub key: KeyRules,
    pub rules: Rules,
    pub client_directives: ClientDirectives,
    /// How long a request waits for another one's fill.
    pub wait: Duration,
}

/// What makes two requests the same, beside scheme, host and path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRules {
    pub query: QueryRule,
    pub sort_query: bool,
    pub headers: Vec<HeaderName>,
    pub cookies: Vec<String>,
    pub device: bool,
}

/// Which parameters of the query count. A name may end in `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum QueryRule {
    #[default]
    All,
    Only(Vec<String>),
    Ignore(Vec<String>),
}

/// What a route adds to RFC 9111.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Lifetime where the origin says nothing.
    pub ttl: Option<Duration>,
    /// Where the origin says nothing.
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    /// Where the origin says nothing and cannot be reached (RFC 9111, 4.2.4).
    pub stale_if_unreachable: Option<Duration>,
    pub store_set_cookie: bool,
    pub surrogate_control: bool,
}

/// Whether a client may ask for newer or older responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientDirectives {
    Obey,
    Ignore,
}

/// Whether a response that sets a cookie is kept, cookie included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetCookie {
    Refuse,
    Store,
}

section! {
    /// The store that all routes with a cache share.
    pub struct Cache as "cache" {
        /// Memory for stored responses.
        memory: At<Bytes> = "256MiB",
        /// The largest response in memory; left out, 16MiB, or all of it where that is less. One
        /// that turns out to be larger goes to its client in any case.
        max_object: Option<At<Bytes>>,
        /// A folder for more than fits into memory, and for restarts; left out, there is none.
        disk: Option<Disk>,
    }
}

section! {
    /// What of a route's responses is stored, and for which requests. Even as `{}` it turns the
    /// cache on, which then follows RFC 9111.
    pub struct RawRouteCache as "route cache" {
        /// What makes two requests the same, beside scheme, host and path.
        key: RawKey = "{}",
        /// Routes that name the same group share their entries; left out, a route keeps its own.
        group: Option<At<String>>,
        /// How long a response is fresh of which the origin says nothing; left out, a tenth of the
        /// time since `Last-Modified`, at most a day.
        ttl: Option<Duration>,
        /// How long a stale response is served while it is refreshed in the background, where the
        /// origin says nothing.
        stale_while_revalidate: Option<Duration>,
        /// How long a stale response stands in for a 5xx, where the origin says nothing.
        stale_if_error: Option<Duration>,
        /// How long a stale response is served if the origin cannot be reached, where the origin
        /// does not forbid it; left out, never.
        stale_if_unreachable: Option<Duration>,
        /// Whether clients may ask for newer responses by `Cache-Control`: `obey` or `ignore`.
        client_directives: ClientDirectives = "obey",
        /// Responses that set a cookie: `refuse` does not store them, `store` gives the same cookie
        /// to everybody.
        set_cookie: SetCookie = "refuse",
        /// Whether `Surrogate-Control` goes before `CDN-Cache-Control` and `Cache-Control`.
        surrogate_control: bool = "false",
        /// How long a request waits while another one fetches the same.
        wait: Duration = "5s",
    }
}

section! {
    /// What makes two requests the same, beside scheme, host and path.
    pub struct RawKey as "cache key" {
        /// Query parameters; by default all of them, in their order.
        query: RawQuery = "{}",
        /// Request headers whose values count.
        headers: Vec<HeaderName> = "[]",
        /// Cookies whose values count.
        cookies: Vec<String> = "[]",
        /// Whether phones, tablets and desktops get their own, by `User-Agent`.
        device: bool = "false",
    }
}

section! {
    /// Which query parameters count; at most one of only and ignore. What does not count does not
    /// reach the origin either.
    pub struct RawQuery as "cache key query" {
        /// Only these; a name may end in `*`.
        only: Option<At<Vec<String>>>,
        /// All but these; a name may end in `*`.
        ignore: Option<At<Vec<String>>>,
        /// Whether the order of parameters does not matter.
        sort: bool = "false",
    }
}

section! {
    /// A folder of its own, which one process uses at a time.
    pub struct Disk as "cache disk" {
        /// The folder, made if it is not there.
        path: At<PathBuf>,
        /// Bytes of all files.
        size: At<Bytes>,
        /// The largest response that is stored there; left out, 1GiB, or all of it where that is less.
        max_object: Option<At<Bytes>>,
        /// What may wait in memory to be written; what is above is not written.
        queue: Bytes = "64MiB",
        /// `always` writes everything, `second_hit` only what is asked for again.
        admission: Admission = "always",
    }
}

/// What of the responses in memory goes to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Always,
    SecondHit,
}

choice!(Admission { "always" => Admission::Always, "second_hit" => Admission::SecondHit });
choice!(ClientDirectives { "obey" => ClientDirectives::Obey, "ignore" => ClientDirectives::Ignore });
choice!(SetCookie { "refuse" => SetCookie::Refuse, "store" => SetCookie::Store });

/// Less memory than this holds nothing of use.
const LEAST_MEMORY: u64 = 1 << 20;

impl Cache {
    pub fn check(&self, problems: &mut Problems) {
        if self.memory.value.0 < LEAST_MEMORY {
            self.memory.problem(problems, "a cache needs 1MiB of memory or more", None);
        }
        check_object(self.max_object.as_ref(), self.memory.value.0, problems);
        if let Some(disk) = &self.disk {
            check_object(disk.max_object.as_ref(), disk.size.value.0, problems);
        }
    }

    /// Bytes of the largest response in memory.
    pub fn largest_in_memory(&self) -> u64 {
        self.max_object.as_ref().map_or(self.memory.value.0.min(16 << 20), |given| given.value.0)
    }

    /// Bytes of the largest response that is stored somewhere.
    pub fn largest(&self) -> u64 {
        self.largest_in_memory().max(self.disk.as_ref().map_or(0, Disk::largest))
    }
}

impl Disk {
    /// Bytes of the largest response on disk.
    pub fn largest(&self) -> u64 {
        self.max_object.as_ref().map_or(self.size.value.0.min(1 << 30), |given| given.value.0)
    }
}

fn check_object(object: Option<&At<Bytes>>, all: u64, problems: &mut Problems) {
    match object {
        Some(given) if given.value.0 == 0 => given.problem(problems, "0 would store nothing", None),
        Some(given) if given.value.0 > all => {
            given.problem(problems, "larger than all that is stored", None);
        }
        _ => {}
    }
}

/// What a route's `cache` means; `route` is its name.
pub fn resolve(raw: RawRouteCache, route: &str, problems: &mut Problems) -> RouteCache {
    if let Some(group) = &raw.group
        && let Err(message) = check_name(&group.value)
    {
        group.problem(problems, message, None);
    }
    // A route named like a group must not meet it.
    let scope = match &raw.group {
        Some(group) => format!("group {}", group.value),
        None => format!("route {route}"),
    };
    RouteCache {
        scope: scope.into(),
        rules: Rules {
            ttl: raw.ttl,
            stale_while_revalidate: raw.stale_while_revalidate,
            stale_if_error: raw.stale_if_error,
            stale_if_unreachable: raw.stale_if_unreachable,
            store_set_cookie: raw.set_cookie == SetCookie::Store,
            surrogate_control: raw.surrogate_control,
        },
        client_directives: raw.client_directives,
        wait: raw.wait,
        key: resolve_key(raw.key, problems),
    }
}

fn resolve_key(raw: RawKey, problems: &mut Problems) -> KeyRules {
    let query = match (raw.query.only, raw.query.ignore) {
        (None, None) => QueryRule::All,
        (Some(only), None) => QueryRule::Only(only.value),
        (None, Some(ignore)) => QueryRule::Ignore(ignore.value),
        (Some(_), Some(ignore)) => {
            ignore.problem(problems, "a query has either only or ignore", None);
            QueryRule::All
        }
    };
    KeyRules {
        query,
        sort_query: raw.query.sort,
        headers: raw.headers,
        cookies: raw.cookies,
        device: raw.device,
    }
}
