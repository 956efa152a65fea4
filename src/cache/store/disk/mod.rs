//! The tier on disk: a plain file per object, written behind, found by an index without heads.
//!
//! Bodies are not synced: a crash is covered by renames, a loss of power by checksums. Nothing
//! here is async; whoever calls from a request does so through the blocking pool, or leaves a job.

mod admission;
mod faults;
mod file;
mod health;
mod index;
mod journal;
mod open;
mod queue;
mod spill;
mod work;

use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use file::Stored;
pub use open::OpenError;
pub use spill::Spill;
pub use work::start;

use super::Store;
use super::head::{Edition, Head};
use super::memory::Object;
use super::rules::{Dated, Verdict};
use admission::Seen;
use faults::Faults;
use file::Layout;
use health::Health;
use index::Index;
use journal::Journal;
use queue::{Job, Queue};

/// How much may be on disk, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    pub dir: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of the largest body.
    pub object: u64,
    /// Bytes that may wait to be written.
    pub queue: u64,
    pub admission: Admission,
}

/// What of the objects in memory is also written to disk. Larger ones always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admission {
    #[default]
    Always,
    /// What is asked for a second time. It spares an SSD what nobody asks for again.
    SecondHit,
}

/// A reading of the disk tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskReading {
    pub entries: u64,
    pub bytes: u64,
    pub limit: u64,
    pub evictions: u64,
    /// Objects written.
    pub written: u64,
    /// Bytes that wait to be written.
    pub queued: u64,
    /// Objects not written since too many waited, or the disk took none.
    pub refused: u64,
    /// Writes that failed.
    pub errors: u64,
    /// Files dropped since they could not be read.
    pub broken: u64,
    /// The index is not complete yet.
    pub loading: bool,
    /// Nothing is written for the moment, as the disk failed.
    pub paused: bool,
}

pub struct Disk {
    dir: PathBuf,
    objects: PathBuf,
    temporary: PathBuf,
    /// Locked as long as the process lives.
    _lock: std::fs::File,
    /// What the names of temporary files begin with.
    starts: u64,
    names: AtomicU64,
    index: Index,
    journal: Journal,
    queue: Queue,
    health: Health,
    seen: Seen,
    second_hit: AtomicBool,
    limit: AtomicU64,
    largest: AtomicU64,
    loading: AtomicBool,
    evictions: AtomicU64,
    written: AtomicU64,
    refused: AtomicU64,
    pub faults: Faults,
}

/// A temporary file that has become whole.
struct Complete<'a> {
    temporary: &'a Path,
    layout: Layout,
    head: &'a Head,
}

/// What a lookup finds.
pub struct Loaded {
    pub stored: Stored,
    pub head: Head,
}

impl Disk {
    pub fn resize(&self, settings: &DiskSettings) {
        self.limit.store(settings.bytes, Ordering::Release);
        self.largest.store(settings.object, Ordering::Release);
        self.second_hit.store(settings.admission == Admission::SecondHit, Ordering::Release);
        self.queue.push(Job::Evict);
    }

    pub fn largest(&self) -> u64 {
        self.largest.load(Ordering::Acquire).min(self.limit.load(Ordering::Acquire) / 2)
    }

    pub fn writable(&self) -> bool {
        self.health.writable()
    }

    pub fn write_failed(&self, error: &std::io::Error) {
        self.health.write_failed(&self.dir, error);
    }

    fn path(&self, key: u128) -> PathBuf {
        self.objects.join(format!("{:02x}/{key:032x}", key >> 120))
    }

    fn temporary(&self) -> PathBuf {
        let name = self.names.fetch_add(1, Ordering::Relaxed);
        self.temporary.join(format!("{}.{name}", self.starts))
    }

    /// Whether `key` may be here. Until the index is complete, only the file tells.
    pub fn may_have(&self, key: u128) -> bool {
        self.index.touch(key) || self.loading.load(Ordering::Acquire)
    }

    /// An object that is on its way here.
    pub fn pending(&self, key: u128) -> Option<Arc<Object>> {
        self.queue.pending(key)
    }

    /// Has a new object of the memory written, if the admission wants it.
    pub fn admit_fill(&self, key: u128, object: &Arc<Object>) {
        let wanted = !self.second_hit.load(Ordering::Acquire) || self.seen.again(key);
        if !wanted || !self.write_behind(key, object) {
            self.outdate(key, object.head.seq);
        }
    }

    /// Has an object that is asked for again written, if it is not here.
    pub fn admit_hit(&self, key: u128, object: &Arc<Object>) {
        if !self.index.contains(key) && self.queue.pending(key).is_none() {
            self.write_behind(key, object);
        }
    }

