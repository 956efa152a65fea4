//! For operators: health, readiness, reload and state on one address, metrics on another.

mod cache;
mod kv;
mod upstreams;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::http::RequestHeader;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::{Value, json};

use crate::config::pattern::canonical_host;
use crate::config::problem::Problem;
use crate::config::routes::Action;
use crate::listen::conn_of;
use crate::snapshot::Shared;

/// What a reload did, or every reason why it did nothing.
pub type Reloaded = Result<Value, Vec<Problem>>;

/// Carries out a reload; the server gives it.
pub trait Reload: Send + Sync {
    fn reload(&self) -> Reloaded;
}

/// What an address answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    Admin,
    Metrics,
}

/// The service behind the admin and the metrics address.
pub struct Operators {
    pub face: Face,
    pub shared: Arc<Shared>,
    pub reload: Arc<dyn Reload>,
}

#[async_trait]
impl ServeHttp for Operators {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let conn = conn_of(session).cloned();
        if let Some(conn) = &conn {
            conn.request_begins(session.req_header());
        }
        let head = session.req_header();
        let local = conn.as_ref().is_some_and(|conn| conn.peer.ip().is_loopback());
        let no_body = head.method == Method::HEAD;
        let mut response = match (self.face, refused(head, local)) {
            (Face::Metrics, _) => self.metrics(head),
            (Face::Admin, Some(refusal)) => refusal,
            (Face::Admin, None) if head.uri.path().starts_with(kv::PATH) => {
                kv::respond(&self.shared, session).await
            }
            (Face::Admin, None) => self.admin(head).await,
        };
        if no_body {
            response.body_mut().clear();
        }
        if let Some(conn) = &conn {
            conn.request_ends();
        }
        response
    }
}

