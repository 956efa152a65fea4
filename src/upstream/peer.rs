//! How an endpoint is connected to: addresses, time limits, TLS, and what keeps connections apart.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pingora_core::protocols::tls::CaType;
use pingora_core::protocols::{ALPN, Digest};
use pingora_core::upstreams::peer::{HttpPeer, PeerOptions, Tracer};
use pingora_core::utils::tls::CertKey;
use pingora_core::{Error, ErrorType};

use super::clock;
use super::dial::{Connected, Dial, Introduction};
use super::endpoint::Endpoint;
use super::pool::Pool;
use super::tls;
use crate::config::upstreams::{Address, Protocol, Upstream};

/// Requests that share an HTTP/2 connection at most; Pingora's default is 1.
const MAX_H2_STREAMS: usize = 100;

/// Bytes that an HTTP/2 origin may send ahead of a client that does not read: bounded memory, yet
/// 50 MB/s for one response at a round trip of 10 ms.
const H2_STREAM_WINDOW: u32 = 512 * 1024;

/// Keeps the connections of health checks apart from those of requests.
const PROBE_GROUP: u64 = 0x70_72_6f_62_65;

impl Pool {
    /// How to connect to `endpoint`; `client` is for origins that want a PROXY header.
    pub fn peer(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        client: Option<Introduction>,
    ) -> Result<HttpPeer, String> {
        let caps = &self.config().caps;
        let counted = caps.connections.is_some() || caps.endpoint_connections.is_some();
        self.reach(endpoint, client, counted)
    }

    /// Whether a connection is to somebody whom this upstream trusts; nothing was sent on it yet.
    pub fn trusts(&self, digest: Option<&Digest>) -> pingora_core::Result<()> {
        let Some(config) = &self.config().tls else { return Ok(()) };
        let made = digest.and_then(|digest| digest.ssl_digest.as_deref());
        tls::judge(config, made).map_err(|why| {
            let mut error = Error::explain(ErrorType::InvalidCert, why);
            error.as_up();
            error
        })
    }

    /// The same for a health check, on connections of its own and beside the limits.
    pub(super) fn probe_peer(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<HttpPeer, String> {
        let mut peer = self.reach(endpoint, None, false)?;
        peer.group_key ^= PROBE_GROUP;
        Ok(peer)
    }

    fn reach(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        client: Option<Introduction>,
        counted: bool,
    ) -> Result<HttpPeer, String> {
        let config = self.config();
        let tls = config.tls.as_ref();
        let name = tls.map(|tls| tls.server_name.clone()).unwrap_or_default();
        let mut peer = match endpoint.address() {
            Address::Inet(address) => HttpPeer::new(*address, tls.is_some(), name),
            Address::Unix(path) => {
                let path = path.to_str().ok_or("the socket's path is not UTF-8")?;
                HttpPeer::new_uds(path, tls.is_some(), name).map_err(|error| error.to_string())?
            }
        };
        peer.client_cert_key = self.certificate.clone();
        let timeouts = &config.timeouts;
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        // Pingora has one limit for all reads of an exchange: the promise about the head wins.
        options.read_timeout = Some(timeouts.first_byte);
        options.write_timeout = Some(timeouts.idle);
        options.idle_timeout = Some(timeouts.idle);
        options.verify_cert = true;
        options.verify_hostname = true;
        options.ca = self.authorities.clone();
        share_connection(options);
        options.alpn = match config.protocol {
            Protocol::Http1 => ALPN::H1,
            // Without TLS this is prior knowledge.
            Protocol::Http2 => ALPN::H2,
            Protocol::Auto => ALPN::H2H1,
        };
        let client = client.filter(|_| config.proxy_protocol.is_some());
        peer.group_key = self.group_key ^ self.apart(endpoint, client.as_ref());
        if counted || config.proxy_protocol.is_some() {
            let dial = Dial::new(self, endpoint, client, counted);
            peer.options.custom_l4 = Some(Arc::new(dial));
        }
        if counted {
            peer.options.tracer = Some(Tracer(Box::new(Connected::new(self, endpoint))));
        }
        Ok(peer)
    }

    /// What connections must not be shared across, beside what the whole pool has in common: the
    /// client that was introduced on them, and the period in which they were made.
    fn apart(&self, endpoint: &Endpoint, client: Option<&Introduction>) -> u64 {
        let age = self.config().max_connection_age.map(clock::nanos);
        if age.is_none() && client.is_none() {
            return 0;
        }
        // Each endpoint changes periods at a time of its own, so that not all connect at once.
        let period = age.map(|age| clock::now().wrapping_add(endpoint.id() % age) / age);
        let mut hasher = DefaultHasher::new();
        (period, client).hash(&mut hasher);
        hasher.finish()
    }
}

/// All streams of an HTTP/2 connection together may take what each may: with Pingora's defaults
/// a few clients that do not read would hold up all others.
pub(super) fn share_connection(options: &mut PeerOptions) {
    options.max_h2_streams = MAX_H2_STREAMS;
    options.h2_stream_window_size = Some(H2_STREAM_WINDOW);
    options.h2_connection_window_size = Some(H2_STREAM_WINDOW * MAX_H2_STREAMS as u32);
}

/// Keeps connections apart that Pingora would take for the same: its own key leaves out
/// authorities, keys and protocols. The same for the same settings, so that reloads keep connections.
pub(super) fn group_key(
    config: &Upstream,
    authorities: Option<&CaType>,
    certificate: Option<&CertKey>,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    config.name.hash(&mut hasher);
    config.protocol.hash(&mut hasher);
    config.proxy_protocol.hash(&mut hasher);
    config.tls.as_ref().map(|tls| &tls.server_name).hash(&mut hasher);
    for authority in authorities.unwrap_or_default() {
        authority.borrow_raw_cert().hash(&mut hasher);
    }
    if let Some(certificate) = certificate {
        certificate.leaf().borrow_raw_cert().hash(&mut hasher);
        certificate.key().hash(&mut hasher);
    }
    hasher.finish()
}
