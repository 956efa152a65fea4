//! What the data path holds: series resolved once per listener, route, upstream and filter.
//!
//! No method here takes a lock after the first use of a label value (see [`Slots`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Histogram, IntCounter, IntGauge};

use super::slots::Slots;
use super::table::Families;

/// Methods counted by name.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
/// The label of all other methods: a client must not be able to make series.
const OTHER: &str = "_OTHER";
/// Status codes per route and method found without a lock.
const CODES: usize = 24;
/// Values of an outcome or reason label found without a lock.
const REASONS: usize = 16;
/// Pairs of hook and outcome found without a lock.
const RUNS: usize = 48;

/// Counters that differ in one label whose values are fixed in the program.
pub(super) type Reasons = Slots<&'static str, IntCounter, REASONS>;

/// Raises a gauge as long as it lives.
#[derive(Debug)]
#[must_use = "dropped at once, it counts nothing"]
pub struct Held(IntGauge);

impl Held {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Bytes that count in a gauge as long as this lives.
#[derive(Debug)]
#[must_use = "dropped at once, it counts nothing"]
pub struct HeldBytes {
    gauge: IntGauge,
    bytes: i64,
}

impl HeldBytes {
    pub(super) fn none(gauge: &IntGauge) -> Self {
        Self { gauge: gauge.clone(), bytes: 0 }
    }

    /// Counts more bytes, unless all who count here would hold more than `most` with them.
    #[must_use]
    pub fn grow(&mut self, bytes: usize, most: u64) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.gauge.add(bytes);
        if u64::try_from(self.gauge.get()).unwrap_or(0) > most {
            self.gauge.sub(bytes);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes);
    }
}

/// The series of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    families: Arc<Families>,
    name: String,
    /// By method, [`OTHER`] last, then by status.
    requests: [Slots<u16, IntCounter, CODES>; METHODS.len() + 1],
    duration: Histogram,
    ttfb: Histogram,
    overhead: Histogram,
    fallbacks: IntCounter,
    mirrored: Reasons,
    cache: Reasons,
    refreshes: Reasons,
}

impl RouteMetrics {
    pub(super) fn new(families: &Arc<Families>, name: &str) -> Self {
        Self {
            families: Arc::clone(families),
            name: name.to_owned(),
            requests: std::array::from_fn(|_| Slots::new()),
            duration: families.request_duration_seconds.with_label_values(&[name]),
            ttfb: families.time_to_first_byte_seconds.with_label_values(&[name]),
            overhead: families.proxy_overhead_seconds.with_label_values(&[name]),
            fallbacks: families.route_fallbacks_total.with_label_values(&[name]),
            mirrored: Slots::new(),
            cache: Slots::new(),
            refreshes: Slots::new(),
        }
    }

    /// The fallback took over.
    pub fn fallback(&self) {
        self.fallbacks.inc();
    }

    /// A copy's way ended.
    pub fn mirrored(&self, outcome: &'static str) {
        let family = &self.families.mirror_requests_total;
        let make = || family.with_label_values(&[self.name.as_str(), outcome]);
        self.mirrored.with(outcome, make, |counter| counter.inc());
    }

    /// How long both sides took for one request.
    pub fn mirror_took(&self, mirror: Duration, origin: Duration) {
        let family = &self.families.mirror_duration_seconds;
        for (side, took) in [("mirror", mirror), ("origin", origin)] {
            family.with_label_values(&[self.name.as_str(), side]).observe(took.as_secs_f64());
        }
    }

    /// What the cache did for a request.
    pub fn cached(&self, result: &'static str) {
        let family = &self.families.cache_requests_total;
        let make = || family.with_label_values(&[self.name.as_str(), result]);
        self.cache.with(result, make, |counter| counter.inc());
    }

