//! Named locks of this node: first come, first served, and free again when their holder is gone.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Enough that threads seldom meet on one map.
const SHARDS: usize = 16;
/// Locks held or waited for in one shard.
const MOST: usize = 4096;

type Shard = Mutex<HashMap<String, Arc<Turn<()>>>>;

/// The locks that are held or waited for; all others need no memory.
#[derive(Default)]
pub struct Locks(Arc<Shards>);

#[derive(Default)]
struct Shards {
    maps: [Shard; SHARDS],
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    #[error("the lock was not free within {0:?}")]
    Timeout(Duration),
    #[error("too many locks are held at once")]
    TooMany,
}

/// A lock that is held until this is dropped.
pub struct Held {
    // Dropped in this order: the lock is free before its place is given up.
    _turn: OwnedMutexGuard<()>,
    _place: Place,
}

/// Somebody who holds a lock or waits for it; the last one takes it out of the map.
struct Place {
    shards: Arc<Shards>,
    name: String,
    turn: Arc<Turn<()>>,
}

impl Locks {
    /// Waits for the lock, for at most so long.
    pub fn take(
        &self,
        name: String,
        wait: Duration,
    ) -> impl Future<Output = Result<Held, LockError>> + Send + 'static {
        let place = self.place(name);
        async move {
            let place = place?;
            let turn = Arc::clone(&place.turn).lock_owned();
            match tokio::time::timeout(wait, turn).await {
                Ok(turn) => Ok(Held { _turn: turn, _place: place }),
                Err(_) => Err(LockError::Timeout(wait)),
            }
        }
    }

    fn place(&self, name: String) -> Result<Place, LockError> {
        let mut map = self.0.shard(&name).lock();
        if map.len() >= MOST && !map.contains_key(&name) {
            return Err(LockError::TooMany);
        }
        let turn = Arc::clone(map.entry(name.clone()).or_default());
        Ok(Place { shards: Arc::clone(&self.0), name, turn })
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.0.maps.iter().map(|map| map.lock().len()).sum()
    }
}

impl Shards {
    fn shard(&self, name: &str) -> &Shard {
        &self.maps[self.hasher.hash_one(name) as usize % SHARDS]
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut map = self.shards.shard(&self.name).lock();
        // The map's and ours: nobody can come between, as places are made under this lock.
        if Arc::strong_count(&self.turn) == 2 {
            map.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn one_holder_at_a_time_and_nothing_is_left() {
        let locks = Arc::new(Locks::default());
        let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tasks = (0..50).map(|_| {
            let (locks, inside) = (Arc::clone(&locks), Arc::clone(&inside));
            tokio::spawn(async move {
                let held = locks.take("a".into(), LONG).await.expect("in time");
                let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                drop(held);
                others
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            assert_eq!(task.await.expect("joins"), 0, "another one held it too");
        }
        assert_eq!(locks.known(), 0);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let locks = Locks::default();
        let held = locks.take("a".into(), LONG).await.expect("free");
        let brief = Duration::from_millis(5);
        assert_eq!(locks.take("a".into(), brief).await.err(), Some(LockError::Timeout(brief)));
        assert!(locks.take("b".into(), brief).await.is_ok(), "another name");
        let waiting = locks.take("a".into(), LONG);
        drop(held);
        drop(waiting);
        assert_eq!(locks.known(), 0);
    }
}
