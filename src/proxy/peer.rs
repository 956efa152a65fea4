//! Which endpoint gets the request, and whether another one is tried after a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{StatusCode, header};
use pingora::protocols::Digest;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorType, Result, RetryType};
use pingora_proxy::Session;

use super::ctx::Ctx;
use super::fail::Failure;
use super::head;
use super::response;
use crate::config::upstreams::{Address, HashKey};
use crate::snapshot::UpstreamState;
use crate::upstream::balance::Ask;
use crate::upstream::dial::{CONNECTIONS_FULL, Introduction};
use crate::upstream::outlier::Outcome;

/// 1xx responses before the real one at most, as many as curl takes.
const MAX_INFORMATIONAL: u32 = 16;

/// The next endpoint to try, within what is left of the total time.
pub fn choose(session: &Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
    let routed = ctx.routed()?;
    let Some(upstream) = routed.upstream.clone() else {
        return Err(ctx.refuse(Failure::Internal("a route without an upstream".into())));
    };
    let total = routed.route.config.timeout.unwrap_or(upstream.pool.config().timeouts.total);
    let now = Instant::now();
    let began = *ctx.attempt.first_began.get_or_insert(now);
    let left = total.saturating_sub(now - began);
    if left.is_zero() {
        return Err(ctx.refuse(Failure::ResponseTimeout("the total time is over".into())));
    }
    let key = match upstream.pool.hash_key() {
        Some(by) => hash_key(session, ctx, by),
        None => Vec::new(),
    };
    let ask = Ask { key: &key, skip: &ctx.attempt.tried, ..Ask::default() };
    let attempt = match upstream.pool.begin(&ask) {
        Ok(attempt) => attempt,
        Err(refusal) => return Err(ctx.refuse(Failure::refused(upstream.pool.name(), refusal))),
    };
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
    ctx.attempt.began = Some(now);
    Ok(Box::new(peer))
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

fn hash_key(session: &Session, ctx: &Ctx, by: &HashKey) -> Vec<u8> {
    let (headers, facts) = (&session.req_header().headers, ctx.facts.as_ref());
    let given = match by {
        HashKey::ClientIp => facts.map(|facts| facts.client.to_string().into_bytes()),
        HashKey::Path => {
            session.req_header().raw_path().split(|byte| *byte == b'?').next().map(<[u8]>::to_vec)
        }
        HashKey::Header(name) => headers.get(name).map(|value| value.as_bytes().to_vec()),
        HashKey::Cookie(name) => cookie(headers, name).map(Into::into),
        HashKey::Query(name) => parameter(session, name),
    };
    // Those without a key must not all meet at one endpoint, as by an empty key they would.
    given.or_else(|| facts.map(|facts| facts.request_id.as_bytes().to_vec())).unwrap_or_default()
}

fn cookie<'h>(headers: &'h http::HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

/// The first value of a parameter, as it was sent.
fn parameter(session: &Session, name: &str) -> Option<Vec<u8>> {
    let query = session.req_header().uri.query()?;
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let named = |key: &str| percent_encoding::percent_decode_str(key).eq(name.bytes());
    pairs.into_iter().find(|(key, _)| named(key)).map(|(_, value)| value.as_bytes().to_vec())
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

/// The connection could not be made, so nothing was sent: another endpoint may be tried.
pub fn connect_failed(ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
    let Some(upstream) = upstream(ctx).cloned() else { return error };
    upstream.metrics.failure(Failure::of(&error).row().label);
    if *error.etype() != CONNECTIONS_FULL {
        failed(ctx, Outcome::NotConnected);
    }
    end_attempt(ctx, true);
    let another = ctx.attempt.tried.len() < upstream.pool.balancer().members().len();
    if another && ctx.attempt.retries < upstream.pool.config().retries {
        count_retry(ctx, &upstream);
        error.set_retry(true);
        return error;
    }
    error.set_retry(false);
    if !upstream.pool.any_well() {
        let text = format!("{}: {error}", upstream.pool.name());
        ctx.outcome.failure = Some(Failure::NoEndpoint(text));
    }
    error
}

/// The exchange broke. A request of which nothing was answered is tried again: on the same
/// endpoint after a kept connection turned out dead, else on another, and only if it may be
/// repeated or the origin said that it did not touch it.
pub fn exchange_failed(
    session: &mut Session,
    ctx: &mut Ctx,
    peer: &HttpPeer,
    error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    let mut error = error.more_context(format!("peer {peer}"));
    let from_upstream = *error.esource() == pingora::ErrorSource::Upstream;
    let nothing_sent = response::sent(session).is_none();
    // An origin that said 1xx has begun with it.
    let unanswered = nothing_sent && ctx.attempt.informational == 0 && !ctx.attempt.taken_in;
    let waited = from_upstream && *error.etype() == ErrorType::ReadTimedout;
    if waited && nothing_sent && !session.as_mut().is_body_done() {
        // The origin waited for the rest of the request, as we did.
        end_attempt(ctx, false);
        ctx.outcome.failure = Some(Failure::ClientTimeout(error.to_string()));
        error.set_retry(false);
        return error;
    }
    if let (Some(upstream), true) = (upstream(ctx), from_upstream) {
        upstream.metrics.failure(Failure::of(&error).row().label);
    }
    if from_upstream {
        failed(ctx, if waited { Outcome::TimedOut } else { Outcome::Broken });
    }
    let at_hand =
        unanswered && !session.as_ref().retry_buffer_truncated() && ctx.outcome.failure.is_none();
    let untouched = at_hand && is_untouched(&error);
    let repeatable = at_hand && session.req_header().method.is_idempotent();
    error.retry.decide_reuse(reused);
    let stale = reused && error.retry() && (repeatable || untouched);
    let another = untouched || (repeatable && from_upstream && is_broken_off(error.etype()));
    end_attempt(ctx, !stale);
    error.set_retry(stale || (another && may_retry(ctx)));
    if let (true, Some(upstream)) = (error.retry(), upstream(ctx).cloned()) {
        match stale {
            true => upstream.metrics.retry(),
            false => count_retry(ctx, &upstream),
        }
    }
    error
}

/// An HTTP/2 origin refused the stream or went away before it (RFC 9113, 8.7).
fn is_untouched(error: &Error) -> bool {
    *error.etype() == ErrorType::H2Error && matches!(error.retry, RetryType::Decided(true))
}

/// Nothing came of it, or not in time: another endpoint may do better.
fn is_broken_off(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::ConnectionClosed
            | ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::H2Error
    )
}

/// A 1xx came, which says nothing yet; an origin must not go on like that for ever.
pub fn still_waiting(ctx: &mut Ctx) -> Result<()> {
    ctx.attempt.informational += 1;
    if ctx.attempt.informational > MAX_INFORMATIONAL {
        let what = "too many informational responses".to_owned();
        return Err(ctx.refuse(Failure::UpstreamInvalid(what)));
    }
    Ok(())
}

fn may_retry(ctx: &Ctx) -> bool {
    upstream(ctx).is_some_and(|upstream| {
        ctx.attempt.retries < upstream.pool.config().retries
            && ctx.attempt.tried.len() < upstream.pool.balancer().members().len()
    })
}

fn count_retry(ctx: &mut Ctx, upstream: &UpstreamState) {
    ctx.attempt.retries += 1;
    upstream.metrics.retry();
}

/// The origin's final response began: what it says counts for its health.
pub fn answered(ctx: &mut Ctx, status: StatusCode) {
    if let Some(attempt) = &mut ctx.attempt.current {
        attempt.answered(status);
    }
    end_attempt(ctx, false);
}

fn failed(ctx: &mut Ctx, outcome: Outcome) {
    if let Some(attempt) = &mut ctx.attempt.current {
        attempt.failed(outcome);
    }
}

/// Adds the time waited; with `exclude`, the endpoint is not tried again for this request.
pub fn end_attempt(ctx: &mut Ctx, exclude: bool) {
    if let Some(began) = ctx.attempt.began.take() {
        ctx.attempt.waited += began.elapsed();
    }
    if let Some(current) = ctx.attempt.current.as_ref().filter(|_| exclude) {
        ctx.attempt.tried.push(Arc::clone(current.endpoint()));
    }
}

/// The endpoint in use, or the last one tried.
pub fn endpoint(ctx: &Ctx) -> Option<Address> {
    ctx.attempt.current.as_ref().map(|current| current.endpoint().address().clone())
}

fn upstream(ctx: &Ctx) -> Option<&Arc<UpstreamState>> {
    ctx.routed.as_ref()?.upstream.as_ref()
}
