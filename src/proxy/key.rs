//! The part of a request that decides where it goes, as configured by `hash_by` and `by`.

use http::HeaderMap;
use pingora_proxy::Session;

use super::ctx::Ctx;
use crate::config::upstreams::HashKey;

/// The key of a request; without one, what no other request has. Those without a key must not all
/// meet at one place, as by an empty key they would.
pub fn of(session: &Session, ctx: &Ctx, by: Option<&HashKey>) -> Vec<u8> {
    let (headers, facts) = (&session.req_header().headers, ctx.facts.as_ref());
    let given = by.and_then(|by| match by {
        HashKey::ClientIp => facts.map(|facts| facts.client.to_string().into_bytes()),
        HashKey::Path => {
            session.req_header().raw_path().split(|byte| *byte == b'?').next().map(<[u8]>::to_vec)
        }
        HashKey::Header(name) => headers.get(name).map(|value| value.as_bytes().to_vec()),
        HashKey::Cookie(name) => cookie(headers, name).map(Into::into),
        HashKey::Query(name) => parameter(session, name),
    });
    given.or_else(|| facts.map(|facts| facts.request_id.as_bytes().to_vec())).unwrap_or_default()
}

pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(http::header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

/// The first value of a parameter, as it was sent.
fn parameter(session: &Session, name: &str) -> Option<Vec<u8>> {
    let query = session.req_header().uri.query()?;
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let named = |key: &str| percent_encoding::percent_decode_str(key).eq(name.bytes());
    pairs.into_iter().find(|(key, _)| named(key)).map(|(_, value)| value.as_bytes().to_vec())
}
