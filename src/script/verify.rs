//! `lowering: verify`: after Rhai has run a hook, lowered code runs it on a copy, to compare.
//!
//! Rhai's run is the real one, and only its result counts. A run that reached the world outside
//! of the exchange (it fetched, logged, read the clock or random bytes) is not repeated: a second
//! one would do it twice or see something else. Nor is one that a limit stopped.

use std::sync::Arc;

use super::compile::Script;
use super::exchange::Exchange;
use super::fault::Cause;
use super::hooks::Hook;
use super::host::Host;
use super::meter::Limits;
use super::run::{Outcome, Way, run_one_way};

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    Same,
    /// What each of the two left.
    Different {
        rhai: String,
        lowered: String,
    },
    /// It could not be compared.
    Skipped,
}

impl Verified {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different { .. } => "different",
            Self::Skipped => "skipped",
        }
    }
}

/// Runs a hook by Rhai, then by lowered code on a copy of `exchange`.
pub async fn run_verified(
    script: &Arc<Script>,
    hook: Hook,
    exchange: Exchange,
    host: Arc<dyn Host>,
    limits: Limits,
) -> super::Run {
    let copy = exchange.apart();
    let (mut run, reached) =
        run_one_way(script, hook, exchange, host.clone(), (limits, Way::Rhai)).await;
    if reached || !can_repeat(&run.outcome) {
        run.verified = Some(Verified::Skipped);
        return run;
    }
    let (second, _) = run_one_way(script, hook, copy, host, (limits, Way::Sealed)).await;
    run.verified =
        Some(if can_repeat(&second.outcome) { compare(&run, &second) } else { Verified::Skipped });
    run
}

/// Limits depend on the clock and on who computes beside.
fn can_repeat(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Fault(fault) => !matches!(fault.cause, Cause::Limit(_) | Cause::Busy),
        Outcome::Continue | Outcome::Answer(_) => true,
    }
}

fn compare(rhai: &super::Run, lowered: &super::Run) -> Verified {
    let left = |run: &super::Run| format!("{:?}, {:?}", run.outcome, run.exchange);
    let (rhai, lowered) = (left(rhai), left(lowered));
    if rhai == lowered { Verified::Same } else { Verified::Different { rhai, lowered } }
}
