//! The sections around the proxy path: admin, metrics, logs, limits, trusted proxies.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::listeners::{Listener, overlap};
use super::problem::Problems;
use super::read::{At, choice, section};
use super::values::{Bind, Bytes};

section! {
    /// An address of its own for operators.
    pub struct Service as "service" {
        /// Where to listen. There is no login: keep it on loopback or a private network.
        address: At<Bind>,
    }
}

section! {
    /// Lines about requests.
    pub struct AccessLog as "access_log" {
        /// `json`: one object a line; `common`: the format of old; `off`.
        format: AccessLogFormat = "json",
        /// A file to append to; left out, stdout.
        path: Option<At<PathBuf>>,
    }
}

section! {
    /// What clients may take, all bounded by default.
    pub struct Limits as "limits" {
        /// Connections in all.
        connections: At<u32> = "20000",
        /// Connections from one address.
        connections_per_address: At<u32> = "1024",
        /// For PROXY header and TLS handshake together.
        handshake_timeout: Duration = "10s",
        /// For a whole request head, however it drips.
        head_timeout: Duration = "10s",
        /// An idle connection between two requests.
        keep_alive: Duration = "60s",
        /// A client that takes nothing of what is sent to it, or sends nothing of the body that it
        /// announced.
        stall_timeout: Duration = "60s",
        /// An upgraded connection (WebSocket) on which neither side says anything; an origin may
        /// take as long to answer a request for one.
        tunnel_timeout: Duration = "10m",
        /// Requests on one HTTP/1.1 connection.
        requests_per_connection: At<u32> = "10000",
        /// How long all is served on after SIGTERM while `/readyz` says 503, so that load balancers
        /// see it before the listeners close; left out, they close at once.
        drain_delay: Option<Duration>,
        /// How long requests in flight may go on after SIGTERM or SIGINT, and after `drain_delay`.
        drain_timeout: Duration = "30s",
        /// Filter runs alive at once; above it the answer is 503.
        filter_runs: At<u32> = "16384",
        /// Bytes of bodies that are held for filters at once, of all requests; above it the answer
        /// is 503.
        held_bodies: At<Bytes> = "256MiB",
        /// Work of filters after responses that may be under way at once; more is dropped.
        after_response: At<u32> = "1024",
        /// The largest request head: its bytes on HTTP/1.1, its header list on HTTP/2.
        head: At<Bytes> = "64KiB",
        /// Header lines in a request, at most 256.
        headers: At<u32> = "100",
        /// The longest request target.
        target: At<Bytes> = "16KiB",
    }
}

/// Pingora parses no more header lines.
const MOST_HEADERS: u32 = 256;
/// Less would refuse what every browser sends.
const SMALLEST_HEAD: u64 = 1 << 10;
/// Just below what Pingora reads of a head.
const LARGEST_HEAD: u64 = 1023 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    Json,
    Common,
    Off,
}

choice!(AccessLogFormat {
    "json" => AccessLogFormat::Json,
    "common" => AccessLogFormat::Common,
    "off" => AccessLogFormat::Off,
});

impl Limits {
    pub fn check(&self, problems: &mut Problems) {
        let counts = [
            &self.connections,
            &self.connections_per_address,
            &self.requests_per_connection,
            &self.filter_runs,
            &self.after_response,
            &self.headers,
        ];
        for count in counts.into_iter().filter(|count| count.value == 0) {
            count.problem(problems, "0 would refuse everything", None);
        }
        if self.headers.value > MOST_HEADERS {
            let most = format!("at most {MOST_HEADERS} can be read");
            self.headers.problem(problems, &most, None);
        }
        if self.head.value.0 < SMALLEST_HEAD || self.head.value.0 > LARGEST_HEAD {
            self.head.problem(problems, "must be between 1KiB and 1023KiB", None);
        }
        if self.target.value.0 == 0 {
            self.target.problem(problems, "0 would refuse everything", None);
        }
    }
}

impl AccessLog {
    pub fn check(&self, problems: &mut Problems) {
        if let (AccessLogFormat::Off, Some(path)) = (self.format, &self.path) {
            path.problem(problems, "path has no effect while format is off", None);
        }
    }
}

/// Each address is for one purpose.
pub fn check_addresses(
    services: &[(&str, Option<&Service>)],
    listeners: &[Listener],
    problems: &mut Problems,
) {
    let mut taken: Vec<(String, SocketAddr)> =
        listeners.iter().map(|l| (format!("listener \"{}\"", l.name), l.address)).collect();
    for (name, service) in services {
        let Some(Service { address }) = service else { continue };
        if let Some((other, _)) = taken.iter().find(|(_, it)| overlap(*it, address.value.0)) {
            let message = format!("{} is also the address of {other}", address.value.0);
            address.problem(problems, message, None);
        }
        taken.push(((*name).to_owned(), address.value.0));
    }
}
