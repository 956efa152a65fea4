//! A request begins: sanity of its head, its ids, and who the client really is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, Version, header};
use ipnet::IpNet;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora_proxy::Session;

use super::ctx::{Ctx, Facts, Live};
use super::fail::Failure;
use super::head::{FORWARDED_FOR, REQUEST_ID, TRACEPARENT};
use super::{cache, conform};
use crate::listen::{ConnState, conn_state};
use crate::snapshot::Shared;
use crate::telemetry::trace::{TraceContext, request_id, valid_request_id};

/// The longest body that is read and thrown away to keep its connection.
const SHORT_BODY: u64 = 64 << 10;
/// How long that may take.
const SHORT_BODY_TIME: Duration = Duration::from_secs(2);
/// What CONNECT is told to use; which of them a path takes, its route says.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Fills `Ctx::facts`, then refuses what cannot be read in one way only.
pub fn begin(session: &mut Session, ctx: &mut Ctx, shared: &Shared) -> Result<()> {
    if cache::adopt(session, ctx) {
        return Ok(());
    }
    let conn = conn_state(session).cloned();
    if let Some(conn) = &conn {
        conn.request_begins(session.req_header());
    }
    let facts = facts(session, conn, shared);
    let target_limit = facts.snapshot.limits.target.value.0;
    let stall_limit = facts.snapshot.limits.stall_timeout;
    let header_limit = facts.snapshot.limits.headers.value;
    ctx.facts = Some(facts);
    ctx.dev = shared.dev.as_ref().map(|_| Arc::default());
    let (http2, upgrade) = (session.is_http2(), asks_for_websocket(session));
    let raw = match session.req_header().headers.contains_key(header::TRANSFER_ENCODING) {
        true if !http2 => Some(session.to_h1_raw()),
        _ => None,
    };
    if let Some(facts) = &mut ctx.facts {
        facts.upgrade = upgrade;
    }
    session.set_read_timeout(Some(stall_limit));
    if http2 {
        // One stream may stall alone, which the connection's own watch does not see.
        session.set_write_timeout(Some(stall_limit));
    }
    if session.req_header().version < Version::HTTP_11 {
        // HTTP/1.0 has no 1xx (RFC 9110, 15.2).
        session.set_ignore_info_resp(true);
    }
    keep_alive_past_body(session);
    if !shared.is_ready() {
        session.set_keepalive(None);
    }
    if session.req_header().method == Method::CONNECT {
        // What follows is for the other end of a tunnel.
        session.set_keepalive(None);
        return Err(ctx.refuse(Failure::MethodNotAllowed(METHODS.into())));
    }
    let head = session.req_header_mut();
    if head.headers.len() > header_limit as usize {
        return Err(ctx.refuse(Failure::TooManyHeaders(header_limit)));
    }
    if head.raw_path().len() as u64 > target_limit {
        return Err(ctx.refuse(Failure::TargetTooLong(target_limit)));
    }
    conform::request(head, http2, raw.as_deref()).map_err(|e| ctx.refuse(e.into()))
}

/// An answer that comes before the body was read ends an HTTP/1 connection, unless the rest is
/// short. A client that waits for 100 may send it or not, so there nothing can be told.
fn keep_alive_past_body(session: &mut Session) {
    let headers = &session.req_header().headers;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length <= SHORT_BODY)
        && !headers.contains_key(header::EXPECT)
    {
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(SHORT_BODY_TIME));
    }
}

fn facts(session: &Session, conn: Option<Arc<ConnState>>, shared: &Shared) -> Facts {
    let snapshot = shared.snapshot.load_full();
    let head = session.req_header();
    let peer = conn.as_ref().map_or(IpAddr::from([0, 0, 0, 0]), |conn| conn.client.ip());
    let peer = peer.to_canonical();
    let trusted_peer = trusted(peer, &snapshot.trusted_proxies);
    let client = match trusted_peer {
        true => true_client(&head.headers, peer, &snapshot.trusted_proxies),
        false => peer,
    };
    let tls = conn.as_ref().is_some_and(|conn| conn.tls.is_some());
    Facts {
        time: SystemTime::now(),
        started: Instant::now(),
        request_id: id_of(&head.headers),
        trace: parent(&head.headers)
            .map_or_else(|| TraceContext::root(true), |parent| parent.child()),
        client,
        trusted_peer,
        scheme: if tls { "https" } else { "http" },
        method: head.method.clone(),
        named_host: host_of(head),
        target: head.uri.clone(),
        upgrade: false,
        conn: conn.map(Live::counted),
        _in_flight: shared.metrics.request_started(),
        snapshot,
    }
}

/// Pingora passes no other upgrade on to origins.
fn asks_for_websocket(session: &Session) -> bool {
    let protocol = session.req_header().headers.get(header::UPGRADE);
    session.is_upgrade_req()
        && protocol.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn host_of(head: &RequestHeader) -> HeaderValue {
    let authority = || HeaderValue::from_str(head.uri.authority()?.as_str()).ok();
    let named = head.headers.get(header::HOST).cloned();
    named.or_else(authority).unwrap_or(HeaderValue::from_static(""))
}

fn id_of(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(&REQUEST_ID).filter(|v| v.to_str().is_ok_and(valid_request_id));
    match given {
        Some(id) => id.clone(),
        None => request_id(),
    }
}

/// The trace that a request belongs to; `None` if it names none, several or nonsense.
pub fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut given = headers.get_all(&TRACEPARENT).iter();
    let parent = given.next().and_then(|value| TraceContext::parse(value.as_bytes()));
    parent.filter(|_| given.next().is_none())
}

fn trusted(address: IpAddr, proxies: &[IpNet]) -> bool {
    proxies.iter().any(|net| net.contains(&address))
}

/// Right to left through `X-Forwarded-For`, past every trusted proxy, to the first that is not one.
fn true_client(headers: &HeaderMap, peer: IpAddr, proxies: &[IpNet]) -> IpAddr {
    let lines = headers.get_all(&FORWARDED_FOR).iter().rev();
    let mut client = peer;
    for line in lines {
        let Ok(text) = line.to_str() else { return client };
        for part in text.rsplit(',') {
            let Ok(address) = part.trim().parse::<IpAddr>() else { return client };
            client = address.to_canonical();
            if !trusted(client, proxies) {
                return client;
            }
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_trusted_proxy() {
        let proxies = ["10.0.0.0/8".parse().expect("net")];
        let peer: IpAddr = "10.0.0.1".parse().expect("ip");
        let client = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().expect("value"));
            }
            true_client(&headers, peer, &proxies).to_string()
        };
        assert_eq!(client(&["6.6.6.6, 1.2.3.4, 10.0.0.9"]), "1.2.3.4");
        assert_eq!(client(&["6.6.6.6", "1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&["1.2.3.4, junk, 10.0.0.9"]), "10.0.0.9");
        assert_eq!(client(&[]), "10.0.0.1");
    }
}
