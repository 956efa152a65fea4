//! What the client sees of the cache: its own fields, `Cache-Status`, and 504 where it wants nothing
//! else. And what the cache forgets when a client changes something.

use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_cache::{CachePhase, NoCacheReason};
use pingora_proxy::Session;

use super::CacheState;
use crate::cache::policy::{self, Forwarded, Handled};
use crate::cache::store::{Rule, Scope};
use crate::proxy::ctx::Ctx;
use crate::proxy::fail::Failure;
use crate::script::From;
use crate::snapshot::Shared;

static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The origin is about to be asked: why, and not if the client forbids it (RFC 9111, 5.2.1.7).
pub fn refuse_unstored(session: &Session, ctx: &mut Ctx) -> Result<bool> {
    if ctx.routed()?.route.config.cache.is_none() {
        return Ok(true);
    }
    if ctx.cache.forwarded.is_none() {
        ctx.cache.forwarded = Some(match session.cache.phase() {
            CachePhase::Miss => Forwarded::Miss,
            CachePhase::Stale => Forwarded::Stale,
            _ => Forwarded::Bypass,
        });
    }
    match ctx.cache.directives.only_if_cached {
        true => Err(ctx.refuse(Failure::NotStored)),
        false => Ok(true),
    }
}

/// Sends a 1xx on. When a fill is read by its own client, Pingora forgets what came before it.
pub async fn pass_informational(session: &mut Session, head: &ResponseHeader) -> Result<()> {
    let http1 = session.req_header().version == http::Version::HTTP_11;
    if !session.cache.enabled() || !http1 || session.subrequest_ctx.is_some() {
        return Ok(());
    }
    let client = session.as_downstream_mut();
    client.set_ignore_info_resp(false);
    client.write_response_header(Box::new(head.clone())).await?;
    // Pingora's own way would be a second time.
    client.set_ignore_info_resp(true);
    Ok(())
}

/// Whether the body comes out of the store, so that this is not the origin's response.
pub fn is_out_of_store(session: &Session) -> bool {
    matches!(
        session.cache.phase(),
        CachePhase::Hit
            | CachePhase::Stale
            | CachePhase::StaleUpdating
            | CachePhase::Revalidated
            | CachePhase::RevalidatedNoCache(_)
    )
}

/// Who made the response, for scripts.
pub fn from(session: &Session) -> From {
    if is_out_of_store(session) { From::Cache } else { From::Origin }
}

