//! Whether what is stored may be used: for this request, and in place of an origin that failed.

use std::time::{Duration, SystemTime};

use http::Method;
use pingora::{Error, ErrorSource, ErrorType};
use pingora_cache::{CacheMeta, ForcedFreshness};
use pingora_proxy::Session;

use super::admit::wishes_of;
use super::refresh;
use crate::cache::policy::{self, Forwarded, Reuse, Stored};
use crate::proxy::ctx::Ctx;
use crate::proxy::fail::Failure;
use crate::snapshot::Shared;

/// What Pingora is to make of an entry that it found.
pub fn judge(
    session: &Session,
    meta: &CacheMeta,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Option<ForcedFreshness> {
    if session.req_header().method == Method::POST {
        return Some(ForcedFreshness::ForceMiss);
    }
    let now = SystemTime::now();
    let stored = Stored {
        headers: meta.headers(),
        fresh_until: meta.fresh_until(),
        age: meta.age(),
        stale_while_revalidate: Duration::from_secs(meta.stale_while_revalidate_sec().into()),
    };
    ctx.cache.collapsed = session.cache.lock_duration().is_some();
    ctx.cache.stale = false;
    match policy::reuse(stored, &ctx.cache.directives, now) {
        Reuse::Fresh => None,
        // It came after this request did, since another one wanted it new as well.
        Reuse::ClientWantsNew if ctx.cache.collapsed && came_after(meta, ctx) => None,
        Reuse::ClientWantsNew => {
            ctx.cache.forwarded = Some(Forwarded::Request);
            Some(ForcedFreshness::ForceExpiredServeStale { expired_at: None })
        }
        Reuse::StaleWhileRevalidate if !ctx.cache.is_refresh() => {
            refresh::begin(session, ctx, session.cache.cache_key(), shared);
            stale(ctx, "stale-while-revalidate")
        }
        Reuse::Stale => stale(ctx, "max-stale"),
        Reuse::StaleWhileRevalidate | Reuse::Expired => {
            ctx.cache.forwarded = Some(Forwarded::Stale);
            None
        }
    }
}

fn stale(ctx: &mut Ctx, why: &'static str) -> Option<ForcedFreshness> {
    (ctx.cache.stale, ctx.cache.detail) = (true, Some(why));
    Some(ForcedFreshness::ForceFresh)
}

fn came_after(meta: &CacheMeta, ctx: &Ctx) -> bool {
    ctx.facts.as_ref().is_some_and(|facts| meta.updated() >= facts.time)
}

/// Whether a stale response stands in for what went wrong (RFC 5861, 4; RFC 9111, 4.2.4). Pingora
/// has seen that the longest time for that is not over. Without an error it asks whether to refresh
/// in the background, which is decided in [`judge`].
pub fn serve_stale(session: &Session, ctx: &mut Ctx, error: Option<&Error>) -> bool {
    let (Some(error), Some(meta)) = (error, session.cache.maybe_cache_meta()) else {
        return false;
    };
    let Some(failure) = failure(error, ctx) else { return false };
    let answered = matches!(error.etype(), ErrorType::HTTPStatus(_))
        && *error.esource() == ErrorSource::Upstream;
    if answered {
        let rules = ctx.routed.as_ref().and_then(|routed| routed.route.config.cache.as_ref());
        let longest = rules
            .map(|cache| policy::stale_on_error(meta.headers(), &wishes_of(meta), &cache.rules));
        let since = SystemTime::now().duration_since(meta.fresh_until()).unwrap_or_default();
        if longest.is_none_or(|longest| since > longest) {
            return false;
        }
    }
    ctx.outcome.failure = None;
    (ctx.cache.stale, ctx.cache.detail) = (true, Some(failure));
    true
}

/// What went wrong on the origin's side; a fault of a filter or of a client is no reason.
fn failure(error: &Error, ctx: &Ctx) -> Option<&'static str> {
    if matches!(error.etype(), ErrorType::HTTPStatus(_)) && ctx.outcome.failure.is_none() {
        return Some("origin-error");
    }
    let failure = ctx.outcome.failure.clone().unwrap_or_else(|| Failure::of(error));
    let of_origin = matches!(
        failure,
        Failure::NoEndpoint(_)
            | Failure::Connect(_)
            | Failure::ConnectTimeout(_)
            | Failure::UpstreamTls(_)
            | Failure::ResponseTimeout(_)
            | Failure::UpstreamClosed(_)
            | Failure::UpstreamInvalid(_)
    );
    of_origin.then(|| failure.row().label)
}
