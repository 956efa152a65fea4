//! Which endpoints an upstream has: written down, or found out while the program runs.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_yaml::Value;

use crate::config::problem::{Problem, Problems, nearest};
use crate::config::read::{At, Read, Reader, Schema, section};
use crate::config::values::{Bind, HostPort};
use crate::config::yaml::{self, Node};

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Inet(SocketAddr),
    Unix(Arc<Path>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    pub weight: u32,
    /// Higher ones get requests when lower ones are not healthy enough.
    pub priority: u32,
    pub region: Option<Arc<str>>,
}

/// What tells an upstream's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    pub source: Source,
    /// The name server asked; `None` takes the system's.
    pub resolver: Option<SocketAddr>,
    /// The longest time between two looks; for names the TTL may shorten it.
    pub refresh: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A and AAAA records.
    Dns { name: String, port: u16 },
    /// SRV records, which have priorities, weights and ports.
    Srv { name: String },
    /// A list of endpoints, as `endpoints` has it.
    File(PathBuf),
}

section! {
    /// One origin.
    pub struct RawEndpoint as "endpoint" {
        /// `host:port`, where a name is resolved when the configuration is loaded, or
        /// `unix:/path/of/a/socket`.
        address: At<RawAddress>,
        /// Its share of the traffic against the others.
        weight: At<u32> = "1",
        /// 0 comes first; higher ones get what those before are not healthy enough for.
        priority: At<u32> = "0",
        /// One of the upstream's `regions`.
        region: Option<At<String>>,
    }
}

section! {
    /// Where endpoints are found out; exactly one of `dns`, `srv`, `file`.
    pub struct RawDiscovery as "discover" {
        /// `name:port`: every address of the name is an endpoint, by A and AAAA records.
        dns: Option<At<String>>,
        /// A name such as `_http._tcp.shop.internal` with SRV records.
        srv: Option<At<String>>,
        /// A YAML or JSON file with a list of endpoints, read again when it changes.
        file: Option<At<PathBuf>>,
        /// The name server to ask; left out, the system's.
        resolver: Option<At<Bind>>,
        /// The longest time between two looks; the TTL of names may shorten it.
        refresh: At<Duration> = "30s",
    }
}

/// An address as it is written, and what it means.
#[derive(Debug, Clone)]
pub struct RawAddress {
    text: String,
    address: Address,
}

impl RawAddress {
    pub fn is_unix(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }
}

impl Read for RawAddress {
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
        let text = String::read(node, cx)?;
        let Some(path) = text.strip_prefix("unix:") else {
            let read = HostPort::read(node, cx)?;
            return Some(Self { text, address: Address::Inet(read.resolved) });
        };
        if !path.starts_with('/') || path.len() > MAX_SOCKET_PATH {
            let message =
                format!("a socket's path begins with / and has at most {MAX_SOCKET_PATH} bytes");
            cx.problem(node.at, message, None);
            return None;
        }
        let address = Address::Unix(Path::new(path).into());
        Some(Self { address, text })
    }
    fn schema() -> Schema {
        Schema::Leaf { name: "host:port or unix:/path", json: &["string"] }
    }
    fn show(&self) -> Value {
        self.text.clone().into()
    }
}

/// `sun_path` of Linux, less the zero at its end.
const MAX_SOCKET_PATH: usize = 107;
pub const MAX_WEIGHT: u32 = 1000;
const MAX_PRIORITY: u32 = 15;
/// What one upstream's discovery may bring.
pub const MAX_ENDPOINTS: usize = 1000;

pub fn resolve_regions(raw: Vec<At<String>>, problems: &mut Problems) -> Vec<Arc<str>> {
    let mut regions: Vec<Arc<str>> = Vec::new();
    for region in raw {
        if let Err(message) = crate::config::read::check_name(&region.value) {
            region.problem(problems, message, None);
        }
        if regions.iter().any(|known| **known == *region.value) {
            region.problem(
                problems,
                format!("the region {} stands here twice", region.value),
                None,
            );
        }
        regions.push(region.value.into());
    }
    regions
}

