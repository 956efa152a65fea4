//! What the origin sees: the target, `Host`, and who asked.

use std::net::IpAddr;

use http::{Version, header};
use pingora::Result;
use pingora::http::RequestHeader;
use pingora_proxy::Session;

use super::accept::{self, REQUEST_ID};
use super::conform;
use super::ctx::{Ctx, Facts};
use super::fail::Failure;
use crate::config::routes::Rewrite;
use crate::config::upstreams::Protocol;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";
/// This proxy's name in `Via` (RFC 9110, 7.6.3).
const PSEUDONYM: &str = "selvedge";

/// Prepares the origin's copy of the request.
pub fn prepare(session: &Session, head: &mut RequestHeader, ctx: &mut Ctx) -> Result<()> {
    demand_http2(head, ctx)?;
    let routed = ctx.routed()?;
    let facts = ctx.facts()?;
    if let Some(rewrite) = &routed.route.config.rewrite {
        rewrite_path(head, rewrite)?;
    }
    if let Some(host) = routed.upstream.as_ref().and_then(|u| u.pool.config().host.as_ref()) {
        head.insert_header(header::HOST, host)?;
    }
    said_by_proxies(session, head, facts)?;
    head.insert_header(REQUEST_ID, &facts.request_id)?;
    head.insert_header("traceparent", facts.trace.to_string())?;
    if accept::parent(&session.req_header().headers).is_none() {
        // It belongs to a trace that was not taken over (W3C Trace Context, 3.3.1).
        head.remove_header("tracestate");
    }
    let via = format!("{} {PSEUDONYM}", version(session));
    append(head, "via", &via)
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

fn version(session: &Session) -> &'static str {
    match session.req_header().version {
        http::Version::HTTP_2 => "2.0",
        http::Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// `/prefix` and `/prefix/x`, but not `/prefixed`; the query stays.
fn rewrite_path(head: &mut RequestHeader, rewrite: &Rewrite) -> Result<()> {
    let Ok(target) = std::str::from_utf8(head.raw_path()) else { return Ok(()) };
    let Some(rest) = target.strip_prefix(rewrite.prefix.as_str()) else { return Ok(()) };
    let new = match rest.bytes().next() {
        Some(b'/') => format!("{}{rest}", rewrite.with),
        None | Some(b'?') if rewrite.with.is_empty() => format!("/{rest}"),
        None | Some(b'?') => format!("{}{rest}", rewrite.with),
        Some(_) => return Ok(()),
    };
    head.set_raw_path(new.as_bytes())
}

/// From a trusted proxy its words are kept and added to; from anyone else they are replaced.
fn said_by_proxies(session: &Session, head: &mut RequestHeader, facts: &Facts) -> Result<()> {
    let peer = facts.conn.as_ref().map_or(facts.client, |live| live.0.client.ip()).to_canonical();
    let element = forwarded(peer, &facts.host, facts.scheme);
    if !facts.trusted_peer {
        head.insert_header(FORWARDED_FOR, peer.to_string())?;
        head.insert_header(FORWARDED_PROTO, facts.scheme)?;
        head.insert_header(FORWARDED_HOST, &*facts.host)?;
        return head.insert_header(header::FORWARDED, element);
    }
    append(head, FORWARDED_FOR, &peer.to_string())?;
    append(head, header::FORWARDED.as_str(), &element)?;
    let given = &session.req_header().headers;
    if !given.contains_key(FORWARDED_PROTO) {
        head.insert_header(FORWARDED_PROTO, facts.scheme)?;
    }
    if !given.contains_key(FORWARDED_HOST) {
        head.insert_header(FORWARDED_HOST, &*facts.host)?;
    }
    Ok(())
}

/// One element of `Forwarded` (RFC 7239).
fn forwarded(peer: IpAddr, host: &str, scheme: &str) -> String {
    match peer {
        IpAddr::V4(peer) => format!("for={peer};host=\"{host}\";proto={scheme}"),
        IpAddr::V6(peer) => format!("for=\"[{peer}]\";host=\"{host}\";proto={scheme}"),
    }
}

/// Adds to a list header, all of whose lines become one.
fn append(head: &mut RequestHeader, name: &'static str, value: &str) -> Result<()> {
    let mut joined = Vec::new();
    for line in head.headers.get_all(name) {
        joined.extend_from_slice(line.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(value.as_bytes());
    head.insert_header(name, joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(target: &str, prefix: &str, with: &str) -> String {
        let mut head = RequestHeader::build("GET", target.as_bytes(), None).expect("head");
        let rewrite = Rewrite { prefix: prefix.into(), with: with.into() };
        rewrite_path(&mut head, &rewrite).expect("rewrite");
        String::from_utf8_lossy(head.raw_path()).into_owned()
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
    fn list_headers_become_one_line() {
        let mut head = RequestHeader::build("GET", b"/", None).expect("head");
        head.append_header("via", "1.0 a").expect("header");
        head.append_header("via", "1.1 b").expect("header");
        append(&mut head, "via", "1.1 selvedge").expect("append");
        assert_eq!(head.headers["via"], "1.0 a, 1.1 b, 1.1 selvedge");
    }
}
