//! The only file that converts between Pingora's messages and what scripts see.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::ctx::Ctx;
use super::fail::Failure;
use super::{forward, head};
use crate::routing::path::normalise;
use crate::script::{
    self, CertInfo, Client, ErrorInfo, Exchange, From, RequestDraft, ResponseBody, ResponseDraft,
};
use crate::tls::TlsInfo;

/// What a request's filters share, and how far the request came through them.
#[derive(Default)]
pub struct ScriptState {
    /// The map that a request's filters see as `req.ctx`.
    pub ctx: script::Ctx,
    /// Filters, from the outermost, whose `on_request` the request has passed.
    pub entered: usize,
    /// A body that takes the place of the origin's, not yet sent.
    pub replacement: Option<Bytes>,
    /// Whether the origin's own body is to be thrown away.
    pub replaced: bool,
    /// The response's head, kept only where an `on_log` wants it.
    pub response: Option<ResponseDraft>,
}

/// The client's request as scripts see it.
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
        host: host.unwrap_or(&facts.host).to_owned(),
        path: path.to_owned(),
        query,
        headers: head.headers.clone(),
        version: head.version,
        id: facts.request_id.to_str().unwrap_or_default().to_owned(),
        route: routed.route.name.to_string(),
        params: params.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        upstream: routed.upstream.as_ref().map(|u| u.pool.name().to_string()),
        client: client(ctx)?,
        ctx: ctx.scripts.ctx.clone(),
    };
    Ok(Exchange { request, response: None, error: None })
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
pub fn edit_request(session: &mut Session, ctx: &mut Ctx, edited: RequestDraft) -> Result<()> {
    let normal = normalise(&edited.path).map(|normal| normal.path.into_owned());
    let path = match normal {
        Ok(path) => path,
        Err(_) if edited.path == "*" => edited.path,
        Err(bad) => return Err(ctx.refuse(Failure::FilterMessage(format!("path: {bad}")))),
    };
    set_target(session.req_header_mut(), &path, edited.query.as_deref())?;
    edit_head(session.req_header_mut(), &edited.method, &edited.host, &edited.headers)?;
    choose_upstream(ctx, edited.upstream.as_deref())?;
    forward::conform(session.req_header_mut(), ctx)
}

/// The same for the origin's copy, whose path may be anything that can be sent.
pub fn edit_upstream_request(
    head: &mut RequestHeader,
    ctx: &mut Ctx,
    edited: &RequestDraft,
) -> Result<()> {
    set_target(head, &edited.path, edited.query.as_deref())?;
    edit_head(head, &edited.method, &edited.host, &edited.headers)?;
    forward::conform(head, ctx)
}

fn set_target(head: &mut RequestHeader, path: &str, query: Option<&str>) -> Result<()> {
    if (head.uri.path(), head.uri.query()) == (path, query) {
        return Ok(());
    }
    head::edit(head, |parts| head::set_target(&mut parts.uri, path, query))
}

fn edit_head(
    head: &mut RequestHeader,
    method: &http::Method,
    host: &str,
    headers: &HeaderMap,
) -> Result<()> {
    if head.method != *method {
        head.set_method(method.clone());
    }
    for name in changed(&head.headers, headers) {
        head.remove_header(&name);
        for value in headers.get_all(&name) {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    let named = head
        .headers
        .get(header::HOST)
        .map_or(head.uri.authority().map(|a| a.as_str()), |h| h.to_str().ok());
    if named != Some(host) {
        head.insert_header(header::HOST, host)?;
    }
    Ok(())
}

/// The names whose lines differ.
fn changed(before: &HeaderMap, after: &HeaderMap) -> Vec<HeaderName> {
    let differs = |name: &&HeaderName| !before.get_all(*name).iter().eq(after.get_all(*name));
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    after.keys().filter(differs).chain(gone).cloned().collect()
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
        body: ResponseBody::Untouched,
        from,
    }
}

/// Puts the edits of `on_response` into the head.
pub fn edit_response(head: &mut ResponseHeader, edited: &ResponseDraft) -> Result<()> {
    if head.status != edited.status {
        head.set_status(edited.status)?;
    }
    for name in changed(&head.headers, &edited.headers) {
        head.remove_header(&name);
        for value in edited.headers.get_all(&name) {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    Ok(())
}

/// The answer of a filter: its head and its body.
pub fn of_draft(draft: &ResponseDraft) -> (StatusCode, HeaderMap<HeaderValue>, Bytes) {
    let body = match &draft.body {
        ResponseBody::Replaced(body) => body.clone(),
        ResponseBody::Untouched => Bytes::new(),
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
