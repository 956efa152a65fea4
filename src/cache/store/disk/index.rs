//! What lies on the disk: a key, a size, and whether it was asked for lately. No heads.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// Bytes that a file system gives out at once.
const BLOCK: u64 = 4096;
pub const SHARDS: usize = 64;

struct Entry {
    bytes: u64,
    /// Of its head when it was written; 0 if it was found at the start.
    seq: u64,
    /// Tells this entry from an earlier one of its key, in the queue.
    turn: u32,
    /// It was asked for since the hand passed.
    used: bool,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<u128, Entry>,
    /// Who is looked at next for eviction.
    queue: VecDeque<(u128, u32)>,
    turn: u32,
}

pub struct Index {
    shards: Box<[Mutex<Shard>]>,
    /// Held by whoever changes a file and its entry together. Never held by a lookup.
    files: Box<[Mutex<()>]>,
    bytes: AtomicU64,
    hand: AtomicU64,
}

impl Default for Index {
    fn default() -> Index {
        Index {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            files: (0..SHARDS).map(|_| Mutex::default()).collect(),
            bytes: AtomicU64::new(0),
            hand: AtomicU64::new(0),
        }
    }
}

impl Index {
    /// Until this is dropped, nobody else changes the file of `key`.
    pub fn file(&self, key: u128) -> MutexGuard<'_, ()> {
        self.files[key as usize % SHARDS].lock()
    }

    fn shard(&self, key: u128) -> &Mutex<Shard> {
        &self.shards[key as usize % SHARDS]
    }

    /// Whether `key` is there; it counts as used.
    pub fn touch(&self, key: u128) -> bool {
        let mut shard = self.shard(key).lock();
        shard.entries.get_mut(&key).map(|entry| entry.used = true).is_some()
    }

    pub fn contains(&self, key: u128) -> bool {
        self.shard(key).lock().entries.contains_key(&key)
    }

    pub fn seq(&self, key: u128) -> Option<u64> {
        self.shard(key).lock().entries.get(&key).map(|entry| entry.seq)
    }

    /// The object has a newer head.
    pub fn renew(&self, key: u128, seq: u64) {
        if let Some(entry) = self.shard(key).lock().entries.get_mut(&key) {
            entry.seq = seq;
        }
    }

    pub fn insert(&self, key: u128, bytes: u64, seq: u64) {
        let bytes = bytes.next_multiple_of(BLOCK);
        let mut shard = self.shard(key).lock();
        shard.turn = shard.turn.wrapping_add(1);
        let turn = shard.turn;
        let old = shard.entries.insert(key, Entry { bytes, seq, turn, used: false });
        shard.queue.push_back((key, turn));
        // Old turns pile up where one key is written again and again.
        if shard.queue.len() > 64 + 2 * shard.entries.len() {
            let Shard { entries, queue, .. } = &mut *shard;
            queue.retain(|(key, turn)| entries.get(key).is_some_and(|entry| entry.turn == *turn));
        }
        drop(shard);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.bytes.fetch_sub(old.map_or(0, |old| old.bytes), Ordering::AcqRel);
    }

    pub fn remove(&self, key: u128) -> bool {
        let removed = self.shard(key).lock().entries.remove(&key);
        let Some(entry) = removed else { return false };
        self.bytes.fetch_sub(entry.bytes, Ordering::AcqRel);
        true
    }

    /// The next to be evicted: not used since the hand last passed it.
    pub fn victim(&self) -> Option<u128> {
        for _ in 0..SHARDS {
            let hand = self.hand.fetch_add(1, Ordering::Relaxed) as usize % SHARDS;
            let mut shard = self.shards[hand].lock();
            for _ in 0..=2 * shard.queue.len() {
                let Some((key, turn)) = shard.queue.pop_front() else { break };
                let Some(entry) = shard.entries.get_mut(&key) else { continue };
                if entry.turn != turn {
                    continue;
                }
                if !std::mem::take(&mut entry.used) {
                    return Some(key);
                }
                shard.queue.push_back((key, turn));
            }
        }
        None
    }

    /// All keys, a shard at a time.
    pub fn keys(&self) -> impl Iterator<Item = u128> {
        let shards = self.shards.iter();
        shards.flat_map(|shard| shard.lock().entries.keys().copied().collect::<Vec<_>>())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub fn entries(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().entries.len() as u64).sum()
    }
}
