//! `on_request` and `on_upstream_request`: filters may answer, edit, or choose the upstream.

use std::sync::Arc;

use http::header;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora_proxy::Session;

use super::body;
use super::ctx::Ctx;
use super::exchange;
use super::fail::Failure;
use super::filters::{Next, run_watched};
use super::response;
use crate::script::Hook;
use crate::snapshot::{RouteState, Shared};

/// Refuses a body whose announced length is above the route's limit, before the origin is asked.
pub fn limit_body(session: &Session, ctx: &mut Ctx) -> Result<()> {
    let limit = ctx.routed()?.route.config.max_body;
    match announced_length(session) {
        Some(length) if length > limit => Err(ctx.refuse(Failure::BodyTooLarge(limit))),
        _ => Ok(()),
    }
}

/// What `Content-Length` says, which is one plain number by now.
pub fn announced_length(session: &Session) -> Option<u64> {
    let length = session.req_header().headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// The same for a body of unknown length, as it comes.
pub fn limit_body_as_it_comes(session: &Session, ctx: &mut Ctx) -> Result<()> {
    let limit = ctx.routed()?.route.config.max_body;
    // Asking for a tunnel is not enough to have one.
    if session.body_bytes_read() as u64 > limit && !session.was_upgraded() {
        return Err(ctx.refuse(Failure::BodyTooLarge(limit)));
    }
    Ok(())
}

/// Runs `on_request` from the outermost filter inwards; true when one of them answered.
pub async fn run(session: &mut Session, ctx: &mut Ctx, shared: &Shared) -> Result<bool> {
    let route = ctx.routed()?.route.clone();
    if ctx.cache.is_refresh() {
        return Ok(false); // They have run for the request that it is for.
    }
    if !route.has(Hook::Request) && !route.holds_requests() {
        ctx.scripts.entered = route.filters.len();
        return Ok(false);
    }
    // Boxed, so that requests without filters do not carry the room for them.
    Box::pin(run_hooks(session, ctx, shared, &route)).await
}

async fn run_hooks(
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
    route: &RouteState,
) -> Result<bool> {
    let mut exchange = exchange::of_request(session.req_header(), ctx)?;
    let mut before = exchange.request.clone();
    for (index, filter) in route.filters.iter().enumerate() {
        if body::hold_for(filter, session, ctx, shared).await? {
            let unedited = Arc::ptr_eq(&before, &exchange.request);
            Arc::make_mut(&mut exchange.request).body = ctx.body.as_seen();
            if unedited {
                before = exchange.request.clone();
            }
        }
        if filter.script.has(Hook::Request) {
            exchange =
                match run_watched(session, shared, ctx, filter, Hook::Request, exchange).await {
                    Next::Continue(exchange) | Next::Transform(exchange, _) => exchange,
                    Next::Fail(failure) => return Err(ctx.refuse(failure)),
                    Next::Answer(_, answer) => {
                        ctx.outcome.answered_by = Some(filter.config.name.clone());
                        response::send_draft(session, ctx, shared, answer).await?;
                        return Ok(true);
                    }
                };
        }
        ctx.scripts.entered = index + 1;
    }
    if !Arc::ptr_eq(&before, &exchange.request) {
        ctx.body.edit(&exchange.request.body);
        exchange::edit_request(session, ctx, &exchange.request)?;
    }
    // Unless its path was brought into normal form, and has to be read anew.
    let as_sent = session.req_header().uri.path() == exchange.request.path;
    ctx.scripts.request = Some(exchange.request).filter(|_| as_sent);
    Ok(false)
}

/// Runs `on_upstream_request` on the origin's copy.
pub async fn run_upstream(
    session: &mut Session,
    head: &mut RequestHeader,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<()> {
    let route = ctx.routed()?.route.clone();
    if !route.has(Hook::UpstreamRequest) {
        return Ok(());
    }
    Box::pin(run_upstream_hooks(session, head, ctx, shared, &route)).await
}

async fn run_upstream_hooks(
    session: &mut Session,
    head: &mut RequestHeader,
    ctx: &mut Ctx,
    shared: &Shared,
    route: &RouteState,
) -> Result<()> {
    let mut exchange = exchange::of_request(head, ctx)?;
    let before = exchange.request.clone();
    for filter in route.filters.iter().filter(|filter| filter.script.has(Hook::UpstreamRequest)) {
        exchange = match run_watched(session, shared, ctx, filter, Hook::UpstreamRequest, exchange)
            .await
        {
            Next::Continue(exchange) | Next::Transform(exchange, _) => exchange,
            Next::Fail(failure) => return Err(ctx.refuse(failure)),
            Next::Answer(_, answer) => {
                ctx.outcome.answered_by = Some(filter.config.name.clone());
                return Err(response::answer_instead(session, ctx, shared, answer).await);
            }
        };
    }
    ctx.body.edit_attempt(&exchange.request.body);
    match Arc::ptr_eq(&before, &exchange.request) {
        true => Ok(()),
        false => exchange::edit_upstream_request(head, ctx, &exchange.request),
    }
}
