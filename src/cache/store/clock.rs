//! The store's order of events: fills and purges take numbers that only rise, restarts included.
//!
//! It is no time of day, which can go back. A directory counts its starts in the journal, and
//! each start has a range of numbers of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use pingora_cache::CacheKey;

/// Numbers of one start: at a million a second they last for twelve days of nothing else.
const PER_START: u64 = 1 << 40;

pub struct Clock(AtomicU64);

/// When a request began to ask for an object. What it brings back cannot be newer.
#[derive(Debug, Clone, Copy)]
struct Began(u64);

impl Clock {
    pub fn new(starts: u64) -> Clock {
        Clock(AtomicU64::new(starts.saturating_mul(PER_START) + 1))
    }

    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel)
    }

    /// Notes on the key that a request begins now.
    pub fn stamp(&self, key: &mut CacheKey) {
        key.extensions.insert(Began(self.next()));
    }

    /// When the key's request began, or now.
    pub fn began(&self, key: &CacheKey) -> u64 {
        key.extensions.get::<Began>().map_or_else(|| self.next(), |began| began.0)
    }
}
