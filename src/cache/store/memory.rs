//! The tier in memory: whole objects, weighed in bytes, kept by a policy that a scan does not defeat.
//!
//! An object never changes, since quick_cache must not see a weight change: a 304 makes a new
//! object around the same body.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use pingora_cache::CacheMeta;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::census::Census;
use super::head::{Head, Parsed};
use super::rules::{Rules, Verdict};

/// Bytes that an object costs besides its head and body: the table's entry, counts, allocations.
const OVERHEAD: u64 = 320;
/// The part of the memory that parsed heads may take.
const PARSED_PART: u64 = 8;
/// Bytes of an average object, to size the table's notes on what it evicted.
const AVERAGE: u64 = 4096;
const STRIPES: usize = 64;

/// A head and its body, as they belong together.
pub struct Object {
    pub head: Arc<Head>,
    pub body: Bytes,
    /// Boxed: most objects never have one.
    parsed: OnceLock<Box<Kept>>,
    hits: AtomicU32,
    /// The version of the rules that this object is known to have passed.
    checked: AtomicU64,
    weight: u64,
    census: Arc<Census>,
}

/// A parsed head that counts against its budget as long as it lives.
struct Kept {
    parsed: Parsed,
    weight: u64,
    spent: Arc<AtomicU64>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.spent.fetch_sub(self.weight, Ordering::AcqRel);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.census.leave(&self.head);
    }
}

#[derive(Clone)]
struct Weights;

impl Weighter<u128, Arc<Object>> for Weights {
    fn weight(&self, _: &u128, object: &Arc<Object>) -> u64 {
        object.weight
    }
}

/// Counts evictions, and lets the evicted go outside of the table's lock.
#[derive(Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<u128, Arc<Object>> for Evictions {
    type RequestState = Vec<Arc<Object>>;

    fn on_evict(&self, gone: &mut Self::RequestState, _: u128, object: Arc<Object>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        gone.push(object);
    }
}

pub struct Memory {
    table: Cache<u128, Arc<Object>, Weights, DefaultHashBuilder, Evictions>,
    evictions: Evictions,
    /// Held while an entry is compared and replaced.
    stripes: Box<[Mutex<()>]>,
    census: Arc<Census>,
    parsed: Arc<AtomicU64>,
    limit: AtomicU64,
    largest: AtomicU64,
}

impl Memory {
    /// `limit` and `largest` (of one object) in bytes.
    pub fn new(limit: u64, largest: u64) -> Memory {
        let evictions = Evictions::default();
        let objects = objects_limit(limit);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // A shard must hold several of the largest, or they displace each other at once.
        let roomy = usize::try_from(objects / largest.max(1) / 8).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(roomy.clamp(1, cores * 4))
            .estimated_items_capacity((limit / AVERAGE).clamp(1024, 4 << 20) as usize)
            .weight_capacity(objects)
            .build();
        // `build` fails only where the two capacities are missing.
        let table = match options {
            Ok(options) => Cache::with_options(
                options,
                Weights,
                DefaultHashBuilder::default(),
                evictions.clone(),
            ),
            Err(_) => Cache::with(
                1024,
                objects,
                Weights,
                DefaultHashBuilder::default(),
                evictions.clone(),
            ),
        };
        Memory {
            table,
            evictions,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            census: Arc::default(),
            parsed: Arc::default(),
            limit: limit.into(),
            largest: largest.into(),
        }
    }

    pub fn resize(&self, limit: u64, largest: u64) {
        self.limit.store(limit, Ordering::Release);
        self.largest.store(largest, Ordering::Release);
        self.table.set_capacity(objects_limit(limit));
    }

    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Bytes of the largest body that can be kept.
    pub fn largest(&self) -> u64 {
        let shard = self.table.shard_capacity() / 2;
        self.largest.load(Ordering::Acquire).min(shard)
    }

    /// An object that is in no table yet.
    pub fn object(&self, head: Arc<Head>, body: Bytes) -> Arc<Object> {
        self.census.enter(&head);
        let weight = OVERHEAD + (head.weight() + body.len()) as u64;
        Arc::new(Object {
            head,
            body,
            parsed: OnceLock::new(),
            hits: AtomicU32::new(0),
            checked: AtomicU64::new(0),
            weight,
            census: self.census.clone(),
        })
    }

