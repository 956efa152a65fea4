//! One request and its response on one session, over HTTP/1.1 or HTTP/2 alike.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use pingora::http::RequestHeader;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;

use super::client::{ClientError, ClientRequest};

/// Headers that are about a connection, which is ours and not the script's.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "keep-alive",
    "proxy-connection",
];

/// 1xx responses before the real one at most.
const MAX_INFORMATIONAL: usize = 16;

/// Sends the request whole.
pub(super) async fn send(
    session: &mut HttpSession,
    peer: &HttpPeer,
    request: &ClientRequest,
) -> Result<(), ClientError> {
    session.set_write_timeout(peer.options.write_timeout);
    let head = head_of(request, peer, session.as_http2().is_some())?;
    session.write_request_header(Box::new(head)).await?;
    if !request.body.is_empty() {
        session.write_request_body(request.body.clone(), true).await?;
    }
    Ok(session.finish_request_body().await?)
}

/// Reads up to the end of the final response's head.
pub(super) async fn receive_head(
    session: &mut HttpSession,
    peer: &HttpPeer,
) -> Result<(StatusCode, HeaderMap), ClientError> {
    session.set_read_timeout(peer.options.read_timeout);
    for _ in 0..=MAX_INFORMATIONAL {
        session.read_response_header().await?;
        let Some(head) = session.response_header() else {
            return Err(ClientError::Protocol("a response without a head".into()));
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(ClientError::Protocol("an upgrade nobody asked for".into()));
        }
        if !head.status.is_informational() {
            let mut headers = head.headers.clone();
            strip_hop_by_hop(&mut headers);
            return Ok((head.status, headers));
        }
    }
    Err(ClientError::Protocol("too many informational responses".into()))
}

/// Reads the body to its end, or gives up beyond `max` bytes.
pub(super) async fn receive_body(
    session: &mut HttpSession,
    peer: &HttpPeer,
    max: usize,
) -> Result<Bytes, ClientError> {
    session.set_read_timeout(peer.options.read_timeout);
    let mut body = BytesMut::new();
    while let Some(chunk) = session.read_response_body().await? {
        if chunk.len() > max - body.len() {
            session.shutdown().await;
            return Err(ClientError::TooLarge { max });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn head_of(
    request: &ClientRequest,
    peer: &HttpPeer,
    http2: bool,
) -> Result<RequestHeader, ClientError> {
    let invalid = |what: &dyn std::fmt::Display| ClientError::Invalid(what.to_string());
    let path = PathAndQuery::try_from(request.path_and_query.as_str()).map_err(|e| invalid(&e))?;
    if !path.as_str().starts_with('/') {
        return Err(invalid(&"a path begins with /"));
    }
    let headers = request.headers.len() + 2;
    let path_bytes = path.as_str().as_bytes();
    let mut head = RequestHeader::build(request.method.clone(), path_bytes, Some(headers))?;
    if http2 {
        let scheme = if peer.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(request.host.as_str());
        head.set_uri(uri.path_and_query(path).build().map_err(|e| invalid(&e))?);
        head.set_version(Version::HTTP_2);
    } else {
        head.insert_header(HOST, request.host.as_str())?;
    }
    let mut headers = request.headers.clone();
    strip_hop_by_hop(&mut headers);
    for own in [HOST, CONTENT_LENGTH, header::EXPECT] {
        headers.remove(own);
    }
    for (name, value) in &headers {
        head.append_header(name.clone(), value.clone())?;
    }
    // All that may be said of it over HTTP/2 (RFC 9113, 8.2.2), and gRPC wants it said.
    if http2 && request.headers.get(header::TE).is_some_and(|te| te == "trailers") {
        head.append_header(header::TE, "trailers")?;
    }
    let expects_body = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    if expects_body || !request.body.is_empty() {
        head.insert_header(CONTENT_LENGTH, request.body.len())?;
    }
    Ok(head)
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().copied().chain(listed.iter().map(HeaderName::as_str)) {
        headers.remove(name);
    }
}
