//! The registry: gives out handles by configured name, forgets what went away, renders the text.
//!
//! Names are resolved when a snapshot is built; the data path uses [`super::handles`] only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{IntCounter, Registry, TextEncoder};

use super::handles::{
    FilterMetrics, Held, HeldBytes, NamespaceMetrics, RateLimitMetrics, Reasons, RouteMetrics,
    UpstreamMetrics,
};
use super::slots::Slots;
use super::table::Families;

/// The route label of requests that no route took. Never pruned.
pub const NO_ROUTE: &str = "_none";

/// The names that the configuration in use has.
#[derive(Debug, Default)]
pub struct Live<'a> {
    pub routes: HashSet<&'a str>,
    pub upstreams: HashSet<&'a str>,
    pub filters: HashSet<&'a str>,
    pub namespaces: HashSet<&'a str>,
    pub rate_limits: HashSet<&'a str>,
}

type ByName<T> = Mutex<HashMap<String, Arc<T>>>;

/// All metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
    rejected_requests: Reasons,
    routes: ByName<RouteMetrics>,
    upstreams: ByName<UpstreamMetrics>,
    filters: ByName<FilterMetrics>,
    namespaces: ByName<NamespaceMetrics>,
    rate_limits: ByName<RateLimitMetrics>,
}

