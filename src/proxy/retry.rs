//! What went wrong at an origin, and whether another one is tried (docs/decisions/0007).
//!
//! A failure is judged here and its repetition noted; `peer` waits and begins it.

use http::StatusCode;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_proxy::Session;

use super::ctx::Ctx;
use super::fail::Failure;
use super::peer::{self, upstream};
use super::response;
use crate::config::traffic::Fallback;
use crate::config::upstreams::{Retry, RetryOn};
use crate::snapshot::UpstreamState;
use crate::upstream::dial::CONNECTIONS_FULL;
use crate::upstream::outlier::Outcome;
use crate::upstream::retry::backoff;

/// 1xx responses before the real one at most, as many as curl takes.
const MAX_INFORMATIONAL: u32 = 16;

/// How often a repetition looks for a place in the budget, with a longer wait each time: with the
/// default backoff about a second in all.
const LOOKS_FOR_PLACE: u32 = 10;

/// An answer's status that is chosen for a repetition, as Pingora's error.
const CHOSEN_STATUS: ErrorType = ErrorType::Custom("status chosen for retry");

/// A repetition that is to begin.
pub struct Due {
    /// As metrics and logs name what it is for.
    pub reason: &'static str,
    /// Whether it still needs a place in the budget.
    pub needs_place: bool,
    /// What the request ends with if it cannot begin.
    pub otherwise: Failure,
}

/// The rules for the request: its route's, else its upstream's.
fn rules<'c>(ctx: &'c Ctx, upstream: &'c UpstreamState) -> (u32, &'c Retry) {
    let config = upstream.pool.config();
    let traffic = ctx.routed.as_ref().map(|routed| &routed.route.config.traffic);
    let retries = traffic.and_then(|traffic| traffic.retries).unwrap_or(config.retries);
    let retry = traffic.and_then(|traffic| traffic.retry.as_ref()).unwrap_or(&config.retry);
    (retries, retry)
}

/// Waits for the repetition's turn, and for its place in the budget.
pub async fn wait(ctx: &mut Ctx, due: Due) -> Result<()> {
    let Some(upstream) = upstream(ctx).cloned() else { return Ok(()) };
    let rules = rules(ctx, &upstream).1.clone();
    let nth = ctx.attempt.retries + 1;
    let left = peer::left(ctx)?;
    tokio::time::sleep(backoff(rules.backoff, nth).min(left)).await;
    if due.needs_place {
        let mut place = upstream.pool.repeat(&rules);
        for look in 0..LOOKS_FOR_PLACE {
            if place.is_some() {
                break;
            }
            tokio::time::sleep(backoff(rules.backoff, nth + look).min(peer::left(ctx)?)).await;
            place = upstream.pool.repeat(&rules);
        }
        if place.is_none() {
            upstream.metrics.retry_over_budget();
            return Err(ctx.refuse(due.otherwise));
        }
        ctx.attempt.place = place;
    }
    ctx.attempt.retries += 1;
    upstream.metrics.retry(due.reason);
    log::debug!("upstream {}: attempt {} after {}", upstream.pool.name(), nth + 1, due.reason);
    ctx.attempt.otherwise = Some(due.otherwise);
    Ok(())
}

/// Whether another endpoint may be tried, and there is one.
fn another(ctx: &Ctx, upstream: &UpstreamState, on: Option<RetryOn>) -> bool {
    let (retries, rules) = rules(ctx, upstream);
    ctx.attempt.retries < retries
        && on.is_none_or(|on| rules.on.contains(&on))
        && peer::any_left(ctx, upstream)
}

/// Whether nothing was answered yet, and the whole request can be sent again.
fn at_hand(session: &Session, ctx: &Ctx) -> bool {
    // An origin that said 1xx has begun with it.
    response::sent(session).is_none()
        && ctx.attempt.informational == 0
        && !ctx.attempt.taken_in
        && !session.as_ref().retry_buffer_truncated()
        && ctx.outcome.failure.is_none()
}

/// Whether running it twice does no harm.
fn repeatable(session: &Session, ctx: &Ctx, upstream: &UpstreamState) -> bool {
    let method = &session.req_header().method;
    method.is_idempotent() || rules(ctx, upstream).1.methods.contains(method)
}

/// The connection could not be made, so nothing was sent: another endpoint may be tried, and that
/// costs no origin anything.
pub fn connect_failed(ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
    let Some(upstream) = upstream(ctx).cloned() else { return error };
    ctx.attempt.place = None;
    let failure = Failure::of(&error);
    upstream.metrics.failure(failure.row().label);
    if *error.etype() != CONNECTIONS_FULL {
        peer::failed(ctx, Outcome::NotConnected);
    }
    peer::end_attempt(ctx, Some(failure.row().label));
    if another(ctx, &upstream, Some(RetryOn::Connect)) {
        ctx.attempt.due = Some(Due { reason: "connect", needs_place: false, otherwise: failure });
        error.set_retry(true);
    } else if fall_back(ctx) {
        error.set_retry(true);
    } else {
        error.set_retry(false);
        if !upstream.pool.any_well() {
            let text = format!("{}: {error}", upstream.pool.name());
            ctx.outcome.failure = Some(Failure::NoEndpoint(text));
        }
    }
    error
}

