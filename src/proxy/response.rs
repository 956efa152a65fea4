//! What the client sees: the origin's response after filters, or one made here.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::cache;
use super::collect;
use super::conform;
use super::ctx::Ctx;
use super::exchange;
use super::fail::{self, Failure, Page};
use super::filters::{self, Next, run_hook, run_watched};
use super::head::{self, REQUEST_ID, is_hop_by_hop};
use super::transform::{self, Given};
use super::{mirror, peer, retry, sticky};
use crate::script::{From, Hook, MessageBody, ResponseDraft};
use crate::snapshot::Shared;

/// The origin's head came: it must be unambiguous, and is freed of what concerns its connection.
pub async fn from_upstream(
    session: &mut Session,
    head: &mut ResponseHeader,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<()> {
    let upgrade = ctx.facts()?.upgrade;
    conform::response(head, upgrade)
        .map_err(|what| ctx.refuse(Failure::UpstreamInvalid(what.to_string())))?;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    head::edit_response(head, |parts| remove_hop_by_hop(&mut parts.headers));
    if head.status.is_informational() {
        retry::still_waiting(ctx)?;
        return cache::pass_informational(session, head).await;
    }
    peer::answered(ctx, head.status);
    retry::judge_status(session, ctx, head.status)?;
    mirror::answered(ctx, head.status);
    sticky::tell(session, head, ctx);
    if has_hook(ctx, Hook::UpstreamResponse) {
        Box::pin(run_upstream_filters(session, head, ctx, shared)).await?;
    }
    cache::origin_answered(session, head, ctx);
    Ok(())
}

/// Runs `on_upstream_response` from the innermost filter outwards; what it edits is stored.
async fn run_upstream_filters(
    session: &mut Session,
    head: &mut ResponseHeader,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<()> {
    let route = ctx.routed()?.route.clone();
    let mut exchange = exchange::of_client(session, ctx)?;
    let mut draft = exchange::of_response(head, From::Origin);
    draft.cache = Some(Box::default());
    let draft = Arc::new(draft);
    exchange.response = Some(draft.clone());
    let entered = route.filters.iter().take(ctx.scripts.entered);
    for filter in entered.rev().filter(|filter| filter.script.has(Hook::UpstreamResponse)) {
        let hook = Hook::UpstreamResponse;
        exchange = match run_watched(session, shared, ctx, filter, hook, exchange).await {
            Next::Continue(exchange) => exchange,
            Next::Fail(failure) => return Err(ctx.refuse(failure)),
            Next::Transform(..) | Next::Answer(..) => return Err(ctx.refuse(other_body())),
        };
    }
    let Some(edited) = exchange.response.filter(|edited| !Arc::ptr_eq(&draft, edited)) else {
        return Ok(());
    };
    let edited = Arc::unwrap_or_clone(edited);
    if edited.body != MessageBody::Untouched {
        return Err(ctx.refuse(other_body()));
    }
    ctx.cache.wishes = edited.cache.map(|wishes| *wishes).unwrap_or_default();
    exchange::edit_response(head, edited.status, edited.headers);
    Ok(())
}

/// The origin's body is on its way, and is stored as it comes.
fn other_body() -> Failure {
    Failure::FilterMessage("another body in on_upstream_response; use on_response".into())
}

/// Headers about the origin's connection end here; the framing stays for Pingora.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let names = headers.keys().filter(|name| is_hop_by_hop(name)).cloned();
    let lines = headers.get_all(header::CONNECTION).iter();
    let words = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let words = words.map(<[u8]>::trim_ascii).filter(|word| !is_about_reuse(word));
    let listed = words.filter_map(|word| HeaderName::from_bytes(word).ok());
    let names: Vec<HeaderName> = names.chain(listed).collect();
    for name in names.iter().filter(|name| !is_framing(name)) {
        headers.remove(name);
    }
}

/// The words of `Connection` that name no header.
fn is_about_reuse(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"keep-alive") || word.eq_ignore_ascii_case(b"close")
}

