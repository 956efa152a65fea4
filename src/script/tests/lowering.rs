//! Lowered code against Rhai's own evaluator, on random scripts.
//!
//! `LOWERING_SEED` repeats a run that failed, `LOWERING_PROGRAMS` makes it longer or shorter.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rhai::{
    AST, ASTNode, Dynamic, Engine, EvalAltResult, EvalContext, OptimizationLevel, Scope, Stmt,
};

use super::programs::Writer;
use super::*;
use crate::script::api::{self, Facts, Objects};
use crate::script::caches::{Kept, Pool};
use crate::script::compile::{drive, freeze, new_engine};
use crate::script::fiber::Fiber;
use crate::script::lower::{self, Lowered};

const PROGRAMS: u64 = 20_000;
/// Enough for what ends by itself, in a time that 20,000 programs leave.
const OPERATIONS: u64 = 60_000;

/// Of Rhai's name for the type of a captured value.
const LOCK: &str = "RwLock<rhai::types";

struct Program {
    engine: Engine,
    ast: AST,
    lowered: Lowered,
    facts: Arc<Facts>,
}

/// All that a run shows.
#[derive(Debug, PartialEq)]
struct Seen {
    result: String,
    request: String,
    logged: String,
}

struct Ran {
    seen: Seen,
    is_limit: bool,
    is_error: bool,
    operations: u64,
    kept: Kept,
}

#[test]
fn random_scripts_mean_the_same() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("LOWERING_SEED").unwrap_or(clock.as_secs());
    let programs = number("LOWERING_PROGRAMS").unwrap_or(PROGRAMS);
    println!("LOWERING_SEED={seed}");
    let workers: Vec<_> = (0..2)
        .map(|worker| {
            std::thread::spawn(move || {
                let seeds = (seed..).skip(worker).step_by(2);
                Tally::of(seeds, programs / 2)
            })
        })
        .collect();
    let tallies: Vec<Tally> = workers.into_iter().map(|it| it.join().unwrap()).collect();
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let (compared, errors) = (sum(|tally| tally.compared), sum(|tally| tally.errors));
    println!("compared {compared}, of which ended in an error {errors}");
    assert!(compared >= programs / 2 * 2, "LOWERING_SEED={seed}: only {compared}");
    assert!(errors < compared, "LOWERING_SEED={seed}: nothing but errors");
}

#[derive(Default)]
struct Tally {
    compared: u64,
    errors: u64,
}

impl Tally {
    /// Runs scripts until so many could be compared.
    fn of(seeds: impl Iterator<Item = u64>, wanted: u64) -> Self {
        let mut tally = Self::default();
        for seed in seeds {
            if tally.compared >= wanted {
                break;
            }
            let script = Writer::script(seed);
            let Some(program) = program(&script, seed) else { continue };
            tally.compare(seed, &script, Arc::new(program));
        }
        tally
    }

    /// Both ways, each twice on what is kept of the first time.
    fn compare(&mut self, seed: u64, script: &str, program: Arc<Program>) {
        let (mut by_rhai, mut lowered) = (Kept::default(), Kept::default());
        for round in 0..2 {
            let rhai = run(program.clone(), false, by_rhai);
            let ours = run(program.clone(), true, lowered);
            if rhai.is_limit || ours.is_limit {
                // What stops where is the clock's affair.
                return;
            }
            if [&rhai.seen.result, &rhai.seen.logged].iter().any(|text| text.contains(LOCK)) {
                // A captured variable after `??`: Rhai names its lock where a type is wrong.
                return;
            }
            let told = format!("LOWERING_SEED={seed}, round {round}\n{script}\n");
            assert_eq!(ours.seen, rhai.seen, "{told}");
            // A statement that fails half-way is counted in full, and never for less.
            let (by_them, by_us) = (rhai.operations, ours.operations);
            let least = by_them - by_them / 20 - (by_them / 20).min(20);
            let near = (least..=by_them * 3 + 300).contains(&by_us);
            assert!(near, "{told}operations: {by_us} instead of {by_them}");
            self.errors += u64::from(round == 0 && rhai.is_error);
            (by_rhai, lowered) = (rhai.kept, ours.kept);
        }
        self.compared += 1;
    }
}