pub fn resolve_endpoints(
    raw: Vec<RawEndpoint>,
    regions: &[Arc<str>],
    problems: &mut Problems,
) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(raw.len());
    for RawEndpoint { address, weight, priority, region } in raw {
        if !(1..=MAX_WEIGHT).contains(&weight.value) {
            weight.problem(problems, format!("a weight is 1 to {MAX_WEIGHT}"), None);
        }
        if priority.value > MAX_PRIORITY {
            priority.problem(problems, format!("a priority is 0 to {MAX_PRIORITY}"), None);
        }
        if endpoints.iter().any(|known| known.address == address.value.address) {
            let message = format!("the endpoint {} stands here twice", address.value.text);
            address.problem(problems, message, Some("give it a weight instead".into()));
        }
        let region = region.and_then(|region| {
            let known = regions.iter().find(|known| ***known == *region.value).cloned();
            if known.is_none() {
                let message = format!("the upstream's regions do not name \"{}\"", region.value);
                let near = nearest(&region.value, regions.iter().map(|known| &**known));
                region.problem(problems, message, near);
            }
            known
        });
        let (weight, priority) = (weight.value, priority.value);
        endpoints.push(Endpoint { address: address.value.address, weight, priority, region });
    }
    endpoints
}

pub fn resolve_discovery(raw: RawDiscovery, problems: &mut Problems) -> Option<Discovery> {
    if raw.refresh.value < Duration::from_millis(100) {
        raw.refresh.problem(problems, "refresh is at least 100ms", None);
    }
    let by_name = raw.dns.is_some() || raw.srv.is_some();
    if let Some(resolver) = raw.resolver.as_ref().filter(|_| !by_name) {
        resolver.problem(problems, "a resolver has an effect with dns and srv only", None);
    }
    let source = match (raw.dns, raw.srv, raw.file) {
        (Some(dns), None, None) => resolve_dns(&dns, problems)?,
        (None, Some(srv), None) => {
            check_dns_name(&srv, &srv.value, problems);
            Source::Srv { name: srv.value }
        }
        (None, None, Some(file)) => Source::File(file.value),
        _ => {
            let message = "discover needs exactly one of dns, srv, file";
            raw.refresh.problem(problems, message, None);
            return None;
        }
    };
    let resolver = raw.resolver.map(|resolver| resolver.value.0);
    Some(Discovery { source, resolver, refresh: raw.refresh.value })
}

fn resolve_dns(dns: &At<String>, problems: &mut Problems) -> Option<Source> {
    let split = dns.value.rsplit_once(':').map(|(name, port)| (name, port.parse::<u16>()));
    let Some((name, Ok(port @ 1..))) = split else {
        dns.problem(problems, format!("\"{}\" is not name:port", dns.value), None);
        return None;
    };
    check_dns_name(dns, name, problems);
    Some(Source::Dns { name: name.to_owned(), port })
}

fn check_dns_name(at: &At<String>, name: &str, problems: &mut Problems) {
    let fine = |label: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(known)
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.len() > 253 || !bare.split('.').all(fine) {
        at.problem(problems, format!("\"{name}\" is not a name in the DNS"), None);
    }
}

/// The endpoints that a discovery's file lists.
pub fn load_endpoints(file: &Path, regions: &[Arc<str>]) -> Result<Vec<Endpoint>, Vec<Problem>> {
    let mut problems = Problems::new(file);
    let text = crate::config::read_text(file);
    let endpoints = match text {
        Ok(text) => yaml::parse(&text, &mut problems).and_then(|root| {
            let raw = Vec::<RawEndpoint>::read(&root, &mut Reader::new(&mut problems))?;
            Some(resolve_endpoints(raw, regions, &mut problems))
        }),
        Err((at, message)) => {
            problems.add(at, "", message, None);
            None
        }
    };
    match endpoints {
        Some(endpoints) if problems.is_empty() => Ok(endpoints),
        _ => Err(problems.into_sorted()),
    }
}
