//! Where answers are kept: an implementation of Pingora's `Storage`.
//!
//! `storage.rs` is what Pingora calls, `fill.rs` an object that is being written, `memory.rs` the
//! tier in memory, `rules.rs` what was purged. The store lives as long as the process, and its
//! limits change while it runs. See docs/decisions/0013.

mod census;
mod clock;
mod disk;
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

use std::path::PathBuf;

use pingora_cache::CacheKey;

pub use disk::{Admission, DiskReading, DiskSettings};
pub use explain::{Entry, Place, Which};
pub use figures::{Reading, Tier};
pub use labels::Labels;
pub use rules::{Rule, RuleError, Scope};

use clock::Clock;
use disk::Disk;
use figures::Figures;
use fill::Fills;
use memory::Memory;
use rules::Rules;
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
    pub disk: Option<DiskSettings>,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the cache's threads cannot start: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Disk(#[from] disk::OpenError),
}

/// Why a purge did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error("purged for now, but a restart may bring it back: {0}")]
    Journal(std::io::Error),
}

/// How many objects a purge hit, as far as that can be told without searching for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// Objects in memory. A prefix cannot tell.
    pub memory: Option<u64>,
    /// Objects on disk. Only what purges a key or everything can tell.
    pub disk: Option<u64>,
}

pub struct Store {
    clock: Clock,
    rules: Rules,
    memory: Memory,
    fills: Fills,
    figures: Figures,
    sweeper: Sweeper,
    /// `None` also where it could not be used.
    disk: Option<Disk>,
    /// What was wanted.
    dir: Option<PathBuf>,
}

impl Store {
    /// Makes a store that lives as long as the process.
    ///
    /// A directory that another process uses is an error. One that cannot be used is none, now or
    /// later: it is said in the log and in `figures`, and the store goes on in memory. A broken
    /// disk must not keep the proxy from starting.
    pub fn open(settings: &Settings) -> Result<&'static Store, OpenError> {
        let left = match settings.disk.as_ref().map(Disk::open).transpose() {
            Err(disk::OpenError::Io(dir, error)) => {
                log::error!("cache: {}: not used, only memory is: {error}", dir.display());
                None
            }
            left => left?,
        };
        let starts = left.as_ref().map_or(0, |left| left.starts);
        let (disk, rules) = left.map(|left| (left.disk, left.rules)).unzip();
        let store: &'static Store = Box::leak(Box::new(Store {
            clock: Clock::new(starts),
            rules: Rules::default(),
            memory: Memory::new(settings.memory, settings.memory_object),
            fills: Fills::default(),
            figures: Figures::default(),
            sweeper: Sweeper::default(),
            disk,
            dir: settings.disk.as_ref().map(|disk| disk.dir.clone()),
        }));
        rules.iter().flatten().for_each(|dated| store.rules.resume(dated));
        if let Some(disk) = &store.disk {
            disk::start(store, disk).map_err(OpenError::Thread)?;
        }
        sweep::start(store).map_err(OpenError::Thread)?;
        Ok(store)
    }

    /// Takes new limits. What is too much is evicted. Another directory, or one where there was
    /// none, needs a restart; this says whether.
    pub fn resize(&self, settings: &Settings) -> bool {
        self.memory.resize(settings.memory, settings.memory_object);
        if let (Some(disk), Some(settings)) = (&self.disk, &settings.disk) {
            disk.resize(settings);
        }
        self.dir.as_deref() == settings.disk.as_ref().map(|disk| disk.dir.as_path())
    }

    /// Notes on a key that its request begins now. A purge that comes later covers what the
    /// request brings back. Without it, an answer counts as begun when its head arrives.
    pub fn stamp(&self, key: &mut CacheKey) {
        self.clock.stamp(key);
    }

    /// Purges. When this returns, nothing that `rule` means is served any more, wherever it lies,
    /// also if it is only on its way, and also after a restart.
    pub async fn purge(&'static self, rule: Rule) -> Result<Purged, PurgeError> {
        self.rules.check(&rule)?;
        let purged = self.count(&rule.scope);
        let dated = self.rules.enact(&rule, &self.clock);
        self.figures.purged();
        self.sweeper.wake();
        if let Some(disk) = &self.disk {
            let commit = tokio::task::spawn_blocking(move || disk.commit(self, dated));
            let committed = commit.await.map_err(std::io::Error::other);
            committed.and_then(|done| done).map_err(PurgeError::Journal)?;
        }
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
        let disk = match (&self.disk, scope) {
            (None, _) => Some(0),
            (Some(disk), Scope::All) => Some(disk.entries()),
            (Some(disk), Scope::Key(primary)) => {
                Some(u64::from(disk.contains(u128::from_be_bytes(*primary))))
            }
            (Some(_), _) => None,
        };
        Purged { memory, disk }
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
            disk: self.disk.as_ref().map(Disk::reading),
            disk_unusable: self.disk.is_none() && self.dir.is_some(),
            fills: self.fills.count(),
            fill_bytes: self.fills.held(),
            rules: self.rules.len() as u64,
            ..self.figures.read()
        }
    }
}
