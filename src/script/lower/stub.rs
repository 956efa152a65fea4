//! The way from Rhai's evaluator back into lowered code, and the way in from a hook.
//!
//! In the script's library each lowered function is replaced by a stub, so that a callback or a
//! call from an island runs lowered code too. A stub's body is a word that only we can write:
//! no script is parsed after it is defined.

use std::sync::{Arc, OnceLock};

use rhai::{AST, Dynamic, Engine, EvalAltResult, EvalContext, GlobalRuntimeState, Module};
use rhai::{Expression, ScriptFuncDef, Shared, Stmt};

use super::branch::Pending;
use super::island::{Island, OPERAND, statement, take_operand};
use super::vm::{Flow, Raised, Vm};
use super::{FunctionCost, Program, ended, lower};
use crate::script::caches::{Kept, Pool};
use crate::script::fiber;

const CALL: &str = "lowered__call";
const RAISE: &str = "lowered__raise";
const CAUGHT: &str = "lowered__caught";
/// What Rhai counts for the word in a stub: a statement and an expression.
const STUB_COST: i32 = 2;

/// A script's functions as closures.
pub struct Lowered {
    program: Arc<Program>,
    /// The script's functions, lowered ones as stubs.
    pub library: Shared<Module>,
    pub costs: Vec<FunctionCost>,
}

type Result<T> = std::result::Result<T, String>;

impl Lowered {
    /// Lowers a script; the engine parses nothing of the script's after this.
    pub fn of(
        engine: &mut Engine,
        ast: &AST,
        facts: super::Facts<'_>,
        pool: Arc<Pool>,
    ) -> Result<Self> {
        let place: Arc<OnceLock<Arc<Program>>> = Arc::default();
        let words = words(engine, &place);
        words.map_err(|error| error.to_string())?;
        let (program, costs) = lower(engine, ast, facts, pool, caught(engine)?);
        let program = Arc::new(program);
        let library = library(engine, ast, &program)?;
        // Only one is ever set.
        let _ = place.set(program.clone());
        Ok(Self { program, library, costs })
    }

    /// Calls a hook as Rhai's `call_fn_raw` does; None when Rhai runs it.
    pub fn call(
        &self,
        engine: &Engine,
        global: &mut GlobalRuntimeState,
        kept: &mut Kept,
        (hook, arguments): (&str, Vec<Dynamic>),
    ) -> Option<std::result::Result<Dynamic, Raised>> {
        let index = self.program.find(hook, arguments.len())?;
        let Kept { caches, stack, .. } = kept;
        stack.clear();
        stack.extend(arguments);
        let program = &*self.program;
        // In a function Rhai's source is its library's.
        let source = self.library.id().map(Into::into);
        let outer = std::mem::replace(&mut global.source, source);
        let mut vm = Vm { engine, program, global, caches, stack, base: 0 };
        // The level of the call by name.
        vm.global.level += 1;
        let result = vm.call(index, 0, rhai::Position::NONE);
        vm.global.level -= 1;
        vm.global.source = outer;
        Some(ended(result))
    }
}

/// Defines the words.
fn words(
    engine: &mut Engine,
    place: &Arc<OnceLock<Arc<Program>>>,
) -> std::result::Result<(), rhai::ParseError> {
    let place = place.clone();
    engine.register_custom_syntax([CALL, "$int$"], false, move |context, inputs| {
        let Some(program) = place.get() else { return Err(defect("a stub without a program")) };
        fiber::refund(STUB_COST);
        reenter(program, context, inputs)
    })?;
    let operand = engine.register_custom_syntax_handler(OPERAND, false, |context, _, name| {
        Ok(take_operand(context.scope_mut(), name))
    });
    // Fails only in builds without a parser.
    debug_assert!(operand.is_ok());
    engine.register_custom_syntax([RAISE], false, |context, _| {
        let pending = context.scope().get_value::<Pending>("$0");
        let raised = pending.and_then(|pending| pending.0.lock().take());
        Err(raised.unwrap_or_else(|| defect("nothing to throw")))
    })?;
    engine.register_custom_syntax([CAUGHT], false, |context, _| {
        let scope = context.scope_mut();
        let value = scope.get("e").cloned().unwrap_or_default();
        if let Some(place) = scope.get_mut("$0") {
            *place = value;
        }
        Ok(Dynamic::UNIT)
    })?;
    Ok(())
}

#[cold]
fn defect(text: &str) -> Raised {
    EvalAltResult::ErrorSystem(text.into(), "lowering".into()).into()
}

/// A lowered function's body, called by Rhai, which has counted the call and wraps its error.
fn reenter(
    program: &Program,
    context: &mut EvalContext<'_, '_, '_, '_, '_, '_>,
    inputs: &[Expression<'_>],
) -> std::result::Result<Dynamic, Raised> {
    let index = inputs.first().and_then(Expression::get_literal_value::<rhai::INT>);
    let index = index.and_then(|index| usize::try_from(index).ok());
    let function = index.and_then(|index| program.functions.get(index));
    let Some(function) = function else { return Err(defect("a stub of no function")) };
    let mut kept = program.pool.take();
    kept.stack.clear();
    let scope = context.scope_mut();
    // Parameters come last, in their order; Rhai goes through them backwards.
    for back in (0..function.parameters).rev() {
        let name = scope.iter_raw().nth(back).map(|(name, ..)| name.to_owned());
        let value = name.and_then(|name| scope.get_mut(&name).map(std::mem::take));
        kept.stack.push(value.unwrap_or_default());
    }
    let engine = context.engine();
    let global = context.global_runtime_state_mut();
    let Kept { caches, stack, .. } = &mut kept;
    let mut vm = Vm { engine, program, global, caches, stack, base: 0 };
    let result = vm.body(function, 0);
    kept.stack.clear();
    program.pool.give_back(kept);
    match result {
        // As a `return`, whose value Rhai does not measure.
        Ok(value) | Err(Flow::Return(value)) => {
            Err(EvalAltResult::Return(value, rhai::Position::NONE).into())
        }
        Err(flow) => ended(Err(flow)),
    }
}

/// What a `catch` gets of an error, by Rhai, which throws the error again.
fn caught(engine: &Engine) -> Result<Island> {
    let text = format!("try {{ {RAISE} }} catch (e) {{ {CAUGHT}; throw; }}");
    let ast = engine.compile(text).map_err(|error| error.to_string())?;
    let stmt = ast.statements().first().cloned();
    let stmt: Stmt = stmt.ok_or("an empty script")?;
    // The statement, the words with their statements, and the `throw`.
    Ok(Island::of(statement(stmt), 6))
}

/// The script's functions, lowered ones as stubs.
fn library(engine: &Engine, ast: &AST, program: &Program) -> Result<Shared<Module>> {
    let mut library = Module::new();
    if let Some(id) = ast.shared_lib().id() {
        library.set_id(id);
    }
    for (index, definition) in ast.iter_fn_def().enumerate() {
        let lowered = &program.functions[index];
        // Rhai itself passes an empty function by.
        if lowered.body.is_none() || lowered.is_empty {
            library.set_script_fn(definition.clone());
            continue;
        }
        let text = format!("fn stub() {{ {CALL} {index} }}");
        let stub = engine.compile(text).map_err(|error| error.to_string())?;
        let stub = stub.iter_fn_def().next().ok_or("no stub")?;
        let stub = ScriptFuncDef { body: stub.body.clone(), ..(**definition).clone() };
        library.set_script_fn(stub);
    }
    Ok(library.into())
}
