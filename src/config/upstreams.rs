//! `upstreams`: named groups of endpoints and how they are balanced, checked and given up on.
//!
//! What finds them stands in `membership`, what watches over them in `watching`.

mod fingerprint;
mod membership;
mod retry;
mod watching;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::uri::Authority;

pub use self::fingerprint::Fingerprint;
pub use self::membership::{
    Address, Discovery, Endpoint, MAX_ENDPOINTS, MAX_WEIGHT, Source, load_endpoints,
};
pub use self::retry::{RawRetry, Retry, RetryOn, resolve_retry};
pub use self::watching::{Breaker, Health, HttpProbe, Outlier, Probe, Statuses};

use self::membership::{RawDiscovery, RawEndpoint};
pub(super) use self::watching::{RawBreaker, resolve_breaker};
use self::watching::{RawHealth, RawOutlier};
use super::listeners::{Certificate, RawCertificate, TlsVersion};
use super::pattern::HostPattern;
use super::problem::Problems;
use super::read::{At, Named, choice, section};
use super::values::Percent;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub name: Arc<str>,
    /// Those of the configuration; with `discovery` none.
    pub endpoints: Vec<Endpoint>,
    pub discovery: Option<Discovery>,
    /// Nearest first.
    pub regions: Vec<Arc<str>>,
    pub balance: Balance,
    pub slow_start: Option<Duration>,
    /// The share of healthy endpoints below which all count as healthy.
    pub panic_below: Percent,
    pub caps: Caps,
    pub health: Option<Health>,
    pub outlier: Option<Outlier>,
    pub breaker: Option<Breaker>,
    pub timeouts: Timeouts,
    /// Further endpoints tried.
    pub retries: u32,
    pub retry: Retry,
    pub protocol: Protocol,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub max_connection_age: Option<Duration>,
    pub tls: Option<UpstreamTls>,
    /// `Host` as the origins see it; `None` keeps the client's.
    pub host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastRequest,
    PeakEwma,
    Random,
    Hash(HashKey),
    Maglev(HashKey),
}

/// What a request is hashed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    ClientIp,
    Path,
    Header(http::HeaderName),
    Cookie(String),
    Query(String),
}

/// How much may go on at once; `None` is as much as comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caps {
    pub requests: Option<u32>,
    pub pending: Option<u32>,
    pub connections: Option<u32>,
    pub endpoint_requests: Option<u32>,
    pub endpoint_connections: Option<u32>,
}

/// The header before each connection's first byte that tells the origin who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    V1,
    V2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    /// For a write without progress, and for an unused connection.
    pub idle: Duration,
    /// The whole exchange with the upstream, retries included, until the response begins.
    pub total: Duration,
    /// Whether the origin is told how much of it is left.
    pub announce: bool,
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
    pub min_version: TlsVersion,
    /// If there are any, an origin's certificate must have one of them.
    pub fingerprints: Vec<Fingerprint>,
}

section! {
    /// Origins that can stand in for each other.
    pub struct RawUpstream as "upstream" {
        /// The origins.
        endpoints: At<Vec<RawEndpoint>> = "[]",
        /// Where the origins are found out instead, while the program runs.
        discover: Option<RawDiscovery>,
        /// The regions of the endpoints, nearest first. A farther one gets what the nearer ones
        /// are not healthy enough for.
        regions: Vec<At<String>> = "[]",
        /// How an endpoint is chosen.
        balance: At<RawBalance> = "round_robin",
        /// What `balance: hash` and `maglev` hash by.
        hash_by: Option<RawHashBy>,
        /// The time in which a new or recovered endpoint comes to its full share.
        slow_start: Option<At<Duration>>,
        /// If a smaller share of the endpoints is healthy and no other priority or region can take
        /// over, all count as healthy: then the checks are as likely to be wrong. `0%`: never.
        panic_below: Percent = "50%",
        /// How much may go on at once; what is above is answered with 503.
        limits: RawCaps = "{}",
        /// Active health checks; without them every endpoint counts as healthy.
        health: Option<RawHealth>,
        /// Takes endpoints out whose answers fail, as `{}` with all defaults.
        outlier: Option<RawOutlier>,
        /// Refuses all requests for a while when too many fail, as `{}` with all defaults.
        breaker: Option<RawBreaker>,
        /// Limits in time, all set by default.
        timeouts: RawTimeouts = "{}",
        /// How many further endpoints are tried when a connection cannot be made or, for idempotent
        /// requests, when no answer comes.
        retries: At<u32> = "1",
        /// Which failures are tried again, and how.
        retry: RawRetry = "{}",
        /// What is spoken to the origins: `http2` without TLS means prior knowledge, `auto` is
        /// HTTP/2 where the TLS handshake agrees on it.
        protocol: At<Protocol> = "http1",
        /// Tell the origin who connected to us, before all else on a connection.
        proxy_protocol: Option<At<ProxyProtocol>>,
        /// A connection is not used again when it is older.
        max_connection_age: Option<At<Duration>>,
        /// Speak TLS to the origins, checking their names.
        tls: Option<RawUpstreamTls>,
        /// The `Host` that origins see; left out, the client's is kept.
        host: Option<At<String>>,
    }
}

