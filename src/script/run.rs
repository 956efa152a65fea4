//! One run of one hook: from an exchange to what the script made of it.

use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, EvalContext, GlobalRuntimeState, Map, Scope};

use super::after::{self, After};
use super::api::{self, Objects, Response};
use super::caches::Kept;
use super::compile::Script;
use super::exchange::{Exchange, ResponseDraft};
use super::fault::{Cause, Fault};
use super::fiber::{Ended, Fiber, NoStack, Stop, Turn};
use super::hooks::Hook;
use super::host::Host;
use super::lower::Lowered;
use super::meter::{Limits, RunFigures};
use super::verify::{Verified, run_verified};
use crate::config::filters::Lowering;

/// What a run leaves.
#[derive(Debug)]
pub struct Run {
    /// Edited; on a fault as it was before.
    pub exchange: Exchange,
    pub outcome: Outcome,
    pub figures: RunFigures,
    /// What is left to be done after the response.
    pub after: Option<After>,
    /// What lowered code made of it, where it is verified.
    pub verified: Option<Verified>,
}

/// Who runs a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Rhai,
    Lowered,
    /// Lowered, and without a host.
    Sealed,
}

#[derive(Debug)]
pub enum Outcome {
    /// Go on with the exchange.
    Continue,
    /// This is the response.
    Answer(ResponseDraft),
    Fault(Box<Fault>),
}

type Called = Result<Dynamic, Box<EvalAltResult>>;

/// Runs a hook. A hook that is absent or empty leaves the exchange as it is.
pub async fn run(
    script: &Arc<Script>,
    hook: Hook,
    exchange: Exchange,
    host: Arc<dyn Host>,
    limits: Limits,
) -> Run {
    if !script.runs(hook) {
        let (outcome, figures) = (Outcome::Continue, RunFigures::default());
        return Run { exchange, outcome, figures, after: None, verified: None };
    }
    let way = match script.lowering {
        Lowering::On => Way::Lowered,
        Lowering::Off => Way::Rhai,
        Lowering::Verify => return run_verified(script, hook, exchange, host, limits).await,
    };
    run_one_way(script, hook, exchange, host, (limits, way)).await.0
}

/// Also tells whether the script reached the world.
pub(super) async fn run_one_way(
    script: &Arc<Script>,
    hook: Hook,
    exchange: Exchange,
    host: Arc<dyn Host>,
    (limits, way): (Limits, Way),
) -> (Run, bool) {
    let before = exchange.clone();
    let mut ctx = Rollback::of(&before);
    let fiber = {
        let script = script.clone();
        Fiber::new(limits, move || invoke(&script, hook, exchange, (host, way)))
    };
    let mut fiber = match fiber {
        Ok(fiber) => fiber,
        Err(error) => return (refused(script, hook, before, &error), true),
    };
    let (Ended { result, stop, figures }, after) = match fiber.turn().await {
        Turn::Ended(ended) => (ended, None),
        Turn::Rests(handed) => After::resting(script, hook, fiber, handed),
    };
    let reached = after.is_some() || result.as_ref().map_or(true, |left| left.reached);
    let (outcome, edited) = outcome_of(script, hook, result, stop);
    if edited.is_some() {
        ctx.before = None;
    }
    let exchange = edited.unwrap_or(before);
    (Run { exchange, outcome, figures, after, verified: None }, reached)
}

/// Restores ctx unless the run ended well; a dropped run is also undone.
struct Rollback {
    ctx: super::exchange::Ctx,
    before: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Rollback {
    fn of(exchange: &Exchange) -> Self {
        let ctx = exchange.request.ctx.clone();
        let before = Some(ctx.snapshot());
        Self { ctx, before }
    }
}

impl Drop for Rollback {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.ctx.restore(before);
        }
    }
}

fn refused(script: &Script, hook: Hook, exchange: Exchange, error: &NoStack) -> Run {
    let fault = Box::new(Fault::new(script, hook, Cause::Busy, error.to_string()));
    let (outcome, figures) = (Outcome::Fault(fault), RunFigures::default());
    Run { exchange, outcome, figures, after: None, verified: None }
}

/// On the fiber. All script values die here; only plain types leave.
///
/// Boxed, and made after the call in frames of its own: what lies on the stack while the script
/// waits is what thousands of waiting scripts hold.
fn invoke(script: &Script, hook: Hook, exchange: Exchange, with: With) -> Box<Left> {
    let objects = Objects::new(exchange);
    let (host, way) = with;
    let host = (way != Way::Sealed).then_some(host);
    let tag = api::tag_for_run(&script.facts, host, objects.ctx());
    if hook == Hook::Schedule {
        // There is no response, so no work for after it can be left.
        api::work_after(&tag);
    }
    let called = call(script, hook, &objects, (tag.clone(), way));
    let left = conclude(script, hook, objects, (called, api::has_reached(&tag)));
    match api::work_after(&tag) {
        work if work.is_empty() || matches!(left.outcome, Outcome::Fault(_)) => left,
        work => after::rest(script, hook, tag, work, left),
    }
}

