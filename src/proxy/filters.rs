//! One run of one hook of one filter: its hands, its cost in metrics, its faults in the log.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use log::Level;
use parking_lot::Mutex;
use pingora::ErrorType;
use pingora_proxy::Session;

use super::after::Waiting;
use super::ctx::Ctx;
use super::dev;
use super::fail::Failure;
use super::head::TRACEPARENT;
use crate::config::filters::OnFault;
use crate::script::{
    BoxFuture, Cause, Exchange, Fault, FetchError, FetchErrorKind, FetchRequest, FetchResponse,
    Hook, Host, KeySets, Limits, Outcome, RequestDraft, ResponseDraft, Run, RunFigures, Verified,
    left_behind, run,
};
use crate::snapshot::{FilterState, Shared, Snapshot};
use crate::state::{Place, State};
use crate::telemetry::handles::RunCost;
use crate::telemetry::trace::TraceContext;
use crate::transform::Stage;
use crate::upstream::client::{Client, ClientError, ClientRequest, Target};
use crate::upstream::egress::{self, EgressError};

/// How the request goes on after a hook.
pub enum Next {
    Continue(Exchange),
    /// As before, and the body that streams by passes this stage.
    Transform(Exchange, Mutex<Box<dyn Stage>>),
    Answer(Exchange, ResponseDraft),
    Fail(Failure),
}

/// Runs `hook` of `filter` for as long as the client is there.
pub async fn run_watched(
    session: &mut Session,
    shared: &Shared,
    ctx: &Ctx,
    filter: &Arc<FilterState>,
    hook: Hook,
    exchange: Exchange,
) -> Next {
    if ctx.cache.is_refresh() {
        return run_hook(shared, ctx, filter, hook, exchange).await; // Nobody can go away.
    }
    // In this order a run that never waits costs nothing more.
    tokio::select! {
        biased;
        next = run_hook(shared, ctx, filter, hook, exchange) => next,
        why = gone(session) => Next::Fail(Failure::ClientGone(why)),
    }
}

/// Resolves once the client is gone. While an HTTP/1 body is still to come nobody looks, since
/// looking is reading.
pub async fn gone(session: &mut Session) -> String {
    let downstream = &mut session.downstream_session;
    if downstream.is_http2() || downstream.is_body_done() {
        match downstream.read_body_or_idle(true).await {
            // Bytes after the request: they are lost, so the connection ends with it.
            Err(error) if *error.etype() == ErrorType::ConnectError => {
                downstream.set_keepalive(None);
            }
            Err(error) => return error.to_string(),
            Ok(_) => {}
        }
    }
    std::future::pending().await
}

/// Runs `hook` of `filter`, and judges a fault by the filter's `on_fault`.
pub async fn run_hook(
    shared: &Shared,
    ctx: &Ctx,
    filter: &Arc<FilterState>,
    hook: Hook,
    exchange: Exchange,
) -> Next {
    let Ok(facts) = ctx.facts() else {
        return Next::Fail(Failure::Internal("a hook before the request was read".into()));
    };
    let (snapshot, notes) = (&facts.snapshot, ctx.dev.as_deref());
    let scene = Scene { shared, snapshot, trace: facts.trace, notes };
    let (ran, run) = match scene.run(filter, hook, exchange).await {
        Turn::Ran(ran, run) => (ran, run),
        Turn::Out(exchange) => return without(filter, Cause::Error, exchange),
    };
    let Run { exchange, outcome, body, after, .. } = run;
    if let Some(after) = after {
        let (filter, request) = (Arc::clone(ran), Arc::clone(&exchange.request));
        ctx.scripts.after.lock().push(Waiting { after, filter, request });
    }
    match outcome {
        Outcome::Continue => match body {
            Some(stage) => Next::Transform(exchange, Mutex::new(stage)),
            None => Next::Continue(exchange),
        },
        Outcome::Answer(answer) => Next::Answer(exchange, answer),
        Outcome::Fault(fault) => without(filter, fault.cause, exchange),
    }
}

