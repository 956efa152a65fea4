//! The cache: what HTTP lets a shared cache do, and where it keeps what it stores.
//!
//! `policy` decides and knows nothing but messages; `key` says what makes two requests the same;
//! `store` keeps answers and knows no rule of HTTP. Who asks for what and when is the business of
//! `proxy`.

pub mod key;
pub mod policy;
pub mod store;

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;
use pingora_cache::CacheKey;
use pingora_cache::key::{CacheHashKey, HashBinary};
use pingora_cache::lock::{CacheKeyLockImpl, CacheLock};
use pingora_cache::predictor::{CacheablePredictor, Predictor};

use self::store::{DiskSettings, OpenError, Settings, Store};
use crate::config::cache::{Admission, Cache as Config};
use crate::telemetry::metrics::{CacheFigures, TierFigures};

/// A fill whose head did not come for so long keeps nobody waiting any more.
const FILL_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Keys remembered as not storable, in each of 16 parts: 64 bytes a key.
const UNSTORABLE_KEYS: usize = 4096;

/// The process's cache. It lives as long as the process, as Pingora wants it to.
pub struct Cache {
    pub store: &'static Store,
    /// Lets one request fetch what many want.
    pub lock: &'static CacheKeyLockImpl,
    /// Remembers what cannot be stored, so that nobody waits for it.
    pub predictor: &'static Predictor<16>,
    refreshing: Mutex<HashSet<HashBinary>>,
}

impl Cache {
    pub fn open(config: &Config) -> Result<&'static Self, OpenError> {
        let lock: &'static CacheKeyLockImpl = Box::leak(CacheLock::new_boxed(FILL_HEAD_TIMEOUT));
        let store = match Store::open(&settings(config)) {
            // A disk that fails must not take the service with it.
            Err(OpenError::Disk(error)) => {
                log::error!(
                    "the cache's directory cannot be used, so it is in memory alone: {error}"
                );
                Store::open(&Settings { disk: None, ..settings(config) })?
            }
            opened => opened?,
        };
        Ok(Box::leak(Box::new(Self {
            store,
            lock,
            predictor: Box::leak(Box::new(Predictor::new(UNSTORABLE_KEYS, None))),
            refreshing: Mutex::default(),
        })))
    }

    /// Takes the limits of a new configuration.
    pub fn resize(&self, config: &Config) {
        self.store.resize(&settings(config));
    }

    /// What the store holds and has counted, for the metrics.
    pub fn figures(&self) -> CacheFigures {
        let read = self.store.figures();
        let tier =
            |entries, bytes, limit, evictions| TierFigures { entries, bytes, limit, evictions };
        let memory = read.memory;
        let memory = tier(memory.entries, memory.bytes, memory.limit, memory.evictions);
        let disk = read.disk.unwrap_or_default();
        let on_disk = tier(disk.entries, disk.bytes, disk.limit, disk.evictions);
        let tiers = [("memory", Some(memory)), ("disk", read.disk.map(|_| on_disk))];
        CacheFigures {
            tiers: tiers.into_iter().filter_map(|(name, tier)| Some((name, tier?))).collect(),
            hits: vec![
                ("memory", read.hits_memory),
                ("disk", read.hits_disk),
                ("fill", read.hits_fill),
            ],
            refused: vec![
                ("size", read.refused_size),
                ("head", read.refused_head),
                ("fills", read.refused_fills),
                ("late", read.refused_late),
                ("disk", read.refused_disk + disk.refused),
            ],
            fills: vec![("complete", read.filled), ("broken", read.aborted)],
            fill_bytes: read.fill_bytes,
            purges: read.purges,
            rules: read.rules,
            disk_errors: disk.errors,
            disk_broken: disk.broken,
            disk_queued: disk.queued,
            disk_usable: read.disk.is_some_and(|disk| !disk.paused),
        }
    }

    /// Why what has this key was not stored, when it came last.
    pub fn why_not(&self, key: Vec<u8>) -> Option<&'static str> {
        let reason = self.predictor.predicted_uncacheable_reason(&CacheKey::new(key, ""))?;
        Some(reason.as_str())
    }

    /// The right to refresh an entry in the background, unless somebody has it.
    pub fn claim(&'static self, key: &CacheKey) -> Option<Claim> {
        let key = key.combined_bin();
        let first = self.refreshing.lock().insert(key);
        first.then(|| Claim { cache: self, key })
    }
}

fn settings(config: &Config) -> Settings {
    let disk = config.disk.as_ref().map(|disk| DiskSettings {
        dir: disk.path.value.clone(),
        bytes: disk.size.value.0,
        object: disk.largest(),
        queue: disk.queue.0,
        admission: match disk.admission {
            Admission::Always => store::Admission::Always,
            Admission::SecondHit => store::Admission::SecondHit,
        },
    });
    Settings { memory: config.memory.value.0, memory_object: config.largest_in_memory(), disk }
}

/// The right to refresh an entry, until it is dropped.
pub struct Claim {
    cache: &'static Cache,
    key: HashBinary,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cache.refreshing.lock().remove(&self.key);
    }
}
