//! The cache: what HTTP lets a shared cache do, and where it keeps what it stores.
//!
//! `policy` decides and knows nothing but messages; `key` says what makes two requests the same.
//! Who asks for what and when is the business of `proxy`.

pub mod key;
pub mod policy;

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;
use pingora_cache::eviction::simple_lru::Manager;
use pingora_cache::key::{CacheHashKey, HashBinary};
use pingora_cache::lock::{CacheKeyLockImpl, CacheLock};
use pingora_cache::predictor::Predictor;
use pingora_cache::{CacheKey, MemCache};

/// A fill whose head did not come for so long keeps nobody waiting any more.
const FILL_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Keys remembered as not storable, in each of 16 parts: 64 bytes a key.
const UNSTORABLE_KEYS: usize = 4096;

/// The process's cache. It lives as long as the process, as Pingora wants it to.
pub struct Cache {
    pub storage: &'static MemCache,
    pub eviction: &'static Manager,
    /// Lets one request fetch what many want.
    pub lock: &'static CacheKeyLockImpl,
    /// Remembers what cannot be stored, so that nobody waits for it.
    pub predictor: &'static Predictor<16>,
    refreshing: Mutex<HashSet<HashBinary>>,
}

impl Cache {
    pub fn open(memory: u64) -> &'static Self {
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let lock: &'static CacheKeyLockImpl = Box::leak(CacheLock::new_boxed(FILL_HEAD_TIMEOUT));
        Box::leak(Box::new(Self {
            storage: Box::leak(Box::new(MemCache::new())),
            eviction: Box::leak(Box::new(Manager::new(memory))),
            lock,
            predictor: Box::leak(Box::new(Predictor::new(UNSTORABLE_KEYS, None))),
            refreshing: Mutex::default(),
        }))
    }

    /// The right to refresh an entry in the background, unless somebody has it.
    pub fn claim(&'static self, key: &CacheKey) -> Option<Claim> {
        let key = key.combined_bin();
        self.refreshing.lock().insert(key).then_some(Claim { cache: self, key })
    }
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
