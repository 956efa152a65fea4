//! A filter's file to a `Script` that can run: compile, run the top level once, freeze, check.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rhai::{
    AST, ASTNode, Dynamic, Engine, EvalAltResult, Module, OptimizationLevel, ParseErrorType,
    Position, Scope, Stmt,
};

use super::api::{self, Facts};
use super::caches::Pool;
use super::coverage::Coverage;
use super::diagnostic::Diagnostic;
use super::fault::text_of;
use super::fiber::{self, Fiber, Stop};
use super::hooks::Hook;
use super::imports::{Imported, Imports};
use super::leaks;
use super::lint::{Lint, nearest};
use super::lower::{self, FunctionCost, Lowered};
use super::meter::{LIVE_FIBERS, Limits};
use crate::config::filters::{Filter, Lowering};
use crate::state::Lists;

/// What the top level of a script may use while it is loaded.
pub(super) const LOAD_LIMITS: Limits = Limits {
    operations: 1_000_000,
    cpu: Duration::from_secs(2),
    body_cpu: Duration::ZERO,
    wall: Duration::from_secs(10),
    memory: 64 << 20,
    fibers: LIVE_FIBERS,
};
// Rhai's defaults differ between debug and release builds, so all are set.
pub(super) const CALL_LEVELS: usize = 32;
const EXPRESSION_DEPTH: usize = 64;
const FUNCTION_EXPRESSION_DEPTH: usize = 64;
pub(super) const STRING_BYTES: usize = 1 << 20;
pub(super) const ARRAY_LENGTH: usize = 10_000;
// Rhai counts what nested arrays and maps hold together.
pub(super) const MAP_LENGTH: usize = 10_000;
const VARIABLES: usize = 1_000;
const FUNCTIONS: usize = 1_000;
const MODULES: usize = 64;

/// A filter, ready to run its hooks.
pub struct Script {
    pub(super) engine: Engine,
    pub(super) ast: AST,
    pub(super) facts: Arc<Facts>,
    file: PathBuf,
    source: String,
    imports: Imports,
    hooks: Vec<Hook>,
    /// Hooks that are defined and do nothing.
    idle: Vec<Hook>,
    pub(super) shares: bool,
    transforms: bool,
    pub(super) caches: Arc<Pool>,
    pub(super) lowering: Lowering,
    /// None when Rhai runs everything.
    pub(super) lowered: Option<Lowered>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script").field("file", &self.file).field("hooks", &self.hooks).finish()
    }
}

impl Script {
    /// Whether the hook is defined; one that is not costs nothing.
    pub fn has(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    /// Whether there is something to run for the hook.
    pub(super) fn runs(&self, hook: Hook) -> bool {
        self.has(hook) && !self.idle.contains(&hook)
    }

    /// Whether it may transform bodies that come for it, as far as its text tells.
    pub fn transforms(&self) -> bool {
        self.transforms
    }

    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// Whether both were compiled from the same text, what they import included.
    pub fn has_sources_of(&self, other: &Script) -> bool {
        self.source == other.source && self.imports.same_sources(&other.imports)
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What runs as closures, and what Rhai still runs.
    pub fn costs(&self) -> &[FunctionCost] {
        self.lowered.as_ref().map_or(&[], |lowered| &lowered.costs)
    }

    /// The script's own file and all that it imports.
    pub fn files(&self) -> Vec<PathBuf> {
        let imported = self.imports.files().into_iter().map(|imported| imported.file);
        std::iter::once(self.file.clone()).chain(imported).collect()
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }
}

/// Reads and checks a filter's script; `lists` holds what it was granted of them.
pub fn compile(filter: &Filter, lists: &Lists) -> Result<Script, Vec<Diagnostic>> {
    load(filter, lists, read(filter)?, None)
}

/// As [`compile`], with the text at hand; imports are still read from the script's folder.
pub(super) fn compile_source(
    filter: &Filter,
    lists: &Lists,
    source: String,
) -> Result<Script, Vec<Diagnostic>> {
    load(filter, lists, source, None)
}

/// As [`compile`], and notes what runs.
pub(super) fn compile_covered(
    filter: &Filter,
    lists: &Lists,
    coverage: &Coverage,
) -> Result<Script, Vec<Diagnostic>> {
    load(filter, lists, read(filter)?, Some(coverage.clone()))
}

fn read(filter: &Filter) -> Result<String, Vec<Diagnostic>> {
    std::fs::read_to_string(&filter.script).map_err(|error| {
        let message = format!("this script cannot be read: {error}");
        vec![Diagnostic::at(&filter.script, "", Position::NONE, message)]
    })
}

fn load(
    filter: &Filter,
    lists: &Lists,
    source: String,
    coverage: Option<Coverage>,
) -> Result<Script, Vec<Diagnostic>> {
    let file = filter.script.clone();
    let one = |message: String| vec![Diagnostic::at(&file, "", Position::NONE, message)];
    let load = Load {
        file: file.clone(),
        facts: Arc::new(Facts::of(filter, lists)),
        imports: Imports::of(&filter.script).covered_by(coverage.clone()),
        source,
        coverage,
        lowering: filter.lowering,
    };
    let fiber = Fiber::new(LOAD_LIMITS, move || load.run()).map_err(|e| one(e.to_string()))?;
    let ended = drive(fiber);
    match (ended.result, ended.stop) {
        (_, Some(Stop::Limit(hit))) => Err(one(format!("the top level meets {hit}"))),
        (Ok(result), _) => result,
        (Err(panic), _) => Err(one(format!("loading this script panicked: {panic}"))),
    }
}

/// Drives a fiber that never waits (natives refuse to, at load) to its end on this thread.
pub(super) fn drive<R: Send + 'static>(mut fiber: Fiber<R>) -> fiber::Ended<R> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(ended) = Pin::new(&mut fiber).poll(&mut cx) {
            return ended;
        }
        std::thread::yield_now();
    }
}

