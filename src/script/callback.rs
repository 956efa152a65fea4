//! Callbacks that a hook left for a body, and the body that streams by them on the hook's fiber.
//!
//! Script values never leave their fiber. So the fiber of a hook that gave transforms with
//! callbacks does not end with the hook: it pauses, is handed piece after piece, and keeps the
//! closures on its own stack. The hook's outcome is taken from it at the first pause.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rhai::{Dynamic, EvalAltResult, FnPtr, GlobalRuntimeState, NativeCallContext, Position};

use super::api::{Given, State, verdict};
use super::compile::Script;
use super::exchange::ResponseDraft;
use super::fault::{Cause, Fault};
use super::fiber::{self, Fiber, Stop};
use super::hooks::Hook;
use super::meter::Limits;
use super::run::{Left, Made};
use crate::transform::{CallbackError, Error, Pipeline, Stage, Verdict};

/// What callbacks run in: the hook's script and the state that it left.
pub struct Scene {
    pub script: Arc<Script>,
    pub hook: Hook,
    pub global: GlobalRuntimeState,
}

/// A closure of the script.
pub struct Callback {
    scene: Arc<Scene>,
    function: FnPtr,
}

impl Callback {
    pub fn run<const N: usize>(&self, arguments: [Dynamic; N]) -> Result<Dynamic, CallbackError> {
        let Scene { script, global, .. } = &*self.scene;
        let name = self.function.fn_name();
        let context = NativeCallContext::from((
            &script.engine,
            name,
            script.ast.source(),
            global,
            Position::NONE,
        ));
        let returned = self.function.call_raw(&context, None, arguments);
        returned.map_err(CallbackError::from)
    }

    /// Tells the filter's log.
    pub fn warn(&self, message: &str) -> Result<(), CallbackError> {
        let state = State::of_tag(&self.scene.global.tag).map_err(CallbackError::from)?;
        state.host().map_err(CallbackError::from)?.log(log::Level::Warn, message, &[]);
        Ok(())
    }

    /// Calls it, and reads its verdict.
    pub fn call<T, const N: usize>(
        &self,
        arguments: [Dynamic; N],
        replacement: impl FnOnce(Dynamic) -> Result<T, Box<EvalAltResult>>,
    ) -> Result<Verdict<T>, CallbackError> {
        verdict(self.run(arguments)?, replacement).map_err(CallbackError::from)
    }
}

/// A stage, with what a fault of it names.
struct Sited {
    stage: Box<dyn Stage>,
    script: Arc<Script>,
    hook: Hook,
    position: Position,
}

impl Sited {
    fn fault(&self, error: Error) -> Error {
        Error::Callback(fault_of(&self.script, self.hook, self.position, error).into())
    }
}

impl Stage for Sited {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.stage.push(piece, out).map_err(|error| self.fault(error))
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.stage.end(out).map_err(|error| self.fault(error))
    }
}

fn fault_of(script: &Script, hook: Hook, position: Position, error: Error) -> Fault {
    match error {
        Error::Callback(error) => match error.downcast::<Box<EvalAltResult>>() {
            Ok(error) => Fault::from_error(script, hook, &error),
            Err(error) => Fault::at(script, hook, position, error.to_string()),
        },
        error => Fault::at(script, hook, position, error.to_string()),
    }
}

/// The stages of `draft`'s transforms, in their order.
pub fn pipeline(
    scene: &Arc<Scene>,
    given: &Given,
    draft: &ResponseDraft,
) -> Result<Pipeline, Box<Fault>> {
    let charset = charset(draft);
    let callback = |function| Callback { scene: Arc::clone(scene), function };
    let (script, hook) = (&scene.script, scene.hook);
    let mut pipeline = Pipeline::default();
    for id in &draft.transforms {
        let (stage, position) = given.stage(*id, charset.as_deref(), &callback);
        let stage = stage.map_err(|error| {
            Box::new(Fault::at(script, hook, position, super::fault::text_of(&error)))
        })?;
        let script = Arc::clone(script);
        pipeline.add(Box::new(Sited { stage, script, hook, position }));
    }
    Ok(pipeline)
}

/// The character set that the content type names.
fn charset(draft: &ResponseDraft) -> Option<String> {
    let kind = draft.headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let (_, named) = kind.split_once("charset=")?;
    let named = named.split(';').next().unwrap_or_default();
    Some(named.trim().trim_matches('"').to_owned())
}

