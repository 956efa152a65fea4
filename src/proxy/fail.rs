//! The one table of failures: what the client gets, what the log gets, how it is counted.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use log::Level;
use pingora::{Error, ErrorSource, ErrorType};
use pingora_proxy::{FailToProxy, Session};

use super::conform::Ambiguous;
use super::ctx::Ctx;
use super::dev;
use super::response;
use crate::config::routes::Action;
use crate::config::traffic::Fallback;
use crate::listen::Cut;
use crate::script::{Fault, From, ResponseDraft};
use crate::snapshot::Shared;
use crate::upstream::attempt::Refusal;
use crate::upstream::dial::CONNECTIONS_FULL;

/// Why a request got no answer of an origin or a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("ambiguous request: {0}")]
    Ambiguous(#[from] Ambiguous),
    #[error("bad path: {0}")]
    BadPath(Cow<'static, str>),
    #[error("the target is longer than {0} bytes")]
    TargetTooLong(u64),
    #[error("more than {0} header lines")]
    TooManyHeaders(u32),
    #[error("no route")]
    NoRoute,
    #[error("method not allowed; allowed: {0}")]
    MethodNotAllowed(String),
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(u64),
    #[error("the bodies held for filters have more than {0} bytes with this one")]
    BodiesBusy(u64),
    #[error("filter {0} faulted")]
    FilterFault(String),
    #[error("too many filter runs")]
    FiltersBusy,
    #[error("a filter made a message that cannot be sent: {0}")]
    FilterMessage(String),
    #[error("no endpoint of {0} can be reached")]
    NoEndpoint(String),
    #[error("{0}: the circuit is open")]
    CircuitOpen(String),
    #[error("{0}")]
    Overloaded(String),
    #[error("connect failed: {0}")]
    Connect(String),
    #[error("connect timed out: {0}")]
    ConnectTimeout(String),
    #[error("the upstream's TLS failed: {0}")]
    UpstreamTls(String),
    #[error("no response in time: {0}")]
    ResponseTimeout(String),
    #[error("the upstream broke off: {0}")]
    UpstreamClosed(String),
    #[error("the upstream's response is invalid: {0}")]
    UpstreamInvalid(String),
    #[error("a part of the answer is missing: {0}")]
    Part(String),
    #[error("a part of the answer did not come in time: {0}")]
    PartTimeout(String),
    #[error("the client went away: {0}")]
    ClientGone(String),
    #[error("the client was cut, {why:?}: {text}")]
    Cut { why: Cut, text: String },
    #[error("the client sent something invalid: {0}")]
    ClientInvalid(String),
    #[error("the client's body stopped coming: {0}")]
    ClientTimeout(String),
    #[error("nothing stored, and the client wants nothing else")]
    NotStored,
    #[error("internal: {0}")]
    Internal(String),
}

/// A failure's row in the table.
pub struct Row {
    pub status: StatusCode,
    /// All that the client is told.
    pub public: &'static str,
    pub level: Level,
    /// As `error` in the access log, as `reason` in metrics, as `err.kind` for scripts.
    pub label: &'static str,
}

impl Failure {
    #[expect(clippy::too_many_lines)] // one table, a row a failure
    pub fn row(&self) -> Row {
        let row = |status, public, level, label| Row { status, public, level, label };
        let bad = StatusCode::BAD_REQUEST;
        let gateway = StatusCode::BAD_GATEWAY;
        match self {
            Self::Ambiguous(_) => row(bad, "The request is malformed.", Level::Debug, "ambiguous"),
            Self::BadPath(_) => row(bad, "The path is malformed.", Level::Debug, "bad_path"),
            Self::TargetTooLong(_) => row(
                StatusCode::URI_TOO_LONG,
                "The address is too long.",
                Level::Debug,
                "target_too_long",
            ),
            Self::TooManyHeaders(_) => row(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The request's head is too large.",
                Level::Debug,
                "too_many_headers",
            ),
            Self::NoRoute => {
                row(StatusCode::NOT_FOUND, "There is nothing here.", Level::Debug, "no_route")
            }
            Self::MethodNotAllowed(_) => row(
                StatusCode::METHOD_NOT_ALLOWED,
                "This method is not allowed here.",
                Level::Debug,
                "method_not_allowed",
            ),
            Self::BodyTooLarge(_) => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request's body is too large.",
                Level::Debug,
                "body_too_large",
            ),
            Self::BodiesBusy(_) => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "This service is busy.",
                Level::Warn,
                "bodies_busy",
            ),
            Self::FilterFault(_) | Self::FilterMessage(_) => row(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something went wrong here.",
                Level::Error,
                "filter",
            ),
            Self::FiltersBusy => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "This service is busy.",
                Level::Warn,
                "filters_busy",
            ),
            Self::NoEndpoint(_) => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "This service cannot be reached right now.",
                Level::Warn,
                "no_endpoint",
            ),
            Self::CircuitOpen(_) => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "This service cannot be reached right now.",
                Level::Warn,
                "circuit_open",
            ),
            Self::Overloaded(_) => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "This service is busy.",
                Level::Warn,
                "overloaded",
            ),
            Self::Connect(_) => {
                row(gateway, "The service behind cannot be reached.", Level::Warn, "connect")
            }
            Self::ConnectTimeout(_) => row(
                StatusCode::GATEWAY_TIMEOUT,
                "The service behind cannot be reached in time.",
                Level::Warn,
                "connect_timeout",
            ),
            Self::UpstreamTls(_) => {
                row(gateway, "The service behind cannot be reached.", Level::Warn, "upstream_tls")
            }
            Self::ResponseTimeout(_) => row(
                StatusCode::GATEWAY_TIMEOUT,
                "The service behind did not answer in time.",
                Level::Warn,
                "response_timeout",
            ),
            Self::UpstreamClosed(_) => {
                row(gateway, "The service behind broke off.", Level::Warn, "upstream_closed")
            }
            Self::UpstreamInvalid(_) => row(
                gateway,
                "The service behind answered something invalid.",
                Level::Warn,
                "upstream_invalid",
            ),
            Self::Part(_) => {
                row(gateway, "A service behind did not give its part.", Level::Warn, "part")
            }
            Self::PartTimeout(_) => row(
                StatusCode::GATEWAY_TIMEOUT,
                "A service behind did not give its part in time.",
                Level::Warn,
                "part_timeout",
            ),
            Self::ClientGone(_) => row(bad, "", Level::Debug, "client_gone"),
            Self::Cut { why, .. } => row(bad, "", Level::Debug, why.label()),
            Self::ClientInvalid(_) => {
                row(bad, "The request is malformed.", Level::Debug, "client_invalid")
            }
            Self::ClientTimeout(_) => row(
                StatusCode::REQUEST_TIMEOUT,
                "The request's body did not come in time.",
                Level::Debug,
                "client_timeout",
            ),
            Self::NotStored => row(
                StatusCode::GATEWAY_TIMEOUT,
                "This is not in the cache.",
                Level::Debug,
                "not_stored",
            ),
            Self::Internal(_) => row(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something went wrong here.",
                Level::Error,
                "internal",
            ),
        }
    }

    /// Whether a route's fallback answers instead: the upstream was not, or could not be asked.
    fn is_for_fallback(&self) -> bool {
        matches!(
            self,
            Self::NoEndpoint(_)
                | Self::CircuitOpen(_)
                | Self::Overloaded(_)
                | Self::Connect(_)
                | Self::ConnectTimeout(_)
                | Self::UpstreamTls(_)
        )
    }

    /// Headers that this failure's answer needs beside the usual ones.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Self::MethodNotAllowed(allow) => {
                HeaderValue::from_str(allow).map(|v| (header::ALLOW, v)).into_iter().collect()
            }
            Self::NoEndpoint(_)
            | Self::CircuitOpen(_)
            | Self::Overloaded(_)
            | Self::FiltersBusy
            | Self::BodiesBusy(_) => {
                vec![(header::RETRY_AFTER, HeaderValue::from_static("1"))]
            }
            _ => Vec::new(),
        }
    }

    /// Why the upstream's pool begins no attempt.
    pub fn refused(upstream: &str, refusal: Refusal) -> Self {
        let text = format!("{upstream}: {refusal}");
        match refusal {
            Refusal::NoEndpoint => Self::NoEndpoint(upstream.to_owned()),
            Refusal::Fenced => Self::NoEndpoint(format!("{upstream} within the fence")),
            Refusal::CircuitOpen => Self::CircuitOpen(upstream.to_owned()),
            Refusal::Full(_) => Self::Overloaded(text),
        }
    }

    /// What an error of Pingora means here.
    pub fn of(error: &Error) -> Self {
        let text = error.to_string();
        match error.esource() {
            ErrorSource::Upstream => Self::of_upstream(error.etype(), text),
            ErrorSource::Downstream => match error.etype() {
                ErrorType::WriteTimedout | ErrorType::ReadTimedout => {
                    Self::Cut { why: Cut::Stalled, text }
                }
                ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed => {
                    Self::ClientGone(text)
                }
                _ => Self::ClientInvalid(text),
            },
            ErrorSource::Internal | ErrorSource::Unset => match error.etype() {
                ErrorType::ConnectTimedout
                | ErrorType::ConnectRefused
                | ErrorType::ConnectNoRoute
                | ErrorType::ConnectError => Self::of_upstream(error.etype(), text),
                kind if *kind == CONNECTIONS_FULL => Self::Overloaded(text),
                _ => Self::Internal(text),
            },
        }
    }

    fn of_upstream(kind: &ErrorType, text: String) -> Self {
        match kind {
            kind if *kind == CONNECTIONS_FULL => Self::Overloaded(text),
            ErrorType::ConnectTimedout => Self::ConnectTimeout(text),
            ErrorType::TLSHandshakeTimedout => Self::ConnectTimeout(text),
            ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert | ErrorType::HandshakeError => {
                Self::UpstreamTls(text)
            }
            ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::BindError
            | ErrorType::SocketError => Self::Connect(text),
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => Self::ResponseTimeout(text),
            ErrorType::InvalidHTTPHeader
            | ErrorType::H1Error
            | ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => {
                Self::UpstreamInvalid(text)
            }
            _ => Self::UpstreamClosed(text),
        }
    }
}