type With = (Arc<dyn Host>, Way);

/// What a script leaves on its fiber.
pub(super) struct Left {
    pub outcome: Outcome,
    pub exchange: Exchange,
    /// Whether it has seen or done anything outside of its exchange.
    pub reached: bool,
}

#[inline(never)]
fn call(script: &Script, hook: Hook, objects: &Objects, (tag, way): (Dynamic, Way)) -> Called {
    let mut global = script.engine.new_global_runtime_state();
    global.tag = tag;
    global.source = script.ast.source().map(Into::into);
    let mut kept = script.caches.take();
    let called = match script.lowered.as_ref().filter(|_| way != Way::Rhai) {
        Some(lowered) => call_lowered(script, lowered, hook, objects, (&mut global, &mut kept)),
        None => {
            global.lib.push(script.ast.shared_lib().clone());
            call_by_name(script, hook, objects, (&mut global, &mut kept))
        }
    };
    kept.stack.clear();
    script.caches.give_back(kept);
    called
}

type Engine<'a> = (&'a mut GlobalRuntimeState, &'a mut Kept);

fn call_lowered(
    script: &Script,
    lowered: &Lowered,
    hook: Hook,
    objects: &Objects,
    (global, kept): Engine<'_>,
) -> Called {
    global.lib.push(lowered.library.clone());
    let arguments = hook.arguments(objects);
    let called = lowered.call(&script.engine, global, kept, (hook.name(), arguments));
    called.unwrap_or_else(|| call_by_name(script, hook, objects, (global, kept)))
}

fn call_by_name(
    script: &Script,
    hook: Hook,
    objects: &Objects,
    (global, kept): Engine<'_>,
) -> Called {
    let mut scope = Scope::new();
    let mut context = EvalContext::new(&script.engine, global, &mut kept.caches, &mut scope, None);
    let mut arguments = hook.arguments(objects);
    let mut arguments: Vec<_> = arguments.iter_mut().collect();
    context.call_fn_raw(hook.name(), false, false, &mut arguments)
}

#[inline(never)]
fn conclude(
    script: &Script,
    hook: Hook,
    objects: Objects,
    (called, reached): (Called, bool),
) -> Box<Left> {
    let outcome = match called {
        Ok(value) => returned(script, hook, &objects, value),
        Err(error) => thrown(script, hook, &error),
    };
    Box::new(Left { outcome, exchange: objects.into_exchange(), reached })
}

fn returned(script: &Script, hook: Hook, objects: &Objects, value: Dynamic) -> Outcome {
    if value.is_unit() {
        return Outcome::Continue;
    }
    let given = value.type_name();
    match value.try_cast::<Response>() {
        Some(response) if objects.is_own_response(&response) => Outcome::Continue,
        Some(response) => Outcome::Answer(response.into_draft()),
        None => {
            let message = format!("a hook returns a Response or (), and this one returned {given}");
            Outcome::Fault(Box::new(Fault::new(script, hook, Cause::Returned, message)))
        }
    }
}

/// `throw #{ status, body, headers }` and `throw response(..)` answer; all else is a fault.
fn thrown(script: &Script, hook: Hook, error: &EvalAltResult) -> Outcome {
    if let EvalAltResult::ErrorRuntime(value, _) = error.unwrap_inner() {
        if let Some(response) = value.clone().try_cast::<Response>() {
            return Outcome::Answer(response.into_draft());
        }
        let map = value.read_lock::<Map>().filter(|map| map.contains_key("status"));
        if let Some(map) = map {
            match Response::from_map(&map) {
                Ok(response) => return Outcome::Answer(response.into_draft()),
                Err(error) => {
                    return Outcome::Fault(Box::new(Fault::from_error(script, hook, &error)));
                }
            }
        }
    }
    Outcome::Fault(Box::new(Fault::from_error(script, hook, error)))
}

/// The outcome, and the edited exchange when its edits count.
pub(super) fn outcome_of(
    script: &Script,
    hook: Hook,
    result: Result<Box<Left>, String>,
    stop: Option<Stop>,
) -> (Outcome, Option<Exchange>) {
    match (result.map(|left| (left.outcome, left.exchange)), stop) {
        (Ok((Outcome::Fault(mut fault), _)), stop) => {
            if let Some(Stop::Limit(hit)) = stop {
                fault.cause = Cause::Limit(hit);
                fault.message = format!("the script met {hit}");
            }
            (Outcome::Fault(fault), None)
        }
        // A limit met in the very last native, after which nothing looked again.
        (Ok((outcome, exchange)), _) => (outcome, Some(exchange)),
        (Err(panic), _) => {
            let message = format!("a function of the proxy panicked: {panic}");
            (Outcome::Fault(Box::new(Fault::new(script, hook, Cause::Panic, message))), None)
        }
    }
}
