//! The one table of all metrics: name, kind, labels, buckets and help.
//!
//! The families and the reference page both grow from it; no metric is named anywhere else.

use std::fmt::Write as _;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

/// What a histogram measures, and so where its buckets lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Not a histogram.
    Plain,
    /// Seconds that a client waits: 0.5 ms to 30 s.
    Seconds,
    /// Seconds of our own work: 10 µs to 1 s.
    FineSeconds,
    /// Rhai operations: 10 to 10 million.
    Operations,
    /// Bytes: 1 KiB to 64 MiB.
    Bytes,
}

impl Scale {
    fn buckets(self) -> &'static [f64] {
        match self {
            Self::Plain => &[],
            Self::Seconds => &[
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
                10.0, 30.0,
            ],
            Self::FineSeconds => &[
                0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                0.05, 0.25, 1.0,
            ],
            Self::Operations => &[10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7],
            Self::Bytes => &[
                1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0,
                67108864.0,
            ],
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    pub scale: Scale,
    pub help: &'static str,
}

/// A metric type that a row can be built as.
trait Family: Collector + Clone + Sized + 'static {
    const KIND: &'static str;
    fn build(row: &Row) -> Result<Self, prometheus::Error>;
}

impl Family for IntCounter {
    const KIND: &'static str = "counter";
    fn build(row: &Row) -> Result<Self, prometheus::Error> {
        Self::new(row.name, row.help)
    }
}

impl Family for IntGauge {
    const KIND: &'static str = "gauge";
    fn build(row: &Row) -> Result<Self, prometheus::Error> {
        Self::new(row.name, row.help)
    }
}

impl Family for IntCounterVec {
    const KIND: &'static str = "counter";
    fn build(row: &Row) -> Result<Self, prometheus::Error> {
        Self::new(Opts::new(row.name, row.help), row.labels)
    }
}

impl Family for IntGaugeVec {
    const KIND: &'static str = "gauge";
    fn build(row: &Row) -> Result<Self, prometheus::Error> {
        Self::new(Opts::new(row.name, row.help), row.labels)
    }
}

impl Family for HistogramVec {
    const KIND: &'static str = "histogram";
    fn build(row: &Row) -> Result<Self, prometheus::Error> {
        let opts = HistogramOpts::new(row.name, row.help).buckets(row.scale.buckets().to_vec());
        Self::new(opts, row.labels)
    }
}

fn register<F: Family>(registry: &Registry, row: &Row) -> Result<F, prometheus::Error> {
    let family = F::build(row)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

macro_rules! table {
    ($($field:ident: $family:ident, [$($label:literal),*], $scale:ident, $help:literal;)*) => {
        /// Every metric, in the order of the reference page.
        pub const TABLE: &[Row] = &[$(Row {
            name: concat!("selvedge_", stringify!($field)),
            kind: <$family as Family>::KIND,
            labels: &[$($label),*],
            scale: Scale::$scale,
            help: $help,
        }),*];

        /// The registered families, a field per row.
        #[derive(Debug)]
        pub(super) struct Families { $(pub(super) $field: $family),* }

        impl Families {
            pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
                // Fields are evaluated in the order they are written, which is the table's.
                let mut rows = TABLE.iter();
                let mut next = || {
                    rows.next().ok_or_else(|| prometheus::Error::Msg("table too short".into()))
                };
                Ok(Self { $($field: register(registry, next()?)?),* })
            }
        }
    };
}