/// Pingora gave up: name the failure, tell the log, answer the client if that is still possible.
pub async fn answer(
    session: &mut Session,
    error: &Error,
    ctx: &mut Ctx,
    shared: &Shared,
) -> FailToProxy {
    if ctx.outcome.answered_by.is_some() && response::sent(session).is_some() {
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    let failure = cause(error, ctx);
    let row = failure.row();
    tell_log(&failure, &row, ctx);
    ctx.outcome.failure = Some(failure.clone());
    let reusable =
        matches!(failure, Failure::NoRoute | Failure::MethodNotAllowed(_) | Failure::NotStored);
    if !reusable {
        session.set_keepalive(None);
    }
    let sent = match (&failure, response::sent(session)) {
        (Failure::ClientGone(_) | Failure::Cut { .. }, _) => false,
        (_, Some(_)) => false,
        (_, None) => {
            let page = page(session, ctx, &row);
            response::send_failure(session, ctx, shared, &failure, page).await
        }
    };
    FailToProxy {
        error_code: if sent { row.status.as_u16() } else { 0 },
        can_reuse_downstream: sent && reusable,
    }
}

/// What ended the request: what a phase said, or what Pingora's error means. A client that seems to
/// be gone may have been cut by us.
pub fn cause(error: &Error, ctx: &mut Ctx) -> Failure {
    let conn = ctx.facts.as_ref().and_then(|facts| facts.conn.as_ref());
    let cut = conn.and_then(|live| live.0.killed());
    match (ctx.outcome.failure.take().unwrap_or_else(|| Failure::of(error)), cut) {
        (Failure::ClientGone(text), Some(why)) => Failure::Cut { why, text },
        (failure, _) => failure,
    }
}

/// A page for the client, in the form it accepts.
pub struct Page {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Page {
    /// The page of an [`Action::Respond`].
    pub fn fixed(action: &Action) -> Option<Self> {
        let Action::Respond { status, body, headers } = action else { return None };
        let headers = headers.iter().filter_map(|(name, value)| {
            HeaderValue::from_str(value).ok().map(|value| (name.clone(), value))
        });
        let body = Bytes::copy_from_slice(body.as_bytes());
        Some(Self { status: *status, headers: headers.collect(), body })
    }

    /// As filters see it.
    pub fn into_draft(self) -> ResponseDraft {
        let mut draft = ResponseDraft::new(self.status, self.body);
        draft.from = From::Proxy;
        self.headers.into_iter().for_each(|(name, value)| {
            draft.headers.append(name, value);
        });
        draft
    }
}

fn page(session: &Session, ctx: &Ctx, row: &Row) -> Page {
    if let Some(page) = fallback_page(ctx) {
        return page;
    }
    let accept = session.req_header().headers.get(header::ACCEPT);
    let accept = accept.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let id = ctx.facts.as_ref().map_or("", |f| f.request_id.to_str().unwrap_or_default());
    let (status, reason) = (row.status, row.status.canonical_reason().unwrap_or("Error"));
    let fault = dev::fault_for_client(ctx, &session.req_header().headers);
    let (body, media) = if accept.contains("text/html") {
        let shown = fault.as_ref().map(fault_as_html).unwrap_or_default();
        let html = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0} {reason}</title>\n\
             <h1>{0} {reason}</h1>\n<p>{1}</p>\n{shown}<p><small>Request {id}</small></p></html>\n",
            status.as_u16(),
            row.public,
        );
        (html, "text/html; charset=utf-8")
    } else {
        let mut json = serde_json::json!({
            "status": status.as_u16(), "error": reason, "message": row.public, "request_id": id,
        });
        if let Some(fault) = fault {
            json["fault"] = serde_json::json!({
                "file": fault.file, "line": fault.line, "column": fault.column,
                "hook": fault.hook.name(), "message": fault.message, "source": fault.source_line,
            });
        }
        (format!("{json}\n"), "application/json")
    };
    let mut headers = ctx.outcome.failure.as_ref().map(Failure::headers).unwrap_or_default();
    headers.push((header::CONTENT_TYPE, HeaderValue::from_static(media)));
    headers.push((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
    Page { status, headers, body: body.into() }
}

/// The route's own page for an upstream that cannot be asked.
fn fallback_page(ctx: &Ctx) -> Option<Page> {
    let route = &ctx.routed.as_ref()?.route;
    let Some(Fallback::Page(page)) = &route.config.traffic.fallback else { return None };
    ctx.outcome.failure.as_ref().filter(|failure| failure.is_for_fallback())?;
    route.metrics.fallback();
    Page::fixed(page)
}

/// For an author at work; see `dev::fault_for_client`.
fn fault_as_html(fault: &Fault) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let (hook, line) = (fault.hook.name(), fault.line);
    let (place, message) = (fault.file.display().to_string(), escaped(&fault.message));
    let (place, source) = (escaped(&place), escaped(&fault.source_line));
    format!(
        "<p>{place}:{line}:{} in {hook}: {message}</p>\n<pre>{line} | {source}</pre>\n",
        fault.column
    )
}

fn tell_log(failure: &Failure, row: &Row, ctx: &Ctx) {
    if matches!(failure, Failure::FilterFault(_) | Failure::FiltersBusy) {
        return; // The filter's own line says more.
    }
    let Some(facts) = &ctx.facts else {
        log::log!(row.level, "request refused: {failure}");
        return;
    };
    let id = facts.request_id.to_str().unwrap_or_default();
    let route = ctx.routed.as_ref().map_or("-", |routed| &*routed.route.name);
    // Debug is off as a rule; everything louder passes a cap, so that a dead origin fills no disk.
    let suppressed = match row.level {
        Level::Debug | Level::Trace => 0,
        _ => match facts.snapshot.failures_logged.admit() {
            Some(suppressed) => suppressed,
            None => return,
        },
    };
    let more =
        if suppressed > 0 { format!(" ({suppressed} more not shown)") } else { String::new() };
    log::log!(row.level, "request {id} route {route}: {failure}{more}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_errors_keep_their_kind() {
        let of = |kind| Failure::of(&Error::new_up(kind)).row();
        assert_eq!(of(ErrorType::ConnectRefused).label, "connect");
        assert_eq!(of(ErrorType::ConnectTimedout).status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(of(ErrorType::ReadTimedout).label, "response_timeout");
        assert_eq!(of(ErrorType::ConnectionClosed).label, "upstream_closed");
        assert_eq!(of(ErrorType::TLSHandshakeFailure).label, "upstream_tls");
    }

    #[test]
    fn the_public_text_never_holds_the_internal_one() {
        let failure = Failure::Connect("127.0.0.1:9999 refused".into());
        assert!(!failure.row().public.contains("127.0.0.1"));
    }
}