impl Metrics {
    /// Registers every metric in a registry of its own.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = Arc::new(Families::register(&registry)?);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        // From the start, so that a rate over the first failure is not lost.
        for outcome in ["success", "failure"] {
            families.reloads_total.with_label_values(&[outcome]);
        }
        Ok(Self {
            registry,
            families,
            rejected_requests: Slots::new(),
            routes: Mutex::default(),
            upstreams: Mutex::default(),
            filters: Mutex::default(),
            namespaces: Mutex::default(),
            rate_limits: Mutex::default(),
        })
    }

    /// The series of a route; [`NO_ROUTE`] for requests that none took.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        resolve(&self.routes, name, || RouteMetrics::new(&self.families, name))
    }

    /// The series of an upstream.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        resolve(&self.upstreams, name, || UpstreamMetrics::new(&self.families, name))
    }

    /// The series of a filter.
    pub fn filter(&self, name: &str) -> Arc<FilterMetrics> {
        resolve(&self.filters, name, || FilterMetrics::new(&self.families, name))
    }

    /// The series of a namespace of the store.
    pub fn namespace(&self, name: &str) -> Arc<NamespaceMetrics> {
        resolve(&self.namespaces, name, || NamespaceMetrics::new(&self.families, name))
    }

    /// What a namespace holds; one that the configuration has no longer holds it still.
    pub fn namespace_bytes(&self, name: &str, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.families.kv_bytes.with_label_values(&[name]).set(bytes);
    }

    /// The series of a rate limit.
    pub fn rate_limit(&self, name: &str) -> Arc<RateLimitMetrics> {
        resolve(&self.rate_limits, name, || RateLimitMetrics::new(&self.families, name))
    }

    /// A request began; it is in flight until the guard is dropped.
    pub fn request_started(&self) -> Held {
        Held::new(&self.families.requests_in_flight)
    }

    /// The count of a body that is about to be held; it grows with the body.
    pub fn held_body(&self) -> HeldBytes {
        HeldBytes::none(&self.families.held_body_bytes)
    }

    /// A request was refused before a route served it.
    pub fn request_rejected(&self, reason: &'static str) {
        let make = || self.families.requests_rejected_total.with_label_values(&[reason]);
        self.rejected_requests.with(reason, make, |counter| counter.inc());
    }

    /// Called at each scrape.
    pub fn after_running(&self, count: usize) {
        self.families.filter_after_running.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Catches up with what the listeners have counted; called at each scrape.
    pub fn connections(&self, figures: &ConnectionFigures) {
        let families = &self.families;
        families.connections_open.set(i64::try_from(figures.open).unwrap_or(i64::MAX));
        catch_up(&families.connections_total, figures.accepted);
        for (reason, count) in &figures.rejected {
            let counter = families.connections_rejected_total.with_label_values(&[*reason]);
            catch_up(&counter, *count);
        }
        for (reason, count) in &figures.cut {
            catch_up(&families.connections_cut_total.with_label_values(&[*reason]), *count);
        }
        for (reason, count) in &figures.refused {
            let counter = families.requests_rejected_total.with_label_values(&[*reason]);
            catch_up(&counter, *count);
        }
    }

    /// Catches up with what the cache's store has counted; called at each scrape.
    pub fn cache(&self, figures: &CacheFigures) {
        let families = &self.families;
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (tier, figures) in &figures.tiers {
            families.cache_entries.with_label_values(&[*tier]).set(gauge(figures.entries));
            families.cache_bytes.with_label_values(&[*tier]).set(gauge(figures.bytes));
            families.cache_limit_bytes.with_label_values(&[*tier]).set(gauge(figures.limit));
            let evictions = families.cache_evictions_total.with_label_values(&[*tier]);
            catch_up(&evictions, figures.evictions);
        }
        for (tier, count) in &figures.hits {
            catch_up(&families.cache_hits_total.with_label_values(&[*tier]), *count);
        }
        for (reason, count) in &figures.refused {
            catch_up(&families.cache_refused_total.with_label_values(&[*reason]), *count);
        }
        for (outcome, count) in &figures.fills {
            catch_up(&families.cache_fills_total.with_label_values(&[*outcome]), *count);
        }
        families.cache_fill_bytes.set(gauge(figures.fill_bytes));
        catch_up(&families.cache_purges_total, figures.purges);
        families.cache_purge_rules.set(gauge(figures.rules));
        catch_up(&families.cache_disk_errors_total, figures.disk_errors);
        catch_up(&families.cache_disk_broken_total, figures.disk_broken);
        families.cache_disk_queued_bytes.set(gauge(figures.disk_queued));
        families.cache_disk_usable.set(i64::from(figures.disk_usable));
    }

    /// The configuration was loaded, or loading it failed. Also call it at the start.
    pub fn reloaded(&self, success: bool) {
        let outcome = if success { "success" } else { "failure" };
        self.families.reloads_total.with_label_values(&[outcome]).inc();
        if success {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            self.families.config_last_reload_success_timestamp_seconds.set(seconds);
        }
    }

    /// The counter that the access log counts lost lines with.
    pub fn access_log_dropped(&self) -> IntCounter {
        self.families.access_log_dropped_total.clone()
    }

    /// Removes the series of what went away.
    ///
    /// To be called after the swap. A request still served by the old snapshot counts into series
    /// that nobody sees; one it makes new lasts until the next call.
    pub fn retain(&self, live: &Live<'_>) {
        let families = &self.families;
        let mut routes = live.routes.clone();
        routes.insert(NO_ROUTE);
        self.routes.lock().retain(|name, _| routes.contains(name.as_str()));
        prune(&families.requests_total, "route", &routes);
        prune(&families.request_duration_seconds, "route", &routes);
        prune(&families.time_to_first_byte_seconds, "route", &routes);
        prune(&families.proxy_overhead_seconds, "route", &routes);
        prune(&families.route_fallbacks_total, "route", &routes);
        prune(&families.mirror_requests_total, "route", &routes);
        prune(&families.mirror_duration_seconds, "route", &routes);
        prune(&families.cache_requests_total, "route", &routes);
        prune(&families.cache_refreshes_total, "route", &routes);
        prune(&families.cache_lock_wait_seconds, "route", &routes);
        prune(&families.cache_fill_seconds, "route", &routes);

        let upstreams = &live.upstreams;
        self.upstreams.lock().retain(|name, _| upstreams.contains(name.as_str()));
        prune(&families.upstream_requests_total, "upstream", upstreams);
        prune(&families.upstream_failures_total, "upstream", upstreams);
        prune(&families.upstream_retries_total, "upstream", upstreams);
        prune(&families.upstream_retries_over_budget_total, "upstream", upstreams);
        prune(&families.upstream_connections_total, "upstream", upstreams);
        prune(&families.endpoint_healthy, "upstream", upstreams);
        prune(&families.upstream_refusals_total, "upstream", upstreams);
        prune(&families.upstream_ejections_total, "upstream", upstreams);
        prune(&families.upstream_circuit_open, "upstream", upstreams);
        prune(&families.upstream_panic, "upstream", upstreams);
        prune(&families.upstream_discovery_failures_total, "upstream", upstreams);

        let filters = &live.filters;
        self.filters.lock().retain(|name, _| filters.contains(name.as_str()));
        prune(&families.filter_runs_total, "filter", filters);
        prune(&families.filter_duration_seconds, "filter", filters);
        prune(&families.filter_operations, "filter", filters);
        prune(&families.filter_memory_bytes, "filter", filters);
        prune(&families.filter_limit_hits_total, "filter", filters);
        prune(&families.filter_out, "filter", filters);
        prune(&families.filter_previous_runs_total, "filter", filters);
        prune(&families.filter_leaked_bytes, "filter", filters);
        prune(&families.filter_after_dropped_total, "filter", filters);
        prune(&families.schedule_runs_total, "filter", filters);
        prune(&families.schedule_last_success_timestamp_seconds, "filter", filters);
        prune(&families.fetches_total, "filter", filters);

        let namespaces = &live.namespaces;
        self.namespaces.lock().retain(|name, _| namespaces.contains(name.as_str()));
        prune(&families.kv_operations_total, "namespace", namespaces);

        let limits = &live.rate_limits;
        self.rate_limits.lock().retain(|name, _| limits.contains(name.as_str()));
        prune(&families.rate_limit_requests_total, "limit", limits);
        prune(&families.rate_limit_forgotten_total, "limit", limits);
    }

    /// All series in the text exposition format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// What the listeners have counted since the start.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFigures {
    pub open: u64,
    pub accepted: u64,
    /// Requests whose head was not accepted.
    pub refused: Vec<(&'static str, u64)>,
    pub rejected: Vec<(&'static str, u64)>,
    pub cut: Vec<(&'static str, u64)>,
}

/// What the cache holds, and has counted since the start.
#[derive(Debug, Clone, Default)]
pub struct CacheFigures {
    pub tiers: Vec<(&'static str, TierFigures)>,
    pub hits: Vec<(&'static str, u64)>,
    pub refused: Vec<(&'static str, u64)>,
    pub fills: Vec<(&'static str, u64)>,
    pub fill_bytes: u64,
    pub purges: u64,
    pub rules: u64,
    pub disk_errors: u64,
    pub disk_broken: u64,
    pub disk_queued: u64,
    pub disk_usable: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct TierFigures {
    pub entries: u64,
    pub bytes: u64,
    pub limit: u64,
    pub evictions: u64,
}

fn catch_up(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn resolve<T>(known: &ByName<T>, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
    let mut known = known.lock();
    if let Some(found) = known.get(name) {
        return Arc::clone(found);
    }
    let made = Arc::new(make());
    known.insert(name.to_owned(), Arc::clone(&made));
    made
}

/// Removes the series whose `label` is none of `keep`.
fn prune<B: MetricVecBuilder>(family: &MetricVec<B>, label: &str, keep: &HashSet<&str>) {
    for collected in family.collect() {
        for series in collected.get_metric() {
            let labels: HashMap<&str, &str> =
                series.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            if labels.get(label).is_some_and(|value| !keep.contains(value)) {
                // Fails only if another call removed it first.
                let _ = family.remove(&labels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::handles::RunCost;
    use super::*;

    fn text(metrics: &Metrics) -> String {
        metrics.render().expect("renders")
    }

    fn observe(metrics: &Metrics, route: &str, method: &str, status: u16) {
        let ms = Duration::from_millis;
        metrics.route(route).observe(method, status, ms(30), Some(ms(20)), ms(10));
    }

    #[test]
    fn counts_requests_by_route_method_and_code() {
        let metrics = Metrics::new().expect("registers");
        observe(&metrics, "a", "GET", 200);
        observe(&metrics, "a", "GET", 200);
        observe(&metrics, "a", "FROBNICATE", 404);
        metrics.route("a").observe("GET", 0, Duration::ZERO, None, Duration::ZERO);
        let text = text(&metrics);
        let series = |labels: &str| format!("selvedge_requests_total{{{labels}}}");
        assert!(text.contains(&(series(r#"code="200",method="GET",route="a""#) + " 2")), "{text}");
        assert!(text.contains(&(series(r#"code="404",method="_OTHER",route="a""#) + " 1")));
        assert!(text.contains(&(series(r#"code="000",method="GET",route="a""#) + " 1")));
        assert!(text.contains(r#"selvedge_time_to_first_byte_seconds_count{route="a"} 3"#));
        assert!(text.contains(r#"selvedge_proxy_overhead_seconds_sum{route="a"} 0.06"#));
    }

    #[test]
    fn retain_forgets_what_went_away() {
        let metrics = Metrics::new().expect("registers");
        for name in ["old", "new"] {
            observe(&metrics, name, "GET", 200);
            let upstream = metrics.upstream(name);
            upstream.request("success");
            upstream.failure("connect");
            upstream.refused("requests");
            upstream.ejection("5xx");
            upstream.retry("reset");
            upstream.connection(true);
            upstream.endpoint("127.0.0.1:1").set_healthy(true);
            let filter = metrics.filter(name);
            filter.run("on_request", "next", RunCost::default());
            filter.limit_hit("time");
            filter.fetch("success");
            metrics.namespace(name).operation("get", "ok", Duration::ZERO);
            metrics.rate_limit(name).decided(false);
        }
        observe(&metrics, NO_ROUTE, "GET", 404);
        metrics.retain(&Live {
            routes: HashSet::from(["new"]),
            upstreams: HashSet::from(["new"]),
            filters: HashSet::from(["new"]),
            namespaces: HashSet::from(["new"]),
            rate_limits: HashSet::from(["new"]),
        });
        let after = text(&metrics);
        assert!(!after.contains(r#""old""#), "{after}");
        assert!(after.contains(NO_ROUTE));
        for family in ["route", "upstream", "filter", "namespace", "limit"] {
            assert!(after.contains(&format!(r#"{family}="new""#)), "{family}");
        }
        observe(&metrics, "old", "GET", 200);
        assert!(text(&metrics).contains(r#"code="200",method="GET",route="old"} 1"#));
    }

    #[test]
    fn guards_lower_what_they_raised() {
        let metrics = Metrics::new().expect("registers");
        let request = metrics.request_started();
        assert!(text(&metrics).contains("selvedge_requests_in_flight 1"));
        drop(request);
        assert!(text(&metrics).contains("selvedge_requests_in_flight 0"));
    }

    #[test]
    fn bodies_are_held_up_to_a_total() {
        let metrics = Metrics::new().expect("registers");
        let (mut one, mut other) = (metrics.held_body(), metrics.held_body());
        assert!(one.grow(60, 100));
        assert!(!other.grow(41, 100), "101 of 100 bytes");
        assert!(other.grow(40, 100));
        assert!(text(&metrics).contains("selvedge_held_body_bytes 100"));
        drop(one);
        assert!(text(&metrics).contains("selvedge_held_body_bytes 40"));
        assert!(other.grow(60, 100), "what is given back can be held again");
    }

    #[test]
    fn counts_of_connections_catch_up_and_never_go_back() {
        let metrics = Metrics::new().expect("registers");
        let figures = |accepted, limit| ConnectionFigures {
            open: 1,
            accepted,
            rejected: vec![("limit", limit)],
            ..ConnectionFigures::default()
        };
        metrics.connections(&figures(5, 2));
        metrics.connections(&figures(4, 3));
        let text = text(&metrics);
        assert!(text.contains("selvedge_connections_open 1"), "{text}");
        assert!(text.contains("selvedge_connections_total 5"), "{text}");
        assert!(text.contains(r#"selvedge_connections_rejected_total{reason="limit"} 3"#));
    }

    #[test]
    fn an_endpoint_can_be_forgotten() {
        let metrics = Metrics::new().expect("registers");
        let upstream = metrics.upstream("u");
        upstream.endpoint("10.0.0.1:80").set_healthy(false);
        assert!(text(&metrics).contains(r#"endpoint="10.0.0.1:80""#));
        upstream.forget_endpoint("10.0.0.1:80");
        assert!(!text(&metrics).contains("10.0.0.1:80"));
    }

    #[test]
    fn reloads_rejections_and_the_process_are_there() {
        let metrics = Metrics::new().expect("registers");
        metrics.reloaded(true);
        metrics.request_rejected("too_large");
        let text = text(&metrics);
        assert!(text.contains(r#"selvedge_reloads_total{outcome="success"} 1"#));
        assert!(text.contains(r#"selvedge_reloads_total{outcome="failure"} 0"#));
        assert!(text.contains(r#"selvedge_requests_rejected_total{reason="too_large"} 1"#));
        assert!(text.contains("selvedge_build_info{version="));
        #[cfg(target_os = "linux")]
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