table! {
    requests_total: IntCounterVec, ["route", "method", "code"], Plain,
        "Requests answered, by the status that the client got; code 000 if it got none.";
    request_duration_seconds: HistogramVec, ["route"], Seconds,
        "Time from the request's head to the end of its response.";
    time_to_first_byte_seconds: HistogramVec, ["route"], Seconds,
        "Time from the request's head to the response's head.";
    proxy_overhead_seconds: HistogramVec, ["route"], FineSeconds,
        "Request duration less the time spent waiting for the upstream.";
    requests_in_flight: IntGauge, [], Plain,
        "Requests being served now.";
    held_body_bytes: IntGauge, [], Plain,
        "Bytes of bodies that are held for filters now; see limits.held_bodies.";
    requests_rejected_total: IntCounterVec, ["reason"], Plain,
        "Requests refused before a route served them.";
    connections_open: IntGauge, [], Plain,
        "Client connections open now.";
    connections_total: IntCounter, [], Plain,
        "Client connections accepted.";
    connections_rejected_total: IntCounterVec, ["reason"], Plain,
        "Client connections closed before a request was read.";
    connections_cut_total: IntCounterVec, ["reason"], Plain,
        "Client connections cut while they were open.";
    route_fallbacks_total: IntCounterVec, ["route"], Plain,
        "Requests for which the route's fallback took over.";
    mirror_requests_total: IntCounterVec, ["route", "outcome"], Plain,
        "Copies of requests, by whether the answer had the status of the origin's; or why there was none.";
    mirror_duration_seconds: HistogramVec, ["route", "side"], Seconds,
        "Time to an answer, of the origin and of the mirror, where both gave one.";
    upstream_requests_total: IntCounterVec, ["upstream", "outcome"], Plain,
        "Requests sent upstream, each try counted.";
    upstream_failures_total: IntCounterVec, ["upstream", "reason"], Plain,
        "Tries that failed.";
    upstream_retries_total: IntCounterVec, ["upstream", "reason"], Plain,
        "Tries after the first, by what the one before failed by.";
    upstream_retries_over_budget_total: IntCounterVec, ["upstream"], Plain,
        "Further tries that the retry budget had no place for.";
    upstream_connections_total: IntCounterVec, ["upstream", "reused"], Plain,
        "Connections used for a try, by whether they came from the pool.";
    endpoint_healthy: IntGaugeVec, ["upstream", "endpoint"], Plain,
        "Whether the endpoint takes traffic: 1 or 0.";
    upstream_refusals_total: IntCounterVec, ["upstream", "reason"], Plain,
        "Tries refused before an endpoint was asked: by a limit, an open circuit or a fence.";
    upstream_ejections_total: IntCounterVec, ["upstream", "reason"], Plain,
        "Endpoints taken out because their answers failed.";
    upstream_circuit_open: IntGaugeVec, ["upstream"], Plain,
        "Whether the circuit breaker refuses requests, or lets only probes through: 1 or 0.";
    upstream_panic: IntGaugeVec, ["upstream"], Plain,
        "Whether so few endpoints are healthy that all count as healthy: 1 or 0.";
    upstream_discovery_failures_total: IntCounterVec, ["upstream"], Plain,
        "Looks for an upstream's endpoints that failed; those known stay.";
    filter_runs_total: IntCounterVec, ["filter", "hook", "outcome"], Plain,
        "Runs of a filter's hook; with the hook `body`, bodies that its transforms worked on.";
    filter_duration_seconds: HistogramVec, ["filter"], FineSeconds,
        "Time a hook's run computed.";
    filter_operations: HistogramVec, ["filter"], Operations,
        "Script operations of a hook's run.";
    filter_memory_bytes: HistogramVec, ["filter"], Bytes,
        "Peak memory of a hook's run.";
    filter_limit_hits_total: IntCounterVec, ["filter", "limit"], Plain,
        "Runs that were stopped by a limit.";
    filter_verified_total: IntCounterVec, ["filter", "hook", "result"], Plain,
        "Runs with `lowering: verify`: the same, different, or skipped.";
    filter_out: IntGaugeVec, ["filter"], Plain,
        "Whether the filter is taken out, as it faults too often or leaked too much: 1 or 0.";
    filter_previous_runs_total: IntCounterVec, ["filter"], Plain,
        "Runs of the version before the last change, in place of one that faulted or is out.";
    filter_leaked_bytes: IntGaugeVec, ["filter"], Plain,
        "Bytes that runs left behind since the last reload, in values that hold each other.";
    filter_after_running: IntGauge, [], Plain,
        "Work of filters after responses that is under way, on_log included.";
    filter_after_dropped_total: IntCounterVec, ["filter"], Plain,
        "Work after responses, on_log included, that was not done, as too much was under way or the process ended.";
    schedule_runs_total: IntCounterVec, ["filter", "schedule", "outcome"], Plain,
        "Times at which a filter's schedule was due; skipped: the run before went on, elsewhere: \
         another node ran.";
    schedule_last_success_timestamp_seconds: IntGaugeVec, ["filter", "schedule"], Plain,
        "When a filter's schedule last ran well, in Unix time.";
    fetches_total: IntCounterVec, ["filter", "outcome"], Plain,
        "Requests that filters made with fetch.";
    cache_requests_total: IntCounterVec, ["route", "result"], Plain,
        "Requests of routes with a cache, by what the cache did.";
    cache_lock_wait_seconds: HistogramVec, ["route"], Seconds,
        "Time that requests waited for others that fetched the same.";
    cache_fill_seconds: HistogramVec, ["route"], Seconds,
        "Time from a request's head to the end of the response that was stored.";
    cache_refreshes_total: IntCounterVec, ["route", "outcome"], Plain,
        "Refreshes in the background, while clients were served stale responses.";
    cache_entries: IntGaugeVec, ["tier"], Plain,
        "Responses stored.";
    cache_bytes: IntGaugeVec, ["tier"], Plain,
        "Bytes of what is stored.";
    cache_limit_bytes: IntGaugeVec, ["tier"], Plain,
        "Bytes that may be stored.";
    cache_evictions_total: IntCounterVec, ["tier"], Plain,
        "Responses that made room for others.";
    cache_hits_total: IntCounterVec, ["tier"], Plain,
        "Look-ups answered, by where the response was; fill is one that was still coming.";
    cache_refused_total: IntCounterVec, ["reason"], Plain,
        "Responses that could be stored but were not.";
    cache_fills_total: IntCounterVec, ["outcome"], Plain,
        "Responses that were being stored, by whether they became complete.";
    cache_fill_bytes: IntGauge, [], Plain,
        "Memory that responses on their way into the cache hold.";
    cache_purges_total: IntCounter, [], Plain,
        "Purges, those by unsafe methods included.";
    cache_purge_rules: IntGauge, [], Plain,
        "Purges whose entries are not all cleared away; none of them is served.";
    cache_disk_errors_total: IntCounter, [], Plain,
        "Writes to the cache's directory that failed.";
    cache_disk_broken_total: IntCounter, [], Plain,
        "Files of the cache that could not be read, and were dropped.";
    cache_disk_queued_bytes: IntGauge, [], Plain,
        "Bytes that wait to be written to the cache's directory.";
    cache_disk_usable: IntGauge, [], Plain,
        "Whether the cache's directory takes what is to be stored: 1 or 0; 0 without one.";
    kv_operations_total: IntCounterVec, ["namespace", "operation", "outcome"], Plain,
        "Operations of filters on the store.";
    kv_duration_seconds: HistogramVec, ["operation"], FineSeconds,
        "Time from asking the store to its answer; a write's ends on disk.";
    kv_bytes: IntGaugeVec, ["namespace"], Plain,
        "What a namespace counts against its size, in bytes.";
    rate_limit_requests_total: IntCounterVec, ["limit", "outcome"], Plain,
        "Requests counted by a rate limit: allowed or refused.";
    rate_limit_forgotten_total: IntCounterVec, ["limit"], Plain,
        "Keys that a rate limit forgot to make room for others.";
    reloads_total: IntCounterVec, ["outcome"], Plain,
        "Configuration reloads.";
    config_last_reload_success_timestamp_seconds: IntGauge, [], Plain,
        "When the configuration in use was loaded, in Unix time.";
    build_info: IntGaugeVec, ["version"], Plain,
        "Always 1; the version is in the label.";
    access_log_dropped_total: IntCounter, [], Plain,
        "Access log lines lost because the writer fell behind or could not write.";
}

