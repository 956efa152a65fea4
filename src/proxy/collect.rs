//! Responses that a filter sees whole: kept while Pingora writes them, shown to `on_response`, and
//! sent from here.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, Result};
use pingora_proxy::Session;

use super::ctx::Ctx;
use super::fail::{self, Failure};
use super::{cache, exchange, filters, response};
use crate::config::body::BodyMode;
use crate::config::filters::OnFault;
use crate::script::{Exchange, Hook, MessageBody};
use crate::snapshot::{FilterState, Shared};
use crate::telemetry::handles::HeldBytes;

/// A response on its way into our hands.
pub struct Collected {
    /// As filters see it.
    shown: ResponseHeader,
    /// As Pingora would have sent it.
    pub head: Option<Box<ResponseHeader>>,
    body: BytesMut,
    counted: HeldBytes,
    /// Bytes of this body, and of all that are held.
    limits: (usize, u64),
    complete: bool,
    /// Whether it may go on unseen where it cannot be held.
    pub may_pass: bool,
    failed: Option<Obstacle>,
}

/// Why a body cannot be held.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum Obstacle {
    #[error("the response's body is larger than body.limit, {0} bytes")]
    TooLarge(usize),
    #[error("limits.held_bodies, {0} bytes, are held")]
    Busy(u64),
}

impl Collected {
    pub fn add(&mut self, piece: &[u8], end: bool) -> std::result::Result<(), Obstacle> {
        let (limit, total) = self.limits;
        if piece.len() > limit - self.body.len() {
            return Err(Obstacle::TooLarge(limit));
        }
        if !self.counted.grow(piece.len(), total) {
            return Err(Obstacle::Busy(total));
        }
        self.body.extend_from_slice(piece);
        self.complete |= end;
        Ok(())
    }

    pub fn take_body(&mut self) -> Bytes {
        self.body.split().freeze()
    }

    pub fn fail(&mut self, obstacle: Obstacle) -> String {
        self.failed = Some(obstacle);
        obstacle.to_string()
    }
}

/// The filters that the response will be shown to, and that ask for its body.
fn asking(ctx: &Ctx) -> Vec<Arc<FilterState>> {
    let Some(routed) = &ctx.routed else { return Vec::new() };
    let entered = routed.route.filters.iter().take(ctx.scripts.entered);
    let asking = |filter: &&Arc<FilterState>| {
        filter.config.body.response == BodyMode::Buffer && filter.script.has(Hook::Response)
    };
    entered.filter(asking).cloned().collect()
}

/// Asks the origin for what can be shown to filters: all of it, in a coding that we can read.
pub fn ask_for_whole(head: &mut RequestHeader, ctx: &Ctx) {
    if asking(ctx).is_empty() {
        return;
    }
    super::head::edit(head, |parts| {
        let headers: &mut HeaderMap = &mut parts.headers;
        headers.remove(header::RANGE);
        headers.remove(header::IF_RANGE);
        let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
        let gzip = accepted.filter_map(|line| line.to_str().ok()).any(|line| line.contains("gzip"));
        let coding = if gzip { "gzip" } else { "identity" };
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(coding));
    });
}

/// Whether a filter asks for the whole of the response.
pub fn is_asked(ctx: &Ctx) -> bool {
    !asking(ctx).is_empty()
}

/// Whether the whole body that a filter asks for is none.
pub fn shows_none(session: &Session, head: &ResponseHeader, ctx: &Ctx) -> bool {
    is_empty(session, head) && !asking(ctx).is_empty()
}

fn is_empty(session: &Session, head: &ResponseHeader) -> bool {
    session.req_header().method == Method::HEAD || matches!(head.status.as_u16(), 204 | 304)
}

/// Whether a filter cannot be shown a response that is held for another one.
pub fn too_large_for(filter: &FilterState, exchange: &Exchange) -> Option<Obstacle> {
    let access = filter.config.body;
    let body = &exchange.response.as_ref()?.body;
    match body {
        MessageBody::Held(bytes) if access.response == BodyMode::Buffer => {
            (bytes.len() > access.limit).then_some(Obstacle::TooLarge(access.limit))
        }
        _ => None,
    }
}

/// Keeps the response to this head, if a filter asks for it; then true. A head that announces more
/// than may be held is a fault of who asks for it.
pub fn begin(
    session: &mut Session,
    head: &ResponseHeader,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<bool> {
    let asking = asking(ctx);
    let Some(limit) = asking.iter().map(|filter| filter.config.body.limit).max() else {
        return Ok(false);
    };
    if is_empty(session, head) || head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(false);
    }
    let announced =
        head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return match filters::refuse_all(ctx, &asking, &Obstacle::TooLarge(limit)) {
            Some(failure) => Err(ctx.refuse(failure)),
            None => Ok(false),
        };
    }
    let open = |filter: &Arc<FilterState>| {
        filter.config.on_fault == OnFault::Open || !filter.script.has(Hook::Response)
    };
    let collected = Collected {
        shown: head.clone(),
        head: None,
        body: BytesMut::new(),
        counted: shared.metrics.held_body(),
        limits: (limit, ctx.facts()?.snapshot.limits.held_bodies.value.0),
        complete: false,
        may_pass: ctx.routed()?.route.filters.iter().all(open),
        failed: None,
    };
    ctx.body.place.collect(session, collected);
    Ok(true)
}

/// Pingora has ended: what was collected is shown to the filters, and sent.
pub async fn release(session: &mut Session, error: Option<&Error>, ctx: &mut Ctx, shared: &Shared) {
    let Some(mut collected) = ctx.body.place.take_back(session) else { return };
    if let Some(obstacle) = collected.failed {
        // It was passed on.
        filters::refuse_all(ctx, &asking(ctx), &obstacle);
        return;
    }
    if error.is_some() || !collected.complete {
        return;
    }
    let mut draft = exchange::of_response(&collected.shown, cache::from(session));
    draft.body = MessageBody::Held(collected.take_body());
    if let Err(error) = response::send_draft(session, ctx, shared, draft).await {
        fail::answer(session, &error, ctx, shared).await;
    }
}

/// Pingora has failed. What was collected is lost; what kept it from being collected is the failure.
pub fn give_up(session: &mut Session, ctx: &mut Ctx) {
    let Some(collected) = ctx.body.place.take_back(session) else { return };
    ctx.attempt.taken_in = session.cache.enabled();
    match collected.failed {
        None => {}
        Some(Obstacle::Busy(total)) => ctx.outcome.failure = Some(Failure::BodiesBusy(total)),
        Some(obstacle) => {
            let failure = filters::refuse_all(ctx, &asking(ctx), &obstacle);
            ctx.outcome.failure = failure.or(ctx.outcome.failure.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_kept_up_to_its_limit() {
        let metrics = crate::telemetry::metrics::Metrics::new().expect("registers");
        let mut collected = Collected {
            shown: ResponseHeader::build(200, None).expect("a head"),
            head: None,
            body: BytesMut::new(),
            counted: metrics.held_body(),
            limits: (5, 7),
            complete: false,
            may_pass: false,
            failed: None,
        };
        assert!(collected.add(b"abc", false).is_ok());
        assert!(!collected.complete);
        assert!(matches!(collected.add(b"def", true), Err(Obstacle::TooLarge(5))));
        assert!(collected.add(b"de", true).is_ok());
        assert!(collected.complete);
        assert_eq!(collected.take_body(), "abcde");
        collected.limits.0 = 10;
        assert!(matches!(collected.add(b"abc", true), Err(Obstacle::Busy(7))));
    }
}