/// Turns to the route's other upstream, once.
pub fn fall_back(ctx: &mut Ctx) -> bool {
    let Some(routed) = &mut ctx.routed else { return false };
    let (Some(Fallback::Upstream(_)), Some(other)) =
        (&routed.route.config.traffic.fallback, routed.route.fallback.clone())
    else {
        return false;
    };
    if std::mem::replace(&mut ctx.attempt.fell_back, true) {
        return false;
    }
    routed.route.metrics.fallback();
    routed.upstream = Some(other);
    ctx.attempt.otherwise = None;
    true
}

/// The origin's answer has a status for which another one is asked: the answer goes nowhere then.
/// It does where the budget has no place, for it is better than none.
pub fn judge_status(session: &Session, ctx: &mut Ctx, status: StatusCode) -> Result<()> {
    let Some(upstream) = upstream(ctx).cloned() else { return Ok(()) };
    let rules = rules(ctx, &upstream).1;
    if !rules.status.as_ref().is_some_and(|chosen| chosen.contain(status)) {
        return Ok(());
    }
    if !at_hand(session, ctx)
        || !repeatable(session, ctx, &upstream)
        || !another(ctx, &upstream, None)
    {
        return Ok(());
    }
    let Some(place) = upstream.pool.repeat(rules) else {
        upstream.metrics.retry_over_budget();
        return Ok(());
    };
    ctx.attempt.place = Some(place);
    let text = format!("{} answered {status}", upstream.pool.name());
    let otherwise = Failure::NoEndpoint(text.clone());
    ctx.attempt.due = Some(Due { reason: "status", needs_place: false, otherwise });
    let mut error = Error::explain(CHOSEN_STATUS, text);
    error.as_up();
    Err(error)
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
    if *error.etype() == CHOSEN_STATUS && ctx.attempt.due.is_some() {
        peer::end_attempt(ctx, Some("status"));
        error.set_retry(true);
        return error;
    }
    ctx.attempt.place = None;
    let from_upstream = *error.esource() == ErrorSource::Upstream;
    let waited = from_upstream && *error.etype() == ErrorType::ReadTimedout;
    if waited && response::sent(session).is_none() && !session.as_mut().is_body_done() {
        // The origin waited for the rest of the request, as we did.
        peer::end_attempt(ctx, None);
        ctx.outcome.failure = Some(Failure::ClientTimeout(error.to_string()));
        error.set_retry(false);
        return error;
    }
    let Some(upstream) = upstream(ctx).cloned() else { return error };
    let failure = Failure::of(&error);
    let at_hand = at_hand(session, ctx);
    let untouched = at_hand && is_untouched(&error);
    let repeatable = at_hand && repeatable(session, ctx, &upstream);
    error.retry.decide_reuse(reused);
    let stale = reused && error.retry() && (repeatable || untouched);
    if from_upstream {
        upstream.metrics.failure(failure.row().label);
        peer::failed(ctx, if waited { Outcome::TimedOut } else { Outcome::Broken });
    }
    peer::end_attempt(ctx, (!stale).then_some(failure.row().label));
    if stale {
        upstream.metrics.retry("stale_connection");
        error.set_retry(true);
        return error;
    }
    let on = match untouched {
        true => Some(RetryOn::RefusedStream),
        false => broken_by(error.etype()).filter(|_| repeatable && from_upstream),
    };
    let again = on.is_some() && another(ctx, &upstream, on);
    error.set_retry(again);
    if let Some(on) = on.filter(|_| again) {
        ctx.attempt.due =
            Some(Due { reason: label(on), needs_place: !untouched, otherwise: failure });
    }
    error
}

/// An HTTP/2 origin refused the stream or went away before it (RFC 9113, 8.7).
fn is_untouched(error: &Error) -> bool {
    *error.etype() == ErrorType::H2Error && matches!(error.retry, RetryType::Decided(true))
}

/// Nothing came of it, or not in time: another endpoint may do better.
fn broken_by(kind: &ErrorType) -> Option<RetryOn> {
    match kind {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Some(RetryOn::Timeout),
        ErrorType::ConnectionClosed
        | ErrorType::ReadError
        | ErrorType::WriteError
        | ErrorType::H2Error
        // No HTTP that could be read, which is no better than nothing.
        | ErrorType::InvalidHTTPHeader
        | ErrorType::H1Error => Some(RetryOn::Reset),
        _ => None,
    }
}

fn label(on: RetryOn) -> &'static str {
    match on {
        RetryOn::Connect => "connect",
        RetryOn::Reset => "reset",
        RetryOn::Timeout => "timeout",
        RetryOn::RefusedStream => "refused_stream",
    }
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
