//! Everything that requests need, built from one `Config` and swapped whole; and what outlives it.
//!
//! The only place that wires the domains together. A request keeps the snapshot it began with.

mod shared;

pub use shared::{Shared, Show};

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::cache::key::Location;
use crate::config::body::BodyMode;
use crate::config::cache::KeyRules;
use crate::config::filters::{OnFault, Tests};
use crate::config::problem::{Pos, Problem, Problems};
use crate::config::routes::{Action, Route};
use crate::config::service::Limits;
use crate::config::traffic::Fallback;
use crate::config::{self, Config, filters};
use crate::routing::{Conflict, Found, RequestView, Router, Split};
use crate::script::{Diagnostic, Guard, Hook, Script, compile, required};
use crate::state::{ListError, Lists};
use crate::telemetry::handles::{FilterMetrics, RouteMetrics, UpstreamMetrics};
use crate::telemetry::log::RateLimited;
use crate::telemetry::metrics::Metrics;
use crate::upstream::pool::Pool;
use crate::upstream::sticky::StickyKey;

/// Lines about failed requests in one second; what is above is counted in the next line.
const FAILURES_LOGGED_PER_SECOND: u32 = 10;

/// One configuration, ready to serve.
pub struct Snapshot {
    pub version: u64,
    pub router: Router,
    pub routes: Vec<Arc<RouteState>>,
    /// Filters that have a schedule.
    pub scheduled: Vec<Arc<FilterState>>,
    pub upstreams: HashMap<Arc<str>, Arc<UpstreamState>>,
    pub trusted_proxies: Vec<IpNet>,
    pub limits: Limits,
    pub cache: config::cache::Cache,
    /// Whether any route has a cache.
    pub caches: bool,
    pub state: config::state::State,
    pub lists: Lists,
    pub effective: serde_yaml::Value,
    pub failures_logged: RateLimited,
}

/// A route with all that it leads to.
pub struct RouteState {
    pub name: Arc<str>,
    pub config: Route,
    /// Outermost first.
    pub filters: Vec<Arc<FilterState>>,
    pub upstream: Option<Arc<UpstreamState>>,
    /// Of an aggregated answer or a split, in its order.
    pub parts: Vec<Arc<UpstreamState>>,
    pub split: Option<Split>,
    /// Stands in where `upstream` cannot be asked.
    pub fallback: Option<Arc<UpstreamState>>,
    pub sticky: Option<StickyKey>,
    pub mirror: Option<Arc<Mirror>>,
    pub metrics: Arc<RouteMetrics>,
}

impl RouteState {
    /// Whether any filter here defines `hook`; a hook that nobody defines costs nothing.
    pub fn has(&self, hook: Hook) -> bool {
        self.filters.iter().any(|filter| filter.script.has(hook))
    }

    /// Whether any filter here asks for the request's body.
    pub fn holds_requests(&self) -> bool {
        self.filters.iter().any(|filter| filter.config.body.request == BodyMode::Buffer)
    }
}

/// Where copies of a route's requests go.
pub struct Mirror {
    pub upstream: Arc<UpstreamState>,
    /// One for each copy that may be under way.
    pub places: Arc<Semaphore>,
    pub metrics: Arc<RouteMetrics>,
}

/// An upstream's pool and its series.
pub struct UpstreamState {
    pub pool: Arc<Pool>,
    pub metrics: Arc<UpstreamMetrics>,
}

/// A compiled filter and its series.
pub struct FilterState {
    pub config: filters::Filter,
    pub script: Arc<Script>,
    pub metrics: Arc<FilterMetrics>,
    pub guard: Guard,
    /// The version before the last change of its script, where `on_fault` asks for it.
    pub previous: Option<Arc<FilterState>>,
}

impl FilterState {
    fn new(config: filters::Filter, script: Arc<Script>, metrics: Arc<FilterMetrics>) -> Self {
        let guard = Guard::new(&config, &metrics);
        Self { config, script, metrics, guard, previous: None }
    }

    /// The same with the version that it falls back to: `before`, if that was another and did well,
    /// else what that one fell back to. No further one is kept.
    fn after(mut self, before: Option<&Arc<Self>>) -> Self {
        if self.config.on_fault == OnFault::Previous
            && let Some(before) = before
        {
            let same = before.script.has_sources_of(&self.script);
            let good = match !same && before.guard.is_well() {
                true => Some(before),
                false => before.previous.as_ref(),
            };
            self.previous = good.map(|good| {
                // There is nothing behind it that a breaker could turn to.
                let config = filters::Filter { breaker: None, ..good.config.clone() };
                Arc::new(Self::new(config, Arc::clone(&good.script), Arc::clone(&good.metrics)))
            });
        }
        self
    }
}

impl Snapshot {
    /// Where an entry of a URL belongs, by the rules of the route that a GET of it takes.
    pub fn location(&self, scheme: &str, host: &str, target: &str) -> Location {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let (method, headers) = (&http::Method::GET, &http::HeaderMap::new());
        let found = self.router.find(&RequestView { host, path, method, headers, query });
        let route = match found {
            Found::Route { index, .. } => self.routes.get(index),
            Found::NotFound | Found::MethodNotAllowed { .. } => None,
        };
        let rules = route.and_then(|route| route.config.cache.as_ref());
        let everything = KeyRules::default();
        Location::new(host, scheme, path, query, rules.map_or(&everything, |cache| &cache.key))
    }

