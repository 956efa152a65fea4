//! What filters left for after the response: started when it has gone, and nobody waits for it.

use std::sync::Arc;

use super::ctx::{Ctx, Facts};
use super::fail::Failure;
use super::filters::{count, tell_log_later};
use crate::script::{After, Done, Outcome, RequestDraft};
use crate::snapshot::{FilterState, Shared};

/// In metrics and in the log, beside the names of hooks.
const NAME: &str = "after_response";

/// What one run of a hook left.
pub struct Waiting {
    pub after: After,
    pub filter: Arc<FilterState>,
    pub request: Arc<RequestDraft>,
}

/// Starts all that the hooks have left so far. What is not wanted, since the client left, ends here.
pub fn start(ctx: &Ctx, shared: &Shared) {
    let left = std::mem::take(&mut *ctx.scripts.after.lock());
    let (Some(facts), false) = (&ctx.facts, left.is_empty()) else { return };
    let done = done(ctx, facts);
    let most = facts.snapshot.limits.after_response.value as usize;
    for Waiting { after, filter, request } in left {
        if !after.is_wanted(&done) {
            continue;
        }
        let (snapshot, metrics) = (Arc::clone(&facts.snapshot), Arc::clone(&filter.metrics));
        let run = async move {
            let (outcome, figures) = after.run(done).await;
            count(&filter, NAME, &outcome, figures);
            if let Outcome::Fault(fault) = &outcome {
                tell_log_later(&snapshot, &filter, NAME, fault, &request);
            }
        };
        if !shared.after.push(most, run) {
            metrics.after_dropped();
        }
    }
}

fn done(ctx: &Ctx, facts: &Facts) -> Done {
    let outcome = &ctx.outcome;
    Done {
        status: outcome.status,
        bytes: outcome.body_out,
        took: facts.started.elapsed(),
        aborted: matches!(outcome.failure, Some(Failure::ClientGone(_) | Failure::Cut { .. })),
    }
}
