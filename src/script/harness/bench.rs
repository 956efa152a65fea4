//! What tests call: requests through filters, the clock, the seed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rhai::{Dynamic, Engine, Map};

use super::answers::{Answer, Answers};
use super::given::{aborted, body_of, exchange_of, filter_of, known, place_of, upstreams_of};
use super::life::{self, Life, Seen};
use super::outcome::outcome;
use super::stage::{Calls, Stage};
use super::state::lists_of;
use super::{Told, told};
use crate::config::filters::Filter;
use crate::script::api::{seconds, wait};
use crate::script::compile::{Script, compile_covered};
use crate::script::coverage::Coverage;
use crate::script::fault::Fault;
use crate::state::Place;

/// What the tests of one file share.
pub struct Bench {
    /// Of the test that runs.
    stage: Mutex<Arc<Stage>>,
    folder: PathBuf,
    coverage: Coverage,
    /// By file and settings: most tests of a file use the same ones.
    compiled: Mutex<HashMap<String, Arc<Script>>>,
}

/// Compiled filters that one test file keeps.
const COMPILED: usize = 64;

/// Adds the bench's functions to the engine of a test file.
pub fn register(engine: &mut Engine, bench: &Arc<Bench>) {
    let with = || Arc::clone(bench);
    let (a, b, c, d) = (with(), with(), with(), with());
    engine
        .register_fn("request", move |script: &str, given: Map| {
            a.request(script, &given, &Map::new())
        })
        .register_fn("request", move |script: &str, given: Map, settings: Map| {
            b.request(script, &given, &settings)
        })
        .register_fn("expect_fault", move |script: &str, given: Map| {
            c.expect_fault(script, &given, &Map::new())
        })
        .register_fn("expect_fault", move |script: &str, given: Map, settings: Map| {
            d.expect_fault(script, &given, &settings)
        });
    let (a, b, c) = (with(), with(), with());
    engine
        .register_fn("schedule", move |script: &str, name: &str| {
            a.schedule(script, name, &Map::new(), &Map::new())
        })
        .register_fn("schedule", move |script: &str, name: &str, given: Map| {
            b.schedule(script, name, &given, &Map::new())
        })
        .register_fn("schedule", move |script: &str, name: &str, given: Map, settings: Map| {
            c.schedule(script, name, &given, &settings)
        });
    let (a, b) = (with(), with());
    engine
        .register_fn("freeze", move |unix: i64| -> Told<()> {
            let unix = u64::try_from(unix).ok().filter(|unix| *unix <= LAST_SECOND);
            let unix = unix.ok_or_else(|| told("freeze: not a time from 1970 to 9999"))?;
            a.stage().freeze(Duration::from_secs(unix));
            Ok(())
        })
        .register_fn("advance", |by: Dynamic| -> Told<()> {
            let by = seconds(&by)?;
            wait(tokio::time::sleep(by))
        })
        .register_fn("seed", move |seed: i64| b.stage().seed(seed.cast_unsigned()));
}

/// The last second of the year 9999, where dates end.
const LAST_SECOND: u64 = 253_402_300_799;

impl Bench {
    pub fn new(file: &Path, coverage: &Coverage) -> Arc<Self> {
        Arc::new(Self {
            stage: Mutex::new(Arc::new(Stage::new())),
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            coverage: coverage.clone(),
            compiled: Mutex::default(),
        })
    }

    pub fn stage(&self) -> Arc<Stage> {
        Arc::clone(&self.stage.lock())
    }

    /// A test begins: nothing is left of the one before.
    pub fn new_stage(&self) {
        *self.stage.lock() = Arc::new(Stage::new());
    }

    /// One request through one filter. A fault is a failure of the test.
    fn request(&self, script: &str, given: &Map, settings: &Map) -> Told<Map> {
        let (seen, calls) = self.live(script, given, settings)?;
        match &seen.fault {
            Some(fault) => Err(told(self.shown(fault))),
            None => Ok(outcome(&seen, &calls)),
        }
    }

