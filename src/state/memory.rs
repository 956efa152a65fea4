//! A store in memory, for tests: the same rules, and nothing waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::store::{
    Answer, LONGEST_PAGE, Page, Put, Store, StoreError, check_key, check_put, expiry, now_ms,
    weight,
};
use crate::config::state::Namespace;

/// By namespace and key: the end, and the value.
type Entries = BTreeMap<(String, String), (u64, Bytes)>;

#[derive(Default)]
pub struct Memory(Mutex<Entries>);

impl Memory {
    fn alive(entries: &mut Entries) -> &mut Entries {
        let now = now_ms();
        entries.retain(|_, (end, _)| *end > now);
        entries
    }
}

fn answer<T: Send + 'static>(result: Result<T, StoreError>) -> Answer<T> {
    Box::pin(std::future::ready(result))
}

impl Store for Memory {
    fn get(&self, namespace: &Arc<Namespace>, key: String) -> Answer<Option<Bytes>> {
        let mut entries = self.0.lock();
        let found = Self::alive(&mut entries).get(&(namespace.name.clone(), key.clone()));
        answer(check_key(&key).map(|()| found.map(|(_, value)| value.clone())))
    }

    fn put(&self, namespace: &Arc<Namespace>, put: Put) -> Answer<bool> {
        if let Err(error) = check_put(namespace, &put) {
            return answer(Err(error));
        }
        let mut entries = self.0.lock();
        let entries = Self::alive(&mut entries);
        let place = (namespace.name.clone(), put.key.clone());
        if !put.when.allows(entries.get(&place).map(|(_, value)| &**value)) {
            return answer(Ok(false));
        }
        let others = entries.iter().filter(|(at, _)| at.0 == namespace.name && **at != place);
        let size: u64 = others.map(|((_, key), (_, value))| weight(key, value)).sum();
        if size + weight(&put.key, &put.value) > namespace.size {
            let (namespace, size) = (namespace.name.clone(), namespace.size);
            return answer(Err(StoreError::Full { namespace, size }));
        }
        let end = expiry(namespace, &put, now_ms());
        entries.insert(place, (end, put.value));
        answer(Ok(true))
    }

    fn delete(&self, namespace: &Arc<Namespace>, key: String) -> Answer<bool> {
        let mut entries = self.0.lock();
        let entries = Self::alive(&mut entries);
        answer(check_key(&key).map(|()| entries.remove(&(namespace.name.clone(), key)).is_some()))
    }

    fn list(&self, namespace: &Arc<Namespace>, page: Page) -> Answer<Vec<String>> {
        let mut entries = self.0.lock();
        let fits = |(of, key): &&(String, String)| {
            *of == namespace.name
                && key.starts_with(&page.prefix)
                && page.after.as_ref().is_none_or(|after| key > after)
        };
        let keys = Self::alive(&mut entries).keys().filter(fits).map(|(_, key)| key.clone());
        answer(Ok(keys.take(page.limit.min(LONGEST_PAGE)).collect()))
    }

    fn close(&self) {}
}
