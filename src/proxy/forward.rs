//! What the origin sees: the target, `Host`, and who asked.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri, Version, header};
use pingora::http::RequestHeader;
use pingora::{ErrorType, OrErr, Result};
use pingora_proxy::Session;

use super::accept;
use super::cache;
use super::conform;
use super::ctx::{Ctx, Facts};
use super::fail::Failure;
use super::head::{
    self, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, GRPC_TIMEOUT, REQUEST_ID,
    REQUEST_TIMEOUT, TRACEPARENT, TRACESTATE,
};
use super::peer;
use crate::config::routes::Rewrite;
use crate::config::upstreams::Protocol;
use crate::transform;

/// The headers added here, at most.
const ADDED: usize = 8;
/// This proxy in `Via` (RFC 9110, 7.6.3), by the version of the client's request.
const VIA_10: HeaderValue = HeaderValue::from_static("1.0 selvedge");
const VIA_11: HeaderValue = HeaderValue::from_static("1.1 selvedge");
const VIA_2: HeaderValue = HeaderValue::from_static("2.0 selvedge");

/// Prepares the origin's copy of the request.
pub fn prepare(session: &Session, head: &mut RequestHeader, ctx: &mut Ctx) -> Result<()> {
    demand_http2(head, ctx)?;
    let ctx = &*ctx;
    let (routed, facts) = (ctx.routed()?, ctx.facts()?);
    let via = match session.req_header().version {
        Version::HTTP_2 => VIA_2,
        Version::HTTP_10 => VIA_10,
        _ => VIA_11,
    };
    let host = routed.upstream.as_ref().and_then(|u| u.pool.config().host.as_deref());
    let given = &session.req_header().headers;
    let announces = routed.upstream.as_ref().is_some_and(|u| u.pool.config().timeouts.announce);
    let left = announces.then(|| peer::left_now(ctx)).flatten();
    let mut filters = routed.route.filters.iter();
    let transforms = filters.any(|filter| filter.script.transforms());
    head::edit(head, |parts| {
        if let Some(rewrite) = &routed.route.config.rewrite {
            rewrite_path(&mut parts.uri, rewrite)?;
        }
        if let Some(query) = cache::counted_query(session, ctx) {
            let path = parts.uri.path().to_owned();
            head::set_target(&mut parts.uri, &path, query)?;
        }
        let headers = &mut parts.headers;
        headers.reserve(ADDED);
        if let Some(host) = host {
            headers.insert(header::HOST, value(host)?);
        }
        said_by_proxies(headers, facts)?;
        headers.insert(&REQUEST_ID, facts.request_id.clone());
        headers.insert(&TRACEPARENT, facts.trace.header());
        if headers.contains_key(&TRACESTATE) && accept::parent(given).is_none() {
            // It belongs to a trace that was not taken over (W3C Trace Context, 3.3.1).
            headers.remove(&TRACESTATE);
        }
        head::append(headers, &header::VIA, via);
        if let Some(left) = left {
            announce(headers, left);
        }
        if transforms {
            transform::ask(headers);
        }
        Ok(())
    })
}

/// Tells the origin what is left of the total time; a client that gave gRPC less is taken at its
/// word.
fn announce(headers: &mut HeaderMap, left: Duration) {
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let is_grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        headers.insert(&REQUEST_TIMEOUT, left.into());
        return;
    }
    let given = headers.get(&GRPC_TIMEOUT).and_then(|value| grpc_millis(value.to_str().ok()?));
    if given.is_none_or(|given| given > left)
        // Eight digits at most, in the finest unit that they are enough for.
        && let Ok(value) = HeaderValue::from_str(&match left {
            0..=99_999_999 => format!("{left}m"),
            _ => format!("{}S", left / 1000),
        })
    {
        headers.insert(&GRPC_TIMEOUT, value);
    }
}

/// `grpc-timeout` in milliseconds, rounded up.
fn grpc_millis(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => count.checked_mul(3_600_000),
        "M" => count.checked_mul(60_000),
        "S" => count.checked_mul(1000),
        "m" => Some(count),
        "u" => Some(count.div_ceil(1000)),
        "n" => Some(count.div_ceil(1_000_000)),
        _ => None,
    }
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).or_err(ErrorType::InvalidHTTPHeader, "a header for the origin")
}

/// Where the TLS handshake did not agree on HTTP/2, Pingora goes on with HTTP/1.1, also if that
/// is not what the upstream is configured for.
fn demand_http2(head: &RequestHeader, ctx: &mut Ctx) -> Result<()> {
    let upstream = ctx.routed()?.upstream.as_ref();
    let demanded = upstream.is_some_and(|u| u.pool.config().protocol == Protocol::Http2);
    if demanded && head.version != Version::HTTP_2 {
        let what = "the origin did not agree on HTTP/2".to_owned();
        return Err(ctx.refuse(Failure::UpstreamTls(what)));
    }
    Ok(())
}

/// The same checks as on the way in, after filters had the request in hand.
pub fn conform(head: &mut RequestHeader, ctx: &mut Ctx) -> Result<()> {
    conform::edited(head).map_err(|what| ctx.refuse(Failure::FilterMessage(what.to_string())))
}