    fn write_behind(&self, key: u128, object: &Arc<Object>) -> bool {
        let taken = self.writable() && self.queue.write(key, object);
        if !taken {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// What is here under `key` is older than an object that is not here. It must not outlive that.
    pub fn outdate(&self, key: u128, seq: u64) {
        if self.index.remove(key) || self.loading.load(Ordering::Acquire) {
            self.queue.push(Job::Remove(key, seq));
        }
    }

    /// An object in memory has a new head.
    pub fn renewed(&self, key: u128, object: &Arc<Object>) {
        if self.queue.pending(key).is_some() {
            if !self.queue.write(key, object) {
                self.outdate(key, object.head.seq);
            }
        } else if self.index.contains(key) || self.loading.load(Ordering::Acquire) {
            self.queue.push(Job::Renew(key, object.head.clone()));
        }
    }

    /// Blocks, as everything from here on.
    pub fn load(&self, key: u128) -> Option<Loaded> {
        let path = self.path(key);
        match Stored::open(&path, key) {
            Ok((stored, head)) => Some(Loaded { stored, head }),
            Err(error) => {
                self.unreadable(key, &error);
                None
            }
        }
    }

    /// A file that cannot be read is a miss, and goes.
    pub fn unreadable(&self, key: u128, error: &std::io::Error) {
        let path = self.path(key);
        if error.kind() == ErrorKind::NotFound {
            let _file = self.index.file(key);
            if !path.exists() {
                self.index.remove(key);
            }
            return;
        }
        self.health.read_failed(&path, error);
        self.discard(key);
    }

    /// Removes the object of `key`. Says whether no file of it is left.
    pub fn discard(&self, key: u128) -> bool {
        let _file = self.index.file(key);
        self.index.remove(key);
        self.trash(&self.path(key))
    }

    /// Out of the way with one rename; to unlink a large file takes long, and is left to the thread.
    fn trash(&self, path: &Path) -> bool {
        let aside = self.temporary();
        match std::fs::rename(path, &aside) {
            Ok(()) => {
                if !self.queue.push(Job::Unlink(aside.clone())) {
                    // The next start does what is left.
                    let _ = std::fs::remove_file(aside);
                }
                true
            }
            Err(error) => error.kind() == ErrorKind::NotFound || std::fs::remove_file(path).is_ok(),
        }
    }

    /// Puts a complete file in its place, unless a purge or a newer object forbids it.
    ///
    /// `still` is asked last, while nothing can come in between.
    fn publish(
        &self,
        store: &Store,
        complete: &Complete<'_>,
        still: impl FnOnce() -> bool,
    ) -> Result<bool> {
        let Complete { temporary, layout, head } = complete;
        let key = layout.key;
        {
            let _file = self.index.file(key);
            let _moving = store.sweeper.moving();
            let newer = self.index.seq(key).is_some_and(|seq| seq > head.seq);
            if newer || store.rules.verdict(head) == Verdict::Gone || !still() {
                std::fs::remove_file(temporary)?;
                return Ok(false);
            }
            std::fs::rename(temporary, self.path(key))?;
            self.index.insert(key, layout.total(), head.seq);
        }
        self.written.fetch_add(1, Ordering::Relaxed);
        self.evict();
        Ok(true)
    }

    fn evict(&self) {
        while self.index.bytes() > self.limit.load(Ordering::Acquire) {
            let Some(key) = self.index.victim() else { return };
            self.evictions.fetch_add(1, Ordering::Relaxed);
            self.discard(key);
        }
    }

    /// Gives the object on disk a new head, unless it was purged or replaced meanwhile.
    pub fn renew(&self, store: &Store, key: u128, head: &Head, of: Option<Edition>) -> bool {
        let path = self.path(key);
        let _file = self.index.file(key);
        let Ok((stored, old)) = Stored::open(&path, key) else { return false };
        let _moving = store.sweeper.moving();
        let same = of.is_none_or(|of| of.0 == old.seq);
        if !same || store.rules.verdict(&old) == Verdict::Gone || old.seq > head.seq {
            return false;
        }
        let renewed = self.faults.check().and_then(|()| stored.renew(&path, head));
        match renewed {
            Ok(()) => {
                self.index.renew(key, head.seq);
                true
            }
            Err(error) => {
                // A slot too small is no failure of the disk. The old head may stay: it is stale.
                if error.kind() == ErrorKind::FileTooLarge && error.raw_os_error().is_none() {
                    self.index.remove(key);
                    self.trash(&path);
                } else {
                    self.write_failed(&error);
                }
                false
            }
        }
    }

    /// Writes a purge down, and lets it work.
    pub fn commit(&self, store: &Store, dated: Dated) -> Result<()> {
        self.journal.commit(dated, &store.rules, &self.faults)
    }

    pub fn shrink_journal(&self, store: &Store) {
        self.journal.shrink(&store.rules);
    }

    pub fn entries(&self) -> u64 {
        self.index.entries()
    }

    pub fn contains(&self, key: u128) -> bool {
        self.index.contains(key)
    }

    /// Waits until everything is written.
    #[cfg(test)]
    pub fn drain(&self) {
        self.queue.drain();
    }

    #[cfg(test)]
    pub fn recover(&self) {
        self.faults.fail_with(None);
        self.health.recover();
    }

    /// As if the process had died: it writes nothing more and leaves the directory to others.
    #[cfg(test)]
    pub fn abandon(&self) {
        self.faults.fail_with(Some(libc::EIO));
        self._lock.unlock().unwrap();
    }

    #[cfg(test)]
    pub fn file_of(&self, key: u128) -> PathBuf {
        self.path(key)
    }

    pub fn reading(&self) -> DiskReading {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskReading {
            entries: self.index.entries(),
            bytes: self.index.bytes(),
            limit: get(&self.limit),
            evictions: get(&self.evictions),
            written: get(&self.written),
            queued: self.queue.bytes(),
            refused: get(&self.refused),
            errors: self.health.errors(),
            broken: self.health.broken(),
            loading: self.loading.load(Ordering::Acquire),
            paused: !self.writable(),
        }
    }
}
