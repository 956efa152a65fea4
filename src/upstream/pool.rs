//! A pool: the endpoints of one upstream in one configuration, and how one of them is got.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::CertKey;
use tokio::sync::{Notify, watch};

use super::attempt::{Attempt, Refusal, Standing};
use super::balance::{Ask, Balancer, Member};
use super::circuit::{Pass, State};
use super::clock;
use super::discovery;
use super::endpoint::{Endpoint, Reason};
use super::error::UpstreamError;
use super::peer;
use super::tls;
use crate::config::upstreams::{self, Address, Balance, HashKey, Upstream};
use crate::telemetry::handles::UpstreamMetrics;

/// An upstream, ready to take requests.
pub struct Pool {
    config: Upstream,
    /// Changes when endpoints are discovered.
    balancer: ArcSwap<Balancer>,
    /// Tells the watch that it did.
    changed: Notify,
    standing: Arc<Standing>,
    metrics: Arc<UpstreamMetrics>,
    /// Whether its endpoints were looked for.
    looked: watch::Sender<bool>,
    /// Held while it is decided whether one more may be ejected.
    ejecting: Mutex<()>,
    pub(super) authorities: Option<Arc<CaType>>,
    /// What is shown to origins that ask.
    pub(super) certificate: Option<Arc<CertKey>>,
    pub(super) group_key: u64,
}

