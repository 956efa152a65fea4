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
use pingora_cache::predictor::Predictor;

use self::store::{OpenError, Settings, Store};
use crate::config::cache::Cache as Config;

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
        Ok(Box::leak(Box::new(Self {
            store: Store::open(&settings(config))?,
            lock,
            predictor: Box::leak(Box::new(Predictor::new(UNSTORABLE_KEYS, None))),
            refreshing: Mutex::default(),
        })))
    }

    /// Takes the limits of a new configuration.
    pub fn resize(&self, config: &Config) {
        self.store.resize(&settings(config));
    }

    /// The right to refresh an entry in the background, unless somebody has it.
    pub fn claim(&'static self, key: &CacheKey) -> Option<Claim> {
        let key = key.combined_bin();
        self.refreshing.lock().insert(key).then_some(Claim { cache: self, key })
    }
}

fn settings(config: &Config) -> Settings {
    Settings { memory: config.memory.value.0, memory_object: config.max_object.value.0 }
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