/// One load, step by step.
struct Load {
    file: PathBuf,
    facts: Arc<Facts>,
    imports: Imports,
    source: String,
    coverage: Option<Coverage>,
    lowering: Lowering,
}

impl Load {
    fn run(self) -> Result<Script, Vec<Diagnostic>> {
        let mut engine = new_engine(&self.facts);
        engine.set_module_resolver(self.imports.clone());
        if let Some(coverage) = &self.coverage {
            coverage.register(&mut engine);
        }
        // As written: the optimiser turns `CONFIG.key = 1` into a harmless `0 = 1`.
        engine.set_optimization_level(OptimizationLevel::None);
        let first = self.parse(&engine, &Scope::new())?;
        engine.set_strict_variables(true);
        self.imports
            .bind(&mut engine, &first)
            .map_err(|(position, message)| vec![self.problem(position, message)])?;
        let (file, source, facts) = (&self.file, &self.source, &self.facts);
        sound(Lint { engine: &engine, file, source, facts }.check_grants(&first))?;
        let constants = self.run_top_level(&mut engine, &first)?;
        self.imports.seal();

        let written = self.parse(&engine, &constants)?;
        let mut problems = Lint { engine: &engine, file, source, facts }.check(&written);
        for Imported { file, source, ast } in self.imports.files() {
            let lint = Lint { engine: &engine, file: &file, source: &source, facts };
            problems.extend(lint.check_import(&ast));
        }
        sound(problems)?;
        let text = match &self.coverage {
            Some(coverage) => coverage.marked(file, source, &written),
            None => source.clone(),
        };
        if !has_try(&written) {
            engine.set_optimization_level(OptimizationLevel::Simple);
        }
        let ast = self.parse_text(&engine, &constants, &text)?;
        let frozen = freeze(&mut engine, &constants);
        let hooks = Hook::ALL.into_iter();
        let hooks = hooks.filter(|hook| ast.iter_functions().any(|f| f.name == hook.name()));
        let hooks: Vec<Hook> = hooks.collect();
        let is_idle = |hook: &&Hook| lower::is_empty(&ast, hook.name());
        let idle = hooks.iter().filter(is_idle).copied().collect();
        let imported = self.imports.files();
        let mut asts = std::iter::once(&ast).chain(imported.iter().map(|imported| &imported.ast));
        let transforms = asts.clone().any(Lint::transforms);
        let shares = asts.any(leaks::shares);
        let ast = ast.clone_functions_only();
        let caches = Arc::new(Pool::default());
        let of = lower::Facts { constants: &frozen, imports: &imported_names(&first) };
        let lowered = self.lower(&mut engine, &ast, of, caches.clone())?;
        let Self { file, facts, imports, source, lowering, .. } = self;
        Ok(Script {
            engine,
            ast,
            facts,
            file,
            source,
            imports,
            hooks,
            idle,
            shares,
            transforms,
            caches,
            lowering,
            lowered,
        })
    }

    fn lower(
        &self,
        engine: &mut Engine,
        ast: &AST,
        of: lower::Facts<'_>,
        caches: Arc<Pool>,
    ) -> Result<Option<Lowered>, Vec<Diagnostic>> {
        if self.lowering == Lowering::Off {
            return Ok(None);
        }
        let lowered = Lowered::of(engine, ast, of, caches);
        let lowered = lowered.map_err(|error| vec![self.problem(Position::NONE, error)])?;
        Ok(Some(lowered))
    }

    fn parse(&self, engine: &Engine, scope: &Scope) -> Result<AST, Vec<Diagnostic>> {
        self.parse_text(engine, scope, &self.source)
    }

