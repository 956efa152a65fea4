//! The threads of the embedded store: one that writes in batches, and those that read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::Database;
use tokio::sync::oneshot;

use super::disk::OpenError;
use super::store::{FAILED, Page, Put, StoreError, now_ms};
use super::tables::{self, Reading, Writing};
use crate::config::state::Namespace;
use crate::telemetry::log::RateLimited;
use crate::telemetry::metrics::Metrics;

/// Writes in one transaction.
const BATCH: usize = 512;
/// How often expired entries are dropped.
const SWEEP: Duration = Duration::from_secs(1);
/// How long nothing is written after a failure; doubled while it goes on failing, since opening
/// the file anew reads all of it.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the threads share.
pub struct Core {
    path: PathBuf,
    cache: usize,
    /// None after a failure, until it was opened anew.
    pub database: RwLock<Option<Database>>,
    /// A read failed: the writer opens the file anew.
    broken: AtomicBool,
    pub bytes_waiting: AtomicUsize,
    metrics: Arc<Metrics>,
    failures_logged: RateLimited,
}

pub enum Job<T> {
    Do(T),
    Close,
}

pub struct Write {
    pub namespace: Arc<Namespace>,
    pub what: Change,
    pub asked: Asked<bool>,
}

pub enum Change {
    Put(Put),
    Delete(String),
}

pub struct Read {
    pub namespace: Arc<Namespace>,
    pub what: Query,
}

pub enum Query {
    Get(String, Asked<Option<Bytes>>),
    List(Page, Asked<Vec<String>>),
}

/// Who waits for the answer, and since when.
pub struct Asked<T> {
    pub reply: oneshot::Sender<Result<T, StoreError>>,
    pub since: Instant,
}

impl Core {
    pub fn open(path: &Path, cache: usize, metrics: &Arc<Metrics>) -> Result<Self, OpenError> {
        Ok(Self {
            path: path.to_owned(),
            cache,
            database: RwLock::new(Some(open(path, cache)?)),
            broken: AtomicBool::new(false),
            bytes_waiting: AtomicUsize::new(0),
            metrics: Arc::clone(metrics),
            failures_logged: RateLimited::new(1),
        })
    }
}

fn open(path: &Path, cache: usize) -> Result<Database, OpenError> {
    caught(|| open_file(path, cache)).unwrap_or_else(|panic| {
        Err(OpenError::Failed { path: path.display().to_string(), cause: panic.into() })
    })
}

fn open_file(path: &Path, cache: usize) -> Result<Database, OpenError> {
    let shown = || path.display().to_string();
    let failed = |cause: redb::Error| OpenError::Failed { path: shown(), cause: cause.into() };
    let mut builder = Database::builder();
    let told = AtomicBool::new(false);
    builder.set_cache_size(cache).set_repair_callback(move |_| {
        if !told.swap(true, Relaxed) {
            log::info!("the store was not closed well, and is repaired");
        }
    });
    let database = builder.create(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: shown() },
        error => failed(error.into()),
    })?;
    tables::prepare(&database).map_err(failed)?;
    Ok(database)
}

/// The time after a failure in which nothing is written.
#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    /// Of the last one; zero after a success.
    length: Duration,
}

impl Pause {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    fn begin(&mut self) {
        self.length = (self.length * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.until = Some(Instant::now() + self.length);
    }
}

impl Change {
    fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Put(put) => put.key.len() + put.value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// A damaged file can make redb panic, which is no worse than a disk that fails.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    done.map_err(|_| "it panicked: the file may be damaged".to_owned())
}

fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    caught(work)?.map_err(|error| error.to_string())
}

/// On the store's own threads, which may block.
impl Core {
    pub fn write_loop(&self, jobs: &Receiver<Job<Write>>) {
        let mut pause = Pause::default();
        loop {
            let mut batch = Vec::new();
            let mut next = match jobs.recv_timeout(SWEEP) {
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
            self.write_all(batch, &mut pause);
            if closing {
                return;
            }
        }
    }

    /// Carries out a batch, and answers when it is on disk.
    fn write_all(&self, batch: Vec<Write>, pause: &mut Pause) {
        if self.broken.swap(false, Relaxed) {
            self.shut();
        }
        if self.database.read().is_none() && pause.is_over() && !self.open_anew() {
            pause.begin();
        }
        let done = match &*self.database.read() {
            Some(database) if pause.is_over() => Some(guarded(|| self.transact(database, &batch))),
            _ => None,
        };
        let results = match done {
            Some(Ok(results)) => {
                if !batch.is_empty() {
                    *pause = Pause::default();
                }
                results
            }
            Some(Err(error)) => {
                self.tell(&error);
                // At once, for the readers.
                self.shut();
                self.open_anew();
                pause.begin();
                batch.iter().map(|_| Err(FAILED)).collect()
            }
            None => batch.iter().map(|_| Err(FAILED)).collect(),
        };
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

    pub fn read_loop(&self, jobs: &Receiver<Job<Read>>) {
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
        let done = guarded(|| Reading::begin(database).and_then(|reading| read(&reading)));
        done.map_err(|error| {
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

    pub fn shut(&self) {
        let database = self.database.write().take();
        if let Err(panic) = caught(|| drop(database)) {
            self.tell(&panic);
        }
    }

    /// After a failure redb refuses all else until then.
    fn open_anew(&self) -> bool {
        match open(&self.path, self.cache) {
            Ok(database) => {
                log::info!("the store {} is open again", self.path.display());
                *self.database.write() = Some(database);
                true
            }
            Err(error) => {
                self.tell(&error);
                false
            }
        }
    }

    fn tell(&self, error: &dyn std::fmt::Display) {
        if self.failures_logged.admit().is_some() {
            log::error!("the store {}: {error}", self.path.display());
        }
    }

    pub fn show_sizes(&self) {
        let database = self.database.read();
        let Some(database) = &*database else { return };
        if let Err(error) = guarded(|| self.show_sizes_of(database)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_after_which_the_file_is_opened_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = Arc::new(Metrics::new().expect("registers"));
        let core = Core::open(&folder.path().join("s"), 1 << 20, &metrics).expect("opens");
        let failed = core.reading::<()>(|_| panic!("as the test wants"));
        assert_eq!(failed, Err(FAILED));
        core.write_all(Vec::new(), &mut Pause::default());
        assert_eq!(core.reading(|reading| reading.get("a", "k", 0)), Ok(None));
    }

    #[test]
    fn a_pause_grows_to_a_minute() {
        let mut pause = Pause::default();
        assert!(pause.is_over());
        let mut lengths = Vec::new();
        for _ in 0..8 {
            pause.begin();
            lengths.push(pause.length.as_secs());
        }
        assert_eq!((lengths, pause.is_over()), (vec![1, 2, 4, 8, 16, 32, 60, 60], false));
    }
}