    /// Builds a snapshot beside the one that serves; on any problem nothing has changed.
    pub fn build(
        config: Config,
        file: &Path,
        metrics: &Metrics,
        previous: Option<&Snapshot>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::new(file);
        let upstreams = build_upstreams(&config, metrics, previous, &mut problems);
        if let Some(store) = &config.state.store {
            check_store(store, &mut problems);
        }
        let before = previous.map(|snapshot| &snapshot.lists);
        let lists = read_lists(&config, before, file).map_err(|wrong| {
            wrong.into_iter().for_each(|problem| problems.push(problem));
        });
        // Constants of a script may hold lists: without them it would be refused for no fault.
        let filters =
            lists.as_ref().map(|l| build_filters(&config, (l, metrics), previous, &mut problems));
        let router = build_router(&config, &mut problems);
        let splits = build_splits(&config, &mut problems);
        let (Some(router), Ok(filters), true) = (router, filters, problems.is_empty()) else {
            return Err(problems.into_sorted());
        };
        let caches = config.routes.iter().any(|route| route.cache.is_some());
        let is_scheduled = |filter: &&Arc<FilterState>| !filter.config.schedule.is_empty();
        let scheduled = filters.iter().filter(is_scheduled).cloned().collect();
        let routes = config.routes.into_iter().zip(splits);
        let routes =
            routes.map(|(route, split)| build_route(route, split, &upstreams, &filters, metrics));
        let routes = routes.map(Arc::new).collect();
        Ok(Self {
            version: previous.map_or(1, |previous| previous.version + 1),
            router,
            routes,
            scheduled,
            upstreams: upstreams.into_iter().map(|u| (u.pool.name().clone(), u)).collect(),
            trusted_proxies: config.trusted_proxies,
            limits: config.limits,
            cache: config.cache,
            caches,
            state: config.state,
            lists: lists.unwrap_or_default(),
            effective: config.effective,
            failures_logged: RateLimited::new(FAILURES_LOGGED_PER_SECOND),
        })
    }
}

/// A route with all that it leads to; names were looked up when the configuration was read.
fn build_route(
    route: Route,
    split: Option<Split>,
    upstreams: &[Arc<UpstreamState>],
    filters: &[Arc<FilterState>],
    metrics: &Metrics,
) -> RouteState {
    let of = |index: usize| upstreams.get(index).cloned();
    let parts: Vec<_> = match &route.action {
        Action::Aggregate(all) => all.parts.iter().filter_map(|part| of(part.upstream)).collect(),
        Action::Split(split) => split.parts.iter().filter_map(|part| of(part.upstream)).collect(),
        Action::Upstream(_) | Action::Redirect { .. } | Action::Respond { .. } => Vec::new(),
    };
    let upstream = match &route.action {
        Action::Upstream(index) => of(*index),
        Action::Split(_) => parts.first().cloned(),
        Action::Redirect { .. } | Action::Respond { .. } | Action::Aggregate(_) => None,
    };
    let fallback = match &route.traffic.fallback {
        Some(Fallback::Upstream(index)) => of(*index),
        Some(Fallback::Page(_)) | None => None,
    };
    let metrics = metrics.route(&route.name);
    let mirror = route.traffic.mirror.as_ref().and_then(|config| {
        let places = Arc::new(Semaphore::new(config.max as usize));
        Some(Arc::new(Mirror { upstream: of(config.upstream)?, places, metrics: metrics.clone() }))
    });
    let sticky = route.traffic.sticky.as_ref();
    RouteState {
        name: route.name.clone(),
        filters: route.filters.iter().filter_map(|i| filters.get(*i).cloned()).collect(),
        metrics,
        sticky: sticky.and_then(|config| StickyKey::new(config.secret.expose())),
        mirror,
        config: route,
        upstream,
        parts,
        split,
        fallback,
    }
}

/// The split of each route that has one.
fn build_splits(config: &Config, problems: &mut Problems) -> Vec<Option<Split>> {
    let mut split = |(index, route): (usize, &Route)| {
        let Action::Split(given) = &route.action else { return None };
        let refuse = |why: String| {
            let at = config.places.routes.get(index).copied().unwrap_or_default();
            problems.add(at, &format!("routes[{index}].split"), why, None);
        };
        Split::build(given).map_err(refuse).ok()
    };
    config.routes.iter().enumerate().map(&mut split).collect()
}

impl Snapshot {
    /// Of all routes and schedules; one may come more often.
    fn filters(&self) -> impl Iterator<Item = &Arc<FilterState>> {
        self.routes.iter().flat_map(|route| &route.filters).chain(&self.scheduled)
    }

    fn filter(&self, name: &str) -> Option<&Arc<FilterState>> {
        self.filters().find(|filter| *filter.config.name == *name)
    }
}