    fn parse_text(
        &self,
        engine: &Engine,
        scope: &Scope,
        text: &str,
    ) -> Result<AST, Vec<Diagnostic>> {
        let mut ast = engine.compile_with_scope(scope, text).map_err(|error| {
            let message = error.0.to_string();
            let hint = match error.0.as_ref() {
                ParseErrorType::VariableUndefined(name) => {
                    let constants = scope.iter().map(|(name, ..)| name).collect::<Vec<_>>();
                    nearest(name, constants.into_iter().chain(["req", "res", "err"]))
                        .map(str::to_owned)
                }
                ParseErrorType::ModuleUndefined(name) => {
                    nearest(name, api::modules()).map(str::to_owned)
                }
                _ => None,
            };
            let hint = hint.map(|near| format!("did you mean {near}?"));
            vec![self.problem(error.1, message).with_hint(hint)]
        })?;
        ast.set_source(self.file.display().to_string());
        Ok(ast)
    }

    fn problem(&self, position: Position, message: String) -> Diagnostic {
        Diagnostic::at(&self.file, &self.source, position, message)
    }

    /// Runs everything outside of functions once; what is const stays.
    fn run_top_level(
        &self,
        engine: &mut Engine,
        ast: &AST,
    ) -> Result<Scope<'static>, Vec<Diagnostic>> {
        let mut constants = Scope::new();
        let config = self.facts.config.clone();
        constants.push_constant_dynamic("config", config.clone());
        let mut scope = constants.clone();
        engine.run_ast_with_scope(&mut scope, ast).map_err(|error| {
            let inner: &EvalAltResult = error.unwrap_inner();
            vec![self.problem(inner.position(), text_of(inner))]
        })?;
        for (name, constant, value) in scope.iter().filter(|(name, ..)| *name != "config") {
            if !constant {
                continue;
            }
            if let Some(handle) = api::handle_in(&value) {
                let message = format!("the constant {name} holds a {handle}, which can be edited");
                let hint = "all requests would share it: make it in a function";
                let problem = self.problem(declared(ast, name), message);
                return Err(vec![problem.with_hint(Some(hint.to_owned()))]);
            }
            constants.push_constant_dynamic(name.to_owned(), value);
        }
        Ok(constants)
    }
}

fn sound(problems: Vec<Diagnostic>) -> Result<(), Vec<Diagnostic>> {
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Where the top level declares a variable.
fn declared(ast: &AST, name: &str) -> Position {
    let mut found = Position::NONE;
    ast.clone_statements_only().walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(Stmt::Var(definition, _, position))) = path.last()
            && definition.0.name == name
        {
            found = *position;
        }
        true
    });
    found
}

/// Rhai 1.27 optimises the blocks of `try` as if nobody took their value, so that a function that
/// ends in `try { f(); true } catch { false }` returns what `f` did.
fn has_try(ast: &AST) -> bool {
    let mut found = false;
    ast.walk(&mut |path: &[ASTNode]| {
        found |= matches!(path.last(), Some(ASTNode::Stmt(Stmt::TryCatch(..))));
        !found
    });
    found
}

/// The constants by bare name, in any function.
///
/// The optimiser, where it ran, has put scalars and `CONFIG.key` of a map in place already. What
/// is left is an array or a map as a whole, of which each use is a copy: its cost grows with its
/// size, so a hook that uses a large one often takes it into a variable first.
pub(super) fn freeze(engine: &mut Engine, constants: &Scope) -> Arc<HashMap<String, Dynamic>> {
    let frozen: HashMap<String, Dynamic> =
        constants.iter().map(|(name, _, value)| (name.to_owned(), value)).collect();
    let frozen = Arc::new(frozen);
    let constants = frozen.clone();
    #[expect(deprecated, reason = "marked volatile, not deprecated; the version is pinned")]
    engine.on_var(move |name, index, _| {
        // A local has an index; only unresolved names reach the constants.
        Ok(if index == 0 { constants.get(name).cloned() } else { None })
    });
    frozen
}

/// Names under which a script imports files.
fn imported_names(ast: &AST) -> Vec<String> {
    let mut names = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, _))) = path.last() {
            names.push(import.1.name.to_string());
        }
        true
    });
    names
}

pub(super) fn new_engine(facts: &Arc<Facts>) -> Engine {
    let mut engine = Engine::new_raw();
    api::register(&mut engine);
    engine.set_default_tag(api::tag_for_load(facts));
    engine
        .set_max_call_levels(CALL_LEVELS)
        // Rhai loses count in callbacks; the fiber's own fuel counts instead.
        .set_max_operations(0)
        .set_max_variables(VARIABLES)
        .set_max_functions(FUNCTIONS)
        .set_max_modules(MODULES)
        .set_max_expr_depths(EXPRESSION_DEPTH, FUNCTION_EXPRESSION_DEPTH)
        .set_max_string_size(STRING_BYTES)
        .set_max_array_size(ARRAY_LENGTH)
        .set_max_map_size(MAP_LENGTH)
        // The interner is a lock that all threads would share.
        .set_max_strings_interned(0);
    engine.disable_symbol("eval").disable_symbol("curry");
    engine.on_progress(|_| if fiber::progress() { None } else { Some(Dynamic::UNIT) });
    engine
}
