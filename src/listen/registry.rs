//! All open connections: who may come in, and who overstays.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::limits::{ConnCounters, ConnLimits, Cut, Refusal, Rejection};
use super::refusal::{self, Witness};
use super::state::{Arrival, ConnState, Phase, now_ms};

/// Enough that accepting on a few dozen threads seldom meets on one lock.
const SHARDS: usize = 16;
/// How much later than its limit a connection may be cut.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// Open connections, with limits and counters. The maps hold at most one entry a connection.
#[derive(Debug)]
pub(super) struct Registry {
    pub limits: ArcSwap<ConnLimits>,
    pub counters: Arc<ConnCounters>,
    /// Set before the first connection, or never.
    pub witness: OnceLock<Box<dyn Witness>>,
    next_id: AtomicU64,
    connections: [Mutex<HashMap<u64, Arc<ConnState>>>; SHARDS],
    addresses: Mutex<HashMap<IpAddr, u32>>,
}

impl Registry {
    pub fn new(limits: ConnLimits) -> Registry {
        Registry {
            limits: ArcSwap::from_pointee(limits),
            counters: Arc::default(),
            witness: OnceLock::new(),
            next_id: AtomicU64::new(0),
            connections: Default::default(),
            addresses: Mutex::default(),
        }
    }

    /// Room for one more connection; given back when the permit is dropped.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Rejection> {
        let open = self.counters.open.fetch_add(1, Relaxed) as usize;
        let permit = Permit { registry: self.clone(), address: None };
        if open >= self.limits.load().connections {
            return Err(Rejection::Connections);
        }
        Ok(permit)
    }

    pub fn register(self: &Arc<Self>, arrival: Arrival) -> Registered {
        let id = self.next_id.fetch_add(1, Relaxed);
        let state = Arc::new(ConnState::new(arrival, id, self.counters.clone()));
        self.shard(id).lock().insert(id, state.clone());
        Registered { registry: self.clone(), state }
    }

    /// Cuts every open connection, for the end of a drain.
    pub fn cut_all(&self, why: Cut) {
        self.each(|connection| connection.cut(why));
    }

    /// Cuts connections that have been without a request for this long.
    pub fn cut_idle(&self, idle: Duration, why: Cut) {
        let now = now_ms();
        self.each(|connection| {
            let long = u128::from(connection.age_ms(now)) >= idle.as_millis();
            if connection.phase() == Phase::Idle && long {
                connection.cut(why);
            }
        });
    }

    fn each(&self, mut see: impl FnMut(&ConnState)) {
        for shard in &self.connections {
            shard.lock().values().for_each(|connection| see(connection));
        }
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<ConnState>>> {
        &self.connections[id as usize % SHARDS]
    }

    fn sweep(&self) {
        let limits = self.limits.load();
        let now = now_ms();
        self.each(|connection| {
            if let Some(why) = offence(connection, &limits, now) {
                connection.cut(why);
            }
        });
    }
}

/// What a connection does wrong now, if anything.
///
/// The place for minimum body rates: they need byte counts in `ConnState`, compared over a window
/// kept there; not once the response head is out, nor for tunnels.
fn offence(connection: &ConnState, limits: &ConnLimits, now: u64) -> Option<Cut> {
    let over = |limit: Duration| u128::from(connection.age_ms(now)) > limit.as_millis();
    if u128::from(connection.blocked_for(now)) > limits.stall.as_millis() {
        return Some(Cut::Stalled);
    }
    match connection.phase() {
        Phase::Head if over(limits.head) => Some(Cut::Head),
        Phase::Idle if over(limits.keep_alive) => Some(Cut::Idle),
        Phase::Tunnel if over(limits.tunnel) => Some(Cut::Idle),
        _ => None,
    }
}

/// One timer for all connections, for as long as the registry lives.
pub(super) async fn sweeper(registry: Weak<Registry>) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        let Some(registry) = registry.upgrade() else { return };
        registry.sweep();
    }
}

/// A connection's place under the caps.
#[derive(Debug)]
pub(super) struct Permit {
    registry: Arc<Registry>,
    address: Option<IpAddr>,
}

impl Permit {
    /// Counts the connection for its client, once that is known.
    pub fn claim(&mut self, client: IpAddr) -> Result<(), Rejection> {
        let client = network(client);
        let limit = self.registry.limits.load().per_address;
        let mut addresses = self.registry.addresses.lock();
        let open = addresses.entry(client).or_insert(0);
        if *open >= limit {
            if *open == 0 {
                addresses.remove(&client);
            }
            return Err(Rejection::PerAddress);
        }
        *open += 1;
        self.address = Some(client);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.registry.counters.open.fetch_sub(1, Relaxed);
        let Some(client) = self.address else { return };
        let mut addresses = self.registry.addresses.lock();
        if let Some(open) = addresses.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                addresses.remove(&client);
            }
        }
    }
}

/// One IPv6 client usually owns a whole /64.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

/// A connection in the registry; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Registered {
    registry: Arc<Registry>,
    pub state: Arc<ConnState>,
}

impl Registered {
    /// Counts a refused request, tells the witness, and gives the answer to send.
    pub fn refuse(&self, why: Refusal) -> Vec<u8> {
        self.registry.counters.count_refused(why);
        let (page, request_id) = refusal::page(why);
        if let Some(witness) = self.registry.witness.get() {
            witness.refused(&self.state, why, &request_id);
        }
        page
    }

    /// Bytes that a request head may have.
    pub fn head_limit(&self) -> usize {
        self.registry.limits.load().head_bytes
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.shard(self.state.id).lock().remove(&self.state.id);
    }
}
