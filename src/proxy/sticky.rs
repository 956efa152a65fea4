//! Sessions that stay at one endpoint, by a cookie that says which.
//!
//! Where it cannot be had any more the request goes elsewhere, and the client is told to come back
//! there.

use http::{HeaderValue, header};
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::ctx::Ctx;
use super::{head, key};
use crate::snapshot::UpstreamState;

/// The endpoint that the request's cookie names, by its id.
pub fn preferred(session: &Session, ctx: &Ctx, upstream: &UpstreamState) -> Option<u64> {
    let route = &ctx.routed.as_ref()?.route;
    let (config, sealer) = (route.config.traffic.sticky.as_ref()?, route.sticky.as_ref()?);
    let value = key::cookie(&session.req_header().headers, &config.cookie)?;
    sealer.open(upstream.pool.name(), value)
}

/// Tells the client which endpoint answered, unless its cookie says so already.
pub fn tell(session: &Session, response: &mut ResponseHeader, ctx: &Ctx) {
    let Some(cookie) = cookie(session, ctx) else { return };
    head::edit_response(response, |parts| parts.headers.append(header::SET_COOKIE, cookie));
}

fn cookie(session: &Session, ctx: &Ctx) -> Option<HeaderValue> {
    let routed = ctx.routed.as_ref()?;
    let config = routed.route.config.traffic.sticky.as_ref()?;
    let (sealer, upstream) = (routed.route.sticky.as_ref()?, routed.upstream.as_ref()?);
    let answered = ctx.attempt.current.as_ref()?.endpoint().id();
    if preferred(session, ctx, upstream) == Some(answered) {
        return None;
    }
    let value = sealer.seal(upstream.pool.name(), answered)?;
    let age = config.max_age.map(|age| format!("; Max-Age={}", age.as_secs()));
    let secure = if ctx.facts.as_ref()?.scheme == "https" { "; Secure" } else { "" };
    let text = format!(
        "{}={value}; Path=/{}; HttpOnly; SameSite=Lax{secure}",
        config.cookie,
        age.unwrap_or_default()
    );
    HeaderValue::from_str(&text).ok()
}
