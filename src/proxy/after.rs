//! What filters do when the response has gone: what they left for then, and `on_log`. Nobody waits
//! for it.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use super::ctx::{Ctx, Facts};
use super::dev;
use super::fail::Failure;
use super::filters::{Scene, Turn, count, tell_log_later};
use crate::script::{After, Done, Exchange, Hook, Outcome, RequestDraft, Run};
use crate::snapshot::{FilterState, RouteState, Shared, Snapshot};
use crate::telemetry::trace::TraceContext;

/// In metrics and in the log, beside the names of hooks.
const NAME: &str = "after_response";

/// What one run of a hook left.
pub struct Waiting {
    pub after: After,
    pub filter: Arc<FilterState>,
    pub request: Arc<RequestDraft>,
}

impl Waiting {
    /// Does the work; its cost goes into metrics, its fault into the log.
    pub async fn run(self, done: Done, snapshot: &Snapshot) {
        let Self { after, filter, request } = self;
        let (outcome, figures) = after.run(done).await;
        count(&filter, NAME, &outcome, figures);
        if let Outcome::Fault(fault) = &outcome {
            tell_log_later(snapshot, &filter, NAME, fault, &request);
        }
    }
}

/// Starts all that the hooks have left so far. What is not wanted, since the client left, ends here.
pub fn start(ctx: &Ctx, shared: &Shared) {
    let left = std::mem::take(&mut *ctx.scripts.after.lock());
    let (Some(facts), false) = (&ctx.facts, left.is_empty()) else { return };
    let done = done(ctx, facts);
    for waiting in left.into_iter().filter(|waiting| waiting.after.is_wanted(&done)) {
        let (snapshot, metrics) =
            (Arc::clone(&facts.snapshot), Arc::clone(&waiting.filter.metrics));
        let run = async move { waiting.run(done, &snapshot).await };
        if !shared.after.push(most(&facts.snapshot), run) {
            metrics.after_dropped();
        }
    }
}

/// `on_log` of a request's filters.
pub struct Logging {
    pub shared: Arc<Shared>,
    pub snapshot: Arc<Snapshot>,
    pub trace: TraceContext,
    pub route: Arc<RouteState>,
    pub exchange: Exchange,
    pub done: Done,
    pub story: Option<dev::Story>,
}

/// Runs `on_log` beside what follows on the connection. A hook that neither waits nor computes for
/// long ends at once, and so it never is one too many.
pub async fn log(logging: Logging) {
    let (shared, snapshot) = (Arc::clone(&logging.shared), Arc::clone(&logging.snapshot));
    let route = Arc::clone(&logging.route);
    let mut run = Box::pin(logging.run());
    let begun = poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx))).await;
    if begun.is_pending() && !shared.after.push(most(&snapshot), run) {
        let logging = route.filters.iter().filter(|filter| filter.script.has(Hook::Log));
        logging.for_each(|filter| filter.metrics.after_dropped());
    }
}

impl Logging {
    /// Outermost first; what they answer is nobody's concern.
    async fn run(self) {
        let Self { shared, snapshot, trace, route, exchange, done, story } = self;
        let notes = story.as_ref().map(|story| Arc::clone(&story.notes));
        let scene = Scene { shared: &shared, snapshot: &snapshot, trace, notes: notes.as_deref() };
        for filter in route.filters.iter().filter(|filter| filter.script.has(Hook::Log)) {
            let turn = scene.run(filter, Hook::Log, exchange.clone()).await;
            if let Turn::Ran(ran, Run { after: Some(after), exchange, .. }) = turn
                && after.is_wanted(&done)
            {
                let (filter, request) = (Arc::clone(ran), exchange.request);
                Waiting { after, filter, request }.run(done, &snapshot).await;
            }
        }
        dev::tell(story, &shared);
    }
}

fn most(snapshot: &Snapshot) -> usize {
    snapshot.limits.after_response.value as usize
}

pub fn done(ctx: &Ctx, facts: &Facts) -> Done {
    let outcome = &ctx.outcome;
    Done {
        status: outcome.status,
        bytes: outcome.body_out,
        took: facts.started.elapsed(),
        aborted: matches!(outcome.failure, Some(Failure::ClientGone(_) | Failure::Cut { .. })),
    }
}
