//! Heads in the form that is cheap to edit and to copy.
//!
//! Pingora keeps a second map beside the headers, of names as they were written, and every edit and
//! every copy pays for both. Here it goes: names are case-insensitive (RFC 9110, 5.1), and origins
//! and clients get the usual spelling of well-known names and lower case for all others.

use http::request::Parts;
use http::response;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{ErrorType, OrErr, Result};

/// The header that carries the request's id, both ways.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub static REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
pub static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers about one connection (RFC 9110, 7.6.1, and what older agents say).
static HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Whether a header is about one connection only.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Edits a request's head in place. Its target must be in origin form or `*` by now.
pub fn edit<T>(head: &mut RequestHeader, edit: impl FnOnce(&mut Parts) -> T) -> T {
    let nothing = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts = Parts::from(std::mem::replace(head, nothing));
    let result = edit(&mut parts);
    *head = RequestHeader::from(parts);
    result
}

/// The same for a response's head; what the origin says in place of the usual reason stays.
pub fn edit_response<T>(
    head: &mut ResponseHeader,
    edit: impl FnOnce(&mut response::Parts) -> T,
) -> T {
    let usual = head.status.canonical_reason();
    let own = head.get_reason_phrase().filter(|own| Some(*own) != usual).map(str::to_owned);
    let (nothing, status) = (http::Response::new(()).into_parts().0, head.status);
    let nothing = ResponseHeader::from(nothing);
    let mut parts = response::Parts::from(std::mem::replace(head, nothing));
    let result = edit(&mut parts);
    *head = ResponseHeader::from(parts);
    if own.is_some() && head.status == status {
        // It was there before; setting it only fails for none.
        let _ = head.set_reason_phrase(own.as_deref());
    }
    result
}

/// Makes `path?query` the target; an authority stays.
pub fn set_target(uri: &mut Uri, path: &str, query: Option<&str>) -> Result<()> {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    let target = PathAndQuery::try_from(target);
    parts.path_and_query = Some(target.or_err(ErrorType::InvalidHTTPHeader, "the target")?);
    *uri = Uri::from_parts(parts).or_err(ErrorType::InvalidHTTPHeader, "the target")?;
    Ok(())
}

/// Adds to a list header, all of whose lines become one.
pub fn append(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    if !headers.contains_key(name) {
        headers.insert(name, value);
        return;
    }
    let mut joined = Vec::new();
    for line in headers.get_all(name) {
        joined.extend_from_slice(line.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(value.as_bytes());
    // Values that were valid stay so when they are joined.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_target_keeps_the_authority() {
        let mut uri = Uri::from_static("http://shop.test/a/../b?x=1");
        set_target(&mut uri, "/b", Some("x=1")).expect("a target");
        assert_eq!(uri, "http://shop.test/b?x=1");
        assert!(set_target(&mut uri, "/b c", None).is_err());
        assert_eq!(uri, "http://shop.test/b?x=1");
    }

    #[test]
    fn list_headers_become_one_line() {
        let mut headers = HeaderMap::new();
        let via = &header::VIA;
        append(&mut headers, via, HeaderValue::from_static("1.0 a"));
        headers.append(via, HeaderValue::from_static("1.1 b"));
        append(&mut headers, via, HeaderValue::from_static("1.1 selvedge"));
        assert_eq!(headers["via"], "1.0 a, 1.1 b, 1.1 selvedge");
        assert_eq!(headers.get_all(via).iter().count(), 1);
    }
}
