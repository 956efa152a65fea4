//! What is stored under a URL or a key, for people. It looks at every object, so it is no part of
//! a request's way.

use std::time::SystemTime;

use super::Store;
use super::head::{Head, Parsed};
use super::labels::Mark;
use super::rules::Verdict;

/// Entries in an answer; a URL with more variants shows these.
pub const MAX_ENTRIES: usize = 1000;

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The primary hash of a key.
    Key([u8; 16]),
    /// See `Labels::url`.
    Url(String),
}

/// Where an object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is being written.
    Fill,
    Memory,
    Disk,
}

/// One stored answer: a variant of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub place: Place,
    pub primary: [u8; 16],
    /// The hash of what `Vary` distinguishes.
    pub variance: Option<[u8; 16]>,
    pub url: String,
    pub tags: Vec<String>,
    pub status: u16,
    /// Of the body, so far.
    pub bytes: u64,
    pub created: SystemTime,
    /// What its age counts from.
    pub epoch: SystemTime,
    /// Purges considered.
    pub fresh_until: SystemTime,
    pub stale_while_revalidate: u32,
    pub stale_if_error: u32,
    /// Reads from this tier since it came there.
    pub hits: u32,
}

impl Store {
    /// What lookups would find.
    pub async fn explain(&'static self, which: Which) -> Vec<Entry> {
        let scan = tokio::task::spawn_blocking(move || self.scan(&which));
        scan.await.unwrap_or_default()
    }

    fn scan(&self, which: &Which) -> Vec<Entry> {
        let mut found = Vec::new();
        for fill in self.fills.all() {
            if which.means(&fill.head) && !fill.passing() {
                let bytes = fill.len();
                found.extend(self.entry(Place::Fill, &fill.head, bytes, 0));
            }
        }
        for (_, object) in self.memory.iter() {
            if which.means(&object.head) {
                let bytes = object.body.len() as u64;
                found.extend(self.entry(Place::Memory, &object.head, bytes, object.hits()));
            }
            if found.len() >= MAX_ENTRIES {
                break;
            }
        }
        // The disk's index knows no URLs: a key's own file is all that can be found.
        if let (Which::Key(primary), Some(disk)) = (which, &self.disk) {
            let key = u128::from_be_bytes(*primary);
            if let Some(loaded) = disk.may_have(key).then(|| disk.load(key)).flatten() {
                let bytes = loaded.stored.layout.len;
                found.extend(self.entry(Place::Disk, &loaded.head, bytes, 0));
            }
        }
        found
    }

    /// `None` if a purge killed it.
    fn entry(&self, place: Place, head: &Head, bytes: u64, hits: u32) -> Option<Entry> {
        let since = match self.rules.verdict(head) {
            Verdict::Gone => return None,
            Verdict::Stale(since) => Some(since),
            Verdict::Keep => None,
        };
        Some(head.parse()?.entry(place, head, bytes, hits, since))
    }
}

impl Which {
    fn means(&self, head: &Head) -> bool {
        match self {
            Which::Key(primary) => head.primary == *primary,
            Which::Url(url) => head.marks.contains(&Mark::url(url)) && head.url() == url,
        }
    }
}

impl Parsed {
    fn entry(
        &self,
        place: Place,
        head: &Head,
        bytes: u64,
        hits: u32,
        since: Option<SystemTime>,
    ) -> Entry {
        let fresh_until = since.map_or(self.fresh_until, |since| since.min(self.fresh_until));
        Entry {
            place,
            primary: head.primary,
            variance: self.variance,
            url: self.labels.url.to_string(),
            tags: self.labels.tags.iter().map(|tag| tag.to_string()).collect(),
            status: self.header.status.as_u16(),
            bytes,
            created: self.created,
            epoch: self.epoch.unwrap_or(self.created),
            fresh_until,
            stale_while_revalidate: self.stale_while_revalidate,
            stale_if_error: self.stale_if_error,
            hits,
        }
    }
}
