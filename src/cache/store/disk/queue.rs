//! Work for the disk's one thread. Requests leave it here and go on.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::cache::store::head::Head;
use crate::cache::store::memory::Object;

/// What an entry of the queue costs besides a body.
const JOB: u64 = 512;

pub enum Job {
    /// Write the object that is pending under this key.
    Write(u128),
    Renew(u128, Arc<Head>),
    /// What is on disk under this key is out of date if it is older than that.
    Remove(u128, u64),
    /// The limit has changed.
    Evict,
    Unlink(PathBuf),
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Objects on their way to the disk. Lookups find them here.
    pending: HashMap<u128, Arc<Object>>,
    bytes: u64,
    /// A job is being done.
    busy: bool,
}

pub struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    /// Bytes that may wait. Removals may take as much again: what is stale must go.
    limit: u64,
}

impl Queue {
    pub fn new(limit: u64) -> Queue {
        Queue { state: Mutex::default(), wake: Condvar::new(), limit }
    }

    /// Whether there was room. A newer object takes the place of one that still waits.
    pub fn write(&self, key: u128, object: &Arc<Object>) -> bool {
        let mut state = self.state.lock();
        let waiting = state.pending.get(&key);
        if waiting.is_some_and(|other| other.head.seq > object.head.seq) {
            return true;
        }
        let before = waiting.map(|other| cost(other));
        let after = state.bytes - before.unwrap_or(0) + cost(object);
        if after > self.limit {
            return false;
        }
        state.bytes = after;
        state.pending.insert(key, object.clone());
        if before.is_none() {
            state.jobs.push_back(Job::Write(key));
            self.wake.notify_all();
        }
        true
    }

    /// Whether there was room.
    pub fn push(&self, job: Job) -> bool {
        let mut state = self.state.lock();
        if state.bytes + JOB > 2 * self.limit {
            return false;
        }
        state.bytes += JOB;
        state.jobs.push_back(job);
        self.wake.notify_all();
        true
    }

    pub fn pending(&self, key: u128) -> Option<Arc<Object>> {
        self.state.lock().pending.get(&key).cloned()
    }

    /// Takes `object` off, unless it was replaced. Says whether it was there.
    pub fn settle(&self, key: u128, object: &Arc<Object>) -> bool {
        let mut state = self.state.lock();
        if !state.pending.get(&key).is_some_and(|other| Arc::ptr_eq(other, object)) {
            return false;
        }
        state.pending.remove(&key);
        state.bytes -= cost(object);
        true
    }

    /// All objects that wait.
    pub fn all(&self) -> Vec<(u128, Arc<Object>)> {
        self.state.lock().pending.iter().map(|(key, object)| (*key, object.clone())).collect()
    }

    /// The next job, for the one thread.
    pub fn next(&self) -> Job {
        let mut state = self.state.lock();
        state.busy = false;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                if !matches!(job, Job::Write(_)) {
                    state.bytes -= JOB;
                }
                state.busy = true;
                return job;
            }
            self.wake.notify_all();
            self.wake.wait(&mut state);
        }
    }

    /// Waits until nothing is left to do.
    #[cfg(test)]
    pub fn drain(&self) {
        let mut state = self.state.lock();
        while state.busy || !state.jobs.is_empty() {
            self.wake.wait(&mut state);
        }
    }

    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }
}

fn cost(object: &Object) -> u64 {
    JOB + object.body.len() as u64
}
