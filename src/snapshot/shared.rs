//! What outlives a reload: one `Shared`, handed in wherever it is needed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use super::Snapshot;
use crate::cache::Cache;
use crate::cache::store::OpenError;
use crate::listen::{ConnCounters, Cut, Refusal, Rejection};
use crate::script::{AfterQueue, KeySets};
use crate::state::State;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::handles::RouteMetrics;
use crate::telemetry::metrics::{ConnectionFigures, Live, Metrics, NO_ROUTE};
use crate::upstream::client::Client;
use crate::upstream::watch::WatchTask;

/// Takes text for an author to read.
pub type Show = Box<dyn Fn(&str) + Send + Sync>;

/// What outlives a reload.
pub struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    pub metrics: Arc<Metrics>,
    pub access_log: ArcSwapOption<AccessLog>,
    pub client: Arc<Client>,
    cache: OnceCell<&'static Cache>,
    /// What filters keep.
    pub state: Arc<State>,
    /// Where `selvedge dev` shows what happens; nowhere else is there one.
    pub dev: Option<Show>,
    /// What filters do after responses.
    pub after: AfterQueue,
    /// What filters fetched of issuers' keys.
    pub key_sets: Arc<KeySets>,
    /// Whether new requests are wanted: false before all listeners serve, and in a drain.
    pub ready: AtomicBool,
    /// The series of requests that no route took.
    pub no_route: Arc<RouteMetrics>,
    /// What the listeners count; filled when they exist.
    pub connections: OnceCell<Arc<ConnCounters>>,
    /// What goes on beside the requests of the snapshot that serves.
    pub watches: Mutex<Vec<WatchTask>>,
}

/// Connections that scripts' fetches keep open.
const FETCH_CONNECTIONS: usize = 256;

impl Shared {
    pub fn new(
        snapshot: Snapshot,
        metrics: Arc<Metrics>,
        state: State,
        access_log: Option<AccessLog>,
        dev: Option<Show>,
    ) -> Self {
        snapshot.filters().for_each(|filter| filter.guard.show());
        Self {
            state: Arc::new(state),
            snapshot: ArcSwap::from_pointee(snapshot),
            no_route: metrics.route(NO_ROUTE),
            connections: OnceCell::new(),
            cache: OnceCell::new(),
            metrics,
            access_log: ArcSwapOption::new(access_log.map(Arc::new)),
            client: Arc::new(Client::new(FETCH_CONNECTIONS)),
            dev,
            after: AfterQueue::default(),
            key_sets: Arc::default(),
            ready: AtomicBool::new(false),
            watches: Mutex::default(),
        }
    }

    /// The process's cache; there is one once a snapshot had a route for it.
    pub fn cache(&self) -> Option<&'static Cache> {
        self.cache.get().copied()
    }

    /// Makes the cache that `snapshot` needs, or gives it new limits. To be called before the
    /// snapshot serves.
    pub fn prepare_cache(&self, snapshot: &Snapshot) -> Result<(), OpenError> {
        if let Some(cache) = self.cache.get() {
            cache.resize(&snapshot.cache);
        } else if snapshot.caches {
            self.cache.get_or_try_init(|| Cache::open(&snapshot.cache))?;
        }
        Ok(())
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// The metrics page, with the connections' counts of this moment.
    pub fn metrics_page(&self) -> Result<String, String> {
        if let Some(counters) = self.connections.get() {
            self.metrics.connections(&figures(counters));
        }
        if let Some(cache) = self.cache() {
            self.metrics.cache(&cache.figures());
        }
        self.metrics.after_running(self.after.running());
        self.metrics.render().map_err(|error| error.to_string())
    }

    /// Removes the series of what the current snapshot no longer has, and what was counted for it.
    pub fn prune(&self, previous: &Snapshot) {
        let snapshot = self.snapshot.load();
        for (name, before) in &previous.upstreams {
            let now = snapshot.upstreams.get(name).map(|state| state.pool.balancer());
            let now = now.as_ref().map(|balancer| balancer.members()).unwrap_or_default();
            let gone = before.pool.balancer();
            for gone in gone.members().iter().map(|member| member.endpoint.address()) {
                if now.iter().all(|member| member.endpoint.address() != gone) {
                    before.metrics.forget_endpoint(&gone.to_string());
                }
            }
        }
        snapshot.filters().for_each(|filter| filter.guard.show());
        self.state.retain(&snapshot.state);
        self.metrics.retain(&Live {
            routes: snapshot.routes.iter().map(|route| &*route.name).collect(),
            upstreams: snapshot.upstreams.keys().map(|name| &**name).collect(),
            filters: snapshot.filters().map(|filter| &*filter.config.name).collect::<HashSet<_>>(),
            namespaces: snapshot.state.namespaces.iter().map(|n| n.name.as_str()).collect(),
            rate_limits: snapshot.state.rate_limits.iter().map(|l| l.name.as_str()).collect(),
        });
    }
}

fn figures(counters: &ConnCounters) -> ConnectionFigures {
    ConnectionFigures {
        open: counters.open.load(Relaxed),
        accepted: counters.accepted.load(Relaxed),
        refused: Refusal::ALL.iter().map(|why| (why.label(), counters.refused(*why))).collect(),
        rejected: Rejection::ALL.iter().map(|why| (why.label(), counters.rejected(*why))).collect(),
        cut: Cut::ALL.iter().map(|why| (why.label(), counters.cut(*why))).collect(),
    }
}
