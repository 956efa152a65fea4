//! One request's life through one filter, hook by hook, as `src/proxy/` leads it.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;
use tokio::time::Instant;

use super::answers::Answer;
use super::stage::Stage;
use crate::config::body::{BodyAccess, BodyMode};
use crate::config::filters::{Filter, FilterLimits, OnFault};
use crate::script::after::{After, Done};
use crate::script::compile::Script;
use crate::script::exchange::{
    Ending, ErrorInfo, Event, Exchange, From, MessageBody, RequestDraft, ResponseDraft,
};
use crate::script::fault::{Cause, Fault};
use crate::script::hooks::Hook;
use crate::script::host::{FetchResponse, Host};
use crate::script::meter::{Limits, RunFigures};
use crate::script::run::{Outcome, Run, run};
use crate::script::verify::Verified;
use crate::transform::{Body, Error, Fit, Pipeline, Stage as BodyStage, fit};

/// A filter at work on one request.
pub struct Life {
    script: Arc<Script>,
    stage: Arc<Stage>,
    limits: Limits,
    on_fault: OnFault,
    bodies: BodyAccess,
    /// Whether `on_request` let the request pass: only then do the later hooks see it.
    entered: bool,
    /// What the hooks left for after the response.
    after: Vec<After>,
    began: Instant,
    /// Whether the client leaves before it has the response.
    aborted: bool,
    seen: Seen,
}

/// What came of it.
pub struct Seen {
    /// The request as the origin saw it, or as it was when the filter answered.
    pub request: Arc<RequestDraft>,
    pub attempts: usize,
    /// As the client sees it, with the body that streamed past the filter.
    pub response: ResponseDraft,
    /// By name, `after_response` too.
    pub hooks: Vec<(&'static str, &'static str, RunFigures)>,
    /// The first one.
    pub fault: Option<Fault>,
}

impl Seen {
    fn of(start: &Exchange) -> Self {
        Self {
            request: Arc::clone(&start.request),
            attempts: 0,
            response: ResponseDraft::new(StatusCode::OK, ""),
            hooks: Vec::new(),
            fault: None,
        }
    }
}

/// How the request goes on after a hook.
enum Next {
    Continue(Exchange),
    /// The same, and what becomes of the body.
    Transform(Exchange, Box<dyn BodyStage>),
    Answer(Exchange, ResponseDraft),
    /// It faulted, and the filter's policy is to stop there.
    Broken(Exchange),
}

/// A request that was answered, and the body that no hook has seen.
type Answered = (Exchange, ResponseDraft, Bytes);

impl Life {
    pub fn new(
        script: Arc<Script>,
        stage: Arc<Stage>,
        filter: &Filter,
        start: &Exchange,
        aborted: bool,
    ) -> Self {
        let seen = Seen::of(start);
        let limits = Limits::from(&filter.limits);
        let (on_fault, bodies, began) = (filter.on_fault, filter.body, Instant::now());
        Self {
            script,
            stage,
            limits,
            on_fault,
            bodies,
            entered: false,
            after: Vec::new(),
            began,
            aborted,
            seen,
        }
    }

    /// The whole of it; `body` is the request's.
    pub async fn live(
        mut self,
        mut start: Exchange,
        body: Bytes,
        origin: Vec<Answer<ErrorInfo>>,
    ) -> Seen {
        let holds = self.bodies.request == BodyMode::Buffer;
        if holds {
            Arc::make_mut(&mut start.request).body = MessageBody::Held(body.clone());
        }
        let begun = match holds && body.len() > self.bodies.limit {
            true => Next::Broken(start),
            false => self.hook(Hook::Request, start).await,
        };
        let (mut exchange, mut response, streamed) = match begun {
            Next::Answer(exchange, answer) => {
                self.seen.request = Arc::clone(&exchange.request);
                (exchange, answer, Bytes::new())
            }
            Next::Broken(exchange) if self.seen.fault.is_none() => {
                self.failed(exchange, too_large()).await
            }
            Next::Broken(exchange) => self.failed(exchange, filter_failed()).await,
            Next::Continue(exchange) | Next::Transform(exchange, _) => {
                self.entered = true;
                self.seen.request = Arc::clone(&exchange.request);
                self.forward(exchange, origin).await
            }
        };
        exchange.response = Some(Arc::new(response.clone()));
        let took = self.began.elapsed();
        let ending = self.ending(&response, (&body, &streamed), took);
        Arc::make_mut(&mut exchange.request).ending = Some(Arc::new(ending));
        self.hook(Hook::Log, exchange).await;
        if response.body == MessageBody::Untouched {
            response.body = MessageBody::Replaced(streamed);
        }
        if self.seen.request.body == MessageBody::Untouched {
            Arc::make_mut(&mut self.seen.request).body = MessageBody::Held(body);
        }
        self.after_response(&response, took).await;
        self.seen.response = response;
        self.seen
    }