/// `/prefix` and `/prefix/x`, but not `/prefixed`; the query stays.
fn rewrite_path(uri: &mut Uri, rewrite: &Rewrite) -> Result<()> {
    let Some(rest) = uri.path().strip_prefix(rewrite.prefix.as_str()) else { return Ok(()) };
    let new = match rest.bytes().next() {
        None if rewrite.with.is_empty() => "/".to_owned(),
        None | Some(b'/') => format!("{}{rest}", rewrite.with),
        Some(_) => return Ok(()),
    };
    let query = uri.query().map(str::to_owned);
    head::set_target(uri, &new, query.as_deref())
}

/// From a trusted proxy its words are kept and added to; from anyone else they are replaced.
fn said_by_proxies(headers: &mut HeaderMap, facts: &Facts) -> Result<()> {
    let conn = facts.conn.as_ref().map(|live| &live.0);
    let peer = conn.map_or(facts.client, |conn| conn.client.ip()).to_canonical();
    let peer_text = match conn {
        Some(conn) => conn.client_text.clone(),
        None => value(&peer.to_string())?,
    };
    let element = forwarded(peer, &peer_text, &facts.named_host, facts.scheme)?;
    let scheme = HeaderValue::from_static(facts.scheme);
    if !facts.trusted_peer {
        headers.insert(&FORWARDED_FOR, peer_text);
        headers.insert(&FORWARDED_PROTO, scheme);
        headers.insert(&FORWARDED_HOST, facts.named_host.clone());
        headers.insert(header::FORWARDED, element);
        return Ok(());
    }
    head::append(headers, &FORWARDED_FOR, peer_text);
    head::append(headers, &header::FORWARDED, element);
    if !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(&FORWARDED_PROTO, scheme);
    }
    if !headers.contains_key(&FORWARDED_HOST) {
        headers.insert(&FORWARDED_HOST, facts.named_host.clone());
    }
    Ok(())
}

/// One element of `Forwarded` (RFC 7239).
fn forwarded(
    peer: IpAddr,
    text: &HeaderValue,
    host: &HeaderValue,
    scheme: &str,
) -> Result<HeaderValue> {
    let (open, close): (&[u8], &[u8]) = match peer {
        IpAddr::V4(_) => (b"for=", b";host=\""),
        IpAddr::V6(_) => (b"for=\"[", b"]\";host=\""),
    };
    let pieces = [open, text.as_bytes(), close, host.as_bytes(), b"\";proto=", scheme.as_bytes()];
    let element = bytes::Bytes::from(pieces.concat());
    HeaderValue::from_maybe_shared(element).or_err(ErrorType::InvalidHTTPHeader, "Forwarded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(target: &str, prefix: &str, with: &str) -> String {
        let mut uri: Uri = target.parse().expect("a target");
        let rewrite = Rewrite { prefix: prefix.into(), with: with.into() };
        rewrite_path(&mut uri, &rewrite).expect("rewrite");
        uri.to_string()
    }

    #[test]
    fn prefixes_are_whole_segments() {
        assert_eq!(rewritten("/api/v2/users?x=1", "/api/v2", ""), "/users?x=1");
        assert_eq!(rewritten("/api/v2?x=1", "/api/v2", ""), "/?x=1");
        assert_eq!(rewritten("/api/v2", "/api/v2", "/new"), "/new");
        assert_eq!(rewritten("/api/v2/a", "/api/v2", "/new"), "/new/a");
        assert_eq!(rewritten("/api/v2x", "/api/v2", ""), "/api/v2x");
        assert_eq!(rewritten("/api/v2/?q=%2f", "/api/v2", ""), "/?q=%2f");
    }

    #[test]
    fn the_time_left_is_told_and_never_more_than_the_client_gave() {
        let told = |grpc: Option<&'static str>, left: u64| {
            let mut headers = HeaderMap::new();
            if let Some(given) = grpc {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert(&GRPC_TIMEOUT, HeaderValue::from_static(given));
            }
            announce(&mut headers, Duration::from_millis(left));
            let name = if grpc.is_some() { &GRPC_TIMEOUT } else { &REQUEST_TIMEOUT };
            headers[name].to_str().expect("text").to_owned()
        };
        assert_eq!(told(None, 1500), "1500");
        assert_eq!(told(Some("2S"), 1500), "1500m");
        assert_eq!(told(Some("1S"), 1500), "1S");
        assert_eq!(told(Some("100000u"), 1500), "100000u");
        assert_eq!(told(Some("nonsense"), 1500), "1500m");
        assert_eq!(told(Some("9H"), 500_000_000), "9H");
        assert_eq!(told(Some("999H"), 500_000_000), "500000S");
    }

    #[test]
    fn an_address_of_ip_6_is_quoted() {
        let of = |ip: &str| {
            let text = HeaderValue::from_str(ip).expect("text");
            let host = HeaderValue::from_static("a.test");
            forwarded(ip.parse().expect("ip"), &text, &host, "https").expect("a value")
        };
        assert_eq!(of("192.0.2.1"), "for=192.0.2.1;host=\"a.test\";proto=https");
        assert_eq!(of("2001:db8::1"), "for=\"[2001:db8::1]\";host=\"a.test\";proto=https");
    }
}
