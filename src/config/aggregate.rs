//! `aggregate` of a route: one JSON answer made of the answers of several upstreams.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, header};

use super::pattern::PathPattern;
use super::problem::{Problems, nearest};
use super::read::{At, Named, section};
use super::routes::Match;
use super::upstreams::Upstream;
use super::values::Bytes;

/// What an aggregated answer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    pub parts: Vec<Part>,
    /// The client's headers that each part gets.
    pub forward_headers: Vec<HeaderName>,
    /// Bytes of one part.
    pub max_body: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub name: Arc<str>,
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    pub target: Vec<Piece>,
    pub required: bool,
    pub timeout: Duration,
}

/// A piece of a part's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// What the route's path captured; `in_query` behind the `?`.
    Param {
        name: String,
        in_query: bool,
    },
    /// The request's own query.
    Query,
}

section! {
    /// One JSON answer made of parts that are fetched at the same time. It answers GET and HEAD.
    pub struct RawAggregate as "aggregate" {
        /// The parts by name, which is their key in the answer.
        parts: At<Named<RawPart>>,
        /// Headers of the client that each part gets. No other goes along, cookies included.
        forward_headers: Vec<At<HeaderName>> = "[]",
        /// The longest time for a part that says nothing itself.
        timeout: Duration = "2s",
        /// The largest body of one part.
        max_body: At<Bytes> = "256KiB",
    }
}

section! {
    /// A part of an aggregated answer. One that fails is null, and `errors` says why.
    pub struct RawPart as "part" {
        /// The upstream that is asked.
        upstream: At<String>,
        /// The path, with what the route's path captured as `{name}`, and the query as `{query}`.
        path: At<String>,
        /// Whether there is no answer without it: then 502, or 504 if it came too late.
        required: bool = "false",
        /// The longest time for it.
        timeout: Option<Duration>,
    }
}

/// The key beside the parts that says what failed.
pub const ERRORS: &str = "errors";
/// As many as a script may fetch at once.
const MOST_PARTS: usize = 64;

/// Headers that belong to the client's own request.
const NEVER_FORWARDED: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::ACCEPT_ENCODING,
    header::RANGE,
    header::UPGRADE,
    header::EXPECT,
];

pub fn resolve(
    raw: RawAggregate,
    matches: &Match,
    upstreams: &[Upstream],
    problems: &mut Problems,
) -> Aggregate {
    if matches.methods.iter().any(|method| ![Method::GET, Method::HEAD].contains(method)) {
        raw.parts.problem(problems, "an aggregated answer is for GET and HEAD only", None);
    }
    let count = raw.parts.value.0.len();
    if count == 0 || count > MOST_PARTS {
        let message = format!("an aggregated answer has 1 to {MOST_PARTS} parts");
        raw.parts.problem(problems, message, None);
    }
    if raw.max_body.value.0 == 0 {
        raw.max_body.problem(problems, "0 would refuse every part", None);
    }
    for name in raw.forward_headers.iter().filter(|name| NEVER_FORWARDED.contains(&name.value)) {
        let message = format!("{} is about the client's own request", name.value);
        name.problem(problems, message, None);
    }
    let timeout = raw.timeout;
    let parts = raw.parts.value.0.into_iter().filter_map(|(name, part)| {
        if name.value == ERRORS {
            let message = format!("\"{ERRORS}\" is where the answer says what failed");
            name.problem(problems, message, None);
        }
        resolve_part(&name, part, timeout, &matches.path, upstreams, problems)
    });
    Aggregate {
        parts: parts.collect(),
        forward_headers: raw.forward_headers.into_iter().map(|name| name.value).collect(),
        max_body: usize::try_from(raw.max_body.value.0).unwrap_or(usize::MAX),
    }
}

fn resolve_part(
    name: &At<String>,
    raw: RawPart,
    timeout: Duration,
    path: &PathPattern,
    upstreams: &[Upstream],
    problems: &mut Problems,
) -> Option<Part> {
    let names = || upstreams.iter().map(|upstream| &*upstream.name);
    let upstream = names().position(|known| known == raw.upstream.value);
    if upstream.is_none() {
        let message = format!("there is no upstream named \"{}\"", raw.upstream.value);
        raw.upstream.problem(problems, message, nearest(&raw.upstream.value, names()));
    }
    let target = target(&raw.path, path, problems);
    Some(Part {
        name: name.value.as_str().into(),
        upstream: upstream?,
        target: target?,
        required: raw.required,
        timeout: raw.timeout.unwrap_or(timeout),
    })
}

/// `/carts?user={id}&{query}`, in pieces.
fn target(raw: &At<String>, path: &PathPattern, problems: &mut Problems) -> Option<Vec<Piece>> {
    let text = raw.value.as_str();
    let printable = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !text.starts_with('/') || !printable {
        raw.problem(problems, "a part's path begins with / and is printable ASCII", None);
        return None;
    }
    let known: HashSet<&str> = path.names().collect();
    let (mut pieces, mut rest, mut in_query) = (Vec::new(), text, false);
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else { break };
        in_query |= before.contains('?');
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(match name {
            "query" if in_query => Piece::Query,
            name if known.contains(name) => Piece::Param { name: name.to_owned(), in_query },
            _ => {
                let message = format!("{{{name}}} is no part of {path}");
                let hint = "write {query} behind a ?, or a name that the route's path captures";
                raw.problem(problems, message, Some(hint.to_owned()));
                return None;
            }
        });
        rest = after;
    }
    if rest.contains(['{', '}']) {
        raw.problem(problems, "a bracket in a part's path has no other end", None);
        return None;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Some(pieces)
}
