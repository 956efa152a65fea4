//! A copy of some requests to another upstream. Its answer goes nowhere but into the metrics, and
//! the client's request never waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use pingora::http::RequestHeader;
use pingora_proxy::Session;
use tokio::sync::oneshot;

use super::ctx::Ctx;
use super::head::TRACEPARENT;
use crate::snapshot::{Mirror, Shared};
use crate::upstream::balance::rng;
use crate::upstream::client::{ClientRequest, ClientResponse, Target};

/// Bytes of an answer that are read; what is longer counts as failed.
const MAX_BODY: usize = 1024 * 1024;

/// What the client's own origin answered, and after what time.
pub type Original = (StatusCode, Duration);

/// Sends a copy of the origin's request, if it is drawn and its body is at hand.
pub fn begin(session: &mut Session, head: &RequestHeader, ctx: &mut Ctx, shared: &Shared) {
    if std::mem::replace(&mut ctx.attempt.mirrored, true) {
        return;
    }
    let (Some(routed), Some(facts)) = (&ctx.routed, &ctx.facts) else { return };
    let (Some(config), Some(mirror)) = (&routed.route.config.traffic.mirror, &routed.route.mirror)
    else {
        return;
    };
    if facts.upgrade || rng::below(100) >= u64::from(config.share.0) {
        return;
    }
    let body = match ctx.body.whole() {
        Some(held) => held,
        None if session.is_body_empty() => Bytes::new(),
        None => return mirror.metrics.mirrored("no_body"),
    };
    let Ok(place) = Arc::clone(&mirror.places).try_acquire_owned() else {
        return mirror.metrics.mirrored("full");
    };
    let mut counted = shared.metrics.held_body();
    if !counted.grow(body.len(), facts.snapshot.limits.held_bodies.value.0) {
        return mirror.metrics.mirrored("full");
    }
    let (tell, original) = oneshot::channel();
    let mut headers = head.headers.clone();
    headers.insert(&TRACEPARENT, facts.trace.child().header());
    let request = ClientRequest {
        method: head.method.clone(),
        path_and_query: path_and_query(head),
        headers,
        host: facts.host().to_owned(),
        body,
        timeout: config.timeout,
        max_body: MAX_BODY,
    };
    let fence = Arc::clone(&routed.route.config.traffic.fence);
    let target = Target::Fenced { pool: Arc::clone(&mirror.upstream.pool), fence };
    let (client, mirror) = (Arc::clone(&shared.client), Arc::clone(mirror));
    tokio::spawn(async move {
        let began = Instant::now();
        let answer = client.request(target, request).await.ok();
        compare(&mirror, answer, began.elapsed(), original.await.ok());
        drop((place, counted));
    });
    ctx.mirror = Some(tell);
}

/// The client's own origin answered.
pub fn answered(ctx: &mut Ctx, status: StatusCode) {
    let took = ctx.attempt.first_began.map(|began| began.elapsed()).unwrap_or_default();
    if let Some(tell) = ctx.mirror.take() {
        // The copy may have ended before; then nobody asks.
        let _ = tell.send((status, took));
    }
}

fn path_and_query(head: &RequestHeader) -> String {
    head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string)
}

fn compare(
    mirror: &Mirror,
    answer: Option<ClientResponse>,
    took: Duration,
    original: Option<Original>,
) {
    let outcome = match (&answer, original) {
        (None, _) => "failed",
        (Some(_), None) => "alone",
        (Some(answer), Some((status, _))) if answer.status == status => "same_status",
        (Some(_), Some(_)) => "other_status",
    };
    mirror.metrics.mirrored(outcome);
    if let (Some(_), Some((_, original))) = (answer, original) {
        mirror.metrics.mirror_took(took, original);
    }
}