impl Pool {
    /// Builds the pool of `config`; endpoints of `previous` keep their health and their counts.
    ///
    /// Nothing of `previous` changes, so a configuration may still be turned down afterwards.
    pub fn build(
        config: &Upstream,
        metrics: &Arc<UpstreamMetrics>,
        previous: Option<&Pool>,
    ) -> Result<Self, UpstreamError> {
        let error = |what: String| UpstreamError { upstream: Arc::clone(&config.name), what };
        let endpoints = discovery::at_first(config, previous).map_err(error)?;
        let ca = config.tls.as_ref().and_then(|tls| tls.ca.as_deref());
        let authorities = ca.map(tls::load_authorities).transpose().map_err(error)?;
        let certificate = config.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        let certificate = certificate.map(tls::load_certificate).transpose().map_err(error)?;
        let members = members(&endpoints, previous);
        Ok(Self {
            balancer: ArcSwap::from_pointee(Balancer::new(config, members)),
            changed: Notify::new(),
            standing: previous.map_or_else(Arc::default, |pool| Arc::clone(&pool.standing)),
            metrics: Arc::clone(metrics),
            looked: watch::Sender::new(!endpoints.is_empty()),
            ejecting: Mutex::default(),
            group_key: peer::group_key(config, authorities.as_deref(), certificate.as_deref()),
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

    /// The endpoints of this moment and the way one is chosen.
    pub fn balancer(&self) -> Guard<Arc<Balancer>> {
        self.balancer.load()
    }

    /// What [`Ask::key`] should hold, if anything.
    pub fn hash_key(&self) -> Option<&HashKey> {
        match &self.config.balance {
            Balance::Hash(key) | Balance::Maglev(key) => Some(key),
            Balance::RoundRobin | Balance::LeastRequest | Balance::PeakEwma | Balance::Random => {
                None
            }
        }
    }

    /// Begins an attempt at an endpoint; see [`Balancer::pick`].
    pub fn begin(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Attempt, Refusal> {
        Attempt::begin(self, ask)
    }

    /// Whether any endpoint is well.
    pub fn any_well(&self) -> bool {
        let balancer = self.balancer();
        balancer.members().iter().any(|member| balancer.well(&member.endpoint))
    }

    pub fn circuit(&self) -> State {
        self.standing.circuit.state()
    }

    pub(super) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    pub(super) fn ejecting(&self) -> &Mutex<()> {
        &self.ejecting
    }

    /// How the circuit breaker lets a request pass, if it does.
    pub(super) fn pass_circuit(&self) -> Option<Pass> {
        let Some(config) = &self.config.breaker else { return Some(Pass::Free) };
        let (pass, changed) = self.standing.circuit.admit(config, clock::now());
        if changed {
            self.tell_circuit();
        }
        (pass != Pass::Refused).then_some(pass)
    }

    pub(super) fn judge_circuit(&self, pass: Pass, failed: bool, now: u64) {
        let Some(config) = &self.config.breaker else { return };
        if self.standing.circuit.judge(config, pass, failed, now) {
            self.tell_circuit();
        }
    }

    fn tell_circuit(&self) {
        let (name, state) = (self.name(), self.circuit());
        self.metrics.circuit_open(state != State::Closed);
        match state {
            State::Open => log::warn!("upstream {name}: the circuit is open"),
            state => log::info!("upstream {name}: the circuit is {}", state.word()),
        }
    }

    /// Takes `endpoint` out for `reason`, with one line if that is new.
    pub fn take_out(&self, endpoint: &Endpoint, reason: Reason, why: &str) {
        if endpoint.take_out(reason, why) {
            let (name, address, word) = (self.name(), endpoint.address(), reason.word());
            log::warn!("upstream {name}: endpoint {address} is {word} ({why})");
            self.show(endpoint);
            self.refresh();
        }
    }

    /// `reason` no longer keeps `endpoint` out, with one line if it did.
    pub fn let_in(&self, endpoint: &Endpoint, reason: Reason, why: &str) {
        if endpoint.let_in(reason) {
            let (name, address) = (self.name(), endpoint.address());
            match self.balancer().well(endpoint) {
                true => log::info!("upstream {name}: endpoint {address} is healthy ({why})"),
                false => log::info!(
                    "upstream {name}: endpoint {address} is no longer {} ({why})",
                    reason.word()
                ),
            }
            self.show(endpoint);
            self.refresh();
        }
    }

    /// Looks anew at how much the endpoints can take, and whether they are too few.
    pub(super) fn refresh(&self) {
        let balancer = self.balancer();
        let before = balancer.in_panic();
        balancer.refresh();
        let now = balancer.in_panic();
        self.metrics.panic(now);
        if now && !before {
            let name = self.name();
            log::warn!("upstream {name}: too few endpoints are healthy, so all count as healthy");
        } else if before && !now {
            log::info!("upstream {}: enough endpoints are healthy again", self.name());
        }
    }

    fn show(&self, endpoint: &Endpoint) {
        let shown = self.metrics.endpoint(&endpoint.address().to_string());
        shown.set_healthy(self.balancer().well(endpoint));
    }

    /// Brings the metrics up to date for all endpoints.
    pub(super) fn show_all(&self) {
        for member in self.balancer().members() {
            self.show(&member.endpoint);
        }
        self.metrics.circuit_open(self.circuit() != State::Closed);
        self.refresh();
    }

    /// Gives the pool other endpoints; those that it has already keep their state.
    pub(super) fn set_endpoints(&self, endpoints: &[upstreams::Endpoint]) {
        let before = self.balancer.load_full();
        let members = members(endpoints, Some(self));
        let is_in = |members: &[Member], address: &Address| {
            members.iter().any(|member| member.endpoint.address() == address)
        };
        let addresses = |these: &[Member], others: &[Member]| -> Vec<String> {
            let new = these.iter().filter(|m| !is_in(others, m.endpoint.address()));
            new.map(|member| member.endpoint.address().to_string()).collect()
        };
        let added = addresses(&members, before.members());
        let removed = addresses(before.members(), &members);
        self.balancer.store(Arc::new(Balancer::new(&self.config, members)));
        for gone in &removed {
            self.metrics.forget_endpoint(gone);
        }
        if !added.is_empty() || !removed.is_empty() {
            let (name, added, removed) = (self.name(), added.join(" "), removed.join(" "));
            log::info!("upstream {name}: endpoints added: [{added}], removed: [{removed}]");
        }
        self.show_all();
        self.changed.notify_one();
    }

    /// Its endpoints were looked for, be it in vain.
    pub(super) fn has_looked(&self) {
        self.looked.send_replace(true);
    }

    /// Waits until its endpoints are known, or could not be found out.
    pub async fn looked(&self) {
        // Its sender lives as long as the pool.
        let _ = self.looked.subscribe().wait_for(|looked| *looked).await;
    }

    /// Waits until the endpoints change.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn members(endpoints: &[upstreams::Endpoint], previous: Option<&Pool>) -> Arc<[Member]> {
    let before = previous.map(|pool| pool.balancer.load_full());
    let known = before.as_ref().map(|balancer| balancer.members()).unwrap_or_default();
    let keep = |address: &Address| known.iter().find(|member| member.endpoint.address() == address);
    let endpoint = |address: &Address| match keep(address) {
        Some(member) => Arc::clone(&member.endpoint),
        None => {
            let new = Endpoint::new(address.clone());
            // Among others that are all as new there is nobody to spare it for.
            if !known.is_empty() {
                new.warm_up();
            }
            new
        }
    };
    let member = |given: &upstreams::Endpoint| Member {
        endpoint: endpoint(&given.address),
        weight: given.weight,
        priority: given.priority,
        region: given.region.clone(),
    };
    endpoints.iter().map(member).collect()
}