/// The request goes on, or not, without what the filter would have done.
fn without(filter: &FilterState, cause: Cause, exchange: Exchange) -> Next {
    match (filter.config.on_fault, cause) {
        (OnFault::Open, _) => Next::Continue(exchange),
        (OnFault::Closed | OnFault::Previous, Cause::Busy) => Next::Fail(Failure::FiltersBusy),
        (OnFault::Closed | OnFault::Previous, _) => {
            Next::Fail(Failure::FilterFault(filter.config.name.to_string()))
        }
    }
}

/// What runs of hooks need beside what they work on.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub shared: &'a Shared,
    pub snapshot: &'a Arc<Snapshot>,
    pub trace: TraceContext,
    pub notes: Option<&'a dev::Notes>,
}

/// What came of a filter's turn.
pub enum Turn<'a> {
    /// The version that ran last, and its run.
    Ran(&'a Arc<FilterState>, Run),
    /// The filter is taken out.
    Out(Exchange),
}

impl<'s> Scene<'s> {
    /// One run of a hook: of the filter if it may run, else, or if it faults, of the version before
    /// where there is one.
    pub async fn run<'f>(
        self,
        filter: &'f Arc<FilterState>,
        hook: Hook,
        mut exchange: Exchange,
    ) -> Turn<'f> {
        if let Some(passed) = filter.guard.pass() {
            let run = self.run_version(filter, hook, exchange).await;
            let cause = cause(&run.outcome);
            passed.judge(cause.is_some_and(|cause| cause != Cause::Busy));
            if filter.previous.is_none() || cause.is_none_or(|cause| cause == Cause::Busy) {
                return Turn::Ran(filter, run);
            }
            exchange = run.exchange;
        }
        match &filter.previous {
            Some(previous) if previous.guard.pass().is_some() => {
                previous.metrics.previous_runs();
                Turn::Ran(previous, self.run_version(previous, hook, exchange).await)
            }
            _ => {
                filter.metrics.not_run(hook.name());
                Turn::Out(exchange)
            }
        }
    }

    async fn run_version(self, filter: &Arc<FilterState>, hook: Hook, exchange: Exchange) -> Run {
        let Self { shared, snapshot, trace, notes } = self;
        let before = Arc::clone(&exchange.request);
        let hands = Hands::new(shared, snapshot, filter, trace, &before);
        let limits = limits(filter, snapshot);
        let run = run(&filter.script, hook, exchange, Arc::new(hands), limits).await;
        count(filter, hook.name(), &run.outcome, run.figures);
        if let Some(verified) = &run.verified {
            note_verified(filter, hook, verified);
        }
        filter.guard.leaked(left_behind(&filter.script, &before, &run));
        let fault = match &run.outcome {
            Outcome::Fault(fault) => Some(&**fault),
            _ => None,
        };
        if let Some(fault) = fault {
            tell_log_later(snapshot, filter, hook.name(), fault, &run.exchange.request);
        }
        dev::note(notes, filter, hook, label(&run.outcome), (run.figures, fault));
        run
    }
}

fn cause(outcome: &Outcome) -> Option<Cause> {
    match outcome {
        Outcome::Fault(fault) => Some(fault.cause),
        _ => None,
    }
}

fn note_verified(filter: &FilterState, hook: Hook, verified: &Verified) {
    filter.metrics.verified(hook.name(), verified.name());
    if let Verified::Different { rhai, lowered } = verified {
        let (name, hook) = (&filter.config.name, hook.name());
        log::error!("filter {name} {hook}: lowered code left {lowered}, and Rhai {rhai}");
    }
}

/// Faults of filters that cannot be shown a response; what they mean for the request, if anything.
pub fn refuse_all(
    ctx: &Ctx,
    filters: &[Arc<FilterState>],
    why: &dyn std::fmt::Display,
) -> Option<Failure> {
    let mut failure = None;
    for filter in filters {
        filter.metrics.run(Hook::Response.name(), "fault", RunCost::default());
        tell_log(ctx, filter, Hook::Response.name(), &why.to_string());
        if filter.config.on_fault != OnFault::Open {
            failure.get_or_insert(Failure::FilterFault(filter.config.name.to_string()));
        }
    }
    failure
}

