//! `selvedge test`: runs the `test_*` functions of a `*_test.rhai` against the filters beside it.
//!
//! Filters run on the same engine, fibers and limits as in production; only their host is a fake.
//! Its clock stands still but for what is waited for, and randomness follows from a seed, so a
//! test ends the same way on every machine. Tests are bounded too: they run at reloads.

mod answers;
mod asserts;
mod bench;
mod diff;
mod failure;
mod given;
mod life;
mod outcome;
mod required;
mod stage;
mod state;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rhai::{AST, CallFnOptions, Dynamic, Engine, EvalAltResult, Position, Scope};

pub use self::failure::Failure;
pub(super) use self::given::plain_filter;
pub use self::required::{Report, ReportedFailure, ReportedFile, ReportedTest, required, tests_of};

use self::bench::Bench;
use self::failure::Source;
use self::stage::Own;
use super::api::{self, Facts};
use super::compile::{LOAD_LIMITS, drive, freeze};
use super::coverage::Coverage;
use super::exchange::Ctx;
use super::fiber::{self, Fiber, Stop};
use super::imports::Imports;
use super::meter::{LIVE_FIBERS, Limits};
use crate::state::Lists;

type Told<T> = Result<T, Box<EvalAltResult>>;

/// What one test function may use. Its time is the fake clock's, on which a year may pass.
const TEST_LIMITS: Limits = Limits {
    operations: 20_000_000,
    cpu: Duration::from_secs(3600),
    body_cpu: Duration::ZERO,
    wall: Duration::from_secs(366 * 86_400),
    memory: 256 << 20,
    fibers: LIVE_FIBERS,
};
const CALL_LEVELS: usize = 64;
const EXPRESSION_DEPTH: usize = 128;

/// One test function and what came of it.
#[derive(Debug)]
pub struct Tested {
    pub name: String,
    pub failure: Option<Failure>,
    /// What the test itself printed.
    pub printed: Vec<String>,
    pub took: Duration,
}

/// Runs those tests of `file` whose name is wanted, in the order of their names, and notes what
/// they cover. The error says why the file itself cannot be used.
///
/// Blocks, so it must be called outside of any async runtime.
pub fn test_file(
    file: &Path,
    wanted: &dyn Fn(&str) -> bool,
    coverage: &Coverage,
) -> Result<Vec<Tested>, Failure> {
    let source = std::fs::read_to_string(file)
        .map_err(|error| Failure::of_file(file, format!("cannot be read: {error}")))?;
    let bench = Bench::new(file, coverage);
    let suite = Suite::load(file, source, &bench)?;
    Ok(suite.names.iter().filter(|name| wanted(name)).map(|name| suite.run(name, &bench)).collect())
}

/// A test file, ready to run.
struct Suite {
    engine: Arc<Engine>,
    ast: AST,
    source: Arc<Source>,
    names: Vec<String>,
}

impl Suite {
    fn load(file: &Path, text: String, bench: &Arc<Bench>) -> Result<Self, Failure> {
        let source = Arc::new(Source { file: file.to_owned(), text });
        let (bench, its_source) = (Arc::clone(bench), Arc::clone(&source));
        let whole = |message: String| Failure::of_file(file, message);
        let load = move || compile(&its_source, &bench);
        let ended = drive(Fiber::new(LOAD_LIMITS, load).map_err(|e| whole(e.to_string()))?);
        let (engine, ast) = match (ended.result, ended.stop) {
            (_, Some(Stop::Limit(hit))) => return Err(whole(format!("the top level meets {hit}"))),
            (Ok(loaded), _) => loaded?,
            (Err(panic), _) => return Err(whole(format!("a function panicked: {panic}"))),
        };
        let tests = ast.iter_functions();
        let tests = tests.filter(|f| f.name.starts_with("test_") && f.params.is_empty());
        let mut names: Vec<String> = tests.map(|f| f.name.to_owned()).collect();
        names.sort();
        Ok(Self { engine: Arc::new(engine), ast, source, names })
    }

