//! What connections may take, and the counts of those that took more.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Bounds on connections; changeable while they are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnLimits {
    /// Open connections in all.
    pub connections: usize,
    /// Open connections from one client address (one /64 for IPv6).
    pub per_address: u32,
    /// PROXY header and TLS handshake together.
    pub handshake: Duration,
    /// From the first byte of a request head to its last.
    pub head: Duration,
    /// Bytes of a request head; on HTTP/2 of its header list.
    pub head_bytes: usize,
    /// Silence between two requests, or before the first.
    pub keep_alive: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stall: Duration,
    /// Silence on an upgraded connection, both ways.
    pub tunnel: Duration,
    /// HTTP/1 requests on one connection before it is closed.
    pub requests_per_connection: u32,
}

impl Default for ConnLimits {
    fn default() -> Self {
        ConnLimits {
            connections: 100_000,
            per_address: 10_000,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            head_bytes: 64 << 10,
            keep_alive: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            tunnel: Duration::from_secs(600),
            requests_per_connection: 10_000,
        }
    }
}

/// A closed set of reasons, each with its counter and its label in metrics.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant,)*];
            const COUNT: usize = $name::ALL.len();

            /// The label in metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }
        }
    };
}

reasons! {
    /// Why a connection was turned away before its first request.
    Rejection {
        /// Too many connections in all.
        Connections = "connections",
        /// Too many connections from this address.
        PerAddress = "per_address",
        /// A missing or broken PROXY header.
        ProxyHeader = "proxy_header",
        /// The TLS handshake failed.
        Handshake = "handshake",
        /// PROXY header and handshake took too long.
        HandshakeTimeout = "handshake_timeout",
    }
}

reasons! {
    /// Why a connection was cut in its life. Minimum body rates will be added here, and judged
    /// in `registry::offence`.
    Cut {
        /// A request head took too long.
        Head = "head",
        /// Silent for longer than the keep-alive time, or than a tunnel may be.
        Idle = "idle",
        /// Took nothing of what was sent for too long.
        Stalled = "stalled",
        /// Still open when the drain's time was over.
        Drain = "drain",
    }
}

reasons! {
    /// Why an HTTP/1 request was refused before it reached the application.
    Refusal {
        /// The head cannot be read.
        Malformed = "malformed",
        /// More bytes, or more lines, than a head may have.
        HeadTooLarge = "head_too_large",
        /// The head took too long.
        HeadTimeout = "head_timeout",
    }
}

/// Counts over all listeners, for telemetry to read at any time.
#[derive(Debug, Default)]
pub struct ConnCounters {
    pub accepted: AtomicU64,
    /// Open now.
    pub open: AtomicU64,
    /// Requests between `request_begins` and `request_ends` now.
    pub in_flight: AtomicU64,
    refused: [AtomicU64; Refusal::COUNT],
    rejected: [AtomicU64; Rejection::COUNT],
    cut: [AtomicU64; Cut::COUNT],
}

impl ConnCounters {
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize].load(Relaxed)
    }

    pub fn rejected(&self, why: Rejection) -> u64 {
        self.rejected[why as usize].load(Relaxed)
    }

    pub fn cut(&self, why: Cut) -> u64 {
        self.cut[why as usize].load(Relaxed)
    }

    pub(super) fn count_refused(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_rejected(&self, why: Rejection) {
        self.rejected[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_cut(&self, why: Cut) {
        self.cut[why as usize].fetch_add(1, Relaxed);
    }
}