/// The head is about to be shown to filters and client.
pub async fn before_client(
    session: &Session,
    head: &mut ResponseHeader,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<()> {
    for (name, value) in &std::mem::take(&mut ctx.cache.private) {
        // What is not stored still belongs to the client for whom the origin made it.
        if !head.headers.contains_key(name) {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    forget(session, head, ctx, shared).await;
    tell(session, head, ctx)
}

/// Forgets what an unsafe request made invalid (RFC 9111, 4.4): all variants, on any route.
async fn forget(session: &Session, head: &ResponseHeader, ctx: &Ctx, shared: &Shared) {
    let (Some(cache), Some(facts)) = (shared.cache(), &ctx.facts) else { return };
    let request = session.req_header();
    if request.method.is_safe() || session.cache.phase() == CachePhase::Miss {
        return; // A POST whose response was stored: that is what a GET gets from now on.
    }
    let host = super::host_of(request, facts.host());
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let targets = policy::invalidated(&request.method, host, target, head.status, &head.headers);
    for target in targets {
        let url = facts.snapshot.location(facts.scheme, host, &target).url();
        let rule = Rule { scope: Scope::Url(url), soft: false };
        if let Err(error) = cache.store.purge(rule).await {
            log::warn!("not invalidated: {host}{target}: {error}");
        }
    }
}

/// Adds `Cache-Status`, which filters may still make something else of.
fn tell(session: &Session, head: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
    let cached = ctx.routed.as_ref().is_some_and(|routed| routed.route.config.cache.is_some());
    let Some(handled) = handled(session, &ctx.cache).filter(|_| cached) else { return Ok(()) };
    let detail = match session.cache.phase() {
        _ if ctx.cache.refusal.is_some() => ctx.cache.refusal.map(policy::Refusal::label),
        CachePhase::Bypass => session.cache.predicted_uncacheable_reason().and_then(in_our_words),
        CachePhase::Disabled(reason) => ctx.cache.detail.or(in_our_words(reason)),
        _ => ctx.cache.detail,
    };
    let text = policy::cache_status(handled, detail, SystemTime::now());
    if let Ok(value) = HeaderValue::from_str(&text) {
        head.append_header(CACHE_STATUS.clone(), value)?;
    }
    Ok(())
}

/// Why the cache took no part, where that is more than that it was not asked.
fn in_our_words(reason: NoCacheReason) -> Option<&'static str> {
    match reason {
        NoCacheReason::Custom(label) => Some(label),
        NoCacheReason::CacheLockGiveUp | NoCacheReason::OriginNotCache => Some("not-storable"),
        NoCacheReason::CacheLockTimeout | NoCacheReason::CacheLockRetryLimit => {
            Some("waited-too-long")
        }
        NoCacheReason::ResponseTooLarge | NoCacheReason::PredictedResponseTooLarge => {
            Some(policy::Refusal::TooLarge.label())
        }
        NoCacheReason::StorageError | NoCacheReason::InternalError => Some("store-failed"),
        NoCacheReason::NeverEnabled
        | NoCacheReason::Deferred
        | NoCacheReason::DeclinedToUpstream
        | NoCacheReason::UpstreamError => None,
    }
}

fn handled(session: &Session, state: &CacheState) -> Option<Handled> {
    let phase = session.cache.phase();
    let fresh_until = session.cache.maybe_cache_meta().map(|meta| meta.fresh_until());
    let forwarded = |why, stored| Handled::Forwarded {
        why,
        status: state.origin_status,
        stored,
        collapsed: state.collapsed,
    };
    Some(match phase {
        CachePhase::Hit if state.collapsed => forwarded(Forwarded::Miss, false),
        CachePhase::Hit | CachePhase::Stale | CachePhase::StaleUpdating => {
            Handled::Hit { fresh_until: fresh_until? }
        }
        CachePhase::Miss | CachePhase::Expired | CachePhase::Revalidated => {
            forwarded(state.forwarded.unwrap_or(Forwarded::Miss), true)
        }
        _ => forwarded(state.forwarded?, false),
    })
}

/// What came of it, for the metric and the log; `None` where the route has no cache.
pub fn outcome(session: &Session, ctx: &Ctx) -> Option<&'static str> {
    ctx.routed.as_ref()?.route.config.cache.as_ref()?;
    let state = &ctx.cache;
    Some(match session.cache.phase() {
        CachePhase::Hit if state.stale => "stale",
        CachePhase::Hit if state.collapsed => "collapsed",
        CachePhase::Hit => "hit",
        CachePhase::Stale | CachePhase::StaleUpdating if state.stale => "stale",
        CachePhase::Miss => "miss",
        CachePhase::Expired => "expired",
        CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => "revalidated",
        _ if ctx.outcome.failure.is_some() => "error",
        _ => "bypass",
    })
}

/// Counts what the cache did.
pub fn record(session: &Session, ctx: &Ctx) {
    let Some(routed) = &ctx.routed else { return };
    let (Some(result), metrics) = (outcome(session, ctx), &routed.route.metrics) else { return };
    let phase = session.cache.phase();
    if matches!(phase, CachePhase::Miss | CachePhase::Expired)
        && let Some(facts) = &ctx.facts
    {
        metrics.filled(facts.started.elapsed());
    }
    if ctx.cache.is_refresh() {
        let failed = ctx.outcome.failure.is_some() || result == "stale";
        metrics.refreshed(if failed { "failure" } else { "success" });
        return;
    }
    metrics.cached(result);
    if let Some(time) = session.cache.lock_duration() {
        metrics.waited_for_fill(time);
    }
}
