//! One run of one hook: from an exchange to what the script made of it.

use std::sync::Arc;

use http::{HeaderMap, Method};
use rhai::{Dynamic, EvalAltResult, EvalContext, GlobalRuntimeState, Map, Scope};

use super::after::{After, Work};
use super::api::{self, Given, Objects, Response};
use super::caches::Kept;
use super::callback::{self, Scene};
use super::compile::Script;
use super::exchange::{Exchange, MessageBody, ResponseDraft};
use super::fault::{Cause, Fault};
use super::fiber::{self, Ended, Fiber, NoStack, Stop, Turn};
use super::hooks::Hook;
use super::host::Host;
use super::lower::Lowered;
use super::meter::{Limits, RunFigures};
use super::rest::{self, Needs, Resting};
use super::verify::{Verified, run_verified};
use crate::config::filters::Lowering;
use crate::transform::{Body, Error, Fit, Pipeline, Stage, fit};

/// What a run leaves.
pub struct Run {
    /// Edited; on a fault as it was before.
    pub exchange: Exchange,
    pub outcome: Outcome,
    pub figures: RunFigures,
    /// What becomes of the body that streams by after the hook.
    pub body: Option<Box<dyn Stage>>,
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
        return Run::without_rest(exchange, Outcome::Continue);
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
    let (Ended { result, stop, figures }, needs) = match fiber.turn().await {
        Turn::Ended(ended) => (ended, Needs::default()),
        Turn::Rests(handed) => Resting::begin((script.clone(), hook), fiber, limits, handed),
    };
    let reached = match &result {
        Ok(End::Hook(left)) => left.reached || needs.body.is_some() || needs.after.is_some(),
        _ => true,
    };
    let (outcome, edited) = judge(script, hook, result, stop);
    if edited.is_some() {
        ctx.before = None;
    }
    let Needs { body, after } = needs;
    let (exchange, stages) = edited.unwrap_or((before, None));
    let body = body.or_else(|| stages.map(|stages| Box::new(stages) as Box<dyn Stage>));
    (Run { exchange, outcome, figures, body, after, verified: None }, reached)
}

impl Run {
    fn without_rest(exchange: Exchange, outcome: Outcome) -> Self {
        let figures = RunFigures::default();
        Self { exchange, outcome, figures, body: None, after: None, verified: None }
    }
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
    Run::without_rest(exchange, Outcome::Fault(fault))
}

/// On the fiber. All script values die here; only plain types leave.
///
/// What is left is boxed, and made after the call in frames of its own: what lies on the stack
/// while the script waits is what thousands of waiting scripts hold.
fn invoke(script: &Arc<Script>, hook: Hook, exchange: Exchange, (host, way): With) -> End {
    let (objects, given) = (Objects::new(exchange), Given::default());
    let host = (way != Way::Sealed).then_some(host);
    let tag = api::tag_for_run(&script.facts, host, objects.ctx(), given.clone());
    if hook == Hook::Schedule {
        // There is no response, so no work for after it can be left.
        api::work_after(&tag);
    }
    let (called, global) = call(script, hook, &objects, (tag, way));
    let reached = api::has_reached(&global.tag);
    let left = conclude(script, hook, objects, (called, reached));
    let work = api::work_after(&global.tag);
    let end = match &left.outcome {
        Outcome::Continue | Outcome::Answer(_) if left.transforms() || !work.is_empty() => {
            go_on(&Arc::new(Scene { script: script.clone(), hook, global }), left, &given, work)
        }
        _ => End::Hook(left),
    };
    given.clear();
    end
}

type With = (Arc<dyn Host>, Way);

/// What a fiber ends with.
pub(super) enum End {
    Hook(Box<Left>),
    /// What the hook left was handed out before.
    Rest(Outcome),
}

/// What a hook leaves.
pub(super) struct Left {
    outcome: Outcome,
    exchange: Exchange,
    /// For the body that streams by, where that needs no fiber.
    stages: Option<Pipeline>,
    /// Whether the script has seen or done anything outside of its exchange.
    reached: bool,
}

impl Left {
    /// The response whose body counts.
    fn response(&mut self) -> Option<&mut ResponseDraft> {
        match &mut self.outcome {
            Outcome::Answer(draft) => Some(draft),
            Outcome::Continue => self.exchange.response.as_mut().map(Arc::make_mut),
            Outcome::Fault(_) => None,
        }
    }

