//! Routes that answer with one JSON made of several upstreams' answers, fetched at the same time.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora::Result;
use pingora_proxy::Session;
use serde::de::IgnoredAny;
use tokio::task::JoinSet;

use super::ctx::Ctx;
use super::fail::Failure;
use super::head::{REQUEST_ID, TRACEPARENT};
use super::{filters, response};
use crate::config::aggregate::{Aggregate, ERRORS, Part, Piece};
use crate::script::ResponseDraft;
use crate::snapshot::{Shared, UpstreamState};
use crate::telemetry::handles::HeldBytes;
use crate::upstream::client::{ClientError, ClientRequest, ClientResponse, Target};

/// What came of a part: its JSON, or why there is none.
type Outcome = std::result::Result<Bytes, &'static str>;

/// The reason of a part that did not come in time.
const TIMEOUT: &str = "timeout";

/// Answers with all parts together.
pub async fn answer(
    session: &mut Session,
    ctx: &mut Ctx,
    shared: &Shared,
    aggregate: &Aggregate,
) -> Result<()> {
    if ![Method::GET, Method::HEAD].contains(&session.req_header().method) {
        return Err(ctx.refuse(Failure::MethodNotAllowed("GET, HEAD".into())));
    }
    let began = Instant::now();
    let started = start(session, ctx, shared, aggregate)?;
    let outcomes = tokio::select! {
        outcomes = collect(started, ctx, shared, aggregate) => outcomes,
        why = filters::gone(session) => Err(Failure::ClientGone(why)),
    };
    ctx.attempt.waited += began.elapsed();
    let (outcomes, _counted) = outcomes.map_err(|failure| ctx.refuse(failure))?;
    response::send_draft(session, ctx, shared, merged(aggregate, &outcomes)).await
}

/// All parts' requests, on their way. They end when the set is dropped.
fn start(
    session: &Session,
    ctx: &Ctx,
    shared: &Shared,
    aggregate: &Aggregate,
) -> Result<JoinSet<(usize, Outcome)>> {
    let mut started = JoinSet::new();
    let upstreams = &ctx.routed()?.route.parts;
    for (index, (part, upstream)) in aggregate.parts.iter().zip(upstreams).enumerate() {
        let request = request(session, ctx, aggregate, part)?;
        let (client, upstream) = (Arc::clone(&shared.client), Arc::clone(upstream));
        started.spawn(async move {
            let answer = client.request(Target::Pool(Arc::clone(&upstream.pool)), request).await;
            (index, judged(answer, &upstream))
        });
    }
    Ok(started)
}

fn request(
    session: &Session,
    ctx: &Ctx,
    aggregate: &Aggregate,
    part: &Part,
) -> Result<ClientRequest> {
    let facts = ctx.facts()?;
    let given = &session.req_header().headers;
    let mut headers = HeaderMap::new();
    for name in &aggregate.forward_headers {
        for value in given.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));
    headers.insert(&REQUEST_ID, facts.request_id.clone());
    headers.insert(&TRACEPARENT, facts.trace.child().header());
    Ok(ClientRequest {
        method: Method::GET,
        path_and_query: target(session, ctx, part)?,
        headers,
        host: facts.host().to_owned(),
        body: Bytes::new(),
        timeout: part.timeout,
        max_body: aggregate.max_body,
    })
}

fn target(session: &Session, ctx: &Ctx, part: &Part) -> Result<String> {
    let routed = ctx.routed()?;
    let mut target = String::new();
    for piece in &part.target {
        match piece {
            Piece::Text(text) => target.push_str(text),
            Piece::Query => target.push_str(session.req_header().uri.query().unwrap_or_default()),
            Piece::Param { name, in_query } => {
                let value = routed.params.get(&routed.path, name).unwrap_or_default();
                match in_query {
                    true => push_into_query(&mut target, value),
                    false => target.push_str(value),
                }
            }
        }
    }
    Ok(target)
}

/// What is harmless in a path would begin another parameter in a query.
fn push_into_query(target: &mut String, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'&' | b'=' | b'+' | b';' | b'?' | b'#' => target.push_str(&format!("%{byte:02X}")),
            _ => target.push(char::from(byte)),
        }
    }
}

