//! What watches over endpoints: active checks, ejection of outliers, the circuit breaker.

use std::fmt;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use serde_yaml::Value;

use crate::config::problem::Problems;
use crate::config::read::{At, Read, Reader, Schema, section};
use crate::config::values::Percent;
use crate::config::yaml::{Kind, Node};

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub probe: Probe,
    /// Another port than the endpoint's own.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    Tcp,
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check` for a service; empty asks for the whole server.
    Grpc {
        service: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    pub method: Method,
    pub path: String,
    pub host: Option<String>,
    pub status: Statuses,
    /// What the body must contain.
    pub body: Option<String>,
}

/// Statuses as ranges, lowest and highest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(Vec<(u16, u16)>);

impl Statuses {
    pub fn contain(&self, status: StatusCode) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status.as_u16()))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |(from, to): &(u16, u16)| match from == to {
            true => from.to_string(),
            false => format!("{}xx", from / 100),
        };
        f.write_str(&self.0.iter().map(show).collect::<Vec<_>>().join(", "))
    }
}

impl Read for Statuses {
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
        let one = |node: &Node, cx: &mut Reader<'_>| {
            let text = String::read(node, cx)?;
            let class = match text.as_bytes() {
                [class @ b'2'..=b'5', b'x', b'x'] => Some(u16::from(class - b'0') * 100),
                _ => None,
            };
            match class {
                Some(from) => Some((from, from + 99)),
                None => StatusCode::read(node, cx).map(|one| (one.as_u16(), one.as_u16())),
            }
        };
        match &node.kind {
            Kind::Seq(nodes) if !nodes.is_empty() => {
                nodes.iter().map(|node| one(node, cx)).collect::<Option<_>>().map(Self)
            }
            _ => one(node, cx).map(|only| Self(vec![only])),
        }
    }
    fn schema() -> Schema {
        Schema::Leaf {
            name: "a status such as 200 or 2xx, or a list",
            json: &["integer", "string", "array"],
        }
    }
    fn show(&self) -> Value {
        let show = |range: &(u16, u16)| match range.0 == range.1 {
            true => range.0.into(),
            false => Value::from(format!("{}xx", range.0 / 100)),
        };
        match self.0.as_slice() {
            [only] => show(only),
            all => all.iter().map(show).collect::<Vec<_>>().into(),
        }
    }
}

/// When an endpoint is taken out for how its answers went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlier {
    /// In a row; 0 does not count.
    pub consecutive_5xx: u32,
    pub consecutive_gateway: u32,
    pub consecutive_local: u32,
    /// Percentage points below the median of all endpoints.
    pub success_rate_below: Option<Percent>,
    /// Times the median of all endpoints.
    pub latency_above: Option<u32>,
    pub min_requests: u32,
    pub interval: Duration,
    pub ejection: Duration,
    pub max_ejection: Duration,
    pub max_ejected: Percent,
}

/// When an upstream is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    pub failures: Percent,
    pub min_requests: u32,
    pub window: Duration,
    pub open: Duration,
    pub probes: u32,
}

section! {
    /// Active checks of each endpoint.
    pub struct RawHealth as "health" {
        /// Check by an HTTP request; without this and `grpc`, by connecting.
        http: Option<RawHttpProbe>,
        /// Check by gRPC's health protocol; needs `protocol: http2` or `auto`.
        grpc: Option<RawGrpcProbe>,
        /// Ask at this port of the endpoint's address.
        port: Option<At<u16>>,
        /// The time between two checks, varied by a tenth.
        interval: At<Duration> = "2s",
        /// The time a check may take.
        timeout: Duration = "1s",
        /// Failed checks in a row until an endpoint gets no more requests.
        unhealthy_after: At<u32> = "2",
        /// Passed checks in a row until it gets requests again.
        healthy_after: At<u32> = "2",
    }
}

section! {
    /// A check by HTTP.
    pub struct RawHttpProbe as "http probe" {
        /// The method.
        method: Method = "GET",
        /// The path asked for.
        path: At<String>,
        /// The `Host` sent; left out, the endpoint's address.
        host: Option<At<String>>,
        /// The status that means healthy, or a list: `200`, `2xx`, `[200, 204]`.
        status: Statuses = "200",
        /// Text that the body's first 64 KiB must contain.
        body: Option<At<String>>,
    }
}

section! {
    /// A check by gRPC.
    pub struct RawGrpcProbe as "grpc probe" {
        /// The service asked for; left out, the whole server.
        service: String = "\"\"",
    }
}

section! {
    /// Ejection of endpoints that fail more than others. The last endpoint is never ejected.
    pub struct RawOutlier as "outlier" {
        /// Answers of 500 and above, or none at all, in a row; 0 switches it off.
        consecutive_5xx: u32 = "5",
        /// Answers of 502, 503, 504, or none at all, in a row; 0 switches it off.
        consecutive_gateway: u32 = "5",
        /// Failed connections, broken exchanges and timeouts in a row; 0 switches it off.
        consecutive_local: u32 = "5",
        /// Percentage points that an endpoint's share of successes may be below the median.
        success_rate_below: Option<Percent>,
        /// How many times the median of all an endpoint's latency may be.
        latency_above: Option<At<u32>>,
        /// Answers in an interval that it takes to compare an endpoint with others.
        min_requests: At<u32> = "20",
        /// How often endpoints are compared.
        interval: At<Duration> = "10s",
        /// The first ejection's time; each further one is twice as long.
        ejection: At<Duration> = "30s",
        /// The longest ejection. After as long in service the count begins anew.
        max_ejection: Duration = "5m",
        /// The share of endpoints ejected at most, at least one if there are others.
        max_ejected: Percent = "50%",
    }
}

section! {
    /// The circuit breaker: refuses at once when the upstream as a whole fails.
    pub struct RawBreaker as "breaker" {
        /// The share of failed requests that opens it.
        failures: Percent = "50%",
        /// Requests in the window that it takes at least.
        min_requests: At<u32> = "20",
        /// The time over which requests are counted.
        window: At<Duration> = "10s",
        /// How long it stays open.
        open: At<Duration> = "5s",
        /// Then so many requests are let through, and close it if all of them succeed.
        probes: At<u32> = "3",
    }
}

const SHORTEST: Duration = Duration::from_millis(10);

pub fn resolve_health(raw: RawHealth, problems: &mut Problems) -> Health {
    at_least_shortest(&raw.interval, "an interval", problems);
    for count in [&raw.unhealthy_after, &raw.healthy_after] {
        if !(1..=100).contains(&count.value) {
            count.problem(problems, "a threshold is 1 to 100", None);
        }
    }
    if let Some(port) = raw.port.as_ref().filter(|port| port.value == 0) {
        port.problem(problems, "nobody listens on port 0", None);
    }
    if raw.http.is_some() && raw.grpc.is_some() {
        raw.interval.problem(problems, "a check is by http or by grpc, not both", None);
    }
    let probe = match (raw.http, raw.grpc) {
        (Some(http), _) => Probe::Http(resolve_http(http, problems)),
        (None, Some(grpc)) => Probe::Grpc { service: grpc.service },
        (None, None) => Probe::Tcp,
    };
    Health {
        probe,
        port: raw.port.map(|port| port.value),
        interval: raw.interval.value,
        timeout: raw.timeout,
        unhealthy_after: raw.unhealthy_after.value,
        healthy_after: raw.healthy_after.value,
    }
}

fn resolve_http(raw: RawHttpProbe, problems: &mut Problems) -> HttpProbe {
    if !raw.path.value.starts_with('/') {
        raw.path.problem(problems, "a path begins with /", None);
    } else if raw.path.value.parse::<PathAndQuery>().is_err() {
        raw.path.problem(problems, "this path cannot be sent", None);
    }
    if let Some(body) = raw.body.as_ref().filter(|body| body.value.is_empty()) {
        body.problem(problems, "every body contains the empty text", None);
    }
    if let Some(body) = raw.body.as_ref().filter(|_| raw.method == Method::HEAD) {
        body.problem(problems, "an answer to HEAD has no body", None);
    }
    HttpProbe {
        method: raw.method,
        path: raw.path.value,
        host: raw.host.map(|host| super::resolve_host(host, problems)),
        status: raw.status,
        body: raw.body.map(|body| body.value),
    }
}

pub fn resolve_outlier(raw: RawOutlier, problems: &mut Problems) -> Outlier {
    at_least_shortest(&raw.interval, "an interval", problems);
    at_least_shortest(&raw.ejection, "an ejection", problems);
    positive(&raw.min_requests, problems);
    if let Some(times) = raw.latency_above.as_ref().filter(|times| times.value < 2) {
        times.problem(problems, "latency_above is at least 2 (times the median)", None);
    }
    Outlier {
        consecutive_5xx: raw.consecutive_5xx,
        consecutive_gateway: raw.consecutive_gateway,
        consecutive_local: raw.consecutive_local,
        success_rate_below: raw.success_rate_below,
        latency_above: raw.latency_above.map(|times| times.value),
        min_requests: raw.min_requests.value,
        interval: raw.interval.value,
        ejection: raw.ejection.value,
        max_ejection: raw.max_ejection.max(raw.ejection.value),
        max_ejected: raw.max_ejected,
    }
}

pub fn resolve_breaker(raw: RawBreaker, problems: &mut Problems) -> Breaker {
    at_least_shortest(&raw.window, "a window", problems);
    at_least_shortest(&raw.open, "the time open", problems);
    positive(&raw.min_requests, problems);
    positive(&raw.probes, problems);
    Breaker {
        failures: raw.failures,
        min_requests: raw.min_requests.value,
        window: raw.window.value,
        open: raw.open.value,
        probes: raw.probes.value,
    }
}

fn at_least_shortest(time: &At<Duration>, what: &str, problems: &mut Problems) {
    if time.value < SHORTEST {
        time.problem(problems, format!("{what} is at least 10ms"), None);
    }
}

fn positive(count: &At<u32>, problems: &mut Problems) {
    if count.value == 0 {
        count.problem(problems, "must be at least 1", None);
    }
}