/// A stage's error as a fault of the filter.
pub fn fault(scene: &Scene, error: Error) -> Box<Fault> {
    match error {
        Error::Callback(error) => match error.downcast::<Fault>() {
            Ok(fault) => fault,
            Err(error) => {
                let (script, hook) = (&scene.script, scene.hook);
                Box::new(Fault::new(script, hook, Cause::Error, error.to_string()))
            }
        },
        error => {
            let (script, hook) = (&scene.script, scene.hook);
            Box::new(Fault::new(script, hook, Cause::Error, error.to_string()))
        }
    }
}

/// Where a fiber and who feeds it leave things for each other.
#[derive(Default)]
pub struct Port(Mutex<Turn>);

#[derive(Default)]
struct Turn {
    /// The hook's outcome, until it is taken.
    left: Option<Left>,
    piece: Vec<u8>,
    last: bool,
    out: Vec<u8>,
}

impl Port {
    pub fn take_left(&self) -> Option<Left> {
        self.0.lock().left.take()
    }

    /// On the fiber: hands over the hook's outcome, then transforms until the body's end.
    pub fn serve(&self, left: Left, mut stages: Pipeline) -> Result<(), Error> {
        self.0.lock().left = Some(left);
        fiber::forbid_waits(true);
        while fiber::pause() {
            // Out of the lock, which a callback's slice would hold.
            let (piece, last, mut out) = {
                let turn = &mut *self.0.lock();
                (std::mem::take(&mut turn.piece), turn.last, std::mem::take(&mut turn.out))
            };
            let mut done = if piece.is_empty() { Ok(()) } else { stages.push(&piece, &mut out) };
            if last && done.is_ok() {
                done = stages.end(&mut out);
            }
            let turn = &mut *self.0.lock();
            (turn.piece, turn.out) = (piece, out);
            if last || done.is_err() {
                return done;
            }
        }
        Ok(())
    }
}

/// A body's callbacks at work: a stage whose inside is a fiber.
pub struct Streaming {
    fiber: Fiber<Box<Made>>,
    port: Arc<Port>,
    scene: (Arc<Script>, Hook),
    /// Of each piece.
    limits: Limits,
    /// CPU time that is left to the whole body.
    cpu_left: Duration,
    ended: bool,
}

impl Streaming {
    /// Goes on with a paused fiber.
    pub fn new(
        fiber: Fiber<Box<Made>>,
        port: Arc<Port>,
        scene: (Arc<Script>, Hook),
        limits: Limits,
    ) -> Self {
        Self { fiber, port, scene, limits, cpu_left: limits.body_cpu, ended: false }
    }

    fn turn(&mut self, piece: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.ended {
            return Ok(());
        }
        {
            // Both buffers keep their memory: the fiber's count stays true.
            let turn = &mut *self.port.0.lock();
            turn.piece.clear();
            turn.piece.extend_from_slice(piece);
            turn.last = last;
        }
        let before = self.fiber.figures().cpu;
        let cpu = self.limits.cpu.min(self.cpu_left);
        let ended = self.fiber.go_on(Limits { cpu, ..self.limits });
        let used = self.fiber.figures().cpu.saturating_sub(before);
        self.cpu_left = self.cpu_left.saturating_sub(used);
        {
            let turn = &mut *self.port.0.lock();
            out.extend_from_slice(&turn.out);
            turn.out.clear();
        }
        let Some(ended) = ended else { return Ok(()) };
        self.ended = true;
        let (script, hook) = &self.scene;
        let fault = match (ended.result.map(|made| *made), ended.stop) {
            (Ok(Made::Body(Ok(()))), None) => return Ok(()),
            (_, Some(Stop::Limit(hit))) => Fault::limit(script, *hook, hit),
            (Ok(Made::Body(Err(fault))), _) => *fault,
            (Ok(_), _) => return Ok(()),
            (Err(panic), _) => {
                let message = format!("a function of the proxy panicked: {panic}");
                Fault::new(script, *hook, Cause::Panic, message)
            }
        };
        Err(Error::Callback(fault.into()))
    }
}

impl Stage for Streaming {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.turn(piece, false, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.turn(&[], true, out)
    }
}
