//! Lowering: each function of a filter becomes, at load, a tree of closures over slots.
//!
//! What the closures do not know, Rhai's own evaluator does: a single operator, a call, an
//! expression, a statement (`island`), or a whole function. The meaning is always Rhai's, down to
//! the text and the place of an error and to the operations that the meter counts. The rules are
//! those of `rhai =1.27.0`, read off its sources; `tests/lowering.rs` compares the two on
//! random programs, and docs/decisions/0012 says what an upgrade needs.
//!
//! To read: `vm` (what runs), `island` (what Rhai runs), `native` (calls into Rust), then the
//! compiler from `frame` on: statements, expressions, chains, calls.

mod assign;
mod branch;
mod call;
mod chain;
mod expr;
mod frame;
mod island;
mod literal;
mod loops;
mod native;
mod node;
mod operator;
mod stmt;
mod stub;
mod vm;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;

use rhai::{AST, ASTNode, Dynamic, Engine, EvalAltResult, Position, ScriptFuncDef, Stmt};
use rhai::{ImmutableString, Shared};

use frame::{Frame, Kept};
use island::Island;
use vm::{Code, Flow, Raised};

use super::caches::Pool;

pub use stub::Lowered;

/// The functions of a script.
pub struct Program {
    functions: Vec<Function>,
    /// What a `catch` gets of an error that is Rhai's own.
    caught: Island,
    pool: Arc<Pool>,
}

pub struct Function {
    name: ImmutableString,
    parameters: usize,
    slots: usize,
    is_empty: bool,
    source: ImmutableString,
    /// None: Rhai runs it.
    body: Option<Code<Dynamic>>,
}

/// What `selvedge check --explain-cost` tells of a function.
#[derive(Debug, Clone)]
pub struct FunctionCost {
    pub function: String,
    /// Why Rhai runs all of it.
    pub kept: Option<Slow>,
    /// What Rhai runs in the middle of it.
    pub islands: Vec<Slow>,
}

#[derive(Debug, Clone)]
pub struct Slow {
    pub position: Position,
    pub why: &'static str,
}

impl Function {
    /// An error that leaves a function, as Rhai wraps it.
    #[cold]
    fn around(&self, mut raised: Raised, position: Position) -> Raised {
        if matches!(*raised, EvalAltResult::Exit(..)) || raised.is_system_exception() {
            raised.set_position(position);
            return raised;
        }
        let (name, source) = (self.name.to_string(), self.source.to_string());
        EvalAltResult::ErrorInFunctionCall(name, source, raised, position).into()
    }
}

/// What a script is, beside its functions.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Constants of the top level, by name.
    pub constants: &'a HashMap<String, Dynamic>,
    /// Names of imports, which may hide a module of the API.
    pub imports: &'a [String],
}

/// What the compiler knows of the whole script.
struct Known<'a> {
    engine: &'a Engine,
    facts: Facts<'a>,
    functions: &'a [Shared<ScriptFuncDef>],
}

impl Known<'_> {
    /// The script's function that a call by name means.
    fn function(&self, name: &str, arguments: usize) -> Option<usize> {
        self.functions
            .iter()
            .position(|f| f.this_type.is_none() && f.name == name && f.params.len() == arguments)
    }

    /// Whether a call as a method can mean a function of the script.
    fn is_method(&self, name: &str, arguments: usize) -> bool {
        self.functions.iter().any(|f| f.name == name && f.params.len() == arguments)
    }
}

/// Lowers all functions of a script.
fn lower(
    engine: &Engine,
    ast: &AST,
    facts: Facts<'_>,
    pool: Arc<Pool>,
    caught: Island,
) -> (Program, Vec<FunctionCost>) {
    let definitions: Vec<Shared<ScriptFuncDef>> = ast.iter_fn_def().cloned().collect();
    let known = Known { engine, facts, functions: &definitions };
    let source: ImmutableString = ast.shared_lib().id().unwrap_or_default().into();
    let (mut functions, mut costs) = (Vec::new(), Vec::new());
    for definition in &definitions {
        let body = body_of(ast, definition);
        let mut frame = Frame::new(&known, definition);
        let lowered = frame.function(definition, &body);
        let Kept { islands, slots } = frame.kept();
        let (body_code, kept) = match lowered {
            Ok(code) => (Some(code), None),
            Err(slow) => (None, Some(slow)),
        };
        let function = definition.name.to_string();
        let islands = if kept.is_some() { Vec::new() } else { islands };
        costs.push(FunctionCost { function, kept, islands });
        functions.push(Function {
            name: definition.name.clone(),
            parameters: definition.params.len(),
            slots,
            is_empty: body.is_empty(),
            source: source.clone(),
            body: body_code,
        });
    }
    (Program { functions, caught, pool }, costs)
}

/// The statements of one function. Rhai 1.27 does not export the type of a function's body, so
/// they are read off a script that holds this function alone.
fn body_of(ast: &AST, definition: &ScriptFuncDef) -> Vec<Stmt> {
    let (wanted, parameters) = (definition.name.clone(), definition.params.len());
    let mut alone = ast.clone_functions_only();
    alone.retain_functions(move |_, _, name, count| name == wanted && count == parameters);
    let mut body = Vec::new();
    alone.walk(&mut |path: &[ASTNode]| {
        if let [ASTNode::Stmt(stmt)] = path {
            body.push((*stmt).clone());
        }
        true
    });
    body
}

/// Whether a function has no statement.
pub fn is_empty(ast: &AST, name: &str) -> bool {
    let of = |definition: &&Shared<ScriptFuncDef>| definition.name == name;
    ast.iter_fn_def().find(of).is_some_and(|definition| body_of(ast, definition).is_empty())
}

impl Program {
    /// The place of a lowered function.
    fn find(&self, name: &str, parameters: usize) -> Option<usize> {
        self.functions.iter().position(|function| {
            function.body.is_some() && function.name == name && function.parameters == parameters
        })
    }
}

/// A hook's end. Only a defect here can leave a loop that is not there.
fn ended(result: Result<Dynamic, Flow>) -> Result<Dynamic, Raised> {
    match result {
        Ok(value) | Err(Flow::Return(value)) => Ok(value),
        Err(Flow::Raised(raised)) => Err(raised),
        Err(Flow::Break(_) | Flow::Continue) => {
            let text = "a break outside of a loop".to_owned();
            Err(EvalAltResult::ErrorSystem(text, "lowering".into()).into())
        }
    }
}
