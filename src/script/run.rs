//! One run of one hook: from an exchange to what the script made of it.

use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, EvalContext, GlobalRuntimeState, Map, Scope};

use super::api::{self, Objects, Response};
use super::caches::Kept;
use super::compile::Script;
use super::exchange::{Exchange, ResponseDraft};
use super::fault::{Cause, Fault};
use super::fiber::{Ended, Fiber, NoStack, Stop};
use super::hooks::Hook;
use super::host::Host;
use super::lower::Lowered;
use super::meter::{Limits, RunFigures};

/// What a run leaves.
#[derive(Debug)]
pub struct Run {
    /// Edited; on a fault as it was before.
    pub exchange: Exchange,
    pub outcome: Outcome,
    pub figures: RunFigures,
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

/// Runs a hook. A hook that is absent leaves the exchange as it is.
pub async fn run(
    script: &Arc<Script>,
    hook: Hook,
    exchange: Exchange,
    host: Arc<dyn Host>,
    limits: Limits,
) -> Run {
    if !script.has(hook) {
        return Run { exchange, outcome: Outcome::Continue, figures: RunFigures::default() };
    }
    let before = exchange.clone();
    let mut ctx = Rollback::of(&before);
    let fiber = {
        let script = script.clone();
        Fiber::new(limits, move || invoke(&script, hook, exchange, host))
    };
    let fiber = match fiber {
        Ok(fiber) => fiber,
        Err(error) => return refused(script, hook, before, &error),
    };
    let Ended { result, stop, figures } = fiber.await;
    let (outcome, edited) = outcome_of(script, hook, result, stop);
    if edited.is_some() {
        ctx.before = None;
    }
    Run { exchange: edited.unwrap_or(before), outcome, figures }
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
    Run { exchange, outcome: Outcome::Fault(fault), figures: RunFigures::default() }
}

/// On the fiber. All script values die here; only plain types leave.
///
/// Boxed, and made after the call in frames of its own: what lies on the stack while the script
/// waits is what thousands of waiting scripts hold.
fn invoke(script: &Script, hook: Hook, exchange: Exchange, host: Arc<dyn Host>) -> Box<Left> {
    let objects = Objects::new(exchange);
    let called = call(script, hook, &objects, host);
    conclude(script, hook, objects, called)
}

type Left = (Outcome, Exchange);

#[inline(never)]
fn call(script: &Script, hook: Hook, objects: &Objects, host: Arc<dyn Host>) -> Called {
    let tag = api::tag_for_run(&script.facts, host, objects.ctx());
    let mut global = script.engine.new_global_runtime_state();
    global.tag = tag;
    global.source = script.ast.source().map(Into::into);
    let mut kept = script.caches.take();
    let called = match &script.lowered {
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
fn conclude(script: &Script, hook: Hook, objects: Objects, called: Called) -> Box<Left> {
    let outcome = match called {
        Ok(value) => returned(script, hook, &objects, value),
        Err(error) => thrown(script, hook, &error),
    };
    Box::new((outcome, objects.into_exchange()))
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
fn outcome_of(
    script: &Script,
    hook: Hook,
    result: Result<Box<Left>, String>,
    stop: Option<Stop>,
) -> (Outcome, Option<Exchange>) {
    match (result.map(|left| *left), stop) {
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
