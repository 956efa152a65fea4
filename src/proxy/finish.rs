//! The end of a request: metrics, the access log's line, `on_log`.

use std::sync::Arc;

use http::{HeaderMap, header};
use pingora::Error;
use pingora_proxy::Session;

use super::after::{self, Logging};
use super::cache;
use super::ctx::{Ctx, Facts};
use super::dev;
use super::exchange;
use super::fail;
use super::peer;
use super::response;
use crate::script::{Done, Ending, Hook, ResponseDraft};
use crate::snapshot::Shared;
use crate::telemetry::access_log::Entry;

/// Called once for each request, however it went.
pub async fn record(
    session: &mut Session,
    error: Option<&Error>,
    ctx: &mut Ctx,
    shared: &Arc<Shared>,
) {
    peer::end_attempt(ctx, None);
    if let Some(error) =
        error.filter(|_| ctx.outcome.failure.is_none() && ctx.outcome.answered_by.is_none())
    {
        ctx.outcome.failure = Some(fail::cause(error, ctx));
    }
    cache::record(session, ctx);
    if ctx.cache.is_refresh() {
        // No client asked for it, so no line is written; hooks towards the origin have run.
        after::start(ctx, shared);
        return;
    }
    ctx.outcome.status = response::sent(session).map_or(0, |head| head.status.as_u16());
    ctx.outcome.body_out = session.body_bytes_sent() as u64;
    ctx.outcome.body_in = session.body_bytes_read() as u64;
    count(ctx, shared);
    if let (Some(log), Some(facts)) = (&*shared.access_log.load(), &ctx.facts) {
        log.write(entry(session, ctx, facts));
    }
    after::start(ctx, shared);
    let story = dev::story(session, ctx);
    match logging(session, ctx, shared) {
        Some(logging) => Box::pin(after::log(Logging { story, ..logging })).await,
        None => dev::tell(story, shared),
    }
}

fn count(ctx: &Ctx, shared: &Shared) {
    let Some(facts) = &ctx.facts else { return };
    let (outcome, waited) = (&ctx.outcome, ctx.attempt.waited);
    let metrics = ctx.routed.as_ref().map_or(&shared.no_route, |routed| &routed.route.metrics);
    let duration = facts.started.elapsed();
    metrics.observe(facts.method.as_str(), outcome.status, duration, outcome.first_byte, waited);
    let tried = ctx.attempt.first_began.is_some();
    match ctx.routed.as_ref().and_then(|routed| routed.upstream.as_ref()) {
        Some(upstream) if tried => {
            let failed = outcome.failure.is_some();
            upstream.metrics.request(if failed { "failure" } else { "success" });
        }
        _ => {
            if let Some(failure) = &outcome.failure {
                shared.metrics.request_rejected(failure.row().label);
            }
        }
    }
}

fn entry(session: &Session, ctx: &Ctx, facts: &Facts) -> Entry {
    let headers = &session.req_header().headers;
    let text = |name| text(headers, name);
    let tried = ctx.attempt.first_began.is_some();
    let upstream = ctx.routed.as_ref().and_then(|routed| routed.upstream.as_ref());
    Entry {
        time: facts.time,
        request_id: facts.request_id.to_str().unwrap_or_default().into(),
        trace_id: Some(facts.trace.trace_id),
        client: Some(facts.client),
        method: facts.method.to_string(),
        host: facts.host().to_owned(),
        path: facts.target().to_owned(),
        protocol: match session.is_http2() {
            true => "HTTP/2",
            false => "HTTP/1.1",
        },
        user_agent: text(header::USER_AGENT),
        referer: text(header::REFERER),
        route: ctx.routed.as_ref().map(|routed| routed.route.name.clone()),
        upstream: upstream.filter(|_| tried).map(|upstream| upstream.pool.name().clone()),
        endpoint: peer::endpoint(ctx).map(|address| address.to_string().into()),
        filter: ctx.outcome.answered_by.clone(),
        cache: cache::outcome(session, ctx),
        status: ctx.outcome.status,
        bytes_in: ctx.outcome.body_in,
        bytes_out: ctx.outcome.body_out,
        duration: facts.started.elapsed(),
        ttfb: ctx.outcome.first_byte,
        upstream_time: tried.then_some(ctx.attempt.waited),
        retries: ctx.attempt.retries,
        tried: tried_in_vain(ctx),
        error: ctx.outcome.failure.as_ref().map(|failure| failure.row().label),
    }
}

/// Each endpoint that failed, and why.
fn tried_in_vain(ctx: &Ctx) -> Vec<(String, &'static str)> {
    let tried = ctx.attempt.tried.iter().map(|endpoint| endpoint.address().to_string());
    tried.zip(ctx.attempt.failures.iter().copied()).collect()
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// What `on_log` works on, if any filter has one.
fn logging(session: &Session, ctx: &mut Ctx, shared: &Arc<Shared>) -> Option<Logging> {
    let route = Arc::clone(&ctx.routed.as_ref()?.route);
    if !route.has(Hook::Log) {
        return None;
    }
    let mut exchange = exchange::of_client(session, ctx).ok()?;
    let unanswered = || ResponseDraft::new(http::StatusCode::BAD_GATEWAY, "");
    exchange.response = Some(Arc::new(ctx.scripts.response.take().unwrap_or_else(unanswered)));
    let facts = ctx.facts.as_ref()?;
    let done = after::done(ctx, facts);
    Arc::make_mut(&mut exchange.request).ending = Some(Arc::new(ending(ctx, &done)));
    Some(Logging {
        shared: Arc::clone(shared),
        snapshot: Arc::clone(&facts.snapshot),
        trace: facts.trace,
        route,
        exchange,
        done,
        story: None,
    })
}

fn ending(ctx: &Ctx, done: &Done) -> Ending {
    let tried = ctx.attempt.first_began.is_some();
    let upstream = ctx.routed.as_ref().and_then(|routed| routed.upstream.as_ref());
    Ending {
        status: done.status,
        bytes_in: ctx.outcome.body_in,
        bytes_out: done.bytes,
        took: done.took,
        first_byte: ctx.outcome.first_byte,
        upstream: upstream.filter(|_| tried).map(|upstream| upstream.pool.name().clone()),
        endpoint: peer::endpoint(ctx).map(|address| address.to_string()),
        upstream_time: tried.then_some(ctx.attempt.waited),
        attempts: if tried { ctx.attempt.retries + 1 } else { 0 },
        aborted: done.aborted,
        error: ctx.outcome.failure.as_ref().map(|failure| failure.row().label),
    }
}
