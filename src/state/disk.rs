//! The embedded store: a redb file behind threads of its own, so that no worker waits for a disk.
//!
//! One thread writes: what waits together becomes durable together, and is answered after that.
//! Reads have other threads, which never wait for the writer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::Database;
use tokio::sync::oneshot;

use super::store::{
    Answer, LONGEST_PAGE, Page, Put, Store, StoreError, check_key, check_put, now_ms,
};
use super::tables::{self, Reading, Writing};
use crate::config::state::Namespace;
use crate::telemetry::log::RateLimited;
use crate::telemetry::metrics::Metrics;

/// Threads that read. Two, so that a read that waits for the disk does not hold up all others.
const READERS: usize = 2;
/// Reads that wait for one thread; one more is refused.
const READS_WAITING: usize = 4096;
/// Writes that wait; one more is refused.
const WRITES_WAITING: usize = 4096;
/// Bytes of values that wait to be written.
const BYTES_WAITING: usize = 64 << 20;
/// Writes in one transaction.
const BATCH: usize = 512;
/// How often expired entries are dropped, and a file that failed is opened anew.
const REST: Duration = Duration::from_secs(1);

const BEHIND: StoreError = StoreError::Unavailable("the store is behind: too much waits for it");
const FAILED: StoreError = StoreError::Unavailable("the store's disk fails");
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

/// What the threads share.
struct Core {
    path: PathBuf,
    cache: usize,
    /// None after a failure, until it was opened anew.
    database: RwLock<Option<Database>>,
    /// A read failed: the writer opens the file anew.
    broken: AtomicBool,
    bytes_waiting: AtomicUsize,
    metrics: Arc<Metrics>,
    failures_logged: RateLimited,
}

enum Job<T> {
    Do(T),
    Close,
}

struct Write {
    namespace: Arc<Namespace>,
    what: Change,
    asked: Asked<bool>,
}

enum Change {
    Put(Put),
    Delete(String),
}

struct Read {
    namespace: Arc<Namespace>,
    what: Query,
}

enum Query {
    Get(String, Asked<Option<Bytes>>),
    List(Page, Asked<Vec<String>>),
}

/// Who waits for the answer, and since when.
struct Asked<T> {
    reply: oneshot::Sender<Result<T, StoreError>>,
    since: Instant,
}

impl Disk {
    pub fn open(path: &Path, cache: usize, metrics: &Arc<Metrics>) -> Result<Self, OpenError> {
        let core = Arc::new(Core {
            path: path.to_owned(),
            cache,
            database: RwLock::new(Some(open_file(path, cache)?)),
            broken: AtomicBool::new(false),
            bytes_waiting: AtomicUsize::new(0),
            metrics: Arc::clone(metrics),
            failures_logged: RateLimited::new(1),
        });
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
        *self.core.database.write() = None;
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

fn open_file(path: &Path, cache: usize) -> Result<Database, OpenError> {
    let shown = || path.display().to_string();
    let failed = |cause: redb::Error| OpenError::Failed { path: shown(), cause: cause.into() };
    let mut builder = Database::builder();
    builder.set_cache_size(cache).set_repair_callback(|_| log::info!("the store is repaired"));
    let database = builder.create(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: shown() },
        error => failed(error.into()),
    })?;
    tables::prepare(&database).map_err(failed)?;
    Ok(database)
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

impl Change {
    fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put(put) => put.key.len() + put.value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// On the store's own threads, which may block.
impl Core {
    fn write_loop(&self, jobs: &Receiver<Job<Write>>) {
        loop {
            let mut batch = Vec::new();
            let mut next = match jobs.recv_timeout(REST) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut closing = false;
            while let Some(job) = next.take() {
                match job {
                    Job::Do(write) => batch.push(write),
                    Job::Close => closing = true,
                }
                if batch.len() < BATCH && !closing {
                    next = jobs.try_recv().ok();
                }
            }
            self.write_all(batch);
            if closing {
                return;
            }
        }
    }

