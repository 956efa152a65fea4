//! A pool: the endpoints of one upstream in one configuration, and how they are reached.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::{HttpPeer, PeerOptions};
use pingora_core::utils::tls::CertKey;

use super::balance::{Balancer, Member};
use super::endpoint::Endpoint;
use super::error::UpstreamError;
use super::tls;
use crate::config::upstreams::{Balance, HashKey, Protocol, Upstream};

/// Requests that share an HTTP/2 connection at most; Pingora's default is 1.
const MAX_H2_STREAMS: usize = 100;

/// Bytes that an HTTP/2 origin may send ahead of a client that does not read: bounded memory, yet
/// 50 MB/s for one response at a round trip of 10 ms.
const H2_STREAM_WINDOW: u32 = 512 * 1024;

/// An upstream, ready to take requests.
pub struct Pool {
    config: Upstream,
    balancer: Balancer,
    authorities: Option<Arc<CaType>>,
    /// What is shown to origins that ask.
    certificate: Option<Arc<CertKey>>,
    group_key: u64,
}

impl Pool {
    /// Builds the pool of `config`; endpoints of `previous` keep their health and their counts.
    ///
    /// Nothing of `previous` changes, so a configuration may still be turned down afterwards.
    pub fn build(config: &Upstream, previous: Option<&Pool>) -> Result<Self, UpstreamError> {
        let error = |what: String| UpstreamError { upstream: Arc::clone(&config.name), what };
        if config.endpoints.is_empty() {
            return Err(error("no endpoints".into()));
        }
        let ca = config.tls.as_ref().and_then(|tls| tls.ca.as_deref());
        let authorities = ca.map(tls::load_authorities).transpose().map_err(error)?;
        let certificate = config.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        let certificate = certificate.map(tls::load_certificate).transpose().map_err(error)?;
        let members = members(config, previous);
        Ok(Self {
            balancer: Balancer::new(&config.balance, members, config.health.is_some()),
            group_key: group_key(config, authorities.as_deref(), certificate.as_deref()),
            config: config.clone(),
            authorities,
            certificate,
        })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    pub fn config(&self) -> &Upstream {
        &self.config
    }

    pub fn members(&self) -> &[Member] {
        self.balancer.members()
    }

    /// What [`Pool::pick`] wants as its key, if anything.
    pub fn hash_key(&self) -> Option<&HashKey> {
        match &self.config.balance {
            Balance::Hash(key) => Some(key),
            Balance::RoundRobin | Balance::LeastRequest | Balance::Random => None,
        }
    }

    /// An endpoint for a request, none of `skip`; see [`Balancer::pick`].
    pub fn pick(&self, key: &[u8], skip: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        self.balancer.pick(key, skip)
    }

    /// How to connect to `endpoint`.
    pub fn peer(&self, endpoint: &Endpoint) -> HttpPeer {
        let tls = self.config.tls.as_ref();
        let name = tls.map(|tls| tls.server_name.clone()).unwrap_or_default();
        let mut peer = HttpPeer::new(endpoint.address(), tls.is_some(), name);
        peer.group_key = self.group_key;
        peer.client_cert_key = self.certificate.clone();
        let timeouts = &self.config.timeouts;
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
        options.alpn = match self.config.protocol {
            Protocol::Http1 => ALPN::H1,
            // Without TLS this is prior knowledge.
            Protocol::Http2 => ALPN::H2,
            Protocol::Auto => ALPN::H2H1,
        };
        peer
    }
}

/// All streams of an HTTP/2 connection together may take what each may: with Pingora's defaults
/// a few clients that do not read would hold up all others.
pub(super) fn share_connection(options: &mut PeerOptions) {
    options.max_h2_streams = MAX_H2_STREAMS;
    options.h2_stream_window_size = Some(H2_STREAM_WINDOW);
    options.h2_connection_window_size = Some(H2_STREAM_WINDOW * MAX_H2_STREAMS as u32);
}

fn members(config: &Upstream, previous: Option<&Pool>) -> Arc<[Member]> {
    let known = previous.map(Pool::members).unwrap_or_default();
    let keep = |address| known.iter().find(|member| member.endpoint.address() == address);
    config
        .endpoints
        .iter()
        .map(|endpoint| Member {
            endpoint: keep(endpoint.address).map_or_else(
                || Endpoint::new(endpoint.address),
                |member| Arc::clone(&member.endpoint),
            ),
            weight: endpoint.weight,
        })
        .collect()
}

/// Keeps connections apart that Pingora would take for the same: its own key leaves out
/// authorities, keys and protocols. The same for the same settings, so that reloads keep connections.
fn group_key(
    config: &Upstream,
    authorities: Option<&CaType>,
    certificate: Option<&CertKey>,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    config.name.hash(&mut hasher);
    config.protocol.hash(&mut hasher);
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