    /// For `on_log`: the bodies are the request's, and the response's where no hook has seen it.
    fn ending(&self, response: &ResponseDraft, bodies: (&Bytes, &Bytes), took: Duration) -> Ending {
        let sent = match &response.body {
            MessageBody::Untouched => bodies.1,
            MessageBody::Held(body) | MessageBody::Replaced(body) => body,
        };
        Ending {
            status: response.status.as_u16(),
            bytes_in: bodies.0.len() as u64,
            bytes_out: sent.len() as u64,
            took,
            first_byte: Some(took),
            attempts: u32::try_from(self.seen.attempts).unwrap_or(u32::MAX),
            aborted: self.aborted,
            ..Ending::default()
        }
    }

    /// Asks the origin, again after each failure while there are answers.
    async fn forward(&mut self, exchange: Exchange, origin: Vec<Answer<ErrorInfo>>) -> Answered {
        let mut failure = filter_failed();
        for answer in origin {
            match self.hook(Hook::UpstreamRequest, exchange.clone()).await {
                Next::Continue(copy) | Next::Transform(copy, _) => self.seen.request = copy.request,
                Next::Answer(_, answer) => {
                    return self.respond(exchange, answer, Bytes::new()).await;
                }
                Next::Broken(_) => return self.failed(exchange, filter_failed()).await,
            }
            self.seen.attempts += 1;
            tokio::time::sleep(answer.delay).await;
            match answer.result {
                Ok(response) => {
                    return self.answered(exchange, response).await;
                }
                Err(info) => failure = info,
            }
        }
        self.failed(exchange, failure).await
    }

    /// Shows the origin's response to `on_upstream_response`, then to `on_response`.
    async fn answered(&mut self, mut exchange: Exchange, response: FetchResponse) -> Answered {
        let mut draft = ResponseDraft {
            status: response.status,
            headers: response.headers,
            body: MessageBody::Untouched,
            from: From::Origin,
            transforms: Vec::new(),
            cache: Some(Box::default()),
        };
        exchange.response = Some(Arc::new(draft.clone()));
        let mut exchange = match self.hook(Hook::UpstreamResponse, exchange).await {
            Next::Continue(exchange) => exchange,
            // The origin's body is on its way and cannot be another one.
            Next::Transform(exchange, _) | Next::Answer(exchange, _) | Next::Broken(exchange) => {
                return self.failed(exchange, filter_failed()).await;
            }
        };
        draft = exchange.response.take().map_or(draft, Arc::unwrap_or_clone);
        let wishes = draft.cache.take();
        let holds = self.bodies.response == BodyMode::Buffer;
        if holds {
            draft.body = MessageBody::Held(response.body.clone());
        }
        let (exchange, mut shown, streamed) = match holds && response.body.len() > self.bodies.limit
        {
            true => self.unseen(exchange, draft).await,
            false => self.respond(exchange, draft, response.body).await,
        };
        shown.cache = wishes;
        (exchange, shown, streamed)
    }

    /// A response that is too large to be shown, which the filter's policy judges.
    async fn unseen(&mut self, exchange: Exchange, draft: ResponseDraft) -> Answered {
        match self.on_fault {
            OnFault::Open => (exchange, draft, Bytes::new()),
            OnFault::Closed | OnFault::Previous => self.failed(exchange, filter_failed()).await,
        }
    }

    /// Shows a response to `on_response`.
    async fn respond(
        &mut self,
        mut exchange: Exchange,
        draft: ResponseDraft,
        streamed: Bytes,
    ) -> Answered {
        exchange.response = Some(Arc::new(draft.clone()));
        match self.hook(Hook::Response, exchange).await {
            Next::Continue(mut exchange) => {
                let edited = exchange.response.take().map_or(draft, Arc::unwrap_or_clone);
                (exchange, edited, streamed)
            }
            Next::Transform(exchange, stage) => self.transform(exchange, stage, streamed),
            Next::Answer(exchange, answer) => (exchange, answer, streamed),
            Next::Broken(exchange) => self.failed(exchange, filter_failed()).await,
        }
    }

    /// The body streams by, as one piece.
    fn transform(
        &mut self,
        mut exchange: Exchange,
        stage: Box<dyn BodyStage>,
        streamed: Bytes,
    ) -> Answered {
        let none = || ResponseDraft::new(StatusCode::OK, "");
        let mut draft = exchange.response.take().map_or_else(none, Arc::unwrap_or_clone);
        let request = &exchange.request;
        let fitted = fit(&request.method, &request.headers, draft.status, &mut draft.headers);
        let Ok(Fit::Body { from, to }) = fitted else { return (exchange, draft, streamed) };
        let body = Body::new(Pipeline::new(vec![stage]), from, to);
        match body.and_then(|mut body| body.take(&streamed, true)) {
            Ok(body) => (exchange, draft, body.into()),
            // The head was sent, so that the client sees an answer that breaks off.
            Err(Error::Callback(error)) => {
                if let Ok(fault) = error.downcast::<Fault>() {
                    self.seen.fault.get_or_insert(*fault);
                }
                (exchange, draft, Bytes::new())
            }
            Err(_) => (exchange, draft, Bytes::new()),
        }
    }

