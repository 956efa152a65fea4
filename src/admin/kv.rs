//! `/kv/NAMESPACE/KEY` on the admin address: what operators read and set in the store of filters,
//! such as a switch.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use pingora_core::protocols::http::ServerSession;
use serde_json::json;

use super::{answer, not_allowed, text, with_type};
use crate::config::state::Namespace;
use crate::config::values::parse_duration;
use crate::snapshot::Shared;
use crate::state::{Page, Put, Store, StoreError, When};

pub const PATH: &str = "/kv/";
/// For the whole body of a PUT.
const BODY: Duration = Duration::from_secs(10);
/// Keys in one answer.
const KEYS: usize = 1000;

type Answer = Response<Vec<u8>>;

pub async fn respond(shared: &Shared, session: &mut ServerSession) -> Answer {
    let head = session.req_header();
    let (method, query) = (head.method.clone(), head.uri.query().unwrap_or_default().to_owned());
    let path = head.uri.path().strip_prefix(PATH).unwrap_or_default().to_owned();
    let (name, key) = path.split_once('/').unwrap_or((&path, ""));
    let Ok(key) = percent_decode_str(key).decode_utf8().map(String::from) else {
        return text(StatusCode::BAD_REQUEST, "a key is text in UTF-8\n");
    };
    let snapshot = shared.snapshot.load_full();
    let declared = snapshot.state.namespaces.iter().find(|namespace| namespace.name == name);
    let (Some(namespace), Some(store)) = (declared, &shared.state.store) else {
        return text(StatusCode::NOT_FOUND, "state.kv has no such namespace\n");
    };
    let done = match (&method, key.is_empty()) {
        (&Method::GET | &Method::HEAD, true) => list(store, namespace, &query).await,
        (_, true) => return not_allowed("GET, HEAD"),
        (&Method::GET | &Method::HEAD, false) => get(store, namespace, key).await,
        (&Method::PUT, false) => put(store, namespace, key, &query, session).await,
        (&Method::DELETE, false) => delete(store, namespace, key).await,
        (_, false) => return not_allowed("GET, HEAD, PUT, DELETE"),
    };
    done.unwrap_or_else(|error| refusal(&error))
}

fn refusal(error: &StoreError) -> Answer {
    let status = match error {
        StoreError::Invalid(_) => StatusCode::BAD_REQUEST,
        StoreError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        StoreError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, &format!("{error}\n"))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

async fn list(
    store: &Arc<dyn Store>,
    namespace: &Arc<Namespace>,
    query: &str,
) -> Result<Answer, StoreError> {
    let prefix = parameter(query, "prefix").unwrap_or_default();
    let page = Page { prefix, after: parameter(query, "after"), limit: KEYS };
    let keys = store.list(namespace, page).await?;
    Ok(answer(StatusCode::OK, &json!({ "keys": keys })))
}

async fn get(
    store: &Arc<dyn Store>,
    namespace: &Arc<Namespace>,
    key: String,
) -> Result<Answer, StoreError> {
    Ok(match store.get(namespace, key).await? {
        Some(value) => with_type(StatusCode::OK, "application/octet-stream", value.to_vec()),
        None => text(StatusCode::NOT_FOUND, "no such entry\n"),
    })
}

async fn put(
    store: &Arc<dyn Store>,
    namespace: &Arc<Namespace>,
    key: String,
    query: &str,
    session: &mut ServerSession,
) -> Result<Answer, StoreError> {
    let ttl = match parameter(query, "ttl").map(|ttl| parse_duration(&ttl)).transpose() {
        Ok(ttl) => ttl,
        Err(message) => return Ok(text(StatusCode::BAD_REQUEST, &format!("ttl: {message}\n"))),
    };
    let read = tokio::time::timeout(BODY, body(session, namespace.max_value)).await;
    let Ok(Ok(value)) = read else {
        // What is left of the body must not be taken for a request.
        session.set_keepalive(None);
        return Ok(text(StatusCode::BAD_REQUEST, "the body did not come\n"));
    };
    let put = Put { key, value: value.into(), ttl, when: When::Always };
    let kept = store.put(namespace, put).await;
    if kept.is_err() {
        session.set_keepalive(None);
    }
    kept.map(|_| text(StatusCode::OK, "ok\n"))
}

/// The body, or the beginning of one that is too large, which the store refuses.
async fn body(session: &mut ServerSession, most: usize) -> pingora_core::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = session.read_request_body().await? {
        body.extend_from_slice(&chunk);
        if body.len() > most {
            break;
        }
    }
    Ok(body)
}

async fn delete(
    store: &Arc<dyn Store>,
    namespace: &Arc<Namespace>,
    key: String,
) -> Result<Answer, StoreError> {
    Ok(match store.delete(namespace, key).await? {
        true => text(StatusCode::OK, "ok\n"),
        false => text(StatusCode::NOT_FOUND, "no such entry\n"),
    })
}