    /// Keeps `object` unless a newer one is there, or it is too heavy. Says whether it is kept.
    pub fn put(&self, key: u128, object: Arc<Object>) -> bool {
        let _alone = self.stripe(key).lock();
        if self.table.peek(&key).is_some_and(|old| old.head.seq > object.head.seq) {
            return false;
        }
        if object.weight > self.table.shard_capacity() {
            // What is older must not stay in its place.
            self.table.remove(&key);
            return false;
        }
        self.table.insert(key, object);
        true
    }

    /// Gives the object of `key` a new head, if `renew` makes one of the old.
    pub fn renew(
        &self,
        key: u128,
        renew: impl FnOnce(&Arc<Object>) -> Option<Arc<Head>>,
    ) -> Option<Arc<Object>> {
        let _alone = self.stripe(key).lock();
        let old = self.table.peek(&key)?;
        let object = self.object(renew(&old)?, old.body.clone());
        object.hits.store(old.hits.load(Ordering::Relaxed), Ordering::Relaxed);
        self.table.insert(key, object.clone());
        Some(object)
    }

    /// The object of `key` if no rule killed it, and since when it is stale by a rule.
    pub fn get(&self, key: u128, rules: &Rules) -> Option<(Arc<Object>, Option<SystemTime>)> {
        let object = self.table.get(&key)?;
        match object.judge(rules) {
            Verdict::Keep => Some((object, None)),
            Verdict::Stale(since) => Some((object, Some(since))),
            Verdict::Gone => {
                self.remove_this(key, &object);
                None
            }
        }
    }

    pub fn peek(&self, key: u128) -> Option<Arc<Object>> {
        self.table.peek(&key)
    }

    pub fn remove(&self, key: u128) -> bool {
        let _alone = self.stripe(key).lock();
        self.table.remove(&key).is_some()
    }

    /// Removes what is older than `seq`.
    pub fn remove_older(&self, key: u128, seq: u64) {
        let _alone = self.stripe(key).lock();
        self.table.remove_if(&key, |object| object.head.seq < seq);
    }

    pub fn remove_this(&self, key: u128, object: &Arc<Object>) -> bool {
        self.table.remove_if(&key, |found| Arc::ptr_eq(found, object)).is_some()
    }

    /// The object's meta. The parsed head is kept from the second hit on, if there is room.
    ///
    /// `hits` are those before this one.
    pub fn meta(&self, object: &Object, hits: u32) -> Option<CacheMeta> {
        if let Some(kept) = object.parsed.get() {
            return Some(kept.parsed.meta());
        }
        let parsed = object.head.parse()?;
        let meta = parsed.meta();
        if hits > 0 {
            let weight = object.head.parsed_weight() as u64;
            let spent = self.parsed.fetch_add(weight, Ordering::AcqRel);
            // It gives its weight back when it is dropped, also if it is not taken.
            let kept = Kept { parsed, weight, spent: self.parsed.clone() };
            if spent + weight <= self.limit() / PARSED_PART {
                let _ = object.parsed.set(Box::new(kept));
            }
        }
        Some(meta)
    }

    /// All entries, a shard's lock at a time and only for a moment.
    pub fn iter(&self) -> impl Iterator<Item = (u128, Arc<Object>)> {
        self.table.iter()
    }

    pub fn census(&self) -> &Census {
        &self.census
    }

    pub fn entries(&self) -> u64 {
        self.table.len() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.table.weight() + self.parsed.load(Ordering::Relaxed)
    }

    pub fn evictions(&self) -> u64 {
        self.evictions.0.load(Ordering::Relaxed)
    }

    fn stripe(&self, key: u128) -> &Mutex<()> {
        &self.stripes[key as usize % STRIPES]
    }
}

impl Object {
    /// Counts a hit; gives the number of those before.
    pub fn hit(&self) -> u32 {
        self.hits.fetch_add(1, Ordering::Relaxed)
    }

    pub fn hits(&self) -> u32 {
        self.hits.load(Ordering::Relaxed)
    }

    /// The rules' verdict, looked up only if a rule came since it was last `Keep`.
    pub fn judge(&self, rules: &Rules) -> Verdict {
        // Before the verdict: a rule that comes meanwhile makes another version.
        let version = rules.version();
        if self.checked.load(Ordering::Relaxed) == version {
            return Verdict::Keep;
        }
        let verdict = rules.verdict(&self.head);
        if verdict == Verdict::Keep {
            self.checked.store(version, Ordering::Relaxed);
        }
        verdict
    }
}

/// What is left for objects beside parsed heads.
fn objects_limit(limit: u64) -> u64 {
    limit - limit / PARSED_PART
}
