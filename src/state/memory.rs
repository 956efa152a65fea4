//! A store in memory, for tests: the same rules, and nothing waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::TestClock;
use super::store::{
    Answer, FAILED, LONGEST_PAGE, Page, Put, Store, StoreError, check_key, check_put, expiry,
    now_ms, weight,
};
use crate::config::state::Namespace;

/// By namespace and key: the end, and the value.
type Entries = BTreeMap<(String, String), (u64, Bytes)>;

#[derive(Default)]
pub struct Memory {
    entries: Mutex<Entries>,
    /// None: the machine's.
    clock: Option<TestClock>,
    failing: AtomicBool,
}

impl Memory {
    pub fn by(clock: TestClock) -> Self {
        Self { clock: Some(clock), ..Self::default() }
    }

    /// As a disk that fails, or no more.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Relaxed);
    }

    fn now(&self) -> u64 {
        match &self.clock {
            Some(clock) => u64::try_from(clock().as_millis()).unwrap_or(u64::MAX),
            None => now_ms(),
        }
    }

    /// Without those whose time is over.
    fn alive(&self) -> Result<MutexGuard<'_, Entries>, StoreError> {
        if self.failing.load(Relaxed) {
            return Err(FAILED);
        }
        let now = self.now();
        let mut entries = self.entries.lock();
        entries.retain(|_, (end, _)| *end > now);
        Ok(entries)
    }

    fn change(&self, namespace: &Namespace, put: Put) -> Result<bool, StoreError> {
        check_put(namespace, &put)?;
        let mut entries = self.alive()?;
        let place = (namespace.name.clone(), put.key.clone());
        if !put.when.allows(entries.get(&place).map(|(_, value)| &**value)) {
            return Ok(false);
        }
        let others = entries.iter().filter(|(at, _)| at.0 == namespace.name && **at != place);
        let size: u64 = others.map(|((_, key), (_, value))| weight(key, value)).sum();
        if size + weight(&put.key, &put.value) > namespace.size {
            let (namespace, size) = (namespace.name.clone(), namespace.size);
            return Err(StoreError::Full { namespace, size });
        }
        let end = expiry(namespace, &put, self.now());
        entries.insert(place, (end, put.value));
        Ok(true)
    }
}

fn answer<T: Send + 'static>(result: Result<T, StoreError>) -> Answer<T> {
    Box::pin(std::future::ready(result))
}

impl Store for Memory {
    fn get(&self, namespace: &Arc<Namespace>, key: String) -> Answer<Option<Bytes>> {
        answer(check_key(&key).and_then(|()| {
            let entries = self.alive()?;
            Ok(entries.get(&(namespace.name.clone(), key)).map(|(_, value)| value.clone()))
        }))
    }

    fn put(&self, namespace: &Arc<Namespace>, put: Put) -> Answer<bool> {
        answer(self.change(namespace, put))
    }

    fn delete(&self, namespace: &Arc<Namespace>, key: String) -> Answer<bool> {
        answer(
            check_key(&key)
                .and_then(|()| Ok(self.alive()?.remove(&(namespace.name.clone(), key)).is_some())),
        )
    }

    fn list(&self, namespace: &Arc<Namespace>, page: Page) -> Answer<Vec<String>> {
        let fits = |(of, key): &&(String, String)| {
            *of == namespace.name
                && key.starts_with(&page.prefix)
                && page.after.as_ref().is_none_or(|after| key > after)
        };
        answer(self.alive().map(|entries| {
            let keys = entries.keys().filter(fits).map(|(_, key)| key.clone());
            keys.take(page.limit.min(LONGEST_PAGE)).collect()
        }))
    }

    fn close(&self) {}
}
