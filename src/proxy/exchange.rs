//! The only file that converts between Pingora's messages and what scripts see.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::after::Waiting;
use super::ctx::Ctx;
use super::fail::Failure;
use super::{forward, head};
use crate::routing::path::normalise;
use crate::script::{
    self, CertInfo, Client, ErrorInfo, Exchange, From, MessageBody, RequestDraft, ResponseDraft,
};
use crate::tls::TlsInfo;

/// What a request's filters share, and how far the request came through them.
#[derive(Default)]
pub struct ScriptState {
    /// The map that a request's filters see as `req.ctx`.
    pub ctx: script::Ctx,
    /// The request as the filters left it, if one of them had it in hand.
    pub request: Option<Arc<RequestDraft>>,
    /// Filters, from the outermost, whose `on_request` the request has passed.
    pub entered: usize,
    /// A body that takes the place of the origin's, not yet sent.
    pub replacement: Option<Bytes>,
    /// Whether the origin's own body is to be thrown away.
    pub replaced: bool,
    /// The last filter that had the body in hand.
    pub body_by: Option<Arc<str>>,
    /// What filters gave for the body, the innermost first; its head is still to come.
    pub given: Vec<super::transform::Given>,
    /// The body on its way through what they gave.
    pub body: Option<Box<super::transform::OnItsWay>>,
    /// The response's head, kept only where an `on_log` wants it.
    pub response: Option<ResponseDraft>,
    /// What hooks left for after the response.
    pub after: Mutex<Vec<Waiting>>,
}

/// The client's request as scripts see it; as its filters left it, if they had it in hand.
pub fn of_client(session: &Session, ctx: &Ctx) -> Result<Exchange> {
    match &ctx.scripts.request {
        Some(draft) => {
            Ok(Exchange { request: draft.clone(), response: None, error: None, event: None })
        }
        None => of_request(session.req_header(), ctx),
    }
}

/// A request as scripts see it.
pub fn of_request(head: &RequestHeader, ctx: &Ctx) -> Result<Exchange> {
    let (facts, routed) = (ctx.facts()?, ctx.routed()?);
    let target = String::from_utf8_lossy(head.raw_path());
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (&*target, None),
    };
    let params = routed.params.iter(&routed.path);
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let request = RequestDraft {
        method: head.method.clone(),
        scheme: facts.scheme.to_owned(),
        host: host.unwrap_or(facts.host()).to_owned(),
        path: path.to_owned(),
        query,
        headers: head.headers.clone(),
        body: ctx.body.as_seen(),
        version: head.version,
        id: facts.request_id.to_str().unwrap_or_default().to_owned(),
        route: routed.route.name.to_string(),
        params: params.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        upstream: routed.upstream.as_ref().map(|u| u.pool.name().to_string()),
        cache_key: None,
        client: client(ctx)?,
        ctx: ctx.scripts.ctx.clone(),
        ending: None,
    };
    Ok(Exchange { request: Arc::new(request), response: None, error: None, event: None })
}

fn client(ctx: &Ctx) -> Result<Client> {
    let facts = ctx.facts()?;
    let conn = facts.conn.as_ref().map(|live| &live.0);
    Ok(Client {
        ip: facts.client,
        port: conn.map_or(0, |conn| conn.client.port()),
        tls: conn.and_then(|conn| conn.tls.as_ref()).map(tls),
    })
}

fn tls(info: &TlsInfo) -> script::TlsInfo {
    script::TlsInfo {
        version: info.version.to_owned(),
        cipher: info.cipher.to_owned(),
        sni: info.sni.clone(),
        alpn: info.alpn.clone(),
        cert: info.client_cert.as_ref().map(|cert| CertInfo {
            cn: cert.cn.clone().unwrap_or_default(),
            san: cert.san.clone(),
            issuer: cert.issuer.clone(),
            serial: cert.serial.clone(),
            fingerprint: cert.fingerprint.clone(),
        }),
    }
}

/// Puts the edits of `on_request` into the request, and the choice of an upstream into `ctx`.
pub fn edit_request(session: &mut Session, ctx: &mut Ctx, edited: &RequestDraft) -> Result<()> {
    let path = match normalise(&edited.path) {
        Ok(normal) => normal.path,
        Err(_) if edited.path == "*" => "*".into(),
        Err(bad) => return Err(ctx.refuse(Failure::FilterMessage(format!("path: {bad}")))),
    };
    edit_head(session.req_header_mut(), &path, edited)?;
    choose_upstream(ctx, edited.upstream.as_deref())?;
    forward::conform(session.req_header_mut(), ctx)
}

/// The same for the origin's copy, whose path may be anything that can be sent.
pub fn edit_upstream_request(
    head: &mut RequestHeader,
    ctx: &mut Ctx,
    edited: &RequestDraft,
) -> Result<()> {
    edit_head(head, &edited.path, edited)?;
    forward::conform(head, ctx)
}

fn edit_head(head: &mut RequestHeader, path: &str, edited: &RequestDraft) -> Result<()> {
    let bad_host = |_| Error::explain(ErrorType::InvalidHTTPHeader, "a filter's host");
    head::edit(head, |parts| {
        if (parts.uri.path(), parts.uri.query()) != (path, edited.query.as_deref()) {
            head::set_target(&mut parts.uri, path, edited.query.as_deref())?;
        }
        parts.method = edited.method.clone();
        parts.headers = edited.headers.clone();
        let named = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
        let named = named.or(parts.uri.authority().map(|authority| authority.as_str().as_bytes()));
        if named != Some(edited.host.as_bytes()) {
            let host = HeaderValue::from_str(&edited.host).map_err(bad_host)?;
            parts.headers.insert(header::HOST, host);
        }
        Ok(())
    })
}

fn choose_upstream(ctx: &mut Ctx, name: Option<&str>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    if ctx.routed()?.upstream.is_none() {
        let text = "req.upstream has no effect on a route that answers by itself".to_owned();
        return Err(ctx.refuse(Failure::FilterMessage(text)));
    }
    let chosen = ctx.facts()?.snapshot.upstreams.get(name).cloned();
    let Some(chosen) = chosen else {
        let text = format!("there is no upstream named \"{name}\"");
        return Err(ctx.refuse(Failure::FilterMessage(text)));
    };
    if let Some(routed) = &mut ctx.routed {
        routed.upstream = Some(chosen);
    }
    Ok(())
}

/// A response head as scripts see it; the body streams by.
pub fn of_response(head: &ResponseHeader, from: From) -> ResponseDraft {
    ResponseDraft {
        status: head.status,
        headers: head.headers.clone(),
        body: MessageBody::Untouched,
        from,
        transforms: Vec::new(),
        cache: None,
    }
}

/// Puts the edits of `on_response` into the head.
pub fn edit_response(head: &mut ResponseHeader, status: StatusCode, headers: HeaderMap) {
    head::edit_response(head, |parts| {
        parts.status = status;
        parts.headers = headers;
    });
}

/// The answer of a filter: its head and its body.
pub fn of_draft(draft: &ResponseDraft) -> (StatusCode, HeaderMap<HeaderValue>, Bytes) {
    let body = match &draft.body {
        MessageBody::Replaced(body) | MessageBody::Held(body) => body.clone(),
        MessageBody::Untouched => Bytes::new(),
    };
    (draft.status, draft.headers.clone(), body)
}

/// Why there is no usable response, for `on_error`.
pub fn of_failure(failure: &Failure) -> ErrorInfo {
    let row = failure.row();
    ErrorInfo {
        kind: row.label.to_owned(),
        status: row.status.as_u16(),
        message: row.public.to_owned(),
    }
}
