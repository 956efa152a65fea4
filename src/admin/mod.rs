//! For operators: health, readiness, reload and state on one address, metrics on another.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::{Value, json};

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
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let response = match self.face {
            Face::Admin => self.admin(&method, &path),
            Face::Metrics => self.metrics(&method, &path),
        };
        if let Some(conn) = &conn {
            conn.request_ends();
        }
        response
    }
}

impl Operators {
    fn admin(&self, method: &Method, path: &str) -> Response<Vec<u8>> {
        let get = method == Method::GET;
        match path {
            "/healthz" if get => text(StatusCode::OK, "ok\n"),
            "/readyz" if get && self.shared.ready.load(Relaxed) => text(StatusCode::OK, "ready\n"),
            "/readyz" if get => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/config" if get => self.config(),
            "/routes" if get => answer(StatusCode::OK, &self.routes()),
            "/upstreams" if get => answer(StatusCode::OK, &self.upstreams()),
            "/reload" if method == Method::POST => match self.reload.reload() {
                Ok(changes) => answer(StatusCode::OK, &changes),
                Err(problems) => {
                    answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "problems": problems }))
                }
            },
            "/healthz" | "/readyz" | "/config" | "/routes" | "/upstreams" => not_allowed("GET"),
            "/reload" => not_allowed("POST"),
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /healthz /readyz /config /routes /upstreams, POST /reload\n",
            ),
        }
    }

    fn metrics(&self, method: &Method, path: &str) -> Response<Vec<u8>> {
        match (path, self.shared.metrics_page()) {
            ("/metrics", _) if method != Method::GET => not_allowed("GET"),
            ("/metrics", Ok(page)) => {
                with_type(StatusCode::OK, "text/plain; version=0.0.4", page.into_bytes())
            }
            ("/metrics", Err(error)) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, &format!("metrics: {error}\n"))
            }
            _ => text(StatusCode::NOT_FOUND, "GET /metrics\n"),
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
                    Action::Redirect { .. } => "redirect",
                    Action::Respond { .. } => "respond",
                },
                "upstream": route.upstream.as_ref().map(|u| &**u.pool.name()),
            })
        });
        json!({ "version": snapshot.version, "routes": routes.collect::<Vec<_>>() })
    }

    fn upstreams(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        let mut names: Vec<_> = snapshot.upstreams.keys().cloned().collect();
        names.sort();
        let upstreams = names.iter().filter_map(|name| snapshot.upstreams.get(name)).map(|state| {
            let endpoints = state.pool.members().iter().map(|member| {
                json!({
                    "address": member.endpoint.address().to_string(),
                    "weight": member.weight,
                    "healthy": member.endpoint.healthy(),
                    "checked": member.endpoint.known(),
                    "in_flight": member.endpoint.in_flight(),
                })
            });
            json!({ "name": &**state.pool.name(), "endpoints": endpoints.collect::<Vec<_>>() })
        });
        json!({ "upstreams": upstreams.collect::<Vec<_>>() })
    }
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
