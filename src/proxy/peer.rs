//! Which endpoint gets the request, and within what time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use pingora::Result;
use pingora::protocols::Digest;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_proxy::Session;

use super::ctx::Ctx;
use super::fail::Failure;
use super::{head, key, retry, sticky};
use crate::config::upstreams::Address;
use crate::snapshot::UpstreamState;
use crate::upstream::attempt::Attempt;
use crate::upstream::balance::Ask;
use crate::upstream::dial::Introduction;
use crate::upstream::outlier::Outcome;

/// The next endpoint to try, within what is left of the total time.
pub async fn choose(session: &Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
    if let Some(due) = ctx.attempt.due.take() {
        retry::wait(ctx, due).await?;
    }
    let (upstream, attempt) = begin(session, ctx)?;
    let left = left(ctx)?;
    let mut peer = upstream
        .pool
        .peer(attempt.endpoint(), introduction(ctx))
        .map_err(|error| ctx.refuse(Failure::Internal(error)))?;
    if !session.req_header().headers.keys().any(head::is_hop_by_hop) {
        // Nothing is there that Pingora would have to look for and remove.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    }
    cap(&mut peer.options.connection_timeout, left);
    cap(&mut peer.options.total_connection_timeout, left);
    match ctx.facts()? {
        // Pingora has one limit for all reads, and a tunnel may be silent for long.
        facts if facts.upgrade => {
            peer.options.read_timeout = Some(facts.snapshot.limits.tunnel_timeout);
        }
        _ => cap(&mut peer.options.read_timeout, left),
    }
    ctx.attempt.current = Some(attempt);
    ctx.attempt.began = Some(Instant::now());
    Ok(Box::new(peer))
}

/// An attempt at the request's upstream, or at the one that stands in for it.
fn begin(session: &Session, ctx: &mut Ctx) -> Result<(Arc<UpstreamState>, Attempt)> {
    loop {
        let Some(upstream) = upstream(ctx).cloned() else {
            return Err(ctx.refuse(Failure::Internal("a route without an upstream".into())));
        };
        left(ctx)?;
        let key = key_of(session, ctx, &upstream);
        let prefer = sticky::preferred(session, ctx, &upstream);
        let ask = Ask { prefer, ..ask(ctx, &key) };
        let refusal = match upstream.pool.begin(&ask) {
            Ok(attempt) => return Ok((upstream, attempt)),
            Err(refusal) => refusal,
        };
        if !retry::fall_back(ctx) {
            let refused = || Failure::refused(upstream.pool.name(), refusal);
            let failure = ctx.attempt.otherwise.take().unwrap_or_else(refused);
            return Err(ctx.refuse(failure));
        }
    }
}

/// What the request wants of its endpoint.
fn ask<'c>(ctx: &'c Ctx, key: &'c [u8]) -> Ask<'c> {
    let fence = ctx.routed.as_ref().map(|routed| &*routed.route.config.traffic.fence);
    Ask { key, skip: &ctx.attempt.tried, fence: fence.unwrap_or_default(), prefer: None }
}

fn key_of(session: &Session, ctx: &Ctx, upstream: &UpstreamState) -> Vec<u8> {
    match upstream.pool.hash_key() {
        Some(by) => key::of(session, ctx, Some(by)),
        None => Vec::new(),
    }
}

/// Whether there is an endpoint that was not tried yet.
pub fn any_left(ctx: &Ctx, upstream: &UpstreamState) -> bool {
    let Some(current) = ctx.attempt.current.as_ref().map(Attempt::endpoint) else { return true };
    let ask = ask(ctx, &[]);
    upstream.pool.balancer().any_left(&ask, current)
}

/// What is left of the total time, if anything.
pub fn left_now(ctx: &Ctx) -> Option<Duration> {
    let routed = ctx.routed.as_ref()?;
    let of_upstream = routed.upstream.as_ref().map(|u| u.pool.config().timeouts.total);
    let total = routed.route.config.timeout.or(of_upstream)?;
    let passed = ctx.attempt.first_began.map(|began| began.elapsed()).unwrap_or_default();
    total.checked_sub(passed).filter(|left| !left.is_zero())
}

/// What is left of the total time, which begins with the first attempt.
pub fn left(ctx: &mut Ctx) -> Result<Duration> {
    ctx.attempt.first_began.get_or_insert_with(Instant::now);
    match left_now(ctx) {
        Some(left) => Ok(left),
        None => Err(ctx.refuse(Failure::ResponseTimeout("the total time is over".into()))),
    }
}

/// Who the client is, for an origin that wants to be told before the request.
fn introduction(ctx: &Ctx) -> Option<Introduction> {
    let facts = ctx.facts.as_ref()?;
    let conn = &facts.conn.as_ref()?.0;
    Some(Introduction {
        client: SocketAddr::new(facts.client, conn.client.port()),
        local: conn.local,
    })
}

fn cap(timeout: &mut Option<Duration>, left: Duration) {
    *timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
}

/// A connection stands: count it, and go on only if it is to somebody to trust.
pub fn connected(ctx: &mut Ctx, reused: bool, digest: Option<&Digest>) -> Result<()> {
    if let Some(attempt) = &mut ctx.attempt.current {
        attempt.connected();
    }
    if let Some(upstream) = upstream(ctx) {
        upstream.metrics.connection(reused);
        upstream.pool.trusts(digest)?;
    }
    Ok(())
}

/// The origin's final response began: what it says counts for its health.
pub fn answered(ctx: &mut Ctx, status: StatusCode) {
    if let Some(attempt) = &mut ctx.attempt.current {
        attempt.answered(status);
    }
    ctx.attempt.place = None;
    end_attempt(ctx, None);
}

/// There is no answer, and that is not the client's doing.
pub fn failed(ctx: &mut Ctx, outcome: Outcome) {
    if let Some(attempt) = &mut ctx.attempt.current {
        attempt.failed(outcome);
    }
}

/// Adds the time waited; with a failure, the endpoint is not tried again for this request.
pub fn end_attempt(ctx: &mut Ctx, failed: Option<&'static str>) {
    if let Some(began) = ctx.attempt.began.take() {
        ctx.attempt.waited += began.elapsed();
    }
    if let (Some(current), Some(why)) = (&ctx.attempt.current, failed) {
        ctx.attempt.tried.push(Arc::clone(current.endpoint()));
        ctx.attempt.failures.push(why);
    }
}

/// The endpoint in use, or the last one tried.
pub fn endpoint(ctx: &Ctx) -> Option<Address> {
    ctx.attempt.current.as_ref().map(|current| current.endpoint().address().clone())
}

pub fn upstream(ctx: &Ctx) -> Option<&Arc<UpstreamState>> {
    ctx.routed.as_ref()?.upstream.as_ref()
}