    /// A refresh in the background ended.
    pub fn refreshed(&self, outcome: &'static str) {
        let family = &self.families.cache_refreshes_total;
        let make = || family.with_label_values(&[self.name.as_str(), outcome]);
        self.refreshes.with(outcome, make, |counter| counter.inc());
    }

    /// A request waited for another's fill.
    pub fn waited_for_fill(&self, time: Duration) {
        let family = &self.families.cache_lock_wait_seconds;
        family.with_label_values(&[&self.name]).observe(time.as_secs_f64());
    }

    /// A response was stored.
    pub fn filled(&self, time: Duration) {
        let family = &self.families.cache_fill_seconds;
        family.with_label_values(&[&self.name]).observe(time.as_secs_f64());
    }

    /// A request ended. Status 0 is "the client got no answer"; `ttfb` is None then.
    pub fn observe(
        &self,
        method: &str,
        status: u16,
        duration: Duration,
        ttfb: Option<Duration>,
        upstream_wait: Duration,
    ) {
        let index = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len());
        let make = || {
            let method = METHODS.get(index).copied().unwrap_or(OTHER);
            let labels = [self.name.as_str(), method, &format!("{status:03}")];
            self.families.requests_total.with_label_values(&labels)
        };
        self.requests[index].with(status, make, |counter| counter.inc());
        self.duration.observe(duration.as_secs_f64());
        if let Some(ttfb) = ttfb {
            self.ttfb.observe(ttfb.as_secs_f64());
        }
        self.overhead.observe(duration.saturating_sub(upstream_wait).as_secs_f64());
    }
}

/// The series of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    families: Arc<Families>,
    name: String,
    requests: Reasons,
    failures: Reasons,
    refusals: Reasons,
    ejections: Reasons,
    circuit: IntGauge,
    panic: IntGauge,
    discovery_failures: IntCounter,
    retries: Reasons,
    over_budget: IntCounter,
    reused: IntCounter,
    fresh: IntCounter,
}

impl UpstreamMetrics {
    pub(super) fn new(families: &Arc<Families>, name: &str) -> Self {
        let connections = &families.upstream_connections_total;
        Self {
            families: Arc::clone(families),
            name: name.to_owned(),
            requests: Slots::new(),
            failures: Slots::new(),
            refusals: Slots::new(),
            ejections: Slots::new(),
            circuit: families.upstream_circuit_open.with_label_values(&[name]),
            panic: families.upstream_panic.with_label_values(&[name]),
            discovery_failures: families
                .upstream_discovery_failures_total
                .with_label_values(&[name]),
            retries: Slots::new(),
            over_budget: families.upstream_retries_over_budget_total.with_label_values(&[name]),
            reused: connections.with_label_values(&[name, "true"]),
            fresh: connections.with_label_values(&[name, "false"]),
        }
    }

    /// A try ended.
    pub fn request(&self, outcome: &'static str) {
        let family = &self.families.upstream_requests_total;
        let make = || family.with_label_values(&[self.name.as_str(), outcome]);
        self.requests.with(outcome, make, |counter| counter.inc());
    }

    /// A try failed.
    pub fn failure(&self, reason: &'static str) {
        let family = &self.families.upstream_failures_total;
        let make = || family.with_label_values(&[self.name.as_str(), reason]);
        self.failures.with(reason, make, |counter| counter.inc());
    }

    /// A try was refused before an endpoint was asked.
    pub fn refused(&self, reason: &'static str) {
        let family = &self.families.upstream_refusals_total;
        let make = || family.with_label_values(&[self.name.as_str(), reason]);
        self.refusals.with(reason, make, |counter| counter.inc());
    }

    /// An endpoint was taken out for its answers.
    pub fn ejection(&self, reason: &'static str) {
        let family = &self.families.upstream_ejections_total;
        let make = || family.with_label_values(&[self.name.as_str(), reason]);
        self.ejections.with(reason, make, |counter| counter.inc());
    }

