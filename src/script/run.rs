//! One run of one hook: from an exchange to what the script made of it.

use std::sync::Arc;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use http::{HeaderMap, Method};
use rhai::{Dynamic, EvalAltResult, EvalContext, GlobalRuntimeState, Map, Scope};

use super::api::{self, Given, Objects, Response};
use super::callback::{self, Port, Scene, Streaming};
use super::compile::Script;
use super::exchange::{Exchange, MessageBody, ResponseDraft};
use super::fault::{Cause, Fault};
use super::fiber::{self, Ended, Fiber, NoStack, Stop};
use super::hooks::Hook;
use super::host::Host;
use super::meter::{Limits, RunFigures};
use crate::transform::{Body, Error, Fit, Pipeline, Stage, fit};

/// What a run leaves.
pub struct Run {
    /// Edited; on a fault as it was before.
    pub exchange: Exchange,
    pub outcome: Outcome,
    pub figures: RunFigures,
    /// What becomes of the body that streams by after the hook.
    pub body: Option<Box<dyn Stage>>,
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
        return Run::without_body(exchange, Outcome::Continue);
    }
    let before = exchange.clone();
    let mut ctx = Rollback::of(&before);
    let port = Arc::new(Port::default());
    let fiber = {
        let (script, port) = (script.clone(), port.clone());
        Fiber::new(limits, move || invoke(&script, hook, exchange, host, &port))
    };
    let mut fiber = match fiber {
        Ok(fiber) => fiber,
        Err(error) => return refused(script, hook, before, &error),
    };
    let Some(Ended { result, stop, figures }) = hook_end(&mut fiber).await else {
        ctx.before = None;
        let figures = fiber.figures();
        let Some(Left { outcome, exchange }) = port.take_left() else {
            return Run::without_body(before, Outcome::Fault(lost(script, hook)));
        };
        let body = Streaming::new(fiber, port, (script.clone(), hook), limits);
        return Run { exchange, outcome, figures, body: Some(Box::new(body)) };
    };
    let (outcome, edited, body) = outcome_of(script, hook, result, stop);
    if edited.is_some() {
        ctx.before = None;
    }
    Run { exchange: edited.unwrap_or(before), outcome, figures, body }
}