    /// Carries out a batch, and answers when it is on disk.
    fn write_all(&self, batch: Vec<Write>) {
        if self.broken.swap(false, Relaxed) {
            *self.database.write() = None;
        }
        if self.database.read().is_none() {
            self.open_anew();
        }
        let done = match &*self.database.read() {
            Some(database) => self.transact(database, &batch),
            None => Ok(batch.iter().map(|_| Err(FAILED)).collect()),
        };
        let results = done.unwrap_or_else(|error| {
            self.tell(&error);
            *self.database.write() = None;
            batch.iter().map(|_| Err(FAILED)).collect()
        });
        for (write, result) in batch.into_iter().zip(results) {
            self.bytes_waiting.fetch_sub(write.what.bytes(), Relaxed);
            let held = |done: &bool| if *done { "ok" } else { "refused" };
            self.answer(&write.namespace, write.what.name(), write.asked, result, held);
        }
    }

    fn transact(
        &self,
        database: &Database,
        batch: &[Write],
    ) -> Result<Vec<Result<bool, StoreError>>, redb::Error> {
        let now = now_ms();
        if batch.is_empty() && !tables::is_due(database, now)? {
            return Ok(Vec::new());
        }
        let writing = Writing::begin(database)?;
        writing.sweep(now)?;
        let mut results = Vec::with_capacity(batch.len());
        for Write { namespace, what, .. } in batch {
            results.push(match what {
                Change::Put(put) => writing.put(namespace, put, now)?,
                Change::Delete(key) => Ok(writing.delete(&namespace.name, key, now)?),
            });
        }
        writing.commit()?;
        self.show_sizes_of(database)?;
        Ok(results)
    }

    fn read_loop(&self, jobs: &Receiver<Job<Read>>) {
        while let Ok(Job::Do(Read { namespace, what })) = jobs.recv() {
            match what {
                Query::Get(key, asked) => {
                    let found = self.reading(|r| r.get(&namespace.name, &key, now_ms()));
                    let held = |found: &Option<_>| if found.is_some() { "ok" } else { "absent" };
                    self.answer(&namespace, "get", asked, found, held);
                }
                Query::List(page, asked) => {
                    let found = self.reading(|r| r.list(&namespace.name, &page, now_ms()));
                    self.answer(&namespace, "list", asked, found, |_| "ok");
                }
            }
        }
    }

    fn reading<T>(
        &self,
        read: impl FnOnce(&Reading) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read();
        let database = database.as_ref().ok_or(FAILED)?;
        Reading::begin(database).and_then(|reading| read(&reading)).map_err(|error| {
            self.tell(&error);
            self.broken.store(true, Relaxed);
            FAILED
        })
    }

    fn answer<T>(
        &self,
        namespace: &Namespace,
        operation: &'static str,
        asked: Asked<T>,
        result: Result<T, StoreError>,
        outcome: impl FnOnce(&T) -> &'static str,
    ) {
        let outcome = result.as_ref().map_or_else(StoreError::kind, outcome);
        let metrics = self.metrics.namespace(&namespace.name);
        metrics.operation(operation, outcome, asked.since.elapsed());
        // Whoever asked may be gone.
        let _ = asked.reply.send(result);
    }

    /// After a failure redb refuses all else until then.
    fn open_anew(&self) {
        match open_file(&self.path, self.cache) {
            Ok(database) => {
                log::info!("the store {} is open again", self.path.display());
                *self.database.write() = Some(database);
            }
            Err(error) => self.tell(&error),
        }
    }

    fn tell(&self, error: &dyn std::error::Error) {
        if self.failures_logged.admit().is_some() {
            log::error!("the store {}: {error}", self.path.display());
        }
    }

    fn show_sizes(&self) {
        if let Some(Err(error)) = self.database.read().as_ref().map(|db| self.show_sizes_of(db)) {
            self.tell(&error);
        }
    }

    fn show_sizes_of(&self, database: &Database) -> Result<(), redb::Error> {
        for (namespace, size) in Reading::begin(database)?.sizes()? {
            self.metrics.namespace_bytes(&namespace, size);
        }
        Ok(())
    }
}
