//! How many objects in memory bear a mark, so that a purge can say how many it hit.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::head::Head;
use super::labels::Mark;

/// A power of two.
const SHARDS: usize = 64;

pub struct Census(Box<[Mutex<HashMap<Mark, u32>>]>);

impl Default for Census {
    fn default() -> Census {
        Census((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Census {
    fn shard(&self, mark: Mark) -> &Mutex<HashMap<Mark, u32>> {
        &self.0[mark.0 as usize % SHARDS]
    }

    pub fn enter(&self, head: &Head) {
        for mark in counted(head) {
            *self.shard(mark).lock().entry(mark).or_default() += 1;
        }
    }

    pub fn leave(&self, head: &Head) {
        for mark in counted(head) {
            let mut shard = self.shard(mark).lock();
            if let Some(count) = shard.get_mut(&mark) {
                *count -= 1;
                if *count == 0 {
                    shard.remove(&mark);
                }
            }
        }
    }

    pub fn count(&self, mark: Mark) -> u64 {
        self.shard(mark).lock().get(&mark).copied().unwrap_or(0).into()
    }
}

/// All but the key's own, which a look into the tiers tells.
fn counted(head: &Head) -> impl Iterator<Item = Mark> {
    head.marks.iter().copied().filter(|mark| *mark != Mark::key(&head.primary))
}
