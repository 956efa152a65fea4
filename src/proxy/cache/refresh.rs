//! Stale while revalidate (RFC 5861, 3): the clients are served, and one request without a client
//! fetches what is new.
//!
//! It carries on where the first client's request stood: its filters have run, and its route and
//! upstream are chosen. So nothing that a filter does for a client happens twice.

use std::sync::Arc;

use http::{Method, header};
use pingora::http::RequestHeader;
use pingora_cache::CacheKey;
use pingora_proxy::Session;
use pingora_proxy::subrequest::Ctx as SubrequestCtx;

use super::CacheState;
use crate::cache::Claim;
use crate::proxy::ctx::{Ctx, Facts, Live, Routed};
use crate::proxy::exchange::ScriptState;
use crate::script::RequestDraft;
use crate::snapshot::Shared;

/// What a refresh takes over.
struct Handover {
    head: RequestHeader,
    facts: Facts,
    routed: Routed,
    request: Option<Arc<RequestDraft>>,
    entered: usize,
    claim: Claim,
}

/// Whether a request's route could want one. Asked before the route is known.
pub fn may_begin(ctx: &Ctx) -> bool {
    ctx.facts.as_ref().is_some_and(|facts| facts.snapshot.caches)
}

/// Begins a refresh of what `key` finds, unless one is under way.
pub(super) fn begin(session: &Session, ctx: &Ctx, key: &CacheKey, shared: &Shared) {
    let (Some(facts), Some(routed)) = (&ctx.facts, &ctx.routed) else { return };
    let Some(spawner) = &session.subrequest_spawner else { return };
    let Some(claim) = shared.cache().and_then(|cache| cache.claim(key)) else { return };
    let handover = Handover {
        head: whole(session.req_header()),
        facts: copy(facts, shared),
        routed: routed.clone(),
        request: ctx.scripts.request.clone(),
        entered: ctx.scripts.entered,
        claim,
    };
    let with = SubrequestCtx::builder().user_ctx(Box::new(Some(handover))).build();
    spawner.spawn_background_subrequest(session.as_downstream(), with);
}

/// All of the response is wanted, whatever the client asked for.
fn whole(head: &RequestHeader) -> RequestHeader {
    let mut head = head.clone();
    head.set_method(Method::GET);
    let conditions = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::RANGE,
    ];
    for name in &conditions {
        head.remove_header(name);
    }
    head
}

/// The same client and snapshot, but no longer its connection's concern.
fn copy(facts: &Facts, shared: &Shared) -> Facts {
    Facts {
        snapshot: facts.snapshot.clone(),
        time: facts.time,
        started: std::time::Instant::now(),
        request_id: facts.request_id.clone(),
        trace: facts.trace,
        client: facts.client,
        trusted_peer: facts.trusted_peer,
        scheme: facts.scheme,
        method: Method::GET,
        named_host: facts.named_host.clone(),
        target: facts.target.clone(),
        upgrade: false,
        conn: facts.conn.as_ref().map(Live::uncounted),
        _in_flight: shared.metrics.request_started(),
    }
}

/// Takes a refresh over; false for a client's request.
pub fn adopt(session: &mut Session, ctx: &mut Ctx) -> bool {
    let handover = session
        .subrequest_ctx
        .as_mut()
        .and_then(|with| with.user_ctx_mut())
        .and_then(|with| with.downcast_mut::<Option<Handover>>())
        .and_then(Option::take);
    let Some(handover) = handover else { return false };
    *session.req_header_mut() = handover.head;
    ctx.scripts = ScriptState {
        request: handover.request,
        entered: handover.entered,
        ..ScriptState::default()
    };
    ctx.cache = CacheState { claim: Some(handover.claim), ..CacheState::default() };
    (ctx.facts, ctx.routed) = (Some(handover.facts), Some(handover.routed));
    true
}