/// As `compile` makes it, without what refuses most random scripts. None: it does not compile.
fn program(script: &str, seed: u64) -> Option<Program> {
    let facts = Arc::new(Facts::of(&filter(), &crate::state::Lists::default()));
    let mut engine = new_engine(&facts);
    engine.set_max_call_levels(16);
    if seed % 3 == 0 {
        engine.set_max_string_size(200).set_max_array_size(20).set_max_map_size(10);
    }
    engine.set_optimization_level(OptimizationLevel::None);
    let first = engine.compile(script).ok()?;
    let mut constants = Scope::new();
    engine.run_ast_with_scope(&mut constants, &first).unwrap();
    engine.set_strict_variables(true);
    // The optimiser breaks `try` and assignments to constants, which the lint refuses.
    let spoils = ["LIMIT =", "TABLE.n =", "LIST.push"].iter().any(|text| script.contains(text));
    let has_try = has_try(&first);
    if !has_try && !spoils {
        engine.set_optimization_level(OptimizationLevel::Simple);
    }
    let mut ast = engine.compile_with_scope(&constants, script).ok()?;
    ast.set_source("test.rhai");
    let constants: Arc<HashMap<String, Dynamic>> = freeze(&mut engine, &constants);
    let ast = ast.clone_functions_only();
    let of = lower::Facts { constants: &constants, imports: &[] };
    let lowered = Lowered::of(&mut engine, &ast, of, Arc::new(Pool::default())).unwrap();
    Some(Program { engine, ast, lowered, facts })
}

fn has_try(ast: &AST) -> bool {
    let mut found = false;
    ast.walk(&mut |path: &[ASTNode]| {
        found |= matches!(path.last(), Some(ASTNode::Stmt(Stmt::TryCatch(..))));
        !found
    });
    found
}

fn run(program: Arc<Program>, lowered: bool, mut kept: Kept) -> Ran {
    let limits = Limits { operations: OPERATIONS, ..limits() };
    let host = Arc::new(FakeHost::default());
    let seen_by = host.clone();
    let fiber = Fiber::new(limits, move || {
        let mut exchange = Exchange::for_test();
        let request = Arc::make_mut(&mut exchange.request);
        request.path = "/k1".into();
        request.headers.insert("accept", "*/*".parse().unwrap());
        request.headers.insert("x-a", "1".parse().unwrap());
        let objects = Objects::new(exchange);
        let result = call(&program, lowered, &objects, host, &mut kept);
        let result = match &result {
            Ok(value) => Ok(format!("{value:?} {}", value.type_name())),
            Err(error) => Err(format!("{error:?}")),
        };
        // The edited draft; script values do not leave the fiber.
        let request = format!("{:?}", objects.into_exchange().request);
        kept.stack.clear();
        (result, request, kept)
    });
    let ended = drive(fiber.unwrap());
    let (result, request, kept) = ended.result.unwrap();
    let logged = format!("{:?}", seen_by.logged.lock());
    let is_error = result.is_err();
    let result = result.unwrap_or_else(|error| error);
    let is_limit = ended.stop.is_some();
    let operations = ended.figures.operations;
    Ran { seen: Seen { result, request, logged }, is_limit, is_error, operations, kept }
}

fn call(
    program: &Program,
    lowered: bool,
    objects: &Objects,
    host: Arc<FakeHost>,
    kept: &mut Kept,
) -> Result<Dynamic, Box<EvalAltResult>> {
    let mut global = program.engine.new_global_runtime_state();
    global.tag = api::tag_for_run(&program.facts, Some(host), objects.ctx(), Default::default());
    global.source = program.ast.source().map(Into::into);
    if lowered {
        global.lib.push(program.lowered.library.clone());
        let arguments = vec![objects.request()];
        let called = program.lowered.call(&program.engine, &mut global, kept, ("main", arguments));
        return called.expect("main is lowered");
    }
    global.lib.push(program.ast.shared_lib().clone());
    let (mut scope, mut request) = (Scope::new(), objects.request());
    EvalContext::new(&program.engine, &mut global, &mut kept.caches, &mut scope, None).call_fn_raw(
        "main",
        false,
        false,
        &mut [&mut request],
    )
}
