//! Named counters of this node, which live as long as the process.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use arc_swap::ArcSwap;

/// By name. Only names of the configuration get here, so there are few.
#[derive(Default)]
pub struct Counters(ArcSwap<HashMap<String, Arc<AtomicI64>>>);

impl Counters {
    pub fn get(&self, name: &str) -> Arc<AtomicI64> {
        if let Some(found) = self.0.load().get(name) {
            return Arc::clone(found);
        }
        let counter: Arc<AtomicI64> = Arc::default();
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.entry(name.to_owned()).or_insert_with(|| Arc::clone(&counter));
            known
        });
        self.0.load().get(name).map_or(counter, Arc::clone)
    }

    pub(super) fn retain(&self, names: &BTreeSet<String>) {
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.retain(|name, _| names.contains(name));
            known
        });
    }
}
