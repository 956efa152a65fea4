//! Removes what purge rules killed, and then drops the rules, so that both stay bounded.
//!
//! A rule may go when nothing older than it is left: in a tier, on its way into one, or with an
//! origin that was asked before. The last cannot be seen, so rules are kept for a while, and an
//! answer that was asked for even before that is not stored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use super::Store;
use super::head::Head;
use super::memory::Object;
use super::rules::Verdict;

/// Purges that come together are swept together.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a rule is kept: longer than an origin should need for its head.
const KEEP: Duration = Duration::from_secs(60);
/// A pass over the disk reads every head there. It is worth it for so many rules, or so often.
const DISK_RULES: usize = 10_000;
const DISK_EVERY: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub struct Sweeper {
    wanted: Mutex<bool>,
    wake: Condvar,
    /// Held by whoever carries an object from one place to another, from the rules' verdict on.
    moving: RwLock<()>,
    /// Rises when a sweep begins.
    epoch: AtomicU64,
    /// Moments on both clocks, from which the age of rules is told.
    marks: Mutex<VecDeque<(Instant, u64)>>,
    /// Rules up to here are old enough to be dropped.
    old: AtomicU64,
}

impl Sweeper {
    pub fn wake(&self) {
        *self.wanted.lock() = true;
        self.wake.notify_one();
    }

    /// Held while an object is judged and put somewhere: a sweep looks before or after.
    pub fn moving(&self) -> RwLockReadGuard<'_, ()> {
        // Not behind a sweep that waits: requests come here too.
        self.moving.read_recursive()
    }

    /// Changes when a sweep begins. What was judged before that may not be put away after it.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Until a sweep makes sense: after a purge, or when its rules have become old.
    fn wait(&self, rules: usize) {
        let mut wanted = self.wanted.lock();
        let due = Instant::now() + KEEP;
        while !*wanted {
            if rules == 0 {
                self.wake.wait(&mut wanted);
            } else if self.wake.wait_until(&mut wanted, due).timed_out() {
                return;
            }
        }
        let settled = Instant::now() + SETTLE;
        while !self.wake.wait_until(&mut wanted, settled).timed_out() {}
        *wanted = false;
    }

    /// Notes the moment; gives up to where rules are older than `keep`.
    fn mark(&self, now: u64, keep: Duration) -> u64 {
        let mut marks = self.marks.lock();
        marks.push_back((Instant::now(), now));
        while let Some((_, seq)) = marks.front().filter(|(at, _)| at.elapsed() >= keep) {
            self.old.fetch_max(*seq, Ordering::AcqRel);
            marks.pop_front();
        }
        self.old.load(Ordering::Acquire)
    }
}

/// Starts the thread that sweeps after purges.
pub fn start(store: &'static Store) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("cache-sweep".to_owned());
    thread.spawn(move || {
        let mut disk_swept = Instant::now();
        loop {
            let rules = store.rules.len();
            store.sweeper.wait(rules);
            let due = rules > DISK_RULES || disk_swept.elapsed() >= DISK_EVERY;
            if store.disk.is_some() && due {
                disk_swept = Instant::now();
            }
            sweep(store, KEEP, due);
        }
    })?;
    Ok(())
}

/// One pass over the memory, and over the disk if that is `due`; then rules older than `keep` go.
///
/// The order matters. What is filled at the snapshot keeps its rules. What was filled before it
/// is in a tier, where the pass comes by. What begins after it asks whether its rules are lost.
pub fn sweep(store: &Store, keep: Duration, due: bool) {
    let complete = due || store.disk.is_none();
    let old = store.sweeper.mark(store.clock.next(), keep);
    if complete {
        store.rules.forget(old);
    }
    let fills = store.fills.all();
    let oldest = fills.iter().map(|fill| fill.head.seq).min().unwrap_or(u64::MAX);
    drop(fills);
    store.sweeper.epoch.fetch_add(1, Ordering::AcqRel);
    // Whoever judged before this has put its object away; whoever comes later sees the rules.
    drop(store.sweeper.moving.write());
    for (key, object) in store.memory.iter() {
        sweep_object(store, key, &object);
    }
    if !complete || !store.disk.as_ref().is_none_or(|disk| disk.sweep(store)) {
        return;
    }
    store.rules.drop_until(old.min(oldest.saturating_sub(1)));
    if let Some(disk) = &store.disk {
        disk.shrink_journal(store);
    }
}

fn sweep_object(store: &Store, key: u128, object: &Arc<Object>) {
    let since = match object.judge(&store.rules) {
        Verdict::Keep => return,
        Verdict::Gone => None,
        Verdict::Stale(since) => Some(since),
    };
    // The staleness moves into the object, so that the rule can go.
    let expired = since.and_then(|since| object.head.expired(since, store.clock.next()));
    match expired {
        Some(head) => {
            let same = |old: &Arc<Object>| Arc::ptr_eq(old, object).then(|| Arc::new(head));
            store.memory.renew(key, same);
        }
        None => {
            store.memory.remove_this(key, object);
        }
    }
}

impl Head {
    /// This head, stale since `since`.
    pub fn expired(&self, since: SystemTime, seq: u64) -> Option<Head> {
        let mut meta = self.parse()?.meta();
        meta.expire_at(since);
        Head::new(seq, self.primary, &meta).ok()
    }
}
