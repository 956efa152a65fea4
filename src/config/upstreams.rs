//! `upstreams`: named groups of endpoints and how they are balanced, checked and given up on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, StatusCode};

use super::listeners::{Certificate, RawCertificate};
use super::pattern::HostPattern;
use super::problem::Problems;
use super::read::{At, Named, choice, section};
use super::values::HostPort;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub name: Arc<str>,
    pub endpoints: Vec<Endpoint>,
    pub balance: Balance,
    pub health: Option<Health>,
    pub timeouts: Timeouts,
    /// Further endpoints tried.
    pub retries: u32,
    pub protocol: Protocol,
    pub tls: Option<UpstreamTls>,
    /// `Host` as the origins see it; `None` keeps the client's.
    pub host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastRequest,
    Random,
    Hash(HashKey),
}

/// What a request is hashed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    ClientIp,
    Path,
    Header(http::HeaderName),
    Cookie(String),
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    Tcp,
    Http { path: String, host: Option<String>, status: StatusCode },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    /// For a write without progress, and for an unused connection.
    pub idle: Duration,
    /// The whole exchange with the upstream, retries included, until the response begins.
    pub total: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http1,
    Http2,
    /// HTTP/2 if the origin takes it in the TLS handshake.
    Auto,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    pub server_name: String,
    /// PEM bundle of the authorities trusted; `None` means the system's.
    pub ca: Option<PathBuf>,
    /// What is shown to origins that ask for a certificate.
    pub certificate: Option<Certificate>,
}

section! {
    /// Origins that can stand in for each other.
    pub struct RawUpstream as "upstream" {
        /// The origins.
        endpoints: At<Vec<RawEndpoint>>,
        /// How an endpoint is chosen.
        balance: At<RawBalance> = "round_robin",
        /// What `balance: hash` hashes by.
        hash_by: Option<RawHashBy>,
        /// Active health checks; without them every endpoint counts as healthy.
        health: Option<RawHealth>,
        /// Limits in time, all set by default.
        timeouts: RawTimeouts = "{}",
        /// How many further endpoints are tried when a connection cannot be made or, for idempotent
        /// requests, when the exchange breaks before an answer.
        retries: At<u32> = "1",
        /// What is spoken to the origins: `http2` without TLS means prior knowledge, `auto` is
        /// HTTP/2 where the TLS handshake agrees on it.
        protocol: At<Protocol> = "http1",
        /// Speak TLS to the origins, checking their names.
        tls: Option<RawUpstreamTls>,
        /// The `Host` that origins see; left out, the client's is kept.
        host: Option<At<String>>,
    }
}

section! {
    /// One origin.
    pub struct RawEndpoint as "endpoint" {
        /// `host:port`; a name is resolved when the configuration is loaded.
        address: At<HostPort>,
        /// Its share of the traffic against the others.
        weight: At<u32> = "1",
    }
}

section! {
    /// The part of a request that keeps it on one endpoint; exactly one key.
    pub struct RawHashBy as "hash_by" {
        /// The client's address.
        client_ip: Option<At<bool>>,
        /// The request's path.
        path: Option<At<bool>>,
        /// A request header's value.
        header: Option<At<HeaderName>>,
        /// A cookie's value.
        cookie: Option<At<String>>,
    }
}

section! {
    /// Active checks of each endpoint.
    pub struct RawHealth as "health" {
        /// Check by an HTTP request; left out, by connecting.
        http: Option<RawHttpProbe>,
        /// The time between two checks.
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
        /// The path asked for.
        path: At<String>,
        /// The `Host` sent; left out, the endpoint's address.
        host: Option<At<String>>,
        /// The status that means healthy.
        status: StatusCode = "200",
    }
}

section! {
    /// How long a request waits for an upstream.
    pub struct RawTimeouts as "timeouts" {
        /// For the connection, TLS included.
        connect: Duration = "1s",
        /// For each read from the origin: how long it may be silent before its answer and in it.
        first_byte: Duration = "30s",
        /// For a write that makes no progress; also how long an unused connection is kept.
        idle: Duration = "60s",
        /// For all attempts together until the response begins.
        total: Duration = "60s",
    }
}

