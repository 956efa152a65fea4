//! What outlives requests and reloads: the store behind `kv`, rate limits, counters, locks; and
//! the lists that configurations name.
//!
//! It knows no scripts: grants are checked before it is asked.

mod counters;
mod csv;
mod dict;
mod disk;
mod geo;
mod ipset;
mod keys;
mod limiter;
mod lists;
mod locks;
mod memory;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod threads;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub use counters::Counters;
pub use dict::{Dict, Value};
pub use disk::{Disk, OpenError};
pub use geo::{Geo, Location, Place};
pub use ipset::IpSet;
pub use limiter::{Decision, Limiters};
pub use lists::{Bad, ListError, Lists, Live};
pub use locks::{Held, LockError, Locks};
pub use memory::Memory;
pub use store::{BoxFuture, Page, Put, Store, StoreError, When, check_key};

use crate::config::state::State as Declared;
use crate::telemetry::metrics::Metrics;

/// All of it, for one process.
pub struct State {
    /// None where the configuration has no store.
    pub store: Option<Arc<dyn Store>>,
    pub limiters: Limiters,
    pub counters: Counters,
    pub locks: Locks,
}

/// The time since 1970, as a test has it.
pub type TestClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Nothing on disk, and nobody counts: for tests.
impl Default for State {
    fn default() -> Self {
        Self {
            store: Some(Arc::new(Memory::default())),
            limiters: Limiters::default(),
            counters: Counters::default(),
            locks: Locks::default(),
        }
    }
}

impl State {
    /// Opens the store that the configuration names, if it names one.
    pub fn open(declared: &Declared, metrics: &Arc<Metrics>) -> Result<Self, OpenError> {
        let store = match &declared.store {
            Some(store) => {
                Some(Arc::new(Disk::open(&store.path.value, store.cache, metrics)?) as _)
            }
            None => None,
        };
        let limiters = Limiters::counted(metrics);
        Ok(Self { store, limiters, counters: Counters::default(), locks: Locks::default() })
    }

    /// In memory, by the test's clock.
    pub fn for_test(store: Arc<Memory>, clock: TestClock) -> Self {
        Self { store: Some(store), limiters: Limiters::by(clock), ..Self::default() }
    }

    /// Forgets what the configuration no longer has. Entries of the store stay.
    pub fn retain(&self, declared: &Declared) {
        let limits = declared.rate_limits.iter().map(|limit| limit.name.as_str());
        self.limiters.retain(&limits.collect::<HashSet<_>>());
        self.counters.retain(&declared.counters);
    }

    /// Everything acknowledged is on disk; from here on the store answers no more.
    pub fn close(&self) {
        if let Some(store) = &self.store {
            store.close();
        }
    }
}
