//! What a request carries from phase to phase, in groups that each belong to one concern.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri};

use super::fail::Failure;
use super::retry::Due;
use crate::listen::ConnState;
use crate::routing::Params;
use crate::snapshot::{RouteState, Snapshot, UpstreamState};
use crate::telemetry::handles::Held;
use crate::telemetry::trace::TraceContext;
use crate::upstream::attempt::Attempt as Try;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::retry::Repetition;

/// Per-request state. Empty until the head was read.
#[derive(Default)]
pub struct Ctx {
    pub facts: Option<Facts>,
    pub routed: Option<Routed>,
    pub attempt: Attempt,
    pub outcome: Outcome,
    pub body: super::body::RequestBody,
    pub scripts: super::exchange::ScriptState,
    pub cache: super::cache::CacheState,
    /// Tells the copy of the request what its origin answered.
    pub mirror: Option<tokio::sync::oneshot::Sender<super::mirror::Original>>,
    /// In `selvedge dev` only.
    pub dev: Option<Arc<super::dev::Notes>>,
}

/// What is known once the head was read, and does not change.
pub struct Facts {
    pub snapshot: Arc<Snapshot>,
    pub time: SystemTime,
    pub started: Instant,
    pub request_id: HeaderValue,
    pub trace: TraceContext,
    pub client: IpAddr,
    /// Whether the peer is one of the trusted proxies.
    pub trusted_peer: bool,
    pub scheme: &'static str,
    pub method: Method,
    /// See [`Facts::host`].
    pub named_host: HeaderValue,
    /// The target as the client sent it, for the log.
    pub target: Uri,
    pub upgrade: bool,
    pub conn: Option<Live>,
    pub _in_flight: Held,
}

impl Facts {
    /// `Host`, or `:authority` where HTTP/2 sends no `Host`; empty where there is neither.
    pub fn host(&self) -> &str {
        self.named_host.to_str().unwrap_or_default()
    }

    /// The target's path and query.
    pub fn target(&self) -> &str {
        self.target.path_and_query().map_or("", PathAndQuery::as_str)
    }
}

/// A request's connection. The request counts on it while this is held, unless it goes on without
/// its client.
pub struct Live(pub Arc<ConnState>, bool);

impl Live {
    pub fn counted(conn: Arc<ConnState>) -> Self {
        Self(conn, true)
    }

    /// The same connection for what goes on behind the client's back.
    pub fn uncounted(&self) -> Self {
        Self(Arc::clone(&self.0), false)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.1 {
            self.0.request_ends();
        }
    }
}

/// The route, and the request's path as that route reads it.
#[derive(Clone)]
pub struct Routed {
    pub index: usize,
    pub route: Arc<RouteState>,
    /// In normal form; `params` point into it.
    pub path: String,
    pub params: Params,
    /// The upstream in use: the route's, or a filter's choice.
    pub upstream: Option<Arc<UpstreamState>>,
}

/// Tries to reach an origin.
#[derive(Default)]
pub struct Attempt {
    /// Those that failed, and are not tried again.
    pub tried: Vec<Arc<Endpoint>>,
    /// Why, in the same order.
    pub failures: Vec<&'static str>,
    pub current: Option<Try>,
    /// The repetition that begins next.
    pub due: Option<Due>,
    /// The repetition's place in the budget.
    pub place: Option<Repetition>,
    /// What the request ends with if no endpoint is left for the repetition.
    pub otherwise: Option<Failure>,
    /// It was decided whether the request is copied.
    pub mirrored: bool,
    /// The upstream in use stands in for the route's.
    pub fell_back: bool,
    pub first_began: Option<Instant>,
    pub began: Option<Instant>,
    pub retries: u32,
    /// 1xx responses so far.
    pub informational: u32,
    /// The response's head came, and more than the client has to do with it: the cache.
    pub taken_in: bool,
    /// Time spent waiting for origins.
    pub waited: Duration,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    pub failure: Option<Failure>,
    pub first_byte: Option<Duration>,
    pub body_in: u64,
    pub body_out: u64,
    pub status: u16,
    /// The filter that answered.
    pub answered_by: Option<Arc<str>>,
}

impl Ctx {
    /// The facts; a hook that runs before they are known is a fault of this program.
    pub fn facts(&self) -> pingora::Result<&Facts> {
        self.facts.as_ref().ok_or_else(|| out_of_order("facts"))
    }

    pub fn routed(&self) -> pingora::Result<&Routed> {
        self.routed.as_ref().ok_or_else(|| out_of_order("route"))
    }

    /// Ends the request with `failure`: kept here, and as Pingora's error for its own way out.
    pub fn refuse(&mut self, failure: Failure) -> Box<pingora::Error> {
        let error = pingora::Error::explain(
            pingora::ErrorType::HTTPStatus(failure.row().status.as_u16()),
            failure.to_string(),
        );
        self.outcome.failure = Some(failure);
        error
    }
}

pub fn out_of_order(what: &'static str) -> Box<pingora::Error> {
    pingora::Error::explain(pingora::ErrorType::InternalError, format!("no {what} yet"))
}