fn judged(
    answer: std::result::Result<ClientResponse, ClientError>,
    upstream: &UpstreamState,
) -> Outcome {
    let outcome = match answer {
        Ok(answer) if !answer.status.is_success() => Err("status"),
        Ok(answer) if !is_json(&answer.body) => Err("parse"),
        Ok(answer) => Ok(answer.body),
        Err(ClientError::Timeout) => Err(TIMEOUT),
        Err(ClientError::TooLarge { .. }) => Err("too_large"),
        Err(ClientError::Refused(_)) => Err("unavailable"),
        Err(ClientError::Connect { .. } | ClientError::Broken(_)) => Err("connect"),
        Err(ClientError::Invalid(_) | ClientError::Protocol(_)) => Err("invalid"),
    };
    upstream.metrics.request(if outcome.is_ok() { "success" } else { "failure" });
    if let Err(reason) = outcome {
        upstream.metrics.failure(reason);
    }
    outcome
}

fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// The outcomes in the order of the parts, or the failure without a part that is required; then
/// the others are not waited for.
async fn collect(
    mut started: JoinSet<(usize, Outcome)>,
    ctx: &Ctx,
    shared: &Shared,
    aggregate: &Aggregate,
) -> std::result::Result<(Vec<Outcome>, HeldBytes), Failure> {
    let total = ctx.facts.as_ref().map_or(0, |f| f.snapshot.limits.held_bodies.value.0);
    let mut counted = shared.metrics.held_body();
    let mut outcomes = vec![Err("unavailable"); aggregate.parts.len()];
    while let Some(joined) = started.join_next().await {
        let (index, outcome) = joined.map_err(|error| Failure::Internal(error.to_string()))?;
        let part = &aggregate.parts[index];
        match &outcome {
            Ok(body) if !counted.grow(body.len(), total) => return Err(Failure::BodiesBusy(total)),
            Err(TIMEOUT) if part.required => {
                return Err(Failure::PartTimeout(part.name.to_string()));
            }
            Err(reason) if part.required => {
                return Err(Failure::Part(format!("{}: {reason}", part.name)));
            }
            _ => outcomes[index] = outcome,
        }
    }
    Ok((outcomes, counted))
}

/// One object; the parts stand in it byte for byte.
fn merged(aggregate: &Aggregate, outcomes: &[Outcome]) -> ResponseDraft {
    let mut body = b"{".to_vec();
    let mut errors = Vec::new();
    for (part, outcome) in aggregate.parts.iter().zip(outcomes) {
        if body.len() > 1 {
            body.push(b',');
        }
        // A name needs no escapes.
        body.extend_from_slice(format!("\"{}\":", part.name).as_bytes());
        match outcome {
            Ok(json) => body.extend_from_slice(json.trim_ascii()),
            Err(reason) => {
                body.extend_from_slice(b"null");
                errors.push(serde_json::json!({ "part": *part.name, "reason": reason }));
            }
        }
    }
    let complete = errors.is_empty();
    if !complete {
        let errors = serde_json::Value::from(errors);
        body.extend_from_slice(format!(",\"{ERRORS}\":{errors}").as_bytes());
    }
    body.push(b'}');
    let mut draft = ResponseDraft::new(StatusCode::OK, body);
    draft.from = crate::script::From::Proxy;
    draft.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !complete {
        draft.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    draft
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::MessageBody;

    fn part(name: &str) -> Part {
        Part {
            name: name.into(),
            upstream: 0,
            target: Vec::new(),
            required: false,
            timeout: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn parts_stand_in_the_answer_byte_for_byte() {
        let parts = vec![part("a"), part("b"), part("c")];
        let aggregate = Aggregate { parts, forward_headers: Vec::new(), max_body: 1 };
        let big = Bytes::from_static(b" {\"n\":12345678901234567890.10} \n");
        let draft = merged(&aggregate, &[Ok(big), Err("timeout"), Ok(Bytes::from_static(b"[]"))]);
        let expected = "{\"a\":{\"n\":12345678901234567890.10},\"b\":null,\"c\":[],\
                        \"errors\":[{\"part\":\"b\",\"reason\":\"timeout\"}]}";
        assert_eq!(draft.body, MessageBody::Replaced(expected.into()));
        assert_eq!(draft.headers["cache-control"], "no-store");
    }

    #[test]
    fn only_json_is_a_part() {
        for good in ["1", "\"a\"", "[{}]", " null "] {
            assert!(is_json(good.as_bytes()), "{good}");
        }
        for bad in [&b""[..], b"{", b"{} {}", b"\"\xff\"", b"<html>", &[b'['; 10_000]] {
            assert!(!is_json(bad), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn what_a_path_captured_stays_one_value_in_a_query() {
        let mut target = String::from("/carts?user=");
        push_into_query(&mut target, "a&admin=1;b+c%20");
        assert_eq!(target, "/carts?user=a%26admin%3D1%3Bb%2Bc%20");
    }
}
