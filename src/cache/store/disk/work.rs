//! The disk's threads: one does the queue's jobs, one reads the directory at the start.

use std::fs::File;
use std::io::{Result, Write as _};
use std::sync::Arc;

use super::file::Layout;
use super::{Complete, Disk, Job};
use crate::cache::store::head::{Edition, Head};
use crate::cache::store::memory::Object;
use crate::cache::store::rules::Verdict;
use crate::cache::store::{CHUNK, Store};

/// Starts both.
pub fn start(store: &'static Store, disk: &'static Disk) -> Result<()> {
    let jobs = std::thread::Builder::new().name("cache-disk".to_owned());
    jobs.spawn(move || {
        loop {
            disk.work(store);
        }
    })?;
    std::thread::Builder::new().name("cache-index".to_owned()).spawn(move || disk.index())?;
    Ok(())
}

impl Disk {
    fn work(&self, store: &Store) {
        match self.queue.next() {
            Job::Write(key) => self.write(store, key),
            Job::Renew(key, head) => {
                self.renew(store, key, &head, None);
            }
            Job::Remove(key, seq) => {
                if self.load(key).is_some_and(|loaded| loaded.head.seq < seq) {
                    self.discard(key);
                }
            }
            Job::Evict => self.evict(),
            Job::Unlink(path) => {
                // What stays goes at the next start.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn write(&self, store: &Store, key: u128) {
        let Some(object) = self.queue.pending(key) else { return };
        let written = self.write_object(store, key, &object);
        if self.queue.settle(key, &object) {
            if let Err(error) = written {
                self.write_failed(&error);
                self.outdate(key, object.head.seq);
            }
            return;
        }
        // It was replaced meanwhile; its job was this one.
        match self.queue.pending(key) {
            Some(_) => self.write(store, key),
            None => {
                self.discard(key);
            }
        }
    }

    fn write_object(&self, store: &Store, key: u128, object: &Arc<Object>) -> Result<bool> {
        self.faults.check()?;
        let (head, body) = (&object.head, &object.body);
        let layout = Layout::new(key, body.len() as u64, head);
        let mut out = layout.front(head)?;
        out.reserve_exact(body.len() + 8 * layout.pieces() as usize);
        out.extend_from_slice(body);
        for (piece, data) in body.chunks(CHUNK).enumerate() {
            out.extend_from_slice(&layout.sum(piece as u64, data));
        }
        let path = self.temporary();
        let made = File::create_new(&path).and_then(|mut file| file.write_all(&out));
        let published = made.and_then(|()| {
            let pending = || self.queue.pending(key).is_some_and(|now| Arc::ptr_eq(&now, object));
            self.publish(store, &Complete { temporary: &path, layout, head }, pending)
        });
        if published.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        published
    }

    /// Applies the rules to everything here. Says whether nothing is left that they mean.
    pub fn sweep(&self, store: &Store) -> bool {
        if self.loading.load(std::sync::atomic::Ordering::Acquire) {
            return false;
        }
        for (key, object) in self.queue.all() {
            if object.judge(&store.rules) != Verdict::Keep {
                self.queue.settle(key, &object);
            }
        }
        let left = self.index.keys().filter(|key| !self.sweep_file(store, *key));
        left.count() == 0
    }

    fn sweep_file(&self, store: &Store, key: u128) -> bool {
        let Some(loaded) = self.load(key) else { return true };
        let head: Option<Head> = match store.rules.verdict(&loaded.head) {
            Verdict::Keep => return true,
            Verdict::Gone => None,
            Verdict::Stale(since) => loaded.head.expired(since, store.clock.next()),
        };
        let renewed =
            head.is_some_and(|head| self.renew(store, key, &head, Some(Edition(loaded.head.seq))));
        renewed || self.discard(key)
    }
}