    /// One test, with a clock and a seed of its own.
    fn run(&self, name: &str, bench: &Bench) -> Tested {
        let began = Instant::now();
        let failure = self.failure(name, bench);
        let printed = bench.stage().take_printed();
        Tested { name: name.to_owned(), failure, printed, took: began.elapsed() }
    }

    fn failure(&self, name: &str, bench: &Bench) -> Option<Failure> {
        let whole = |message: String| Some(Failure::of_function(&self.source, name, message));
        // Timers only: there is no way to a network.
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return whole(error.to_string()),
        };
        let (engine, ast, function) = (Arc::clone(&self.engine), self.ast.clone(), name.to_owned());
        let source = Arc::clone(&self.source);
        let call = move || {
            let options = CallFnOptions::new().eval_ast(false);
            let called: Told<Dynamic> =
                engine.call_fn_with_options(options, &mut Scope::new(), &ast, &function, ());
            called.map(drop).map_err(|error| match Failure::of(&source, &error) {
                // A stack that overflows has no place.
                failure if failure.line == 0 => {
                    Failure::of_function(&source, &function, failure.message)
                }
                failure => failure,
            })
        };
        let ended = runtime.block_on(async {
            bench.new_stage();
            Some(Fiber::new(TEST_LIMITS, call).ok()?.await)
        });
        match ended.map(|ended| (ended.result, ended.stop)) {
            None => whole("too many scripts are running".to_owned()),
            Some((_, Some(Stop::Limit(hit)))) => whole(format!("the test met {hit}")),
            Some((Err(panic), _)) => whole(format!("a function panicked: {panic}")),
            Some((Ok(ended), _)) => ended.err(),
        }
    }
}

/// The file's functions, and an engine that sees its constants. On a fiber.
fn compile(source: &Source, bench: &Arc<Bench>) -> Result<(Engine, AST), Failure> {
    let mut engine = engine(source, bench);
    let imports = Imports::of(&source.file);
    engine.set_module_resolver(imports.clone());
    let parsed = |error: rhai::ParseError| Failure::at(source, error.1, error.0.to_string());
    let mut ast = engine.compile(&source.text).map_err(parsed)?;
    ast.set_source(source.file.display().to_string());
    imports.bind(&mut engine, &ast).map_err(|(at, message)| Failure::at(source, at, message))?;
    let mut scope = Scope::new();
    let ran = engine.run_ast_with_scope(&mut scope, &ast);
    ran.map_err(|error| Failure::of(source, &error))?;
    imports.seal();
    freeze(&mut engine, &scope);
    Ok((engine, ast.clone_functions_only()))
}

/// What tests can call: all that filters can but for the network, and what the bench adds.
fn engine(source: &Source, bench: &Arc<Bench>) -> Engine {
    let mut engine = Engine::new_raw();
    api::register(&mut engine);
    asserts::register(&mut engine);
    bench::register(&mut engine, bench);
    state::register(&mut engine, bench);
    let facts = Arc::new(Facts::of(&given::plain_filter(&source.file), &Lists::default()));
    let own = Arc::new(Own::new(Arc::clone(bench)));
    engine.set_default_tag(api::tag_for_run(
        &facts,
        Some(own),
        Ctx::default(),
        api::Given::default(),
    ));
    engine
        .set_max_operations(0)
        .set_max_call_levels(CALL_LEVELS)
        .set_max_expr_depths(EXPRESSION_DEPTH, EXPRESSION_DEPTH)
        .set_max_strings_interned(0);
    engine.disable_symbol("eval");
    engine.on_progress(|_| if fiber::progress() { None } else { Some(Dynamic::UNIT) });
    engine
}

/// An error of a test, of the test's own words.
fn told(message: impl Into<String>) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(message.into().into(), Position::NONE))
}
