//! What a hook works on: plain types, made by the proxy and taken back from the script.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::{Mutex, MutexGuard};

use crate::cache::policy::Wishes;

/// One request and what became of it. Copies share the drafts; an edit makes one of its own.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub request: Arc<RequestDraft>,
    pub response: Option<Arc<ResponseDraft>>,
    pub error: Option<ErrorInfo>,
    pub event: Option<Event>,
}

/// What `on_schedule` is given.
#[derive(Debug, Clone)]
pub struct Event {
    /// Of the schedule's entry.
    pub name: String,
    /// When it was due, in seconds since 1970.
    pub time: u64,
}

#[derive(Debug, Clone)]
pub struct RequestDraft {
    pub method: Method,
    pub scheme: String,
    pub host: String,
    pub path: String,
    /// Without its `?`; None when the target has none.
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: MessageBody,
    pub version: http::Version,
    pub id: String,
    pub route: String,
    pub params: Vec<(String, String)>,
    pub upstream: Option<String>,
    /// In place of what the route counts of query, headers and cookies.
    pub cache_key: Option<String>,
    pub client: Client,
    pub ctx: Ctx,
    /// For `on_log` only.
    pub ending: Option<Arc<Ending>>,
}

/// What is known of a request once it has ended.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// What the client got; 0 where it got nothing.
    pub status: u16,
    /// Of bodies, or after an upgrade of all that went by.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// From the request's head to the end of the response.
    pub took: Duration,
    /// From the request's head to the response's.
    pub first_byte: Option<Duration>,
    /// The upstream and its endpoint, where one was tried.
    pub upstream: Option<Arc<str>>,
    pub endpoint: Option<String>,
    pub upstream_time: Option<Duration>,
    /// Tries to reach an origin.
    pub attempts: u32,
    /// Whether the client left before the end.
    pub aborted: bool,
    /// What went wrong, as in the access log.
    pub error: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub struct Client {
    pub ip: IpAddr,
    pub port: u16,
    pub tls: Option<TlsInfo>,
}

#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    pub version: String,
    pub cipher: String,
    pub sni: Option<String>,
    pub alpn: Option<String>,
    pub cert: Option<CertInfo>,
}

#[derive(Debug, Clone, Default)]
pub struct CertInfo {
    pub cn: String,
    pub san: Vec<String>,
    pub issuer: String,
    pub serial: String,
    pub fingerprint: String,
}

#[derive(Debug, Clone)]
pub struct ResponseDraft {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: MessageBody,
    pub from: From,
    /// What the running hook gave for the body, by numbers of its run; empty outside of runs.
    pub transforms: Vec<usize>,
    /// How it is to be stored; there in `on_upstream_response` only.
    pub cache: Option<Box<Wishes>>,
}

impl ResponseDraft {
    /// A filter's own response.
    pub fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let body = MessageBody::Replaced(body.into());
        let (transforms, cache) = (Vec::new(), None);
        Self { status, headers: HeaderMap::new(), body, from: From::Filter, transforms, cache }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageBody {
    /// It streams past; no script has seen it.
    Untouched,
    /// It was read whole, as it came. Left so, it goes on as it came.
    Held(Bytes),
    /// A script's own.
    Replaced(Bytes),
}

/// Who made a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Origin,
    Filter,
    Proxy,
    Cache,
}

impl From {
    pub fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Filter => "filter",
            Self::Proxy => "proxy",
            Self::Cache => "cache",
        }
    }
}

/// Why there is no usable response.
#[derive(Debug, Clone)]
pub struct ErrorInfo {
    pub kind: String,
    pub status: u16,
    pub message: String,
}

/// What a filter keeps from one hook of a request to the next; plain data. Copies share it, so
/// the proxy keeps one per filter nest and puts it into each of the request's exchanges.
#[derive(Debug, Clone, Default)]
pub struct Ctx(Arc<OfRequest>);

type Data = serde_json::Map<String, serde_json::Value>;

#[derive(Debug, Default)]
struct OfRequest {
    data: Mutex<Data>,
    /// Fetches that each filter has started for this request.
    fetches: Mutex<BTreeMap<Arc<str>, u32>>,
}

impl Ctx {
    /// The data, locked: not to be held across a wait.
    pub(super) fn data(&self) -> MutexGuard<'_, Data> {
        self.0.data.lock()
    }

    /// Counts one fetch of a filter; false when it may start no more.
    pub(super) fn take_fetch(&self, filter: &Arc<str>, most: u32) -> bool {
        let mut fetches = self.0.fetches.lock();
        let started = fetches.entry(filter.clone()).or_default();
        *started = started.saturating_add(1);
        *started <= most
    }

    /// A copy that shares nothing, for the rollback.
    pub(super) fn snapshot(&self) -> Data {
        self.data().clone()
    }

    pub(super) fn restore(&self, to: Data) {
        *self.data() = to;
    }

    /// The same data for somebody else.
    fn apart(&self) -> Self {
        let fetches = Mutex::new(self.0.fetches.lock().clone());
        Self(Arc::new(OfRequest { data: Mutex::new(self.snapshot()), fetches }))
    }
}

impl Exchange {
    /// A copy that shares nothing which a script can change.
    pub(super) fn apart(&self) -> Self {
        let mut copy = self.clone();
        let request = Arc::make_mut(&mut copy.request);
        request.ctx = request.ctx.apart();
        copy
    }

    /// A GET of `/`, for tests.
    pub fn for_test() -> Self {
        Self::without_client("test-1", "test")
    }

    /// What no client asked for; the id and the route are for the log.
    pub fn of_event(event: Event) -> Self {
        let id = format!("{}-{}", event.name, event.time);
        Self { event: Some(event), ..Self::without_client(&id, "schedule") }
    }

    fn without_client(id: &str, route: &str) -> Self {
        let request = RequestDraft {
            method: Method::GET,
            scheme: "http".into(),
            host: "example.com".into(),
            path: "/".into(),
            query: None,
            headers: HeaderMap::new(),
            body: MessageBody::Untouched,
            version: http::Version::HTTP_11,
            id: id.into(),
            route: route.into(),
            params: Vec::new(),
            upstream: None,
            cache_key: None,
            client: Client { ip: IpAddr::from([127, 0, 0, 1]), port: 40000, tls: None },
            ctx: Ctx::default(),
            ending: None,
        };
        Self { request: Arc::new(request), response: None, error: None, event: None }
    }
}