impl Operators {
    async fn admin(&self, head: &RequestHeader) -> Response<Vec<u8>> {
        match (head.uri.path(), reads(head)) {
            ("/healthz", true) => text(StatusCode::OK, "ok\n"),
            ("/readyz", true) if self.shared.is_ready() => text(StatusCode::OK, "ready\n"),
            ("/readyz", true) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            ("/config", true) => self.config(),
            ("/routes", true) => answer(StatusCode::OK, &self.routes()),
            ("/upstreams", true) => answer(StatusCode::OK, &self.upstreams()),
            ("/cache", true) => cache::explain(head, &self.shared).await,
            ("/purge", _) if head.method == Method::POST => cache::purge(head, &self.shared).await,
            ("/reload", _) if head.method == Method::POST => self.reload().await,
            ("/healthz" | "/readyz" | "/config" | "/routes" | "/upstreams" | "/cache", _) => {
                not_allowed("GET, HEAD")
            }
            ("/reload" | "/purge", _) => not_allowed("POST"),
            (path, _) if path.starts_with("/upstreams/") => self.act_on_upstream(head),
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /healthz /readyz /config /routes /upstreams /cache /kv/NAMESPACE/KEY, \
                 POST /reload /purge /upstreams/NAME/{drain,disable,enable}?endpoint=ADDRESS\n",
            ),
        }
    }

    /// Reads files, and large lists among them: not on a worker.
    async fn reload(&self) -> Response<Vec<u8>> {
        let reload = Arc::clone(&self.reload);
        match tokio::task::spawn_blocking(move || reload.reload()).await {
            Ok(Ok(changes)) => answer(StatusCode::OK, &changes),
            Ok(Err(problems)) => {
                answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "problems": problems }))
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("reload: {error}\n")),
        }
    }

    fn metrics(&self, head: &RequestHeader) -> Response<Vec<u8>> {
        if head.uri.path() != "/metrics" {
            return text(StatusCode::NOT_FOUND, "GET /metrics\n");
        }
        if !reads(head) {
            return not_allowed("GET, HEAD");
        }
        match self.shared.metrics_page() {
            Ok(page) => with_type(StatusCode::OK, "text/plain; version=0.0.4", page.into_bytes()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("metrics: {error}\n")),
        }
    }

    fn config(&self) -> Response<Vec<u8>> {
        match serde_yaml::to_string(&self.shared.snapshot.load().effective) {
            Ok(yaml) => with_type(StatusCode::OK, "application/yaml", yaml.into_bytes()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("config: {error}\n")),
        }
    }

    fn routes(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        let routes = snapshot.routes.iter().map(|route| {
            let matches = &route.config.matches;
            json!({
                "name": &*route.name,
                "host": matches.host.to_string(),
                "path": matches.path.to_string(),
                "methods": matches.methods.iter().map(|m| m.as_str()).collect::<Vec<_>>(),
                "filters": route.filters.iter().map(|f| &*f.config.name).collect::<Vec<_>>(),
                "action": match &route.config.action {
                    Action::Upstream(_) => "upstream",
                    Action::Split(_) => "split",
                    Action::Redirect { .. } => "redirect",
                    Action::Respond { .. } => "respond",
                    Action::Aggregate(_) => "aggregate",
                },
                "upstream": route.upstream.as_ref().map(|u| &**u.pool.name()),
            })
        });
        json!({ "version": snapshot.version, "routes": routes.collect::<Vec<_>>() })
    }

    fn act_on_upstream(&self, head: &RequestHeader) -> Response<Vec<u8>> {
        if head.method != Method::POST {
            return not_allowed("POST");
        }
        let snapshot = self.shared.snapshot.load();
        let pool = |name: &str| snapshot.upstreams.get(name).map(|state| &state.pool);
        match upstreams::act(head.uri.path(), head.uri.query().unwrap_or_default(), pool) {
            Ok(shown) => answer(StatusCode::OK, &shown),
            Err(why) => text(StatusCode::NOT_FOUND, &format!("{why}\n")),
        }
    }

    fn upstreams(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        let mut names: Vec<_> = snapshot.upstreams.keys().cloned().collect();
        names.sort();
        let upstreams = names
            .iter()
            .filter_map(|name| snapshot.upstreams.get(name))
            .map(|state| upstreams::show(&state.pool));
        json!({ "upstreams": upstreams.collect::<Vec<_>>() })
    }
}

fn reads(head: &RequestHeader) -> bool {
    matches!(head.method, Method::GET | Method::HEAD)
}

/// What a web page in an operator's browser could have sent. There is no login, so a page must
/// neither read the state, by a name of its own that points to loopback, nor start a reload.
fn refused(head: &RequestHeader, local: bool) -> Option<Response<Vec<u8>>> {
    let told_to_all = matches!(head.uri.path(), "/healthz" | "/readyz");
    if local && !told_to_all && !is_local_name(head) {
        let why = "over loopback this address answers to localhost and 127.0.0.1 only\n";
        return Some(text(StatusCode::MISDIRECTED_REQUEST, why));
    }
    // Browsers send it with every POST.
    if !reads(head) && head.headers.contains_key(header::ORIGIN) {
        return Some(text(StatusCode::FORBIDDEN, "not for web pages\n"));
    }
    None
}

/// Whether `Host` is what loopback is called; a client that names no host is no browser.
fn is_local_name(head: &RequestHeader) -> bool {
    let given = head.headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    let Some(host) = given.or(head.uri.authority().map(|authority| authority.as_str())) else {
        return true;
    };
    let name = canonical_host(host);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn not_allowed(allow: &str) -> Response<Vec<u8>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allow}\n"));
    if let Ok(allow) = allow.parse() {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn text(status: StatusCode, body: &str) -> Response<Vec<u8>> {
    with_type(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn answer(status: StatusCode, body: &Value) -> Response<Vec<u8>> {
    with_type(status, "application/json", format!("{body:#}\n").into_bytes())
}

fn with_type(status: StatusCode, media: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}
