//! Where answers are kept: an implementation of Pingora's `Storage`.
//!
//! `storage.rs` is what Pingora calls, `fill.rs` an object that is being written, `memory.rs` the
//! tier in memory, `rules.rs` what was purged. The store lives as long as the process, and its
//! limits change while it runs. See docs/decisions/0013.

mod census;
mod clock;
mod explain;
mod figures;
mod fill;
mod head;
mod labels;
mod memory;
mod reader;
mod rules;
mod storage;
mod sweep;
#[cfg(test)]
mod tests;
mod wire;
mod writer;

use std::time::SystemTime;

use pingora_cache::CacheKey;

pub use explain::{Entry, Place, Which};
pub use figures::{Reading, Tier};
pub use labels::Labels;
pub use rules::{Rule, RuleError, Scope};

use clock::Clock;
use figures::Figures;
use fill::Fills;
use memory::Memory;
use rules::{Dated, Rules};
use sweep::Sweeper;

/// Bytes of a piece of a body in a file; each has a checksum.
const CHUNK: usize = 256 << 10;

/// How much may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of the tier in memory, with heads and what they cost.
    pub memory: u64,
    /// Bytes of the largest body there.
    pub memory_object: u64,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the cache's thread cannot start: {0}")]
    Thread(std::io::Error),
}

/// Why a purge did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// How many objects a purge hit, as far as that can be told without searching for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// Objects in memory. A prefix cannot tell.
    pub memory: Option<u64>,
}

pub struct Store {
    clock: Clock,
    rules: Rules,
    memory: Memory,
    fills: Fills,
    figures: Figures,
    sweeper: Sweeper,
}

impl Store {
    /// Makes a store that lives as long as the process.
    pub fn open(settings: &Settings) -> Result<&'static Store, OpenError> {
        let store: &'static Store = Box::leak(Box::new(Store {
            clock: Clock::new(0),
            rules: Rules::default(),
            memory: Memory::new(settings.memory, settings.memory_object),
            fills: Fills::default(),
            figures: Figures::default(),
            sweeper: Sweeper::default(),
        }));
        sweep::start(store).map_err(OpenError::Thread)?;
        Ok(store)
    }

    /// Takes new limits. What is too much is evicted at once.
    pub fn resize(&self, settings: &Settings) {
        self.memory.resize(settings.memory, settings.memory_object);
    }

    /// Notes on a key that its request begins now. A purge that comes later covers what the
    /// request brings back. Without it, an answer counts as begun when its head arrives.
    pub fn stamp(&self, key: &mut CacheKey) {
        self.clock.stamp(key);
    }

    /// Purges. When this returns, nothing that `rule` means is served any more, wherever it lies
    /// and also if it is only on its way.
    pub async fn purge(&self, rule: Rule) -> Result<Purged, PurgeError> {
        self.rules.check(&rule)?;
        let dated = Dated { seq: self.clock.next(), at: SystemTime::now(), rule };
        let purged = self.count(&dated.rule.scope);
        self.rules.add(&dated);
        self.figures.purged();
        self.sweeper.wake();
        Ok(purged)
    }

    fn count(&self, scope: &Scope) -> Purged {
        let memory = match scope {
            Scope::All => Some(self.memory.entries()),
            Scope::Prefix(_) => None,
            Scope::Key(primary) => {
                Some(u64::from(self.memory.peek(u128::from_be_bytes(*primary)).is_some()))
            }
            _ => scope.counted().map(|mark| self.memory.census().count(mark)),
        };
        Purged { memory }
    }

    /// What the store holds and has done.
    pub fn figures(&self) -> Reading {
        Reading {
            memory: Tier {
                entries: self.memory.entries(),
                bytes: self.memory.bytes(),
                limit: self.memory.limit(),
                evictions: self.memory.evictions(),
            },
            fills: self.fills.count(),
            fill_bytes: self.fills.held(),
            rules: self.rules.len() as u64,
            ..self.figures.read()
        }
    }
}
