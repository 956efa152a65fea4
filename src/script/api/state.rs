//! What natives know of the run they are called in; it travels as Rhai's tag.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use rhai::{Dynamic, EvalAltResult, NativeCallContext, Position};

use super::convert::from_json;
use super::transforms::Given;
use super::{Outcome, fail};
use crate::config::body::BodyAccess;
use crate::config::filters::{Fetch, Filter, Secret};
use crate::config::state::Grants;
use crate::script::after::Work;
use crate::script::exchange::Ctx;
use crate::script::fiber::{self, CannotWait};
use crate::script::host::Host;
use crate::state::{Dict, IpSet, Lists, Live};

/// What a filter's configuration grants its script.
pub struct Facts {
    pub name: Arc<str>,
    pub config: Dynamic,
    pub secrets: BTreeMap<String, Secret>,
    pub fetch: Fetch,
    pub body: BodyAccess,
    pub state: Grants,
    /// Those of `state.dicts` and `state.ipsets`.
    pub dicts: BTreeMap<String, Arc<Live<Dict>>>,
    pub ipsets: BTreeMap<String, Arc<Live<IpSet>>>,
    /// Whether the configuration knows where addresses are.
    pub geo: bool,
}

impl Facts {
    pub fn of(filter: &Filter, lists: &Lists) -> Self {
        Self {
            dicts: granted(&filter.state.dicts, &lists.dicts),
            ipsets: granted(&filter.state.ipsets, &lists.ipsets),
            geo: !lists.geo.is_empty(),
            state: filter.state.clone(),
            name: filter.name.clone(),
            // Left out, it is a map without names, so that each of them is `()`.
            config: match &filter.config {
                serde_json::Value::Null => rhai::Map::new().into(),
                given => from_json(given),
            },
            secrets: filter.secrets.clone(),
            fetch: filter.fetch.clone(),
            body: filter.body,
        }
    }
}

fn granted<T>(
    names: &BTreeSet<String>,
    all: &BTreeMap<String, Arc<T>>,
) -> BTreeMap<String, Arc<T>> {
    let found = names.iter().filter_map(|name| Some((name.clone(), Arc::clone(all.get(name)?))));
    found.collect()
}

/// Calls of `after_response` in one run.
const MOST_WORK: usize = 32;

#[derive(Clone)]
pub struct State(Arc<Inner>);

struct Inner {
    facts: Arc<Facts>,
    /// None while the script is loaded.
    run: Option<OfRun>,
    /// Whether the script has seen or done anything outside of its exchange.
    reached: AtomicBool,
    given: Given,
    /// What `after_response` was called with; None once that is over.
    after: Mutex<Option<Vec<Work>>>,
}

struct OfRun {
    /// None when the run must not reach the world.
    host: Option<Arc<dyn Host>>,
    ctx: Ctx,
}

pub fn tag_for_load(facts: &Arc<Facts>) -> Dynamic {
    tag(facts, None, Given::default())
}

/// Without a host every call that needs one is refused.
pub fn tag_for_run(
    facts: &Arc<Facts>,
    host: Option<Arc<dyn Host>>,
    ctx: Ctx,
    given: Given,
) -> Dynamic {
    tag(facts, Some(OfRun { host, ctx }), given)
}

fn tag(facts: &Arc<Facts>, run: Option<OfRun>, given: Given) -> Dynamic {
    let after = Mutex::new(run.is_some().then(Vec::new));
    let reached = AtomicBool::new(false);
    let inner = Inner { facts: facts.clone(), run, reached, given, after };
    Dynamic::from(State(Arc::new(inner)))
}

/// Whether the script of this tag has reached the world.
pub fn has_reached(tag: &Dynamic) -> bool {
    tag.read_lock::<State>().is_none_or(|state| state.0.reached.load(Ordering::Relaxed))
}

/// What the run has left for after the response. From here on it can leave no more.
pub fn work_after(tag: &Dynamic) -> Vec<Work> {
    let state = tag.read_lock::<State>();
    state.and_then(|state| state.0.after.lock().take()).unwrap_or_default()
}

impl State {
    pub fn of(context: &NativeCallContext) -> Outcome<Self> {
        let none = || fail("unavailable", "no run is going on");
        context.tag().ok_or_else(none).and_then(Self::of_tag)
    }

    pub fn of_tag(tag: &Dynamic) -> Outcome<Self> {
        let state = tag.read_lock::<Self>().map(|state| state.clone());
        state.ok_or_else(|| fail("unavailable", "no run is going on"))
    }

    /// Leaves work for after the response.
    pub fn leave(&self, work: Work) -> Outcome<()> {
        let mut after = self.0.after.lock();
        let after = after.as_mut().ok_or_else(|| {
            fail("unavailable", "after_response can be called in a hook, before the response")
        })?;
        if after.len() == MOST_WORK {
            return Err(fail("limit", format!("at most {MOST_WORK} calls of after_response")));
        }
        after.push(work);
        Ok(())
    }

    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// What the script reaches the world by.
    fn world(&self) -> Option<&Arc<dyn Host>> {
        self.0.reached.store(true, Ordering::Relaxed);
        self.0.run.as_ref().and_then(|run| run.host.as_ref())
    }

    pub fn host(&self) -> Outcome<&Arc<dyn Host>> {
        let no_host = || fail("unavailable", "not possible while the script is loaded");
        self.world().ok_or_else(no_host)
    }

    /// The transforms of this run.
    pub fn given(&self) -> Outcome<&Given> {
        self.host().map(|_| &self.0.given)
    }

    /// The time of day, by the host's clock if there is a host.
    pub fn now(&self) -> SystemTime {
        self.world().map_or_else(SystemTime::now, |host| host.now())
    }

    /// Random bytes, from the host if there is one.
    pub fn random(&self, bytes: &mut [u8]) -> Outcome<()> {
        let filled = match self.world() {
            Some(host) => host.random(bytes),
            None => getrandom::fill(bytes).map_err(|error| error.to_string()),
        };
        filled.map_err(|error| fail("unavailable", error))
    }

    /// Counts one fetch, over all hooks of a request; false when the grant is used up.
    pub fn take_fetch(&self) -> bool {
        self.0.reached.store(true, Ordering::Relaxed);
        let facts = &self.0.facts;
        let run = self.0.run.as_ref();
        run.is_some_and(|run| run.ctx.take_fetch(&facts.name, facts.fetch.max))
    }
}

/// Suspends the script until the future is done.
pub fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Outcome<T> {
    fiber::wait(future).map_err(|error| match error {
        // No script can catch this one.
        CannotWait::Stopped => EvalAltResult::ErrorTerminated(Dynamic::UNIT, Position::NONE).into(),
        CannotWait::InBody => {
            fail("unavailable", "a callback on a body cannot wait: fetch before, in the hook")
        }
        CannotWait::NotOnFiber => fail("unavailable", "a script can wait only in a hook"),
    })
}