fn more_not_shown(suppressed: u64) -> String {
    if suppressed > 0 { format!(" ({suppressed} more not shown)") } else { String::new() }
}

/// A run's cost and end, in metrics.
pub fn count(filter: &FilterState, what: &'static str, outcome: &Outcome, figures: RunFigures) {
    let cost = RunCost {
        duration: figures.wall,
        operations: figures.operations,
        memory_bytes: figures.peak_memory as u64,
    };
    filter.metrics.run(what, label(outcome), cost);
    if let Outcome::Fault(fault) = outcome
        && let Cause::Limit(hit) = fault.cause
    {
        filter.metrics.limit_hit(hit.kind.name());
    }
}

/// What one run of the filter may use.
pub fn limits(filter: &FilterState, snapshot: &Snapshot) -> Limits {
    let mut limits = Limits::from(&filter.config.limits);
    limits.fibers = snapshot.limits.filter_runs.value as usize;
    limits
}

pub fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Continue => "continue",
        Outcome::Answer(_) => "answer",
        Outcome::Fault(fault) => label_of(fault),
    }
}

pub fn label_of(fault: &Fault) -> &'static str {
    match fault.cause {
        Cause::Limit(_) => "limit",
        Cause::Busy => "busy",
        Cause::Panic => "panic",
        Cause::Error | Cause::Returned => "fault",
    }
}

/// Counts and logs a fault after the hook's own end.
pub fn note_fault(ctx: &Ctx, filter: &FilterState, fault: &Fault) {
    if let Cause::Limit(hit) = fault.cause {
        filter.metrics.limit_hit(hit.kind.name());
    }
    tell_log(ctx, filter, fault.hook.name(), &text_of(fault));
}

/// Tells the log of what went wrong for a filter in a request.
pub fn tell_log(ctx: &Ctx, filter: &FilterState, hook: &str, text: &str) {
    let Some(facts) = &ctx.facts else { return };
    let id = facts.request_id.to_str().unwrap_or_default();
    let route = ctx.routed.as_ref().map_or("-", |routed| &*routed.route.name);
    write_log(&facts.snapshot, filter, hook, (id, route), text);
}

/// The same, once the request is gone.
pub fn tell_log_later(
    snapshot: &Snapshot,
    filter: &FilterState,
    what: &str,
    fault: &Fault,
    request: &RequestDraft,
) {
    write_log(snapshot, filter, what, (&request.id, &request.route), &text_of(fault));
}

fn write_log(
    snapshot: &Snapshot,
    filter: &FilterState,
    what: &str,
    (id, route): (&str, &str),
    text: &str,
) {
    let Some(suppressed) = snapshot.failures_logged.admit() else { return };
    let (name, more) = (&filter.config.name, more_not_shown(suppressed));
    log::error!("filter {name} {what} request {id} route {route}: {text}{more}");
}

/// All that the author needs, none of which the client gets.
fn text_of(fault: &Fault) -> String {
    if fault.cause == Cause::Busy {
        // Nothing of the script has run, so it has no place.
        return fault.message.clone();
    }
    let Fault { line, column, message, .. } = fault;
    let text = format!("{}:{line}:{column}: {message}", fault.file.display());
    match fault.source_line.trim() {
        "" => text,
        source => format!("{text} | {source}"),
    }
}

/// What a filter reaches during one run.
pub struct Hands {
    filter: Arc<FilterState>,
    snapshot: Arc<Snapshot>,
    client: Arc<Client>,
    state: Arc<State>,
    key_sets: Arc<KeySets>,
    trace: TraceContext,
    request: Arc<RequestDraft>,
}

impl Hands {
    pub fn new(
        shared: &Shared,
        snapshot: &Arc<Snapshot>,
        filter: &Arc<FilterState>,
        trace: TraceContext,
        request: &Arc<RequestDraft>,
    ) -> Self {
        Self {
            filter: Arc::clone(filter),
            snapshot: Arc::clone(snapshot),
            client: Arc::clone(&shared.client),
            state: Arc::clone(&shared.state),
            key_sets: Arc::clone(&shared.key_sets),
            trace,
            request: Arc::clone(request),
        }
    }
}