    fn expect_fault(&self, script: &str, given: &Map, settings: &Map) -> Told<Map> {
        let (seen, calls) = self.live(script, given, settings)?;
        match &seen.fault {
            Some(_) => Ok(outcome(&seen, &calls)),
            None => Err(told("expected a fault, and the filter made none")),
        }
    }

    /// One run of `on_schedule`, due now. A fault is a failure of the test.
    fn schedule(&self, script: &str, name: &str, given: &Map, settings: &Map) -> Told<Map> {
        known(given, "a run of a schedule", &["fetches", "upstreams"])?;
        let filter = filter_of(&self.folder.join(script), settings)?;
        let answers = Answers::of(given.get("fetches").unwrap_or(&Dynamic::UNIT))?;
        let compiled = self.compiled(script, settings, &filter)?;
        let stage = self.stage();
        stage.begin(answers, upstreams_of(given)?, Place::default());
        let seen = wait(life::scheduled(
            compiled.clone(),
            Arc::clone(&stage),
            filter.limits.clone(),
            name.to_owned(),
        ))?;
        self.note_cost(&compiled, &seen, &filter);
        let calls = answered(&stage)?;
        match &seen.fault {
            Some(fault) => Err(told(self.shown(fault))),
            None => Ok(outcome(&seen, &calls)),
        }
    }

    fn live(&self, script: &str, given: &Map, settings: &Map) -> Told<(Seen, Calls)> {
        let filter = filter_of(&self.folder.join(script), settings)?;
        let mut start = exchange_of(given)?;
        let body = body_of(given, Arc::make_mut(&mut start.request))?;
        let origin = Answer::of_origin(given.get("response"))?;
        let answers = Answers::of(given.get("fetches").unwrap_or(&Dynamic::UNIT))?;
        let compiled = self.compiled(script, settings, &filter)?;
        let stage = self.stage();
        stage.begin(answers, upstreams_of(given)?, place_of(given)?);
        let life =
            Life::new(Arc::clone(&compiled), Arc::clone(&stage), &filter, &start, aborted(given)?);
        let seen = wait(life.live(start, body, origin))?;
        self.note_cost(&compiled, &seen, &filter);
        Ok((seen, answered(&stage)?))
    }

    fn note_cost(&self, script: &Script, seen: &Seen, filter: &Filter) {
        for (_, _, figures) in &seen.hooks {
            self.coverage.used(script.file(), figures, &filter.limits);
        }
    }

    fn compiled(&self, script: &str, settings: &Map, filter: &Filter) -> Told<Arc<Script>> {
        let key = format!("{script} {settings:?}");
        if let Some(script) = self.compiled.lock().get(&key) {
            return Ok(Arc::clone(script));
        }
        let script = compile_covered(filter, &lists_of(settings)?, &self.coverage).map_err(
            |diagnostics| {
                told(diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            },
        )?;
        let script = Arc::new(script);
        let mut compiled = self.compiled.lock();
        if compiled.len() == COMPILED {
            compiled.clear();
        }
        compiled.insert(key, Arc::clone(&script));
        Ok(script)
    }

    /// With its place in the text as written, and its line.
    fn shown(&self, fault: &Fault) -> String {
        let mut fault = fault.clone();
        fault.column = self.coverage.column(&fault.file, fault.line, fault.column);
        match fault.source_line.is_empty() {
            true => format!("the filter faulted: {fault}"),
            false => format!("the filter faulted: {fault}\n{} | {}", fault.line, fault.source_line),
        }
    }
}

/// What the filter called, if the test had an answer for each fetch.
fn answered(stage: &Stage) -> Told<Calls> {
    let calls = stage.take_calls();
    match calls.unanswered.first() {
        Some(fetch) => Err(told(format!("the test has no answer for the fetch {fetch}"))),
        None => Ok(calls),
    }
}
