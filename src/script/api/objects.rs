//! The handles that scripts hold: small, cloned freely, all pointing into one draft.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use rhai::{Dynamic, Map};

use super::convert::{bytes_of, scalar_text, to_json};
use super::{Outcome, invalid};
use crate::script::exchange::{
    Ctx, ErrorInfo, Event, Exchange, MessageBody, RequestDraft, ResponseDraft,
};

/// A value that handles share; copied at the first edit, so that a rollback costs nothing.
pub struct Draft<T>(Arc<Mutex<Arc<T>>>);

impl<T> Clone for Draft<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone> Draft<T> {
    pub fn new(value: Arc<T>) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.lock())
    }

    pub fn write<R>(&self, write: impl FnOnce(&mut T) -> R) -> R {
        write(Arc::make_mut(&mut self.0.lock()))
    }

    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The value as it is now, shared with what still holds the handle.
    fn get(&self) -> Arc<T> {
        self.0.lock().clone()
    }
}

#[derive(Clone)]
pub struct Request(pub Draft<RequestDraft>);

#[derive(Clone)]
pub struct Response(pub Draft<ResponseDraft>);

/// The headers of a request or response.
#[derive(Clone)]
pub enum Headers {
    Request(Request),
    Response(Response),
}

impl Headers {
    pub fn read<R>(&self, read: impl FnOnce(&HeaderMap) -> R) -> R {
        match self {
            Self::Request(request) => request.0.read(|draft| read(&draft.headers)),
            Self::Response(response) => response.0.read(|draft| read(&draft.headers)),
        }
    }

    pub fn write<R>(&self, write: impl FnOnce(&mut HeaderMap) -> R) -> R {
        match self {
            Self::Request(request) => request.0.write(|draft| write(&mut draft.headers)),
            Self::Response(response) => response.0.write(|draft| write(&mut draft.headers)),
        }
    }
}

impl Response {
    pub fn new(draft: ResponseDraft) -> Self {
        Self(Draft::new(Arc::new(draft)))
    }

    pub fn into_draft(self) -> ResponseDraft {
        Arc::unwrap_or_clone(self.0.get())
    }

    /// From `#{ status, headers, body }`.
    pub fn from_map(map: &Map) -> Outcome<Self> {
        let status = match map.get("status") {
            Some(status) => status_of(status.as_int().unwrap_or(0))?,
            None => StatusCode::OK,
        };
        let mut draft = ResponseDraft::new(status, Bytes::new());
        for (name, value) in map {
            match name.as_str() {
                "status" => {}
                "headers" => draft.headers = headers_of(value)?,
                "body" => set_body(&mut draft.headers, &mut draft.body, value)?,
                _ => return Err(invalid(format!("a response has no {name}"))),
            }
        }
        Ok(Self::new(draft))
    }
}

pub fn status_of(status: i64) -> Outcome<StatusCode> {
    let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    status.ok_or_else(|| invalid("a status is 200 to 599"))
}

/// A string or bytes; a map or an array becomes JSON.
pub fn set_body(headers: &mut HeaderMap, body: &mut MessageBody, value: &Dynamic) -> Outcome<()> {
    let json = value.is_map() || value.is_array();
    let bytes = match () {
        () if json => to_json(value)?.to_string().into_bytes(),
        () if value.is_unit() => Vec::new(),
        () => bytes_of(value)?,
    };
    *body = MessageBody::Replaced(bytes.into());
    if json && !headers.contains_key(http::header::CONTENT_TYPE) {
        let json = HeaderValue::from_static("application/json");
        headers.insert(http::header::CONTENT_TYPE, json);
    }
    Ok(())
}

pub fn headers_of(value: &Dynamic) -> Outcome<HeaderMap> {
    let map = value.read_lock::<Map>().ok_or_else(|| invalid("headers are a map"))?;
    let mut headers = HeaderMap::new();
    for (name, value) in map.iter() {
        set_header(&mut headers, name, value)?;
    }
    Ok(headers)
}

pub fn header_name(name: &str) -> Outcome<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes());
    parsed.map_err(|_| invalid(format!("\"{name}\" is not a header's name")))
}