impl Host for Hands {
    fn fetch(
        &self,
        request: FetchRequest,
    ) -> BoxFuture<'static, Result<FetchResponse, FetchError>> {
        let upstream = request.url.host().and_then(|host| self.snapshot.upstreams.get(host));
        let pool = upstream.map(|upstream| Arc::clone(&upstream.pool));
        let (client, trace) = (Arc::clone(&self.client), self.trace.child());
        let metrics = Arc::clone(&self.filter.metrics);
        Box::pin(async move {
            let target = match pool.filter(|_| request.url.port().is_none()) {
                Some(pool) => Target::Pool(pool),
                None => address(&request.url).await?,
            };
            let answer = client.request(target, outgoing(request, &trace)).await;
            let answer = answer.map_err(fetch_error);
            metrics.fetch(answer.as_ref().map_or_else(|error| error.kind.name(), |_| "ok"));
            let answer = answer?;
            Ok(FetchResponse { status: answer.status, headers: answer.headers, body: answer.body })
        })
    }

    fn log(&self, level: Level, message: &str, fields: &[(String, String)]) {
        let fields: String =
            fields.iter().map(|(name, value)| format!(" {name}={value:?}")).collect();
        let (filter, request) = (&self.filter.config.name, &self.request);
        let (id, route) = (&request.id, &request.route);
        log::log!(target: "filter", level, "{filter} request {id} route {route}: {message}{fields}");
    }

    fn state(&self) -> &Arc<State> {
        &self.state
    }

    fn place(&self, address: IpAddr) -> Result<Place, String> {
        self.snapshot.lists.place(address)
    }

    fn key_sets(&self) -> &KeySets {
        &self.key_sets
    }

    fn upstream_healthy(&self, name: &str) -> Option<bool> {
        let upstream = self.snapshot.upstreams.get(name)?;
        Some(upstream.pool.any_well())
    }
}

/// An origin outside of the configured upstreams. What the grant spells out may be private; a
/// name in the DNS must lead to a public address, since its owner decides where it leads.
async fn address(url: &Uri) -> Result<Target, FetchError> {
    let tls = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let resolved = egress::resolve(host, port, is_spelt_out(host)).await;
    let address = resolved.map_err(|error| FetchError {
        kind: match error {
            EgressError::Forbidden { .. } => FetchErrorKind::Denied,
            _ => FetchErrorKind::Connect,
        },
        message: error.to_string(),
    })?;
    Ok(Target::Address { address, tls: tls.then(|| host.to_owned()) })
}

fn is_spelt_out(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok()
}

fn outgoing(request: FetchRequest, trace: &TraceContext) -> ClientRequest {
    let path = request.url.path_and_query().map_or("/", |path| path.as_str());
    let mut headers: HeaderMap = request.headers;
    headers.insert(&TRACEPARENT, trace.header());
    ClientRequest {
        method: request.method,
        path_and_query: path.to_owned(),
        host: request.url.authority().map(ToString::to_string).unwrap_or_default(),
        headers,
        body: Bytes::clone(&request.body),
        timeout: request.timeout,
        max_body: request.max_body,
    }
}

fn fetch_error(error: ClientError) -> FetchError {
    let kind = match &error {
        ClientError::Refused(_) => FetchErrorKind::Unavailable,
        ClientError::Connect { .. } | ClientError::Broken(_) => FetchErrorKind::Connect,
        ClientError::Timeout => FetchErrorKind::Timeout,
        ClientError::TooLarge { .. } => FetchErrorKind::TooLarge,
        ClientError::Invalid(_) | ClientError::Protocol(_) => FetchErrorKind::Invalid,
    };
    FetchError { kind, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_spelt_out_may_be_private() {
        for host in ["localhost", "127.0.0.1", "[::1]", "10.0.0.1"] {
            assert!(is_spelt_out(host), "{host}");
        }
        for host in ["db.internal", "localhost.evil.test", "127.0.0.1.nip.io", "LOCALHOST.test"] {
            assert!(!is_spelt_out(host), "{host}");
        }
    }
}