    /// Whether the circuit is anything but closed.
    pub fn circuit_open(&self, open: bool) {
        self.circuit.set(i64::from(open));
    }

    /// Whether all endpoints count as healthy because too few are.
    pub fn panic(&self, panic: bool) {
        self.panic.set(i64::from(panic));
    }

    /// The endpoints could not be found out.
    pub fn discovery_failed(&self) {
        self.discovery_failures.inc();
    }

    /// Another try begins.
    pub fn retry(&self, reason: &'static str) {
        let family = &self.families.upstream_retries_total;
        let make = || family.with_label_values(&[self.name.as_str(), reason]);
        self.retries.with(reason, make, |counter| counter.inc());
    }

    /// Another try had no place in the budget.
    pub fn retry_over_budget(&self) {
        self.over_budget.inc();
    }

    /// A connection was taken, from the pool if `reused`.
    pub fn connection(&self, reused: bool) {
        if reused { self.reused.inc() } else { self.fresh.inc() }
    }

    /// The series of one of the upstream's endpoints.
    pub fn endpoint(&self, endpoint: &str) -> EndpointMetrics {
        let labels = [self.name.as_str(), endpoint];
        EndpointMetrics { healthy: self.families.endpoint_healthy.with_label_values(&labels) }
    }

    /// Removes the series of an endpoint that is gone, such as an address that left the DNS.
    pub fn forget_endpoint(&self, endpoint: &str) {
        // An error means that there was no such series, which is what we want.
        let labels = [self.name.as_str(), endpoint];
        let _ = self.families.endpoint_healthy.remove_label_values(&labels);
    }
}

/// The series of one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointMetrics {
    healthy: IntGauge,
}

impl EndpointMetrics {
    /// Whether the endpoint takes traffic.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.set(i64::from(healthy));
    }
}

/// What one run of a hook cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunCost {
    /// Time computing, without waits.
    pub duration: Duration,
    pub operations: u64,
    /// The peak.
    pub memory_bytes: u64,
}

/// The series of one filter.
#[derive(Debug)]
pub struct FilterMetrics {
    families: Arc<Families>,
    name: String,
    runs: Slots<(&'static str, &'static str), IntCounter, RUNS>,
    limits: Reasons,
    fetches: Reasons,
    duration: Histogram,
    operations: Histogram,
    memory: Histogram,
}

impl FilterMetrics {
    pub(super) fn new(families: &Arc<Families>, name: &str) -> Self {
        Self {
            families: Arc::clone(families),
            name: name.to_owned(),
            runs: Slots::new(),
            limits: Slots::new(),
            fetches: Slots::new(),
            duration: families.filter_duration_seconds.with_label_values(&[name]),
            operations: families.filter_operations.with_label_values(&[name]),
            memory: families.filter_memory_bytes.with_label_values(&[name]),
        }
    }

    /// A hook's run ended.
    // Counts beyond 2^53 lose digits, which no bucket shows.
    #[allow(clippy::cast_precision_loss)]
    pub fn run(&self, hook: &'static str, outcome: &'static str, cost: RunCost) {
        self.ended(hook, outcome);
        self.duration.observe(cost.duration.as_secs_f64());
        self.operations.observe(cost.operations as f64);
        self.memory.observe(cost.memory_bytes as f64);
    }

    /// The same without its cost, for what is no run of its own: a body's transforms.
    pub fn ended(&self, hook: &'static str, outcome: &'static str) {
        let family = &self.families.filter_runs_total;
        let make = || family.with_label_values(&[self.name.as_str(), hook, outcome]);
        self.runs.with((hook, outcome), make, |counter| counter.inc());
    }

    /// A limit stopped a run.
    pub fn limit_hit(&self, limit: &'static str) {
        let family = &self.families.filter_limit_hits_total;
        let make = || family.with_label_values(&[self.name.as_str(), limit]);
        self.limits.with(limit, make, |counter| counter.inc());
    }

