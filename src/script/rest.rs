//! What a hook leaves on its fiber: callbacks for the body that streams by, and work for after the
//! response.
//!
//! Script values never leave their fiber. So a fiber with any of these left does not end with its
//! hook: it hands out what the hook made, and rests. It is told of each piece of the body, hands
//! that out transformed, and rests again; at last it is told that the response has gone, and ends
//! with its work. Each time its limits begin anew.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::after::{self, After, Done, Work};
use super::callback::Scene;
use super::compile::Script;
use super::fault::{Cause, Fault};
use super::fiber::{self, Ended, Fiber, Stop, Turn};
use super::hooks::Hook;
use super::meter::{Limits, RunFigures};
use super::run::{End, Left, Outcome, judge};
use crate::transform::{Error, Pipeline, Stage};

/// The first that a resting fiber hands out.
struct Handed {
    left: Box<Left>,
    /// Whether the body needs the fiber.
    body: bool,
    /// Whether there is work for after the response, and whether also if the client leaves.
    after: Option<bool>,
}

/// A piece of the body on its way to the fiber and back.
struct Piece {
    bytes: Vec<u8>,
    last: bool,
    out: Vec<u8>,
    passed: Result<(), Error>,
}

impl Piece {
    fn pass(&mut self, stages: &mut Pipeline) {
        fiber::forbid_waits(true);
        let Self { bytes, last, out, .. } = self;
        let mut passed = if bytes.is_empty() { Ok(()) } else { stages.push(bytes, out) };
        if *last && passed.is_ok() {
            passed = stages.end(out);
        }
        self.passed = passed;
        fiber::forbid_waits(false);
    }
}

/// On the fiber, at the end of a hook that left something.
pub fn rest(scene: &Scene, left: Box<Left>, body: Option<Pipeline>, work: Vec<Work>) -> Outcome {
    let after = (!work.is_empty()).then(|| work.iter().any(|work| work.if_aborted));
    let mut handed: Box<dyn Any + Send> = Box::new(Handed { left, body: body.is_some(), after });
    let mut stages = body.unwrap_or_default();
    while let Some(told) = fiber::rest(handed) {
        let told = match told.downcast::<Piece>() {
            Ok(mut piece) => {
                piece.pass(&mut stages);
                if piece.last || piece.passed.is_err() {
                    stages = Pipeline::default();
                }
                handed = piece;
                continue;
            }
            Err(told) => told,
        };
        drop(stages);
        let done = told.downcast::<Done>().map(|done| after::run_all(scene, work, &done));
        return done.unwrap_or(Outcome::Continue);
    }
    // Nobody needs it any more.
    Outcome::Continue
}

/// A fiber that rests, shared by what may still need it.
pub struct Resting {
    pub script: Arc<Script>,
    pub hook: Hook,
    /// Of each time that it goes on.
    pub limits: Limits,
    /// None while it does its work for after the response, and once it has ended.
    pub fiber: Mutex<Option<Fiber<End>>>,
}

/// What goes on after the hook.
#[derive(Default)]
pub struct Needs {
    pub body: Option<Box<dyn Stage>>,
    pub after: Option<After>,
}

impl Resting {
    /// The hook's end, as if its fiber had ended, and who needs the fiber.
    pub fn begin(
        scene: (Arc<Script>, Hook),
        fiber: Fiber<End>,
        limits: Limits,
        handed: Box<dyn Any + Send>,
    ) -> (Ended<End>, Needs) {
        let figures = fiber.figures();
        let Ok(handed) = handed.downcast::<Handed>() else {
            let result = Err("a fiber rests with something else".to_owned());
            return (Ended { result, stop: None, figures }, Needs::default());
        };
        let Handed { left, body, after } = *handed;
        let (script, hook) = scene;
        let resting = Arc::new(Self { script, hook, limits, fiber: Mutex::new(Some(fiber)) });
        let needs = Needs {
            body: body.then(|| Box::new(Streaming::new(Arc::clone(&resting))) as Box<dyn Stage>),
            after: after.map(|if_aborted| After::new(resting, if_aborted)),
        };
        (Ended { result: Ok(End::Hook(left)), stop: None, figures }, needs)
    }

