//! Why a run of a hook failed, and where in the script.

use std::fmt;
use std::path::PathBuf;

use rhai::{EvalAltResult, Position};

use super::api::show;
use super::compile::{self, Script};
use super::diagnostic::{definition, source_line};
use super::hooks::Hook;
use super::meter::{LimitHit, LimitKind};

/// Bytes of a thrown value in a message.
const MESSAGE: usize = 4 << 10;

#[derive(Debug, Clone)]
pub struct Fault {
    pub hook: Hook,
    pub file: PathBuf,
    /// From 1; 0 when the place is not known.
    pub line: usize,
    pub column: usize,
    pub source_line: String,
    pub message: String,
    pub cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The script threw, or an operation failed.
    Error,
    /// A bound of the run was met.
    Limit(LimitHit),
    /// Too many scripts are running: a 503 rather than a 500.
    Busy,
    /// A native panicked: a defect of the proxy.
    Panic,
    /// The hook returned something that is neither a Response nor `()`.
    Returned,
}

impl Fault {
    /// With the hook as its place, until a nearer one is known.
    pub(super) fn new(script: &Script, hook: Hook, cause: Cause, message: String) -> Self {
        let file = script.file().to_owned();
        let (line, column, source_line) = (0, 0, String::new());
        let mut fault = Self { hook, file, line, column, source_line, message, cause };
        fault.place(script, definition(script.source(), hook.name()));
        fault
    }

    /// At a place in the script's own file.
    pub(super) fn at(script: &Script, hook: Hook, position: Position, message: String) -> Self {
        let mut fault = Self::new(script, hook, Cause::Error, message);
        if !position.is_none() {
            fault.place(script, position);
        }
        fault
    }

    fn place(&mut self, script: &Script, position: Position) {
        self.line = position.line().unwrap_or(0);
        self.column = position.position().unwrap_or(0);
        self.source_line = source_line(script.source(), self.line);
    }

    pub(super) fn limit(script: &Script, hook: Hook, hit: LimitHit) -> Self {
        let mut fault = Self::new(script, hook, Cause::Error, String::new());
        fault.meet(hit);
        fault
    }

    /// A limit stopped the script here.
    pub(super) fn meet(&mut self, hit: LimitHit) {
        self.cause = Cause::Limit(hit);
        self.message = format!("the script met {hit}");
    }

    pub(super) fn from_error(script: &Script, hook: Hook, error: &EvalAltResult) -> Self {
        Self::from_error_near(script, hook, Position::NONE, error)
    }

    /// As [`Fault::from_error`]; `near` is the place where no nearer one is known.
    pub(super) fn from_error_near(
        script: &Script,
        hook: Hook,
        near: Position,
        error: &EvalAltResult,
    ) -> Self {
        let (file, inner, position) = innermost(error);
        let mut fault = match limit_of(inner) {
            Some(hit) => Self::limit(script, hook, hit),
            None => Self::new(script, hook, Cause::Error, text_of(inner)),
        };
        // Rhai loses the place where a limit stopped it.
        if position.is_none() && !near.is_none() {
            fault.place(script, near);
        } else if !position.is_none() {
            fault.place(script, position);
            if let Some(file) = file.map(PathBuf::from).filter(|file| file != script.file()) {
                fault.file = file;
                fault.source_line.clear();
            }
        }
        fault
    }
}

/// The engine's own bounds, which no script can catch either.
fn limit_of(error: &EvalAltResult) -> Option<LimitHit> {
    Some(match error {
        EvalAltResult::ErrorStackOverflow(_) => {
            LimitHit::above(LimitKind::Calls, compile::CALL_LEVELS)
        }
        EvalAltResult::ErrorDataTooLarge(what, _) if what.contains("string") => {
            LimitHit::above(LimitKind::String, compile::STRING_BYTES)
        }
        EvalAltResult::ErrorDataTooLarge(what, _) if what.contains("map") => {
            LimitHit::above(LimitKind::Map, compile::MAP_LENGTH)
        }
        EvalAltResult::ErrorDataTooLarge(..) => {
            LimitHit::above(LimitKind::Array, compile::ARRAY_LENGTH)
        }
        _ => return None,
    })
}

/// The error proper, without the calls around it, its file, and the nearest known place.
fn innermost(error: &EvalAltResult) -> (Option<&str>, &EvalAltResult, Position) {
    let mut source = None;
    let mut at = error;
    let mut place = Position::NONE;
    loop {
        if !at.position().is_none() {
            place = at.position();
        }
        let (EvalAltResult::ErrorInFunctionCall(_, file, inner, _)
        | EvalAltResult::ErrorInModule(file, inner, _)) = at
        else {
            return (source, at, place);
        };
        if !file.is_empty() {
            source = Some(file.as_str());
        }
        at = inner;
    }
}

/// The message without its position, which stands apart.
pub(super) fn text_of(error: &EvalAltResult) -> String {
    if let EvalAltResult::ErrorRuntime(value, _) = error {
        if let Some(map) = value.read_lock::<rhai::Map>() {
            let field = |name: &str| map.get(name).map(|value| show::text(value, MESSAGE));
            if let (Some(kind), Some(message)) = (field("kind"), field("message")) {
                return format!("{kind}: {message}");
            }
        }
        return show::text(value, MESSAGE);
    }
    let mut inner = error.to_string();
    let position = error.position();
    if position != Position::NONE {
        let suffix = format!(" ({position})");
        if let Some(text) = inner.strip_suffix(&suffix) {
            inner = text.to_owned();
        }
    }
    inner
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, message, .. } = self;
        write!(f, "{}:{line}:{column}: {}: {message}", self.file.display(), self.hook.name())
    }
}

impl std::error::Error for Fault {}