section! {
    /// What may go on at once. Each is unlimited if left out.
    pub struct RawCaps as "upstream limits" {
        /// Requests at all endpoints together.
        requests: Option<At<u32>>,
        /// Requests that wait for a connection to be made.
        pending: Option<At<u32>>,
        /// Connections to all endpoints together, unused ones included.
        connections: Option<At<u32>>,
        /// Requests at one endpoint; the others take what is above, if they can.
        endpoint_requests: Option<At<u32>>,
        /// Connections to one endpoint, unused ones included.
        endpoint_connections: Option<At<u32>>,
    }
}

section! {
    /// The part of a request that decides where it goes; exactly one key. Requests that lack it
    /// are spread over all.
    pub struct RawHashBy as "hash_by" {
        /// The client's address.
        client_ip: Option<At<bool>>,
        /// The request's path.
        path: Option<At<bool>>,
        /// A request header's value.
        header: Option<At<HeaderName>>,
        /// A cookie's value.
        cookie: Option<At<String>>,
        /// The value of a parameter of the query.
        query: Option<At<String>>,
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
        /// Tell the origin what is left of it: as `X-Request-Timeout`, in milliseconds, and to
        /// gRPC as `grpc-timeout`.
        announce: bool = "false",
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
        /// The oldest version of TLS that an origin may choose.
        min_version: TlsVersion = "\"1.2\"",
        /// SHA-256 of the certificates that the origins may show, as `openssl x509 -fingerprint
        /// -sha256` prints it; left out, every certificate that passes the other checks.
        fingerprints: Vec<Fingerprint> = "[]",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawBalance {
    RoundRobin,
    LeastRequest,
    PeakEwma,
    Random,
    Hash,
    Maglev,
}

choice!(RawBalance {
    "round_robin" => RawBalance::RoundRobin,
    "least_request" => RawBalance::LeastRequest,
    "peak_ewma" => RawBalance::PeakEwma,
    "random" => RawBalance::Random,
    "hash" => RawBalance::Hash,
    "maglev" => RawBalance::Maglev,
});
choice!(ProxyProtocol { "v1" => ProxyProtocol::V1, "v2" => ProxyProtocol::V2 });
choice!(Protocol {
    "http1" => Protocol::Http1,
    "http2" => Protocol::Http2,
    "auto" => Protocol::Auto,
});

/// Pingora's attempts per request have one limit for the whole process, see `server`.
pub const MAX_RETRIES: u32 = 7;

pub fn resolve(raw: Named<RawUpstream>, problems: &mut Problems) -> Vec<Upstream> {
    raw.0.into_iter().map(|(name, raw)| resolve_one(&name, raw, problems)).collect()
}

fn resolve_one(name: &At<String>, mut raw: RawUpstream, problems: &mut Problems) -> Upstream {
    if raw.protocol.value == Protocol::Auto && raw.tls.is_none() {
        let message = "protocol: auto is agreed on in the TLS handshake, and there is no tls here";
        raw.protocol.problem(problems, message, Some("say http1 or http2".into()));
    }
    check_retries(&raw.retries, problems);
    let balance =
        resolve_balance(&raw.balance, raw.hash_by.take(), problems).unwrap_or(Balance::RoundRobin);
    check_combinations(&balance, &raw, problems);
    let regions = membership::resolve_regions(raw.regions, problems);
    match (raw.discover.is_some(), raw.endpoints.value.is_empty()) {
        (false, true) => {
            raw.endpoints.problem(problems, "an upstream needs at least one endpoint", None);
        }
        (true, false) => {
            let message = "endpoints stand here or are discovered, not both";
            raw.endpoints.problem(problems, message, None);
        }
        _ => {}
    }
    if let Some(grpc) = raw.health.as_ref().filter(|health| health.grpc.is_some())
        && raw.protocol.value == Protocol::Http1
    {
        let message = "gRPC checks need HTTP/2";
        grpc.interval.problem(problems, message, Some("protocol: http2".into()));
    }
    Upstream {
        name: name.value.as_str().into(),
        endpoints: membership::resolve_endpoints(raw.endpoints.value, &regions, problems),
        discovery: raw.discover.and_then(|raw| membership::resolve_discovery(raw, problems)),
        regions,
        balance,
        slow_start: raw.slow_start.map(|time| time.value),
        panic_below: raw.panic_below,
        caps: resolve_caps(raw.limits, problems),
        health: raw.health.map(|raw| watching::resolve_health(raw, problems)),
        outlier: raw.outlier.map(|raw| watching::resolve_outlier(raw, problems)),
        breaker: raw.breaker.map(|raw| watching::resolve_breaker(raw, problems)),
        timeouts: Timeouts {
            connect: raw.timeouts.connect,
            first_byte: raw.timeouts.first_byte,
            idle: raw.timeouts.idle,
            total: raw.timeouts.total,
            announce: raw.timeouts.announce,
        },
        retries: raw.retries.value,
        retry: resolve_retry(raw.retry, problems),
        protocol: raw.protocol.value,
        proxy_protocol: raw.proxy_protocol.map(|version| version.value),
        max_connection_age: raw.max_connection_age.map(|age| age.value),
        tls: raw.tls.map(|tls| resolve_tls(tls, problems)),
        host: raw.host.map(|host| resolve_host(host, problems)),
    }
}

pub fn check_retries(retries: &At<u32>, problems: &mut Problems) {
    if retries.value > MAX_RETRIES {
        retries.problem(problems, format!("retries are 0 to {MAX_RETRIES}"), None);
    }
}

fn check_combinations(balance: &Balance, raw: &RawUpstream, problems: &mut Problems) {
    if let (Balance::Hash(_) | Balance::Maglev(_), Some(time)) = (balance, &raw.slow_start) {
        let message = "slow_start would move keys to and fro: it has no effect with hash or maglev";
        time.problem(problems, message, None);
    }
    let sockets = raw.endpoints.value.iter().filter(|endpoint| endpoint.address.value.is_unix());
    for endpoint in sockets.filter(|_| matches!(balance, Balance::Hash(_))) {
        let message = "the ring of balance: hash knows host:port only";
        endpoint.address.problem(problems, message, Some("balance: maglev".into()));
    }
    let by_socket = raw.endpoints.value.iter().any(|endpoint| endpoint.address.value.is_unix());
    let port = raw.health.as_ref().and_then(|health| health.port.as_ref());
    if let Some(port) = port.filter(|_| by_socket) {
        port.problem(problems, "a Unix socket has no port to check at", None);
    }
    let young = Duration::from_secs(1);
    if let Some(age) = raw.max_connection_age.as_ref().filter(|age| age.value < young) {
        age.problem(problems, "max_connection_age is at least 1s", None);
    }
}

fn resolve_caps(raw: RawCaps, problems: &mut Problems) -> Caps {
    let mut cap = |given: Option<At<u32>>| {
        if let Some(zero) = given.as_ref().filter(|given| given.value == 0) {
            zero.problem(problems, "0 would refuse everything", None);
        }
        given.map(|given| given.value)
    };
    Caps {
        requests: cap(raw.requests),
        pending: cap(raw.pending),
        connections: cap(raw.connections),
        endpoint_requests: cap(raw.endpoint_requests),
        endpoint_connections: cap(raw.endpoint_connections),
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
    UpstreamTls {
        server_name: name.value,
        ca: raw.ca,
        certificate,
        min_version: raw.min_version,
        fingerprints: raw.fingerprints,
    }
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

fn resolve_balance(
    balance: &At<RawBalance>,
    hash_by: Option<RawHashBy>,
    problems: &mut Problems,
) -> Option<Balance> {
    match (balance.value, hash_by) {
        (RawBalance::RoundRobin, None) => Some(Balance::RoundRobin),
        (RawBalance::LeastRequest, None) => Some(Balance::LeastRequest),
        (RawBalance::PeakEwma, None) => Some(Balance::PeakEwma),
        (RawBalance::Random, None) => Some(Balance::Random),
        (RawBalance::Hash, Some(by)) => resolve_key(by, balance, problems).map(Balance::Hash),
        (RawBalance::Maglev, Some(by)) => resolve_key(by, balance, problems).map(Balance::Maglev),
        (RawBalance::Hash | RawBalance::Maglev, None) => {
            balance.problem(problems, "balance: hash and maglev need hash_by", None);
            None
        }
        (_, Some(_)) => {
            let message = "hash_by has an effect with balance: hash and maglev only";
            balance.problem(problems, message, None);
            None
        }
    }
}

/// The key that `by` means; a problem stands at `place`.
pub fn resolve_key<T>(by: RawHashBy, place: &At<T>, problems: &mut Problems) -> Option<HashKey> {
    let switch = |given: Option<At<bool>>, key| given.map(|on| on.value.then_some(key));
    let given = [
        switch(by.client_ip, HashKey::ClientIp),
        switch(by.path, HashKey::Path),
        by.header.map(|name| Some(HashKey::Header(name.value))),
        by.cookie.map(|name| {
            // The names of cookies are of the same characters (RFC 6265, 4.1.1).
            if name.value.parse::<HeaderName>().is_err() {
                name.problem(problems, format!("\"{}\" names no cookie", name.value), None);
            }
            Some(HashKey::Cookie(name.value))
        }),
        by.query.map(|name| {
            if name.value.is_empty() {
                name.problem(problems, "an empty name is no parameter", None);
            }
            Some(HashKey::Query(name.value))
        }),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(Some(key)), None) => Some(key),
        _ => {
            let message = "a key is exactly one of client_ip, path, header, cookie, query";
            place.problem(problems, message, None);
            None
        }
    }
}
