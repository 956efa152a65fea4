//! What origins answer in a test: to fetches, and to the request itself.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use rhai::{Array, Dynamic, Map};

use super::given::{headers_of, known, text};
use super::{Told, told};
use crate::script::api::convert::{bytes_of, to_json};
use crate::script::api::seconds;
use crate::script::exchange::ErrorInfo;
use crate::script::host::{FetchError, FetchErrorKind, FetchRequest, FetchResponse};

/// An answer to a fetch, after a while on the fake clock.
#[derive(Clone)]
pub struct Answer<E = FetchError> {
    pub result: Result<FetchResponse, E>,
    pub delay: Duration,
}

/// The answers to a request's fetches.
#[derive(Default)]
pub struct Answers {
    in_order: VecDeque<Answer>,
    by_url: Vec<(Pattern, Replies)>,
}

/// `URL`, `METHOD URL`; a `*` at the end stands for any rest.
struct Pattern {
    method: Option<Method>,
    url: String,
    any_rest: bool,
}

enum Replies {
    Always(Answer),
    InTurn(VecDeque<Answer>),
}

impl Answers {
    /// A list, in the order of the fetches; or a map from URLs to an answer or a list of them.
    pub fn of(given: &Dynamic) -> Told<Self> {
        let mut answers = Self::default();
        if given.is_unit() {
            return Ok(answers);
        }
        if let Some(list) = given.read_lock::<Array>() {
            answers.in_order = list.iter().map(Answer::of_fetch).collect::<Told<_>>()?;
            return Ok(answers);
        }
        let map = given.read_lock::<Map>();
        let map = map.ok_or_else(|| told("fetches: a list of answers, or a map by URL"))?;
        for (key, value) in map.iter() {
            let replies = match value.read_lock::<Array>() {
                Some(list) => {
                    Replies::InTurn(list.iter().map(Answer::of_fetch).collect::<Told<_>>()?)
                }
                None => Replies::Always(Answer::of_fetch(value)?),
            };
            answers.by_url.push((Pattern::of(key)?, replies));
        }
        // The most exact first.
        answers.by_url.sort_by_key(|(pattern, _)| {
            (pattern.any_rest, usize::MAX - pattern.url.len(), pattern.method.is_none())
        });
        Ok(answers)
    }

    pub fn take(&mut self, request: &FetchRequest) -> Option<Answer> {
        if self.by_url.is_empty() {
            return self.in_order.pop_front();
        }
        let (_, replies) = self.by_url.iter_mut().find(|(pattern, _)| pattern.fits(request))?;
        match replies {
            Replies::Always(answer) => Some(answer.clone()),
            Replies::InTurn(answers) => answers.pop_front(),
        }
    }
}

impl Pattern {
    fn of(key: &str) -> Told<Self> {
        let bad = || told(format!("fetches: \"{key}\" is not a URL, or a method and a URL"));
        let (method, url) = match key.split_once(' ') {
            Some((method, url)) => (Some(method.parse().map_err(|_| bad())?), url),
            None => (None, key),
        };
        let any_rest = url.ends_with('*');
        let bare: http::Uri = url.trim_end_matches('*').parse().map_err(|_| bad())?;
        if bare.scheme().is_none() {
            return Err(bad());
        }
        // As a fetch's URL is written: `http://a` is `http://a/`.
        let url = if any_rest { url.trim_end_matches('*').to_owned() } else { bare.to_string() };
        Ok(Self { method, url, any_rest })
    }

    fn fits(&self, request: &FetchRequest) -> bool {
        let url = request.url.to_string();
        let fits = if self.any_rest { url.starts_with(&self.url) } else { url == self.url };
        fits && self.method.as_ref().is_none_or(|method| *method == request.method)
    }
}

impl Answer {
    fn of_fetch(given: &Dynamic) -> Told<Self> {
        let map = map_of("an answer to a fetch", given)?;
        let delay = delay_of(&map)?;
        let Some(kind) = text(&map, "error") else {
            return Ok(Self { result: Ok(response_of(&map)?), delay });
        };
        known(&map, "a failed fetch", &["error", "delay"])?;
        let found = FetchErrorKind::ALL.into_iter().find(|known| known.name() == kind);
        let kind = found.ok_or_else(|| {
            let names = FetchErrorKind::ALL.map(FetchErrorKind::name).join(", ");
            told(format!("error: \"{kind}\" is none of {names}"))
        })?;
        let message = format!("{} (as the test says)", kind.name());
        Ok(Self { result: Err(FetchError { kind, message }), delay })
    }
}

/// How an origin can fail: `err.kind`, and the status that the client gets by itself.
const FAILURES: [(&str, u16); 7] = [
    ("connect", 502),
    ("connect_timeout", 504),
    ("no_endpoint", 503),
    ("response_timeout", 504),
    ("upstream_closed", 502),
    ("upstream_invalid", 502),
    ("upstream_tls", 502),
];

impl Answer<ErrorInfo> {
    /// What the origin answers: one answer, or a list, one for each attempt. 200 by default.
    pub fn of_origin(given: Option<&Dynamic>) -> Told<Vec<Self>> {
        let Some(given) = given else { return Ok(vec![Self::one(&Map::new().into())?]) };
        match given.read_lock::<Array>() {
            Some(list) if list.is_empty() => Err(told("response: a list of at least one answer")),
            Some(list) => list.iter().map(Self::one).collect(),
            None => Ok(vec![Self::one(given)?]),
        }
    }

    fn one(given: &Dynamic) -> Told<Self> {
        let map = map_of("a response", given)?;
        let delay = delay_of(&map)?;
        let Some(kind) = text(&map, "error") else {
            return Ok(Self { result: Ok(response_of(&map)?), delay });
        };
        known(&map, "a failed response", &["error", "delay"])?;
        let found = FAILURES.into_iter().find(|(known, _)| *known == kind);
        let (kind, status) = found.ok_or_else(|| {
            let names = FAILURES.map(|(name, _)| name).join(", ");
            told(format!("error: \"{kind}\" is none of {names}"))
        })?;
        let message = format!("{kind} (as the test says)");
        Ok(Self { result: Err(ErrorInfo { kind: kind.to_owned(), status, message }), delay })
    }
}

fn map_of(what: &str, given: &Dynamic) -> Told<Map> {
    let map = given.read_lock::<Map>().map(|map| map.clone());
    map.ok_or_else(|| told(format!("{what} is a map, and not {}", given.type_name())))
}

fn delay_of(map: &Map) -> Told<Duration> {
    map.get("delay").map_or(Ok(Duration::ZERO), seconds)
}

/// `#{ status, headers, body }`; a map or a list as body is JSON.
fn response_of(map: &Map) -> Told<FetchResponse> {
    known(map, "a response", &["status", "headers", "body", "delay", "error"])?;
    let status = map.get("status").map_or(Ok(200), |status| status.as_int());
    let status = status.ok().and_then(|status| u16::try_from(status).ok()).unwrap_or(0);
    let status = StatusCode::from_u16(status).map_err(|_| told("status: not a status code"))?;
    let mut headers = map.get("headers").map_or_else(|| Ok(HeaderMap::new()), headers_of)?;
    let body = match map.get("body") {
        None => Bytes::new(),
        Some(body) if body.is_map() || body.is_array() => {
            let json = HeaderValue::from_static("application/json");
            headers.entry(header::CONTENT_TYPE).or_insert(json);
            to_json(body)?.to_string().into()
        }
        Some(body) => bytes_of(body)?.into(),
    };
    Ok(FetchResponse { status, headers, body })
}