    /// There is no usable response: `on_error` may make one, else a page is sent.
    async fn failed(&mut self, mut exchange: Exchange, info: ErrorInfo) -> Answered {
        let by_filter = info.kind == filter_failed().kind;
        let status = StatusCode::from_u16(info.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut page = ResponseDraft::new(status, "");
        page.from = From::Proxy;
        if !self.entered {
            return (exchange, page, Bytes::new());
        }
        exchange.error = Some(info);
        let (mut exchange, own) = match self.hook(Hook::Error, exchange).await {
            Next::Answer(exchange, answer) => (exchange, answer),
            Next::Continue(exchange) | Next::Transform(exchange, _) | Next::Broken(exchange) => {
                (exchange, page)
            }
        };
        exchange.error = None;
        // A filter that faults on the page of a failure must not hide the failure.
        if by_filter {
            return (exchange, own, Bytes::new());
        }
        exchange.response = Some(Arc::new(own.clone()));
        match self.hook(Hook::Response, exchange).await {
            Next::Continue(mut exchange) | Next::Transform(mut exchange, _) => {
                let edited = exchange.response.take().map_or(own, Arc::unwrap_or_clone);
                (exchange, edited, Bytes::new())
            }
            Next::Answer(exchange, answer) => (exchange, answer, Bytes::new()),
            Next::Broken(exchange) => (exchange, own, Bytes::new()),
        }
    }

    async fn after_response(&mut self, response: &ResponseDraft, took: Duration) {
        let bytes = match &response.body {
            MessageBody::Replaced(body) | MessageBody::Held(body) => body.len() as u64,
            MessageBody::Untouched => 0,
        };
        let (status, aborted) = (response.status.as_u16(), self.aborted);
        let done = Done { status, bytes, took, aborted };
        for after in std::mem::take(&mut self.after) {
            if after.is_wanted(&done) {
                let (outcome, figures) = after.run(done).await;
                self.seen.hooks.push(("after_response", label(&outcome), figures));
                if let Outcome::Fault(fault) = outcome {
                    self.seen.fault.get_or_insert(*fault);
                }
            }
        }
    }

    async fn hook(&mut self, hook: Hook, exchange: Exchange) -> Next {
        if !self.script.has(hook) {
            return Next::Continue(exchange);
        }
        let stage = Arc::clone(&self.stage);
        let Run { exchange, outcome, figures, body, after, verified } =
            run(&self.script, hook, exchange, stage, self.limits).await;
        if let Some(Verified::Different { rhai, lowered }) = verified {
            let message = format!("lowered code left {lowered}, and Rhai {rhai}");
            let fault = Fault::new(&self.script, hook, Cause::Error, message);
            self.seen.fault.get_or_insert(fault);
        }
        self.after.extend(after);
        self.seen.hooks.push((hook.name(), label(&outcome), figures));
        match outcome {
            Outcome::Continue => match body {
                Some(stage) => Next::Transform(exchange, stage),
                None => Next::Continue(exchange),
            },
            Outcome::Answer(answer) => Next::Answer(exchange, answer),
            Outcome::Fault(fault) => {
                self.seen.fault.get_or_insert(*fault);
                match self.on_fault {
                    OnFault::Open => Next::Continue(exchange),
                    OnFault::Closed | OnFault::Previous => Next::Broken(exchange),
                }
            }
        }
    }
}

/// A body above the filter's limit.
fn too_large() -> ErrorInfo {
    let message = "the request's body is too large".to_owned();
    ErrorInfo { kind: "body_too_large".to_owned(), status: 413, message }
}

/// One run of `on_schedule`, which has no request.
pub async fn scheduled(
    script: Arc<Script>,
    stage: Arc<Stage>,
    limits: FilterLimits,
    name: String,
) -> Seen {
    let now = stage.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let exchange = Exchange::of_event(Event { name, time: now.as_secs() });
    let mut seen = Seen::of(&exchange);
    let hook = Hook::Schedule;
    let Run { outcome, figures, .. } =
        run(&script, hook, exchange, stage, Limits::from(&limits)).await;
    seen.hooks.push((hook.name(), label(&outcome), figures));
    if let Outcome::Fault(fault) = outcome {
        seen.fault = Some(*fault);
    }
    seen
}

fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Continue => "continue",
        Outcome::Answer(_) => "answer",
        Outcome::Fault(_) => "fault",
    }
}

/// As a fault is told to `on_error`.
fn filter_failed() -> ErrorInfo {
    let message = "a filter faulted".to_owned();
    ErrorInfo { kind: "filter".to_owned(), status: 500, message }
}