    /// Has a piece transformed; also tells how long that took.
    fn pass(&self, limits: Limits, piece: Box<Piece>) -> (Result<Box<Piece>, Error>, Duration) {
        let mut slot = self.fiber.lock();
        let Some(mut fiber) = slot.take() else {
            return (Err(self.fault("the fiber of this body has ended")), Duration::ZERO);
        };
        fiber.tell(limits, piece);
        match fiber.turn_at_once() {
            Turn::Rests(handed) => {
                let (stop, RunFigures { cpu, .. }) = (fiber.stopped(), fiber.figures());
                *slot = Some(fiber);
                (self.passed(handed, stop), cpu)
            }
            Turn::Ended(ended) => {
                let cpu = ended.figures.cpu;
                (Err(self.ended(ended)), cpu)
            }
        }
    }

    fn passed(&self, handed: Box<dyn Any + Send>, stop: Option<Stop>) -> Result<Box<Piece>, Error> {
        let Ok(mut piece) = handed.downcast::<Piece>() else {
            return Err(self.fault("a fiber rests with something else"));
        };
        let error = match (std::mem::replace(&mut piece.passed, Ok(())), stop) {
            (Ok(()), None) => return Ok(piece),
            (Ok(()), Some(Stop::Limit(hit))) => {
                Error::Callback(Fault::limit(&self.script, self.hook, hit).into())
            }
            (Ok(()), Some(Stop::Dropped)) => self.fault("a callback waited"),
            (Err(Error::Callback(error)), Some(Stop::Limit(hit))) => {
                let error = error.downcast::<Fault>().map(|mut fault| {
                    fault.meet(hit);
                    fault as Box<_>
                });
                Error::Callback(error.unwrap_or_else(|error| error))
            }
            (Err(error), _) => error,
        };
        Err(error)
    }

    /// It never ends in the middle of a body but by a panic.
    fn ended(&self, ended: Ended<End>) -> Error {
        match judge(&self.script, self.hook, ended.result, ended.stop).0 {
            Outcome::Fault(fault) => Error::Callback(fault),
            Outcome::Continue | Outcome::Answer(_) => self.fault("a fiber ended within a body"),
        }
    }

    fn fault(&self, message: &str) -> Error {
        let fault = Fault::new(&self.script, self.hook, Cause::Panic, message.to_owned());
        Error::Callback(fault.into())
    }
}

/// A body's callbacks at work: a stage whose inside is a fiber.
struct Streaming {
    /// None once the body has ended. The piece keeps its memory: the fiber's count stays true.
    going: Option<(Arc<Resting>, Box<Piece>)>,
    /// CPU time that is left to the whole body.
    cpu_left: Duration,
}

impl Streaming {
    fn new(resting: Arc<Resting>) -> Self {
        let cpu_left = resting.limits.body_cpu;
        let piece = Piece { bytes: Vec::new(), last: false, out: Vec::new(), passed: Ok(()) };
        Self { going: Some((resting, Box::new(piece))), cpu_left }
    }

    fn turn(&mut self, bytes: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some((resting, mut piece)) = self.going.take() else { return Ok(()) };
        piece.bytes.clear();
        piece.bytes.extend_from_slice(bytes);
        piece.last = last;
        let limits = resting.limits;
        let cpu = limits.cpu.min(self.cpu_left);
        let (passed, used) = resting.pass(Limits { cpu, ..limits }, piece);
        self.cpu_left = self.cpu_left.saturating_sub(used);
        let mut piece = passed?;
        out.extend_from_slice(&piece.out);
        piece.out.clear();
        if !last {
            self.going = Some((resting, piece));
        }
        Ok(())
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