/// None when the hook has ended and its fiber goes on with the body.
async fn hook_end(fiber: &mut Fiber<Box<Made>>) -> Option<Ended<Box<Made>>> {
    poll_fn(|cx| match Pin::new(&mut *fiber).poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if fiber.is_paused() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

impl Run {
    fn without_body(exchange: Exchange, outcome: Outcome) -> Self {
        Self { exchange, outcome, figures: RunFigures::default(), body: None }
    }
}

fn lost(script: &Script, hook: Hook) -> Box<Fault> {
    let message = "a run lost what its hook made".to_owned();
    Box::new(Fault::new(script, hook, Cause::Panic, message))
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
    Run::without_body(exchange, Outcome::Fault(fault))
}

/// On the fiber. All script values die here; only plain types leave.
///
/// Boxed, and made after the call in frames of its own: what lies on the stack while the script
/// waits is what thousands of waiting scripts hold.
fn invoke(
    script: &Arc<Script>,
    hook: Hook,
    exchange: Exchange,
    host: Arc<dyn Host>,
    port: &Port,
) -> Box<Made> {
    let (objects, given) = (Objects::new(exchange), Given::default());
    let (called, global) = call(script, hook, &objects, host, &given);
    let left = conclude(script, hook, objects, called);
    let made = match left.transforms() {
        true => transform(Scene { script: script.clone(), hook, global }, left, &given, port),
        false => Made::Hook(left, None),
    };
    given.clear();
    Box::new(made)
}

/// What a fiber's end leaves.
#[expect(clippy::large_enum_variant, reason = "boxed as a whole, once for each run")]
pub enum Made {
    Hook(Left, Option<Pipeline>),
    /// The hook's own outcome was handed over before.
    Body(Result<(), Box<Fault>>),
}

/// What a hook leaves.
pub struct Left {
    outcome: Outcome,
    exchange: Exchange,
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

/// A body in hand is transformed at once, one that streams by as it comes.
fn transform(scene: Scene, mut left: Left, given: &Given, port: &Port) -> Made {
    let scene = Arc::new(scene);
    let failed = |mut left: Left, fault| {
        left.outcome = Outcome::Fault(fault);
        Made::Hook(left, None)
    };
    let Some(draft) = left.response() else { return Made::Hook(left, None) };
    let calls_back = given.call_back(&draft.transforms);
    let stages = callback::pipeline(&scene, given, draft);
    draft.transforms.clear();
    let stages = match stages {
        Ok(stages) => stages,
        Err(fault) => return failed(left, fault),
    };
    if let MessageBody::Replaced(body) | MessageBody::Held(body) = &draft.body {
        let body = body.clone();
        fiber::forbid_waits(true);
        return match at_once(&scene, draft, stages, &body) {
            Ok(()) => Made::Hook(left, None),
            Err(fault) => failed(left, fault),
        };
    }
    if scene.hook == Hook::Log {
        let message = "this body has been sent, and cannot be transformed any more".to_owned();
        let fault = Fault::new(&scene.script, Hook::Log, Cause::Error, message);
        return failed(left, Box::new(fault));
    }
    if !calls_back {
        return Made::Hook(left, Some(stages));
    }
    let served = port.serve(left, stages);
    Made::Body(served.map_err(|error| callback::fault(&scene, error)))
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
    host: Arc<dyn Host>,
    given: &Given,
) -> (Called, GlobalRuntimeState) {
    let tag = api::tag_for_run(&script.facts, host, objects.ctx(), given.clone());
    let mut global = script.engine.new_global_runtime_state();
    global.tag = tag;
    global.source = script.ast.source().map(Into::into);
    global.lib.push(script.ast.shared_lib().clone());
    let (mut scope, mut kept) = (Scope::new(), script.caches.take());
    let mut context =
        EvalContext::new(&script.engine, &mut global, &mut kept.caches, &mut scope, None);
    let mut arguments = hook.arguments(objects);
    let mut arguments: Vec<_> = arguments.iter_mut().collect();
    let called = context.call_fn_raw(hook.name(), false, false, &mut arguments);
    script.caches.give_back(kept);
    (called, global)
}

#[inline(never)]
fn conclude(script: &Script, hook: Hook, objects: Objects, called: Called) -> Left {
    let outcome = match called {
        Ok(value) => returned(script, hook, &objects, value),
        Err(error) => thrown(script, hook, &error),
    };
    Left { outcome, exchange: objects.into_exchange() }
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
    result: Result<Box<Made>, String>,
    stop: Option<Stop>,
) -> (Outcome, Option<Exchange>, Option<Box<dyn Stage>>) {
    match (result.map(|made| *made), stop) {
        (Ok(Made::Hook(Left { outcome: Outcome::Fault(mut fault), .. }, _)), stop) => {
            if let Some(Stop::Limit(hit)) = stop {
                fault.cause = Cause::Limit(hit);
                fault.message = format!("the script met {hit}");
            }
            (Outcome::Fault(fault), None, None)
        }
        // A limit met in the very last native, after which nothing looked again.
        (Ok(Made::Hook(Left { outcome, exchange }, body)), _) => {
            (outcome, Some(exchange), body.map(|body| Box::new(body) as Box<dyn Stage>))
        }
        (Ok(Made::Body(_)), _) => (Outcome::Fault(lost(script, hook)), None, None),
        (Err(panic), _) => {
            let message = format!("a function of the proxy panicked: {panic}");
            (Outcome::Fault(Box::new(Fault::new(script, hook, Cause::Panic, message))), None, None)
        }
    }
}
