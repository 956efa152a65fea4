//! Opening a cache directory, and finding out in the background what is in it.

use std::fs::{File, TryLockError};
use std::io::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::faults::Faults;
use super::health::Health;
use super::index::Index;
use super::journal::Journal;
use super::queue::Queue;
use super::{Admission, Disk, DiskSettings, Seen};
use crate::cache::store::rules::Dated;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}: another process uses this cache directory")]
    Taken(PathBuf),
    #[error("{0}: {1}")]
    Io(PathBuf, Error),
}

/// What an earlier process left.
pub struct Left {
    pub disk: Disk,
    /// How often the directory was opened, this time included.
    pub starts: u64,
    pub rules: Vec<Dated>,
}

impl Disk {
    pub fn open(settings: &DiskSettings) -> Result<Left, OpenError> {
        let dir = &settings.dir;
        let io = |error| OpenError::Io(dir.clone(), error);
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = lock(dir)?;
        let (objects, temporary) = (dir.join("objects"), dir.join("tmp"));
        std::fs::create_dir_all(&temporary).map_err(io)?;
        let replay = Journal::replay(dir);
        let starts = replay.starts + 1;
        let names = AtomicU64::new(0);
        if !replay.trusted && objects.exists() {
            log::warn!(
                "cache: {}: the journal of purges is lost, so all is dropped",
                dir.display()
            );
            put_aside(&objects, &temporary, dir).map_err(io)?;
        }
        let rules = if replay.trusted { replay.rules } else { Vec::new() };
        for prefix in 0..=255 {
            std::fs::create_dir_all(objects.join(format!("{prefix:02x}"))).map_err(io)?;
        }
        let journal = Journal::create(dir, starts, &rules).map_err(io)?;
        let disk = Disk {
            dir: dir.clone(),
            objects,
            temporary,
            _lock: lock,
            starts,
            names,
            index: Index::default(),
            journal,
            queue: Queue::new(settings.queue),
            health: Health::default(),
            seen: Seen::default(),
            second_hit: AtomicBool::new(settings.admission == Admission::SecondHit),
            limit: settings.bytes.into(),
            largest: settings.object.into(),
            loading: AtomicBool::new(true),
            evictions: AtomicU64::new(0),
            written: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            faults: Faults::default(),
        };
        Ok(Left { disk, starts, rules })
    }

    /// Reads the directory: names and sizes. Lookups try the file meanwhile.
    pub fn index(&self) {
        let begun = std::time::Instant::now();
        for prefix in 0..=255 {
            let Ok(entries) = std::fs::read_dir(self.objects.join(format!("{prefix:02x}"))) else {
                continue;
            };
            for entry in entries.flatten() {
                self.index_entry(&entry);
            }
        }
        self.loading.store(false, Ordering::Release);
        self.evict();
        self.clean();
        let (count, took) = (self.index.entries(), begun.elapsed());
        log::info!("cache: {} holds {count} objects, seen in {took:?}", self.dir.display());
    }

    fn index_entry(&self, entry: &std::fs::DirEntry) {
        let name = entry.file_name();
        let key = name.to_str().filter(|name| name.len() == 32);
        let key = key.and_then(|name| u128::from_str_radix(name, 16).ok());
        let (Some(key), Ok(metadata)) = (key, entry.metadata()) else { return };
        let _file = self.index.file(key);
        // Under the lock: it may have been removed since it was listed.
        if !self.index.contains(key) && entry.path().exists() {
            self.index.insert(key, metadata.len(), 0);
        }
    }

    /// Removes what earlier processes left half done.
    fn clean(&self) {
        let own = format!("{}.", self.starts);
        for entry in std::fs::read_dir(&self.temporary).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&own) {
                continue;
            }
            let path = entry.path();
            let folder = path.is_dir();
            let removed =
                if folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            if let Err(error) = removed {
                log::warn!("cache: {} stays: {error}", path.display());
            }
        }
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io(dir.to_owned(), error);
    let path = dir.join("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Taken(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Must be on disk before there is a journal again.
fn put_aside(objects: &Path, temporary: &Path, dir: &Path) -> std::io::Result<()> {
    let micros = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    std::fs::rename(objects, temporary.join(format!("old.{micros}")))?;
    File::open(dir)?.sync_all()
}
