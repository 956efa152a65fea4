//! A bounded map from keys that clients choose: sharded, and forgetful of what was not used lately.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;

/// Enough that dozens of threads seldom meet on one lock.
const SHARDS: usize = 64;

/// Each shard has two generations. A key that is used moves to the young one; when that has half
/// of what the shard may hold, the old one is forgotten as a whole and the young one becomes old.
/// So the most recently used half is always remembered, at the cost of two look-ups.
pub struct Keys<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    /// Two, with keys of their own, for 128 bits that a client cannot aim at.
    hashers: [RandomState; 2],
}

struct Shard<T> {
    young: HashMap<u128, T>,
    old: HashMap<u128, T>,
}

/// What a use did besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten(pub usize);

impl<T: Default> Keys<T> {
    pub fn new() -> Self {
        let shard = |_| Mutex::new(Shard { young: HashMap::new(), old: HashMap::new() });
        Self {
            shards: std::array::from_fn(shard),
            hashers: [RandomState::new(), RandomState::new()],
        }
    }

    /// Uses the value of `key`, made if it is not there; `most` is what all shards may hold.
    pub fn with<R>(
        &self,
        key: &str,
        most: usize,
        use_it: impl FnOnce(&mut T) -> R,
    ) -> (R, Forgotten) {
        let [high, low] = [0, 1].map(|i| self.hashers[i].hash_one(key));
        let hash = (u128::from(high) << 64) | u128::from(low);
        let mut shard = self.shards[low as usize % SHARDS].lock();
        if let Some(value) = shard.young.get_mut(&hash) {
            return (use_it(value), Forgotten(0));
        }
        let mut forgotten = Forgotten(0);
        if shard.young.len() >= (most / SHARDS / 2).max(1) {
            let young = std::mem::take(&mut shard.young);
            // The key itself may be among them: it is kept.
            let kept = shard.old.remove(&hash);
            forgotten = Forgotten(std::mem::replace(&mut shard.old, young).len());
            if let Some(kept) = kept {
                shard.young.insert(hash, kept);
            }
        }
        let value = shard.old.remove(&hash);
        let value = match value {
            Some(value) => shard.young.entry(hash).or_insert(value),
            None => shard.young.entry(hash).or_default(),
        };
        (use_it(value), forgotten)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock()).map(|s| s.young.len() + s.old.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_small_and_remembers_what_is_in_use() {
        let keys: Keys<u32> = Keys::new();
        let mut forgotten = 0;
        for n in 0..100_000 {
            forgotten += keys.with(&format!("client {n}"), 6400, |count| *count += 1).1.0;
            let (seen, more) = keys.with("regular", 6400, |count| {
                *count += 1;
                *count
            });
            forgotten += more.0;
            assert_eq!(seen, n + 1, "what is used all the time is never forgotten");
        }
        assert!(keys.len() <= 6400, "{}", keys.len());
        assert_eq!(keys.len() + forgotten, 100_001, "all others were counted");
    }

    #[test]
    fn the_smallest_bound_works() {
        let keys: Keys<u32> = Keys::new();
        for n in 0..1000 {
            keys.with(&n.to_string(), 2 * SHARDS, |count| *count += 1);
        }
        assert!(keys.len() <= 2 * SHARDS, "{}", keys.len());
    }
}