    /// A run was compared with lowered code.
    pub fn verified(&self, hook: &'static str, result: &'static str) {
        let family = &self.families.filter_verified_total;
        family.with_label_values(&[self.name.as_str(), hook, result]).inc();
    }

    /// A run did not take place, as the filter is taken out.
    pub fn not_run(&self, hook: &'static str) {
        let family = &self.families.filter_runs_total;
        let make = || family.with_label_values(&[self.name.as_str(), hook, "out"]);
        self.runs.with((hook, "out"), make, |counter| counter.inc());
    }

    /// Whether the filter is taken out.
    pub fn taken_out(&self, out: bool) {
        self.families.filter_out.with_label_values(&[&self.name]).set(i64::from(out));
    }

    /// The version before runs instead.
    pub fn previous_runs(&self) {
        self.families.filter_previous_runs_total.with_label_values(&[&self.name]).inc();
    }

    /// What runs have left behind so far.
    pub fn leaked(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.families.filter_leaked_bytes.with_label_values(&[&self.name]).set(bytes);
    }

    /// An entry of the filter's schedule was due.
    pub fn scheduled(&self, entry: &str, outcome: &'static str) {
        let labels = [self.name.as_str(), entry, outcome];
        self.families.schedule_runs_total.with_label_values(&labels).inc();
        if outcome == "continue" {
            let last = &self.families.schedule_last_success_timestamp_seconds;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            last.with_label_values(&labels[..2]).set(seconds);
        }
    }

    /// Work after a response was not done.
    pub fn after_dropped(&self) {
        self.families.filter_after_dropped_total.with_label_values(&[&self.name]).inc();
    }

    /// A fetch ended.
    pub fn fetch(&self, outcome: &'static str) {
        let family = &self.families.fetches_total;
        let make = || family.with_label_values(&[self.name.as_str(), outcome]);
        self.fetches.with(outcome, make, |counter| counter.inc());
    }
}

/// Pairs of operation and outcome found without a lock.
const OPERATIONS: usize = 24;

/// The series of one namespace of the store.
#[derive(Debug)]
pub struct NamespaceMetrics {
    families: Arc<Families>,
    name: String,
    operations: Slots<(&'static str, &'static str), IntCounter, OPERATIONS>,
    durations: Slots<&'static str, Histogram, 4>,
}

impl NamespaceMetrics {
    pub(super) fn new(families: &Arc<Families>, name: &str) -> Self {
        Self {
            families: Arc::clone(families),
            name: name.to_owned(),
            operations: Slots::new(),
            durations: Slots::new(),
        }
    }

    /// The store answered.
    pub fn operation(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        let family = &self.families.kv_operations_total;
        let make = || family.with_label_values(&[self.name.as_str(), operation, outcome]);
        self.operations.with((operation, outcome), make, |counter| counter.inc());
        let make = || self.families.kv_duration_seconds.with_label_values(&[operation]);
        self.durations.with(operation, make, |histogram| histogram.observe(took.as_secs_f64()));
    }
}

/// The series of one rate limit.
#[derive(Debug)]
pub struct RateLimitMetrics {
    allowed: IntCounter,
    refused: IntCounter,
    forgotten: IntCounter,
}

impl RateLimitMetrics {
    pub(super) fn new(families: &Arc<Families>, name: &str) -> Self {
        let requests = &families.rate_limit_requests_total;
        Self {
            allowed: requests.with_label_values(&[name, "allowed"]),
            refused: requests.with_label_values(&[name, "refused"]),
            forgotten: families.rate_limit_forgotten_total.with_label_values(&[name]),
        }
    }

    /// A request was counted, or refused.
    pub fn decided(&self, allowed: bool) {
        if allowed { self.allowed.inc() } else { self.refused.inc() }
    }

    /// Keys made room for others.
    pub fn forgotten(&self, keys: u64) {
        self.forgotten.inc_by(keys);
    }
}
