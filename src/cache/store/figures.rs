//! What the store counts, for metrics and for the admin.

use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::DiskReading;

/// Why an answer was not stored, or not in a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Larger than the largest object.
    Size,
    /// Its head cannot be kept.
    Head,
    /// Fills under way hold as much memory as the cache may have.
    Fills,
    /// It was asked for so long ago that later purges are forgotten.
    Late,
    /// Too large for memory, and the disk takes nothing.
    Disk,
}

/// What answered a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Memory,
    Disk,
    Fill,
}

#[derive(Default)]
pub struct Figures {
    hits: [AtomicU64; 3],
    refused: [AtomicU64; 5],
    filled: AtomicU64,
    aborted: AtomicU64,
    purges: AtomicU64,
}

/// A reading of everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    pub memory: Tier,
    /// Lookups that a tier, or a fill under way, answered.
    pub hits_memory: u64,
    pub hits_disk: u64,
    pub hits_fill: u64,
    pub disk: Option<DiskReading>,
    /// There should be a tier on disk, and its directory could not be opened.
    pub disk_unusable: bool,
    pub fills: u64,
    /// Bytes in memory of fills under way.
    pub fill_bytes: u64,
    pub filled: u64,
    pub aborted: u64,
    pub refused_size: u64,
    pub refused_head: u64,
    pub refused_fills: u64,
    pub refused_late: u64,
    pub refused_disk: u64,
    pub purges: u64,
    /// Purge rules that are still at work.
    pub rules: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tier {
    pub entries: u64,
    pub bytes: u64,
    pub limit: u64,
    pub evictions: u64,
}

impl Figures {
    pub fn refuse(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn hit(&self, from: From) {
        self.hits[from as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn filled(&self) {
        self.filled.fetch_add(1, Ordering::Relaxed);
    }

    pub fn aborted(&self) {
        self.aborted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn purged(&self) {
        self.purges.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters; the tiers add themselves.
    pub fn read(&self) -> Reading {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refused = |why: Refused| get(&self.refused[why as usize]);
        Reading {
            hits_memory: get(&self.hits[From::Memory as usize]),
            hits_disk: get(&self.hits[From::Disk as usize]),
            hits_fill: get(&self.hits[From::Fill as usize]),
            filled: get(&self.filled),
            aborted: get(&self.aborted),
            refused_size: refused(Refused::Size),
            refused_head: refused(Refused::Head),
            refused_fills: refused(Refused::Fills),
            refused_late: refused(Refused::Late),
            refused_disk: refused(Refused::Disk),
            purges: get(&self.purges),
            ..Reading::default()
        }
    }
}
