//! The cache's part in a request: whether it is asked, by which key, and which variant fits.
//!
//! What may be stored and reused is decided in `crate::cache::policy`; here its answers meet
//! Pingora's hooks. `hit` judges what was found, `admit` what the origin sent, `answer` is what the
//! client is told of it.

/// Whether the origin's response is stored.
mod admit;
/// What the client sees of the cache.
mod answer;
/// Whether what is stored may be used.
mod hit;
/// One refresh in the background for many who are served stale.
mod refresh;

pub use admit::{admit, origin_answered};
pub use answer::{
    before_client, from, is_out_of_store, outcome, pass_informational, record, refuse_unstored,
};
pub use hit::{judge, serve_stale};
pub use refresh::{adopt, may_begin};

use http::{HeaderMap, Method, header};
use pingora::Result;
use pingora::http::RequestHeader;
use pingora_cache::key::HashBinary;
use pingora_cache::{CacheKey, CacheMeta, CacheOptionOverrides, VarianceBuilder};
use pingora_proxy::Session;

use super::collect;
use super::ctx::Ctx;
use crate::cache::Claim;
use crate::cache::key::{Asked, Location, key};
use crate::cache::policy::{self, Forwarded, Refusal, RequestDirectives, Wishes};
use crate::config::cache::{ClientDirectives, QueryRule};
use crate::snapshot::Shared;

/// What a request knows of the cache.
#[derive(Default)]
pub struct CacheState {
    /// What the client says, where the route listens.
    directives: RequestDirectives,
    location: Option<Location>,
    /// Why the origin was asked.
    forwarded: Option<Forwarded>,
    /// More about that, or about a stale answer.
    detail: Option<&'static str>,
    /// Why the response is not stored.
    refusal: Option<Refusal>,
    /// The status of the origin's answer to this request.
    origin_status: Option<u16>,
    /// The headers of a 304 about what is stored.
    not_modified: Option<HeaderMap>,
    /// What filters say of the response.
    pub wishes: Wishes,
    /// Fields that are for this client only.
    private: HeaderMap,
    /// A stale response is served by consent.
    stale: bool,
    /// Another request's fill was waited for.
    collapsed: bool,
    /// Held by a refresh in the background.
    claim: Option<Claim>,
}

impl CacheState {
    /// Whether this is no client's request, but a refresh in the background.
    pub fn is_refresh(&self) -> bool {
        self.claim.is_some()
    }
}

/// Asks the cache, if the route has one and the request is one that it can answer.
pub fn begin(session: &mut Session, ctx: &mut Ctx, shared: &Shared) -> Result<()> {
    let Some(rules) = ctx.routed()?.route.config.cache.clone() else { return Ok(()) };
    let head = session.req_header();
    if rules.client_directives == ClientDirectives::Obey {
        ctx.cache.directives = RequestDirectives::of(&head.headers);
    }
    if let Some((why, detail)) = bypass(head, ctx) {
        (ctx.cache.forwarded, ctx.cache.detail) = (Some(why), detail);
        return Ok(());
    }
    let Some(cache) = shared.cache() else { return Ok(()) };
    // A POST is never answered, so it waits for nobody, and what it brings says nothing of a GET.
    let reads = head.method != Method::POST;
    // A filter that wants all of it is not shown a part.
    session.ignore_downstream_range = collect::is_asked(ctx);
    let mut options = CacheOptionOverrides::default();
    options.wait_timeout = Some(rules.wait);
    let lock = reads.then_some(cache.lock);
    let predictor = reads.then_some(cache.predictor as _);
    session.cache.enable(cache.store, None, predictor, lock, Some(options));
    Ok(())
}

/// Why a request goes past the cache.
fn bypass(head: &RequestHeader, ctx: &Ctx) -> Option<(Forwarded, Option<&'static str>)> {
    let upgrade = ctx.facts.as_ref().is_some_and(|facts| facts.upgrade);
    match head.method {
        _ if upgrade => Some((Forwarded::Bypass, Some("upgrade"))),
        _ if ctx.cache.directives.no_store => Some((Forwarded::Request, Some("no-store"))),
        // The body is in no key, and an origin may heed it.
        Method::GET | Method::HEAD if has_body(&head.headers) => {
            Some((Forwarded::Bypass, Some("body")))
        }
        Method::GET | Method::HEAD => None,
        // Its response may stand for a later GET (RFC 9110, 9.3.3), unless it is conditional: the
        // cache would take the condition away.
        Method::POST if !is_conditional(&head.headers) => None,
        _ => Some((Forwarded::Method, None)),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    length.is_some_and(|length| length != "0") || headers.contains_key(header::TRANSFER_ENCODING)
}

fn is_conditional(headers: &HeaderMap) -> bool {
    let conditions = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::RANGE,
    ];
    conditions.iter().any(|name| headers.contains_key(name))
}

/// The key of a request that the cache is asked for.
pub fn key_of(session: &Session, ctx: &mut Ctx, shared: &Shared) -> Result<CacheKey> {
    let (facts, routed) = (ctx.facts()?, ctx.routed()?);
    let Some(rules) = &routed.route.config.cache else {
        return Err(super::ctx::out_of_order("cache"));
    };
    let head = session.req_header();
    let host = host_of(head, facts.host());
    let (path, query) = (head.uri.path(), head.uri.query());
    let location = Location::new(host, facts.scheme, path, query, &rules.key);
    let own = ctx.scripts.request.as_ref().and_then(|request| request.cache_key.as_deref());
    let asked = Asked { scheme: facts.scheme, headers: &head.headers, own };
    let mut key = key(asked, &location, rules);
    if let (Some(_), Some(upstream)) = (&routed.route.split, &routed.upstream) {
        // What one of them answered is not what the other one would.
        key.extend_from_slice(upstream.pool.name().as_bytes());
    }
    ctx.cache.location = Some(location);
    let mut key = CacheKey::new(key, "");
    if let Some(cache) = shared.cache() {
        cache.store.stamp(&mut key);
    }
    Ok(key)
}

/// The query that the origin is to see, where the key counts only a part: what is in no key could
/// else put into the store what one client made up for all.
pub fn counted_query<'a>(session: &Session, ctx: &'a Ctx) -> Option<Option<&'a str>> {
    let rules = ctx.routed.as_ref()?.route.config.cache.as_ref()?;
    let location = ctx.cache.location.as_ref()?;
    let whole = rules.key.query == QueryRule::All && !rules.key.sort_query;
    let query = location.query.as_deref();
    (!whole && session.req_header().uri.query() != query).then_some(query)
}

/// As the origin would see it: filters may have changed it.
fn host_of<'a>(head: &'a RequestHeader, named: &'a str) -> &'a str {
    head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(named)
}

/// Which variant of what is stored fits the request.
pub fn variance(meta: &CacheMeta, request: &RequestHeader) -> Option<HashBinary> {
    let values = policy::variant(meta.headers(), &request.headers)?;
    let mut builder = VarianceBuilder::new();
    for (name, value) in values {
        builder.add_owned_name_value(name.as_str().to_owned(), value.into_bytes());
    }
    builder.finalize()
}
