//! What a run of lowered code works on: its slots, the engine's state, the meter.

use rhai::{Caches, Dynamic, Engine, EvalAltResult, GlobalRuntimeState, Position};

use super::{Function, Program};
use crate::script::fiber;

pub type Raised = Box<EvalAltResult>;

/// Why a piece of code did not end with a value.
pub enum Flow {
    Raised(Raised),
    Return(Dynamic),
    Break(Dynamic),
    Continue,
}

impl From<Raised> for Flow {
    fn from(raised: Raised) -> Self {
        Self::Raised(raised)
    }
}

pub type Step<T> = Result<T, Flow>;

/// A piece of lowered code.
pub type Code<T> = Box<dyn Fn(&mut Vm<'_>) -> Step<T> + Send + Sync>;

/// One run. A function's variables are the slots from `base` on, laid out as Rhai lays out its
/// scope.
pub struct Vm<'v> {
    pub engine: &'v Engine,
    pub program: &'v Program,
    pub global: &'v mut GlobalRuntimeState,
    pub caches: &'v mut Caches,
    pub stack: &'v mut Vec<Dynamic>,
    pub base: usize,
}

impl Vm<'_> {
    pub fn slot(&self, slot: usize) -> &Dynamic {
        &self.stack[self.base + slot]
    }

    pub fn slot_mut(&mut self, slot: usize) -> &mut Dynamic {
        &mut self.stack[self.base + slot]
    }

    /// A copy of a variable's value; a captured one is behind a lock.
    pub fn value_of(&self, slot: usize) -> Dynamic {
        let value = self.slot(slot);
        if value.is_shared() { value.flatten_clone() } else { value.clone() }
    }

    /// Empties slots whose variables are gone.
    pub fn clear(&mut self, from: usize, to: usize) {
        for slot in &mut self.stack[self.base + from..self.base + to] {
            *slot = Dynamic::UNIT;
        }
    }

    /// Counts operations, in Rhai's unit; looks at the limits and gives way when it is time.
    pub fn burn(&self, operations: u32, position: Position) -> Step<()> {
        if fiber::burn(operations) {
            return Ok(());
        }
        Err(Flow::Raised(EvalAltResult::ErrorTerminated(Dynamic::UNIT, position).into()))
    }

    /// Calls a function of the script; its arguments are on the stack from `base` on.
    pub fn call(&mut self, index: usize, base: usize, position: Position) -> Step<Dynamic> {
        let program = self.program;
        let function = &program.functions[index];
        self.global.level += 1;
        let result = self.enter(function, base, position);
        self.global.level -= 1;
        self.stack.truncate(base);
        result
    }

    fn enter(&mut self, function: &Function, base: usize, position: Position) -> Step<Dynamic> {
        if function.is_empty {
            return Ok(Dynamic::UNIT);
        }
        self.burn(1, position)?;
        if self.global.level > self.engine.max_call_levels() {
            return Err(Flow::Raised(EvalAltResult::ErrorStackOverflow(position).into()));
        }
        match self.body(function, base) {
            Err(Flow::Raised(raised)) => Err(Flow::Raised(function.around(raised, position))),
            result => result,
        }
    }

    /// Runs a body whose arguments lie from `base` on.
    pub fn body(&mut self, function: &Function, base: usize) -> Step<Dynamic> {
        let Some(body) = &function.body else {
            let text = format!("{} is not lowered", function.name);
            let error = EvalAltResult::ErrorSystem(text, "lowering".into());
            return Err(Flow::Raised(error.into()));
        };
        self.stack.resize(base + function.slots, Dynamic::UNIT);
        let outer = std::mem::replace(&mut self.base, base);
        let result = body(self);
        self.base = outer;
        match result {
            Err(Flow::Return(value)) => Ok(value),
            result => result,
        }
    }
}
