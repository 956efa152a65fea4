//! One origin: its address, whether it is well, and how much is going on with it.
//!
//! An endpoint outlives reloads as long as its upstream keeps its address; what a configuration
//! says about it, such as its weight, belongs to the pool.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// An origin, shared by the pools of successive configurations.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    in_flight: AtomicUsize,
    healthy: AtomicBool,
    known: AtomicBool,
}

impl Endpoint {
    /// An endpoint nobody has checked yet, which counts as healthy.
    pub fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            in_flight: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
            known: AtomicBool::new(false),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Exchanges that have begun and not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Whether a check has ended at least once.
    pub fn known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Keeps a check's verdict and returns whether it changes what requests see.
    pub fn set_healthy(&self, healthy: bool) -> bool {
        let before = self.healthy.swap(healthy, Ordering::Relaxed);
        self.known.store(true, Ordering::Relaxed);
        before != healthy
    }

    /// Counts an exchange until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// An exchange going on with an endpoint.
#[derive(Debug)]
#[must_use = "the exchange counts only while this is held"]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
