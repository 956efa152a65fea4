//! Request bodies: read whole where a filter asks for it, and sent to the origin from here then.
//!
//! A held body is replayable, so a request with one may be tried on another endpoint whatever its
//! length.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora::http::RequestHeader;
use pingora::{ErrorType, Result};
use pingora_proxy::Session;

use super::ctx::Ctx;
use super::fail::Failure;
use super::request;
use super::stand_in::Place;
use crate::config::body::BodyMode;
use crate::script::MessageBody;
use crate::snapshot::{FilterState, Shared};
use crate::telemetry::handles::HeldBytes;

/// The request's body, if it is held.
#[derive(Default)]
pub struct RequestBody {
    held: Option<Held>,
    /// What this attempt sends instead, by a filter's word.
    of_attempt: Option<Bytes>,
    pub(super) place: Place,
}

struct Held {
    bytes: Bytes,
    /// Whether the client announced a body, be it an empty one.
    announced: bool,
    _counted: HeldBytes,
}

impl RequestBody {
    /// As filters see it; each sees it only as its configuration says.
    pub fn as_seen(&self) -> MessageBody {
        match &self.held {
            Some(held) => MessageBody::Held(held.bytes.clone()),
            None => MessageBody::Untouched,
        }
    }

    /// What the next attempt sends, if it is held.
    pub fn whole(&self) -> Option<Bytes> {
        self.of_attempt.clone().or_else(|| self.held.as_ref().map(|held| held.bytes.clone()))
    }

    /// Takes what filters made of the body, for all attempts.
    pub fn edit(&mut self, edited: &MessageBody) {
        if let (Some(held), MessageBody::Replaced(bytes)) = (&mut self.held, edited) {
            held.bytes = bytes.clone();
        }
    }

    /// Takes what filters made of it for the next attempt.
    pub fn edit_attempt(&mut self, edited: &MessageBody) {
        self.of_attempt = match edited {
            MessageBody::Replaced(bytes) => Some(bytes.clone()),
            MessageBody::Held(_) | MessageBody::Untouched => None,
        };
    }

    /// Pingora has the body: it may have the client's own session again.
    pub fn sent(&mut self, session: &mut Session) {
        self.place.sent(session);
    }
}

/// Reads the body if `filter` wants it and it is not held yet; true if it was read now.
pub async fn hold_for(
    filter: &FilterState,
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
) -> Result<bool> {
    let access = filter.config.body;
    if access.request == BodyMode::None {
        return Ok(false);
    }
    let most = ctx.routed()?.route.config.max_body.min(access.limit as u64);
    if let Some(held) = &ctx.body.held {
        // It was read for a filter that takes more.
        return match held.bytes.len() as u64 > most {
            true => Err(ctx.refuse(Failure::BodyTooLarge(most))),
            false => Ok(false),
        };
    }
    hold(session, ctx, shared, most).await.map(|()| true)
}

async fn hold(session: &mut Session, ctx: &mut Ctx, shared: &Shared, most: u64) -> Result<()> {
    let limits = &ctx.facts()?.snapshot.limits;
    let (stall, total) = (limits.stall_timeout, limits.held_bodies.value.0);
    let length = request::announced_length(session);
    if length.is_some_and(|length| length > most) {
        return Err(ctx.refuse(Failure::BodyTooLarge(most)));
    }
    let announced = length.is_some() || !session.is_body_empty();
    if session.req_header().headers.contains_key(header::EXPECT) && !session.is_body_done() {
        session.write_continue_response().await.map_err(|error| error.into_down())?;
    }
    let (mut counted, mut body) = (shared.metrics.held_body(), BytesMut::new());
    // A tunnel has no end; what comes in it is no body.
    while !ctx.facts()?.upgrade {
        // HTTP/2 has no limit of its own here.
        let read = tokio::time::timeout(stall, session.read_request_body()).await;
        let piece = match read {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => break,
            Ok(Err(error)) if *error.etype() == ErrorType::ReadTimedout => {
                return Err(ctx.refuse(Failure::ClientTimeout(error.to_string())));
            }
            Ok(Err(error)) => return Err(error.into_down()),
            Err(_) => {
                let text = format!("nothing of the body in {stall:?}");
                return Err(ctx.refuse(Failure::ClientTimeout(text)));
            }
        };
        if (body.len() + piece.len()) as u64 > most {
            return Err(ctx.refuse(Failure::BodyTooLarge(most)));
        }
        if !counted.grow(piece.len(), total) {
            return Err(ctx.refuse(Failure::BodiesBusy(total)));
        }
        body.extend_from_slice(&piece);
    }
    ctx.body.held = Some(Held { bytes: body.freeze(), announced, _counted: counted });
    Ok(())
}

/// Lets the origin have the held body: its length in the head, its bytes before Pingora.
pub fn send_held(session: &mut Session, head: &mut RequestHeader, ctx: &mut Ctx) -> Result<()> {
    let Some(held) = &ctx.body.held else { return Ok(()) };
    let body = ctx.body.of_attempt.take().unwrap_or_else(|| held.bytes.clone());
    if !held.announced && body.is_empty() {
        return Ok(());
    }
    if ctx.facts()?.upgrade {
        let text = "a request for a tunnel has no body".to_owned();
        return Err(ctx.refuse(Failure::FilterMessage(text)));
    }
    super::head::edit(head, |parts| frame(&mut parts.headers, body.len()));
    ctx.body.place.send(session, body);
    Ok(())
}

/// The whole body follows, and nobody has to ask for it.
fn frame(headers: &mut HeaderMap, length: usize) {
    for name in [header::TRANSFER_ENCODING, header::TRAILER, header::EXPECT] {
        headers.remove(name);
    }
    headers.insert(header::CONTENT_LENGTH, length.into());
}