/// Bytes of a header's value, a path or a query.
const LINE: usize = 64 << 10;

/// Refuses what no peer would take.
pub fn check_line(what: &str, bytes: usize) -> Outcome<()> {
    if bytes <= LINE {
        return Ok(());
    }
    Err(super::fail("limit", format!("{what} has at most {LINE} bytes")))
}

/// A scalar or bytes as the value of `name`.
pub fn header_value(name: &HeaderName, value: &Dynamic) -> Outcome<HeaderValue> {
    let bytes = if value.is_blob() { bytes_of(value)? } else { scalar_text(value)?.into_bytes() };
    check_line("a header", bytes.len())?;
    HeaderValue::from_bytes(&bytes).map_err(|_| {
        invalid(format!("the value of header {name} has a line break or another control character"))
    })
}

/// Headers about the message's framing and its connection.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The name, when a script may set it: framing is the proxy's own.
pub fn settable_name(name: &str) -> Outcome<HeaderName> {
    let name = header_name(name)?;
    if FRAMING.contains(&name.as_str()) {
        let message =
            format!("{name} is set by the proxy itself, from the body and the connection");
        return Err(super::fail("denied", message));
    }
    Ok(name)
}

/// Sets a header to a scalar, to each item of an array, or removes it for `()`.
pub fn set_header(headers: &mut HeaderMap, name: &str, value: &Dynamic) -> Outcome<()> {
    let name = settable_name(name)?;
    if value.is_unit() {
        headers.remove(name);
        return Ok(());
    }
    if let Some(items) = value.read_lock::<rhai::Array>() {
        let values =
            items.iter().map(|item| header_value(&name, item)).collect::<Outcome<Vec<_>>>()?;
        headers.remove(&name);
        for value in values {
            headers.append(&name, value);
        }
        return Ok(());
    }
    let value = header_value(&name, value)?;
    headers.insert(name, value);
    Ok(())
}

/// Sets the host in both of its places: what is routed by, and the header.
pub fn set_host(draft: &mut RequestDraft, host: &str) -> Outcome<()> {
    let bad = || invalid(format!("\"{host}\" is not a host"));
    let authority: http::uri::Authority = host.parse().map_err(|_| bad())?;
    if authority.as_str().contains('@') {
        return Err(bad());
    }
    // In HTTP/2 there may be no such header; the proxy adds it where the origin needs it.
    if draft.headers.contains_key(http::header::HOST) {
        draft.headers.insert(http::header::HOST, HeaderValue::from_str(host).map_err(|_| bad())?);
    }
    draft.host = host.to_owned();
    Ok(())
}

/// The objects of one run.
pub struct Objects {
    request: Request,
    response: Option<Response>,
    error: Option<ErrorInfo>,
    event: Option<Event>,
}

impl Objects {
    pub fn new(exchange: Exchange) -> Self {
        Self {
            request: Request(Draft::new(exchange.request)),
            response: exchange.response.map(|draft| Response(Draft::new(draft))),
            error: exchange.error,
            event: exchange.event,
        }
    }

    pub fn into_exchange(self) -> Exchange {
        Exchange {
            request: self.request.0.get(),
            response: self.response.map(|response| response.0.get()),
            error: self.error,
            event: self.event,
        }
    }

    pub fn ctx(&self) -> Ctx {
        self.request.0.read(|draft| draft.ctx.clone())
    }

    pub fn is_own_response(&self, response: &Response) -> bool {
        self.response.as_ref().is_some_and(|own| own.0.is(&response.0))
    }

    pub fn request(&self) -> Dynamic {
        Dynamic::from(self.request.clone())
    }

    pub fn response(&self) -> Dynamic {
        self.response.clone().map_or(Dynamic::UNIT, Dynamic::from)
    }

    pub fn event(&self) -> Dynamic {
        self.event.clone().map_or(Dynamic::UNIT, Dynamic::from)
    }

    pub fn error(&self) -> Dynamic {
        self.error.clone().map_or(Dynamic::UNIT, Dynamic::from)
    }
}