/// The head that the client was sent, unless it was a 1xx, which Pingora counts too.
pub fn sent(session: &Session) -> Option<&ResponseHeader> {
    let upgraded = |head: &ResponseHeader| head.status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().filter(|head| !head.status.is_informational() || upgraded(head))
}

/// Where the body ends, and what comes after it.
fn is_framing(name: &HeaderName) -> bool {
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TRAILER].contains(name)
}

/// The head is about to go to the client: `on_response` from the innermost filter outwards.
pub async fn to_client(
    session: &mut Session,
    head: &mut ResponseHeader,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<()> {
    if ctx.cache.is_refresh() {
        return Ok(()); // Nobody sees it.
    }
    let shown = show(session, head, ctx, shared).await;
    if let Err(error) = &shown
        && cache::is_out_of_store(session)
    {
        // Pingora would answer with a page of its own, where no origin is involved.
        fail::answer(session, error, ctx, shared).await;
    }
    shown
}

async fn show(
    session: &mut Session,
    head: &mut ResponseHeader,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<()> {
    if head.status.is_informational() {
        tunnel(session, head, ctx);
        return Ok(());
    }
    cache::before_client(session, head, ctx, shared).await?;
    if collect::begin(session, head, ctx, shared)? {
        return finish_head(session, head, ctx, shared);
    }
    if has_hook(ctx, Hook::Response) {
        let mut draft = exchange::of_response(head, cache::from(session));
        if collect::shows_none(session, head, ctx) {
            draft.body = MessageBody::Held(Bytes::new());
        }
        let draft = Arc::new(draft);
        let edited = Box::pin(run_filters(session, ctx, shared, draft.clone())).await?;
        if !Arc::ptr_eq(&draft, &edited) {
            let edited = Arc::unwrap_or_clone(edited);
            if ends_with_head(head) && has_body_for(session, &edited) {
                return Err(send_in_place(session, ctx, shared, edited).await);
            }
            exchange::edit_response(head, edited.status, edited.headers);
            if let MessageBody::Replaced(body) = edited.body {
                replace_body(session, head, ctx, body)?;
            }
        }
        transform::begin(session, head, ctx)?;
    }
    finish_head(session, head, ctx, shared)
}

/// Whether the origin sends no body, so that Pingora asks for none in its place; or may send none:
/// over HTTP/2 a head without a length does not tell.
fn ends_with_head(head: &ResponseHeader) -> bool {
    let bodiless = matches!(head.status.as_u16(), 204 | 304);
    match head.headers.get(header::CONTENT_LENGTH) {
        Some(length) => bodiless || length == "0",
        None => bodiless || head.version == Version::HTTP_2,
    }
}

fn has_body_for(session: &Session, edited: &ResponseDraft) -> bool {
    let replaced = matches!(&edited.body, MessageBody::Replaced(body) if !body.is_empty());
    let bodiless = matches!(edited.status.as_u16(), 204 | 304);
    replaced && !bodiless && session.req_header().method != Method::HEAD
}

/// A filter gave a body to a response without one: it is sent from here, and Pingora is told to
/// stop by an error that `fail` sees as answered.
async fn send_in_place(
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
    mut edited: ResponseDraft,
) -> Box<Error> {
    for name in [header::CONTENT_ENCODING, header::ETAG] {
        edited.headers.remove(name);
    }
    let body_by = ctx.scripts.body_by.take();
    ctx.outcome.answered_by = ctx.outcome.answered_by.take().or(body_by);
    match write(session, ctx, shared, edited).await {
        Ok(()) => Error::explain(ErrorType::InternalError, "a filter gave the body"),
        Err(error) => error,
    }
}

/// From here on both sides may be silent; how long, the connection's own watch sees.
fn tunnel(session: &mut Session, head: &ResponseHeader, ctx: &Ctx) {
    if head.status == StatusCode::SWITCHING_PROTOCOLS
        && let Some(live) = ctx.facts.as_ref().and_then(|facts| facts.conn.as_ref())
    {
        live.0.is_tunnel();
        session.set_read_timeout(None);
    }
}

fn has_hook(ctx: &Ctx, hook: Hook) -> bool {
    ctx.routed.as_ref().is_some_and(|routed| routed.route.has(hook))
}

/// Runs `on_response` of the filters that the request has passed.
async fn run_filters(
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
    draft: Arc<ResponseDraft>,
) -> Result<Arc<ResponseDraft>> {
    let Some(route) = ctx.routed.as_ref().map(|routed| routed.route.clone()) else {
        return Ok(draft);
    };
    let mut exchange = exchange::of_client(session, ctx)?;
    exchange.response = Some(draft);
    let entered = route.filters.iter().take(ctx.scripts.entered);
    for filter in entered.rev().filter(|filter| filter.script.has(Hook::Response)) {
        if let Some(why) = collect::too_large_for(filter, &exchange) {
            match filters::refuse_all(ctx, std::slice::from_ref(filter), &why) {
                Some(failure) => return Err(ctx.refuse(failure)),
                None => continue,
            }
        }
        exchange = match run_watched(session, shared, ctx, filter, Hook::Response, exchange).await {
            Next::Continue(exchange) => exchange,
            Next::Transform(exchange, stage) => {
                ctx.scripts.given.push(Given { filter: Arc::clone(filter), stage });
                exchange
            }
            Next::Fail(failure) => return Err(ctx.refuse(failure)),
            Next::Answer(mut exchange, answer) => {
                ctx.outcome.answered_by = Some(filter.config.name.clone());
                exchange.response = Some(Arc::new(answer));
                exchange
            }
        };
        // What inner filters gave was for a body that has been replaced.
        if exchange.response.as_ref().is_some_and(|draft| draft.body != MessageBody::Untouched) {
            ctx.scripts.given.clear();
            ctx.scripts.body_by = Some(filter.config.name.clone());
        }
    }
    let missing = || ctx.refuse(Failure::Internal("a filter's run lost the response".into()));
    exchange.response.ok_or_else(missing)
}

/// The origin's body will be thrown away and `body` sent; the length is right from the start.
fn replace_body(
    session: &Session,
    head: &mut ResponseHeader,
    ctx: &mut Ctx,
    body: Bytes,
) -> Result<()> {
    for name in [header::TRANSFER_ENCODING, header::CONTENT_ENCODING, header::ETAG] {
        head.remove_header(&name);
    }
    let bodiless = matches!(head.status.as_u16(), 204 | 304);
    if bodiless || session.req_header().method == Method::HEAD {
        return Ok(());
    }
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    ctx.scripts.replacement = Some(body);
    ctx.scripts.replaced = true;
    Ok(())
}

/// A piece of the response's body on its way to the client.
pub fn body(ctx: &mut Ctx, body: &mut Option<Bytes>, end: bool) -> Result<()> {
    if ctx.scripts.replaced {
        *body = match end {
            true => ctx.scripts.replacement.take(),
            false => None,
        };
    }
    transform::piece(ctx, body, end)
}

/// The origin sends trailers, so no piece was the last. What a filter still has to send takes
/// their place: they were about other bytes.
pub async fn before_trailers(session: &mut Session, ctx: &mut Ctx) -> Result<Option<Bytes>> {
    if !ctx.scripts.replaced && ctx.scripts.body.is_none() {
        return Ok(None);
    }
    let mut rest = None;
    if let Err(error) = body(ctx, &mut rest, true) {
        // Pingora would only log it, and end the response as if it were whole.
        session.downstream_session.shutdown().await;
        return Err(error);
    }
    Ok(Some(rest.unwrap_or_default()))
}

fn finish_head(
    session: &mut Session,
    head: &mut ResponseHeader,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<()> {
    let facts = ctx.facts()?;
    conform::for_client(head, session.req_header().version);
    head::edit_response(head, |parts| {
        parts.headers.insert(&REQUEST_ID, facts.request_id.clone());
    });
    ctx.outcome.first_byte = Some(facts.started.elapsed());
    ctx.outcome.status = head.status.as_u16();
    if !shared.is_ready() {
        session.set_keepalive(None);
    }
    if has_hook(ctx, Hook::Log) {
        ctx.scripts.response = Some(exchange::of_response(head, cache::from(session)));
    }
    Ok(())
}

/// Sends a response made here; the filters outside of where it was made see it first.
pub async fn send_draft(
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
    answer: ResponseDraft,
) -> Result<()> {
    let edited = match has_hook(ctx, Hook::Response) {
        true => Arc::unwrap_or_clone(run_filters(session, ctx, shared, Arc::new(answer)).await?),
        false => answer,
    };
    write(session, ctx, shared, edited).await
}

/// A filter answered in place of the origin while the upstream request was being prepared: the
/// answer is sent, and Pingora is told to stop by an error that `fail` sees as answered.
pub async fn answer_instead(
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
    answer: ResponseDraft,
) -> Box<Error> {
    match send_draft(session, ctx, shared, answer).await {
        Ok(()) => Error::explain(ErrorType::InternalError, "a filter answered"),
        Err(error) => error,
    }
}

/// Sends a failure's page, or what an `on_error` made of it. False if it could not be sent.
pub async fn send_failure(
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
    failure: &Failure,
    page: Page,
) -> bool {
    let own = match ask_on_error(session, ctx, shared, failure).await {
        Some(answer) => answer,
        None => page.into_draft(),
    };
    // A filter that faults on the page of a failure must not hide the failure.
    let filter_failed = matches!(failure, Failure::FilterFault(_) | Failure::FiltersBusy);
    let own = Arc::new(own);
    let edited = match !filter_failed && has_hook(ctx, Hook::Response) {
        true => run_filters(session, ctx, shared, own.clone()).await.unwrap_or(own),
        false => own,
    };
    ctx.outcome.failure = Some(failure.clone());
    write(session, ctx, shared, Arc::unwrap_or_clone(edited)).await.is_ok()
}

/// The innermost `on_error` that returns a response has the word.
async fn ask_on_error(
    session: &Session,
    ctx: &mut Ctx,
    shared: &Shared,
    failure: &Failure,
) -> Option<ResponseDraft> {
    if !has_hook(ctx, Hook::Error) {
        return None;
    }
    let route = ctx.routed.as_ref()?.route.clone();
    let mut exchange = exchange::of_client(session, ctx).ok()?;
    exchange.error = Some(exchange::of_failure(failure));
    let entered = route.filters.iter().take(ctx.scripts.entered);
    for filter in entered.rev().filter(|filter| filter.script.has(Hook::Error)) {
        match run_hook(shared, ctx, filter, Hook::Error, exchange).await {
            Next::Continue(next) | Next::Transform(next, _) => exchange = next,
            Next::Answer(_, answer) => {
                ctx.outcome.answered_by = Some(filter.config.name.clone());
                return Some(answer);
            }
            Next::Fail(_) => return None,
        }
    }
    None
}

/// The one way out for responses made here.
async fn write(
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
    draft: ResponseDraft,
) -> Result<()> {
    let (status, headers, body) = exchange::of_draft(&draft);
    let mut head = ResponseHeader::build(status, Some(headers.len() + 2))?;
    for (name, value) in &headers {
        if !is_framing(name) && !is_hop_by_hop(name) {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    let bodiless = status.is_informational() || matches!(status.as_u16(), 204 | 304);
    if !bodiless {
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    if let Some(facts) = &ctx.facts {
        head.insert_header(REQUEST_ID.as_str(), &facts.request_id)?;
        ctx.outcome.first_byte = Some(facts.started.elapsed());
    }
    ctx.outcome.status = status.as_u16();
    if has_hook(ctx, Hook::Log) {
        ctx.scripts.response = Some(exchange::of_response(&head, draft.from));
    }
    if !shared.is_ready() {
        session.set_keepalive(None);
    }
    let no_body = bodiless || body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(head), no_body).await?;
    if !no_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}
