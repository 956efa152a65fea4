//! What a test looks at, as plain maps.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use rhai::{Array, Dynamic, Map};

use super::life::Seen;
use super::stage::Calls;
use crate::cache::policy::Wishes;
use crate::script::api::convert::from_json;
use crate::script::exchange::{MessageBody, RequestDraft, ResponseDraft};
use crate::script::fault::{Cause, Fault};
use crate::script::host::FetchRequest;
use crate::script::meter::RunFigures;

pub fn outcome(seen: &Seen, calls: &Calls) -> Map {
    Map::from([
        ("forwarded".into(), (seen.attempts > 0).into()),
        ("attempts".into(), count(seen.attempts)),
        ("request".into(), request(&seen.request).into()),
        ("response".into(), response(&seen.response).into()),
        ("fetches".into(), calls.fetched.iter().map(fetch).collect::<Array>().into()),
        ("logs".into(), logs(calls).into()),
        ("ctx".into(), from_json(&seen.request.ctx.snapshot().into())),
        ("hooks".into(), hooks(seen).into()),
        ("cost".into(), cost(seen).into()),
        ("fault".into(), seen.fault.as_ref().map_or(Dynamic::UNIT, |f| fault(f).into())),
    ])
}

fn request(draft: &RequestDraft) -> Map {
    let query = draft.query.as_deref();
    let body = bytes_of(&draft.body);
    let target = query.map_or(draft.path.clone(), |query| format!("{}?{query}", draft.path));
    Map::from([
        ("method".into(), draft.method.to_string().into()),
        ("url".into(), format!("{}://{}{target}", draft.scheme, draft.host).into()),
        ("host".into(), draft.host.as_str().into()),
        ("path".into(), draft.path.as_str().into()),
        ("query".into(), query.map_or(Dynamic::UNIT, Into::into)),
        ("headers".into(), headers(&draft.headers).into()),
        ("body".into(), text(&body)),
        ("bytes".into(), Dynamic::from_blob(body.to_vec())),
        ("upstream".into(), draft.upstream.as_deref().map_or(Dynamic::UNIT, Into::into)),
    ])
}

fn response(draft: &ResponseDraft) -> Map {
    let body = bytes_of(&draft.body);
    let cookies = draft.headers.get_all(header::SET_COOKIE).iter();
    let cookies = cookies.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Map::from([
        ("status".into(), i64::from(draft.status.as_u16()).into()),
        ("headers".into(), headers(&draft.headers).into()),
        ("set_cookies".into(), cookies.map(Dynamic::from).collect::<Array>().into()),
        ("body".into(), text(&body)),
        ("bytes".into(), Dynamic::from_blob(body.to_vec())),
        ("from".into(), draft.from.name().into()),
        ("cache".into(), cache(&draft.cache.clone().unwrap_or_default()).into()),
    ])
}

/// What `on_upstream_response` said of it.
fn cache(wishes: &Wishes) -> Map {
    let seconds = |time: Option<Duration>| {
        time.map_or(Dynamic::UNIT, |time| Dynamic::from(time.as_secs().cast_signed()))
    };
    Map::from([
        ("ttl".into(), seconds(wishes.ttl)),
        ("stale_while_revalidate".into(), seconds(wishes.stale_while_revalidate)),
        ("stale_if_error".into(), seconds(wishes.stale_if_error)),
        ("tags".into(), wishes.tags.iter().map(|t| t.as_str().into()).collect::<Array>().into()),
        ("no_store".into(), wishes.no_store.into()),
    ])
}

fn bytes_of(body: &MessageBody) -> Bytes {
    match body {
        MessageBody::Held(bytes) | MessageBody::Replaced(bytes) => bytes.clone(),
        MessageBody::Untouched => Bytes::new(),
    }
}

fn fetch(request: &FetchRequest) -> Dynamic {
    Dynamic::from_map(Map::from([
        ("method".into(), request.method.to_string().into()),
        ("url".into(), request.url.to_string().into()),
        ("headers".into(), headers(&request.headers).into()),
        ("body".into(), text(&request.body)),
    ]))
}

fn logs(calls: &Calls) -> Array {
    let line = |(level, message, fields): &(log::Level, String, Vec<(String, String)>)| {
        let fields: Map = fields.iter().map(|(k, v)| (k.into(), v.as_str().into())).collect();
        Dynamic::from_map(Map::from([
            ("level".into(), level.as_str().to_lowercase().into()),
            ("message".into(), message.as_str().into()),
            ("fields".into(), fields.into()),
        ]))
    };
    calls.logged.iter().map(line).collect()
}

fn hooks(seen: &Seen) -> Array {
    let one = |(hook, outcome, figures): &(&'static str, &'static str, RunFigures)| {
        Dynamic::from_map(Map::from([
            ("hook".into(), (*hook).into()),
            ("outcome".into(), (*outcome).into()),
            ("operations".into(), whole(figures.operations)),
            ("memory".into(), count(figures.peak_memory)),
            ("wall_ms".into(), whole(figures.wall.as_millis())),
        ]))
    };
    seen.hooks.iter().map(one).collect()
}

/// Of all hooks: operations and time together, memory at its highest.
fn cost(seen: &Seen) -> Map {
    let figures = || seen.hooks.iter().map(|(_, _, figures)| figures);
    Map::from([
        ("operations".into(), whole(figures().map(|f| f.operations).sum::<u64>())),
        ("memory".into(), count(figures().map(|f| f.peak_memory).max().unwrap_or(0))),
        ("wall_ms".into(), whole(figures().map(|f| f.wall.as_millis()).sum::<u128>())),
    ])
}

fn fault(fault: &Fault) -> Map {
    let limit = match fault.cause {
        Cause::Limit(hit) => hit.kind.name().into(),
        _ => Dynamic::UNIT,
    };
    Map::from([
        ("hook".into(), fault.hook.name().into()),
        ("line".into(), count(fault.line)),
        ("message".into(), fault.message.as_str().into()),
        ("limit".into(), limit),
    ])
}

/// Lines of one name are joined; a name that is not there is `()` to Rhai.
fn headers(headers: &HeaderMap) -> Map {
    let lines = |name: &HeaderName| {
        let values = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()));
        values.collect::<Vec<_>>().join(", ")
    };
    headers.keys().map(|name| (name.as_str().into(), lines(name).into())).collect()
}

fn text(body: &Bytes) -> Dynamic {
    String::from_utf8_lossy(body).into_owned().into()
}

fn count(number: usize) -> Dynamic {
    whole(number)
}

fn whole(number: impl TryInto<i64>) -> Dynamic {
    number.try_into().unwrap_or(i64::MAX).into()
}
