//! One origin: its address, whether it is well, and how much is going on with it.
//!
//! An endpoint outlives reloads as long as its upstream keeps its address; what a configuration
//! says about it, such as its weight, belongs to the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh64::xxh64;

use super::clock;
use super::latency::Latency;
use super::outlier::Record;
use crate::config::upstreams::Address;

/// Why an endpoint gets no requests; several may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its checks fail.
    Unhealthy = 1,
    /// Its answers failed more than those of others.
    Ejected = 2,
    /// An operator wants it to run empty; what sticks to it still goes there.
    Drained = 4,
    /// An operator took it out.
    Disabled = 8,
}

impl Reason {
    pub const ALL: [Self; 4] = [Self::Unhealthy, Self::Ejected, Self::Drained, Self::Disabled];
    /// Those that an operator gave.
    pub(super) const BY_HAND: u8 = Self::Drained.bit() | Self::Disabled.bit();

    pub(super) const fn bit(self) -> u8 {
        self as u8
    }

    /// The word for an endpoint that is out for this.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Drained => "drained",
            Self::Disabled => "disabled",
        }
    }
}

/// An origin, shared by the pools of successive configurations.
#[derive(Debug)]
pub struct Endpoint {
    address: Address,
    id: u64,
    pub(super) in_flight: AtomicU32,
    pub(super) connections: AtomicU32,
    /// The reasons that hold, as bits.
    out: AtomicU8,
    /// What led to each, for people.
    why: Mutex<[Option<String>; 4]>,
    known: AtomicBool,
    /// When it was taken up or came back; 0: it has its full share.
    warming_since: AtomicU64,
    pub(super) latency: Latency,
    pub(super) record: Record,
}

impl Endpoint {
    /// An endpoint nobody has checked yet, which counts as healthy.
    pub fn new(address: Address) -> Arc<Self> {
        let id = xxh64(address.to_string().as_bytes(), 0);
        Arc::new(Self {
            address,
            id,
            in_flight: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            out: AtomicU8::new(0),
            why: Mutex::default(),
            known: AtomicBool::new(false),
            warming_since: AtomicU64::new(0),
            latency: Latency::default(),
            record: Record::default(),
        })
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The same for the same address in every process, and no secret.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Exchanges that have begun and not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Connections open to it, where the configuration limits them; else 0.
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// Whether nothing keeps it from getting requests.
    pub fn healthy(&self) -> bool {
        self.out() == 0
    }

    pub fn is_out_for(&self, reason: Reason) -> bool {
        self.out() & reason.bit() != 0
    }

    /// The reasons that hold, and what led to each.
    pub fn reasons(&self) -> Vec<(Reason, String)> {
        let why = self.why.lock();
        let held = Reason::ALL.iter().zip(why.iter());
        held.filter_map(|(reason, why)| why.clone().map(|why| (*reason, why))).collect()
    }

    pub(super) fn out(&self) -> u8 {
        self.out.load(Relaxed)
    }

    /// Whether a check has ended at least once.
    pub fn known(&self) -> bool {
        self.known.load(Relaxed)
    }

    pub(super) fn set_known(&self) {
        self.known.store(true, Relaxed);
    }

    /// Takes it out for `reason`; whether that is new.
    pub(super) fn take_out(&self, reason: Reason, why: &str) -> bool {
        let mut whys = self.why.lock();
        for (slot, known) in whys.iter_mut().zip(Reason::ALL) {
            if known == reason {
                *slot = Some(why.to_owned());
            }
        }
        self.out.fetch_or(reason.bit(), Relaxed) & reason.bit() == 0
    }

    /// `reason` no longer holds; whether it did. What is back with no other reason warms up.
    pub(super) fn let_in(&self, reason: Reason) -> bool {
        let mut whys = self.why.lock();
        for (slot, known) in whys.iter_mut().zip(Reason::ALL) {
            if known == reason {
                *slot = None;
            }
        }
        let before = self.out.fetch_and(!reason.bit(), Relaxed);
        if before & reason.bit() != 0 && before & !reason.bit() == 0 {
            self.warm_up();
        }
        before & reason.bit() != 0
    }

    /// From now on it is new to its pool.
    pub(super) fn warm_up(&self) {
        self.warming_since.store(clock::now(), Relaxed);
    }

    /// How much of its share it takes, above 0 and up to 1, if warming up takes `slow_start`.
    pub(super) fn warmth(&self, slow_start: Duration, now: u64) -> f64 {
        match self.warming_since.load(Relaxed) {
            0 => 1.0,
            since => {
                let passed = clock::between(since, now).as_secs_f64() / slow_start.as_secs_f64();
                passed.clamp(LEAST_WARMTH, 1.0)
            }
        }
    }
}

/// With less an endpoint would get nothing to warm up by.
const LEAST_WARMTH: f64 = 0.1;
