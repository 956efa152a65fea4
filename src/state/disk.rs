//! The embedded store: a redb file behind threads of its own, so that no worker waits for a disk.
//!
//! One thread writes: what waits together becomes durable together, and is answered after that.
//! Reads have other threads, which never wait for the writer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::store::{Answer, LONGEST_PAGE, Page, Put, Store, StoreError, check_key, check_put};
use super::threads::{Asked, Change, Core, Job, Query, Read, Write};
use crate::config::state::Namespace;
use crate::telemetry::metrics::Metrics;

/// Threads that read. Two, so that a read that waits for the disk does not hold up all others.
const READERS: usize = 2;
/// Reads that wait for one thread; one more is refused.
const READS_WAITING: usize = 4096;
/// Writes that wait; one more is refused.
const WRITES_WAITING: usize = 4096;
/// Bytes of values that wait to be written.
const BYTES_WAITING: usize = 64 << 20;
const BEHIND: StoreError = StoreError::Unavailable("the store is behind: too much waits for it");
const CLOSED: StoreError = StoreError::Unavailable("the store is closed");

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store {path} is in use by another process")]
    InUse { path: String },
    #[error("the store {path} cannot be opened: {cause}")]
    Failed { path: String, cause: Box<dyn std::error::Error + Send + Sync> },
}

pub struct Disk {
    core: Arc<Core>,
    writes: SyncSender<Job<Write>>,
    reads: Vec<SyncSender<Job<Read>>>,
    next_reader: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Disk {
    pub fn open(path: &Path, cache: usize, metrics: &Arc<Metrics>) -> Result<Self, OpenError> {
        let core = Arc::new(Core::open(path, cache, metrics)?);
        core.show_sizes();
        let mut threads = Vec::with_capacity(1 + READERS);
        let (writes, jobs) = sync_channel(WRITES_WAITING);
        threads.push(spawn("kv-write", path, &core, move |core| core.write_loop(&jobs))?);
        let mut reads = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let (queue, jobs) = sync_channel(READS_WAITING);
            threads.push(spawn("kv-read", path, &core, move |core| core.read_loop(&jobs))?);
            reads.push(queue);
        }
        let (next_reader, threads) = (AtomicUsize::new(0), Mutex::new(threads));
        Ok(Self { core, writes, reads, next_reader, threads })
    }

    fn write(&self, namespace: &Arc<Namespace>, what: Change) -> Answer<bool> {
        let (asked, answer) = ask();
        let bytes = what.bytes();
        if self.core.bytes_waiting.fetch_add(bytes, Relaxed) > BYTES_WAITING {
            self.core.bytes_waiting.fetch_sub(bytes, Relaxed);
            return refuse(BEHIND);
        }
        let job = Write { namespace: Arc::clone(namespace), what, asked };
        match self.writes.try_send(Job::Do(job)) {
            Ok(()) => answer,
            Err(error) => {
                self.core.bytes_waiting.fetch_sub(bytes, Relaxed);
                refuse(refusal(&error))
            }
        }
    }

    fn read(&self, namespace: &Arc<Namespace>, what: Query) -> Result<(), StoreError> {
        let reader = self.next_reader.fetch_add(1, Relaxed) % self.reads.len();
        let job = Read { namespace: Arc::clone(namespace), what };
        self.reads[reader].try_send(Job::Do(job)).map_err(|error| refusal(&error))
    }
}

impl Store for Disk {
    fn get(&self, namespace: &Arc<Namespace>, key: String) -> Answer<Option<Bytes>> {
        if let Err(error) = check_key(&key) {
            return refuse(error);
        }
        let (asked, answer) = ask();
        match self.read(namespace, Query::Get(key, asked)) {
            Ok(()) => answer,
            Err(error) => refuse(error),
        }
    }

    fn put(&self, namespace: &Arc<Namespace>, put: Put) -> Answer<bool> {
        match check_put(namespace, &put) {
            Ok(()) => self.write(namespace, Change::Put(put)),
            Err(error) => refuse(error),
        }
    }

    fn delete(&self, namespace: &Arc<Namespace>, key: String) -> Answer<bool> {
        match check_key(&key) {
            Ok(()) => self.write(namespace, Change::Delete(key)),
            Err(error) => refuse(error),
        }
    }

    fn list(&self, namespace: &Arc<Namespace>, page: Page) -> Answer<Vec<String>> {
        let page = Page { limit: page.limit.min(LONGEST_PAGE), ..page };
        let (asked, answer) = ask();
        match self.read(namespace, Query::List(page, asked)) {
            Ok(()) => answer,
            Err(error) => refuse(error),
        }
    }

    fn close(&self) {
        // A queue that is full is waited for; one whose thread has gone is closed already.
        let _ = self.writes.send(Job::Close);
        for queue in &self.reads {
            let _ = queue.send(Job::Close);
        }
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of the store panicked");
            }
        }
        self.core.shut();
    }
}

fn spawn(
    name: &str,
    path: &Path,
    core: &Arc<Core>,
    run: impl FnOnce(&Core) + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    let core = Arc::clone(core);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&core));
    thread.map_err(|cause| OpenError::Failed {
        path: path.display().to_string(),
        cause: cause.into(),
    })
}

fn ask<T: Send + 'static>() -> (Asked<T>, Answer<T>) {
    let (reply, answer) = oneshot::channel();
    let answer = Box::pin(async move { answer.await.unwrap_or(Err(CLOSED)) });
    (Asked { reply, since: Instant::now() }, answer)
}

fn refuse<T: Send + 'static>(error: StoreError) -> Answer<T> {
    Box::pin(std::future::ready(Err(error)))
}

fn refusal<T>(error: &std::sync::mpsc::TrySendError<T>) -> StoreError {
    match error {
        std::sync::mpsc::TrySendError::Full(_) => BEHIND,
        std::sync::mpsc::TrySendError::Disconnected(_) => CLOSED,
    }
}