    fn transforms(&self) -> bool {
        match &self.outcome {
            Outcome::Answer(draft) => !draft.transforms.is_empty(),
            Outcome::Continue => {
                self.exchange.response.as_ref().is_some_and(|draft| !draft.transforms.is_empty())
            }
            Outcome::Fault(_) => false,
        }
    }
}

/// What comes after the hook's end, as far as it is to be done on its fiber.
#[inline(never)]
fn go_on(scene: &Arc<Scene>, mut left: Box<Left>, given: &Given, work: Vec<Work>) -> End {
    match transform(scene, &mut left, given) {
        Ok(None) if work.is_empty() => End::Hook(left),
        Ok(body) => End::Rest(rest::rest(scene, left, body, work)),
        Err(fault) => {
            left.outcome = Outcome::Fault(fault);
            End::Hook(left)
        }
    }
}

/// A body in hand is transformed at once, one that streams by as it comes. Gives the stages that
/// need the fiber for that.
fn transform(
    scene: &Arc<Scene>,
    left: &mut Left,
    given: &Given,
) -> Result<Option<Pipeline>, Box<Fault>> {
    if !left.transforms() {
        return Ok(None);
    }
    let Some(draft) = left.response() else { return Ok(None) };
    let calls_back = given.call_back(&draft.transforms);
    let stages = callback::pipeline(scene, given, draft)?;
    draft.transforms.clear();
    if let MessageBody::Replaced(body) | MessageBody::Held(body) = &draft.body {
        let body = body.clone();
        fiber::forbid_waits(true);
        at_once(scene, draft, stages, &body)?;
        fiber::forbid_waits(false);
        return Ok(None);
    }
    let obstacle = match scene.hook {
        Hook::Log => Some("this body has been sent, and cannot be transformed any more"),
        Hook::UpstreamResponse => Some("this body is stored as it comes; use on_response"),
        _ => None,
    };
    if let Some(obstacle) = obstacle {
        let message = obstacle.to_owned();
        return Err(Box::new(Fault::new(&scene.script, scene.hook, Cause::Error, message)));
    }
    if calls_back {
        return Ok(Some(stages));
    }
    left.stages = Some(stages);
    Ok(None)
}

/// Transforms a body that is in hand; it is sent unpacked.
fn at_once(
    scene: &Scene,
    draft: &mut ResponseDraft,
    stages: Pipeline,
    body: &[u8],
) -> Result<(), Box<Fault>> {
    let broken = |error| callback::fault(scene, error);
    match fit(&Method::GET, &HeaderMap::new(), draft.status, &mut draft.headers) {
        Ok(Fit::HeadOnly) => Ok(()),
        Ok(Fit::Body { from, .. }) => {
            let mut way = Body::new(stages, from, None).map_err(broken)?;
            draft.body = MessageBody::Replaced(way.take(body, true).map_err(broken)?.into());
            Ok(())
        }
        Err(obstacle) => Err(callback::fault(scene, Error::Callback(obstacle.into()))),
    }
}

#[inline(never)]
fn call(
    script: &Script,
    hook: Hook,
    objects: &Objects,
    (tag, way): (Dynamic, Way),
) -> (Called, GlobalRuntimeState) {
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
    (called, global)
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
    Box::new(Left { outcome, exchange: objects.into_exchange(), stages: None, reached })
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

/// The outcome of a part of a run; after a hook's good end also the edited exchange, and what
/// becomes of the body.
pub(super) fn judge(
    script: &Script,
    hook: Hook,
    result: Result<End, String>,
    stop: Option<Stop>,
) -> (Outcome, Option<(Exchange, Option<Pipeline>)>) {
    let (outcome, edited) = match result {
        Ok(End::Hook(left)) => {
            let Left { outcome, exchange, stages, .. } = *left;
            (outcome, Some((exchange, stages)))
        }
        Ok(End::Rest(outcome)) => (outcome, None),
        Err(panic) => {
            let message = format!("a function of the proxy panicked: {panic}");
            (Outcome::Fault(Box::new(Fault::new(script, hook, Cause::Panic, message))), None)
        }
    };
    match (outcome, stop) {
        (Outcome::Fault(mut fault), stop) => {
            if let Some(Stop::Limit(hit)) = stop {
                fault.meet(hit);
            }
            (Outcome::Fault(fault), None)
        }
        // A limit met in the very last native, after which nothing looked again.
        (outcome, _) => (outcome, edited),
    }
}
