//! Closures that a hook left behind: how they are called, and the stages for a body around them.

use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, FnPtr, GlobalRuntimeState, NativeCallContext, Position};

use super::api::{Given, State, verdict};
use super::compile::Script;
use super::exchange::ResponseDraft;
use super::fault::{Cause, Fault};
use super::hooks::Hook;
use crate::transform::{CallbackError, Error, Pipeline, Stage, Verdict};

/// What closures run in: the hook's script and the state that it left.
pub struct Scene {
    pub script: Arc<Script>,
    pub hook: Hook,
    pub global: GlobalRuntimeState,
}

impl Scene {
    pub fn call<const N: usize>(
        &self,
        function: &FnPtr,
        arguments: [Dynamic; N],
    ) -> Result<Dynamic, Box<EvalAltResult>> {
        let (script, name) = (&self.script, function.fn_name());
        let source = script.ast.source();
        let context = (&script.engine, name, source, &self.global, Position::NONE);
        function.call_raw(&NativeCallContext::from(context), None, arguments)
    }
}

/// A closure for a body.
pub struct Callback {
    scene: Arc<Scene>,
    function: FnPtr,
}

impl Callback {
    pub fn run<const N: usize>(&self, arguments: [Dynamic; N]) -> Result<Dynamic, CallbackError> {
        self.scene.call(&self.function, arguments).map_err(CallbackError::from)
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
            Ok(error) => Fault::from_error_near(script, hook, position, &error),
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