fn build_upstreams(
    config: &Config,
    metrics: &Metrics,
    previous: Option<&Snapshot>,
    problems: &mut Problems,
) -> Vec<Arc<UpstreamState>> {
    let mut built = Vec::with_capacity(config.upstreams.len());
    for (upstream, at) in config.upstreams.iter().zip(&config.places.upstreams) {
        let before = previous.and_then(|p| p.upstreams.get(&upstream.name));
        let metrics = metrics.upstream(&upstream.name);
        match Pool::build(upstream, &metrics, before.map(|state| &*state.pool)) {
            Ok(pool) => {
                built.push(Arc::new(UpstreamState { pool: Arc::new(pool), metrics }));
            }
            Err(error) => {
                problems.add(*at, &format!("upstreams.{}", upstream.name), error.what, None);
            }
        }
    }
    built
}

fn build_filters(
    config: &Config,
    (lists, metrics): (&Lists, &Metrics),
    previous: Option<&Snapshot>,
    problems: &mut Problems,
) -> Vec<Arc<FilterState>> {
    let mut built = Vec::with_capacity(config.filters.len());
    for (filter, at) in config.filters.iter().zip(&config.places.filters) {
        let compiled = compile(filter, lists).and_then(|script| tested(filter).map(|()| script));
        match compiled {
            Ok(script) if !filter.schedule.is_empty() && !script.has(Hook::Schedule) => {
                let path = format!("filters.{}.schedule", filter.name);
                let hint = Some("add fn on_schedule(ev) to the script".to_owned());
                problems.add(*at, &path, "the script has no on_schedule".to_owned(), hint);
            }
            Ok(script) => {
                let metrics = metrics.filter(&filter.name);
                let state = FilterState::new(filter.clone(), Arc::new(script), metrics);
                let before = previous.and_then(|previous| previous.filter(&filter.name));
                built.push(Arc::new(state.after(before)));
            }
            Err(diagnostics) => {
                for diagnostic in diagnostics {
                    let file = problems.file().to_owned();
                    problems.push(script_problem(diagnostic, filter, *at, &file));
                }
            }
        }
    }
    built
}

/// The file is made when the program starts, but not its folder.
fn check_store(store: &config::state::Store, problems: &mut Problems) {
    let path = &store.path.value;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        store.path.problem(problems, format!("{} is not a folder", folder.display()), None);
    } else if path.is_dir() {
        store.path.problem(problems, format!("{} is a folder", path.display()), None);
    }
}

/// The lists that scripts look things up in; those of `before` that have not changed are kept.
pub fn read_lists(
    config: &Config,
    before: Option<&Lists>,
    file: &Path,
) -> Result<Lists, Vec<Problem>> {
    Lists::load(&config.state, before)
        .map_err(|errors| errors.into_iter().map(|error| list_problem(error, file)).collect())
}

/// A problem in a list's text stands there, one with its file where it is configured.
fn list_problem(ListError { file: named, bad }: ListError, config: &Path) -> Problem {
    let (file, line, column, message) = match bad.line {
        0 => {
            let message = format!("{}: {}", named.value.display(), bad.message);
            (config.to_owned(), named.at.line, named.at.column, message)
        }
        line => (named.value, line, bad.column, bad.message),
    };
    Problem { file, line, column, path: named.path, message, hint: None, source: None }
}

/// What compiles may still be asked to show that it works.
fn tested(filter: &filters::Filter) -> Result<(), Vec<Diagnostic>> {
    let failed = match filter.tests {
        Tests::Optional => Vec::new(),
        Tests::Required => required(filter),
    };
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

/// A problem in a script stands there, one with the whole script where it is configured.
fn script_problem(
    diagnostic: Diagnostic,
    filter: &filters::Filter,
    at: Pos,
    file: &Path,
) -> Problem {
    let message = diagnostic.message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let path = format!("filters.{}", filter.name);
    let hint = diagnostic.hint;
    if diagnostic.line == 0 {
        let message = format!("{}: {message}", diagnostic.file.display());
        let (file, Pos { line, column }) = (file.to_owned(), at);
        return Problem { file, line, column, path, message, hint, source: None };
    }
    let source: String = diagnostic.source_line.trim().chars().take(SHOWN_OF_LINE).collect();
    Problem {
        file: diagnostic.file,
        line: diagnostic.line,
        column: diagnostic.column,
        path,
        message,
        hint,
        source: (!source.is_empty()).then_some(source),
    }
}

/// Characters of a script's line that go with a problem.
const SHOWN_OF_LINE: usize = 160;

fn build_router(config: &Config, problems: &mut Problems) -> Option<Router> {
    Router::build(&config.routes)
        .map_err(|conflicts| {
            for conflict in conflicts {
                let index = conflict_index(&conflict);
                let at = config.places.routes.get(index).copied().unwrap_or_default();
                problems.add(at, &format!("routes[{index}]"), conflict.to_string(), None);
            }
        })
        .ok()
}

fn conflict_index(conflict: &Conflict) -> usize {
    match conflict {
        Conflict::Tie { second, .. } => *second,
        Conflict::Unreachable { route, .. } => *route,
    }
}