section! {
    /// TLS to origins.
    pub struct RawUpstreamTls as "upstream tls" {
        /// The name in the origins' certificate, also sent as SNI.
        server_name: At<String>,
        /// PEM bundle of trusted authorities; left out, the system's.
        ca: Option<PathBuf>,
        /// A certificate for origins that ask for one.
        certificate: Option<RawCertificate>,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawBalance {
    RoundRobin,
    LeastRequest,
    Random,
    Hash,
}

choice!(RawBalance {
    "round_robin" => RawBalance::RoundRobin,
    "least_request" => RawBalance::LeastRequest,
    "random" => RawBalance::Random,
    "hash" => RawBalance::Hash,
});
choice!(Protocol {
    "http1" => Protocol::Http1,
    "http2" => Protocol::Http2,
    "auto" => Protocol::Auto,
});

const MAX_WEIGHT: u32 = 1000;
/// Pingora's attempts per request have one limit for the whole process, see `server`.
pub const MAX_RETRIES: u32 = 7;

pub fn resolve(raw: Named<RawUpstream>, problems: &mut Problems) -> Vec<Upstream> {
    raw.0.into_iter().map(|(name, raw)| resolve_one(&name, raw, problems)).collect()
}

fn resolve_one(name: &At<String>, raw: RawUpstream, problems: &mut Problems) -> Upstream {
    if raw.endpoints.value.is_empty() {
        raw.endpoints.problem(problems, "an upstream needs at least one endpoint", None);
    }
    if raw.protocol.value == Protocol::Auto && raw.tls.is_none() {
        let message = "protocol: auto is agreed on in the TLS handshake, and there is no tls here";
        raw.protocol.problem(problems, message, Some("say http1 or http2".into()));
    }
    if raw.retries.value > MAX_RETRIES {
        raw.retries.problem(problems, format!("retries are 0 to {MAX_RETRIES}"), None);
    }
    let balance = resolve_balance(&raw.balance, raw.hash_by, problems);
    Upstream {
        name: name.value.as_str().into(),
        endpoints: resolve_endpoints(raw.endpoints.value, problems),
        balance: balance.unwrap_or(Balance::RoundRobin),
        health: raw.health.map(|health| resolve_health(health, problems)),
        timeouts: Timeouts {
            connect: raw.timeouts.connect,
            first_byte: raw.timeouts.first_byte,
            idle: raw.timeouts.idle,
            total: raw.timeouts.total,
        },
        retries: raw.retries.value,
        protocol: raw.protocol.value,
        tls: raw.tls.map(|tls| resolve_tls(tls, problems)),
        host: raw.host.map(|host| resolve_host(host, problems)),
    }
}

fn resolve_tls(raw: RawUpstreamTls, problems: &mut Problems) -> UpstreamTls {
    let name = raw.server_name;
    if name.value.is_empty() {
        name.problem(problems, "an empty server_name would switch the name check off", None);
    } else if !matches!(HostPattern::parse(&name.value), Ok(HostPattern::Exact(_))) {
        let message = format!("\"{}\" is not the name of a server", name.value);
        name.problem(problems, message, None);
    }
    let certificate = raw.certificate.map(Certificate::from);
    UpstreamTls { server_name: name.value, ca: raw.ca, certificate }
}

/// What can stand in `Host`: a name or an address, with or without a port.
fn resolve_host(host: At<String>, problems: &mut Problems) -> String {
    let fine = host.value.parse::<Authority>().is_ok_and(|parsed| !parsed.as_str().contains('@'));
    if !fine {
        let message = format!("\"{}\" is not a host, with or without a port", host.value);
        host.problem(problems, message, None);
    }
    host.value
}

fn resolve_endpoints(raw: Vec<RawEndpoint>, problems: &mut Problems) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(raw.len());
    for RawEndpoint { address, weight } in raw {
        if !(1..=MAX_WEIGHT).contains(&weight.value) {
            weight.problem(problems, format!("a weight is 1 to {MAX_WEIGHT}"), None);
        }
        if endpoints.iter().any(|known| known.address == address.value.resolved) {
            let message = format!("the endpoint {} stands here twice", address.value.text);
            address.problem(problems, message, Some("give it a weight instead".into()));
        }
        endpoints.push(Endpoint { address: address.value.resolved, weight: weight.value });
    }
    endpoints
}

fn resolve_balance(
    balance: &At<RawBalance>,
    hash_by: Option<RawHashBy>,
    problems: &mut Problems,
) -> Option<Balance> {
    match (balance.value, hash_by) {
        (RawBalance::RoundRobin, None) => Some(Balance::RoundRobin),
        (RawBalance::LeastRequest, None) => Some(Balance::LeastRequest),
        (RawBalance::Random, None) => Some(Balance::Random),
        (RawBalance::Hash, Some(by)) => match (by.client_ip, by.path, by.header, by.cookie) {
            (Some(on), None, None, None) if on.value => Some(Balance::Hash(HashKey::ClientIp)),
            (None, Some(on), None, None) if on.value => Some(Balance::Hash(HashKey::Path)),
            (None, None, Some(name), None) => Some(Balance::Hash(HashKey::Header(name.value))),
            (None, None, None, Some(name)) => {
                // The names of cookies are of the same characters (RFC 6265, 4.1.1).
                if name.value.parse::<HeaderName>().is_err() {
                    name.problem(problems, format!("\"{}\" names no cookie", name.value), None);
                }
                Some(Balance::Hash(HashKey::Cookie(name.value)))
            }
            _ => {
                let message = "hash_by needs exactly one of client_ip, path, header, cookie";
                balance.problem(problems, message, None);
                None
            }
        },
        (RawBalance::Hash, None) => {
            balance.problem(problems, "balance: hash needs hash_by", None);
            None
        }
        (_, Some(_)) => {
            balance.problem(problems, "hash_by has an effect with balance: hash only", None);
            None
        }
    }
}

fn resolve_health(raw: RawHealth, problems: &mut Problems) -> Health {
    if raw.interval.value < Duration::from_millis(10) {
        raw.interval.problem(problems, "an interval is at least 10ms", None);
    }
    for count in [&raw.unhealthy_after, &raw.healthy_after] {
        if !(1..=100).contains(&count.value) {
            count.problem(problems, "a threshold is 1 to 100", None);
        }
    }
    let probe = match raw.http {
        None => Probe::Tcp,
        Some(http) => {
            if !http.path.value.starts_with('/') {
                http.path.problem(problems, "a path begins with /", None);
            } else if http.path.value.parse::<PathAndQuery>().is_err() {
                http.path.problem(problems, "this path cannot be sent", None);
            }
            let host = http.host.map(|host| resolve_host(host, problems));
            Probe::Http { path: http.path.value, host, status: http.status }
        }
    };
    Health {
        probe,
        interval: raw.interval.value,
        timeout: raw.timeout,
        unhealthy_after: raw.unhealthy_after.value,
        healthy_after: raw.healthy_after.value,
    }
}