/// The reference page of all metrics, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(
        "# Metrics\n\nGenerated from `src/telemetry/table.rs`. The usual `process_*` metrics come \
         on top.\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for row in TABLE {
        let labels: Vec<String> = row.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            row.name,
            row.kind,
            labels.join(", "),
            row.help
        );
    }
    page.push_str("\n## Buckets\n\n| name | upper bounds |\n|---|---|\n");
    for row in TABLE.iter().filter(|row| row.scale != Scale::Plain) {
        let bounds: Vec<String> = row.scale.buckets().iter().map(f64::to_string).collect();
        let _ = writeln!(page, "| `{}` | {} |", row.name, bounds.join(", "));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for row in TABLE {
            let total = row.name.ends_with("_total");
            assert_eq!(row.kind == "counter", total, "{}", row.name);
            assert_eq!(row.kind == "histogram", row.scale != Scale::Plain, "{}", row.name);
            assert!(row.help.ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn every_row_registers_under_its_own_name() {
        let registry = Registry::new();
        let families = Families::register(&registry).expect("the table registers");
        assert_eq!(families.requests_total.desc()[0].fq_name, "selvedge_requests_total");
        assert_eq!(
            families.access_log_dropped_total.desc()[0].fq_name,
            "selvedge_access_log_dropped_total"
        );
    }

    #[test]
    fn the_reference_has_every_metric_once() {
        let page = reference();
        for row in TABLE {
            let cell = format!("\n| `{}` | {} |", row.name, row.kind);
            assert_eq!(page.matches(&cell).count(), 1, "{}", row.name);
        }
    }
}
