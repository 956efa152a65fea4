//! Whether the disk takes writes. One that fails is left alone for a while; the proxy goes on.

use std::io::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long nothing is written after a failure.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Health {
    paused_until: Mutex<Option<Instant>>,
    errors: AtomicU64,
    broken: AtomicU64,
}

impl Health {
    pub fn writable(&self) -> bool {
        self.paused_until.lock().is_none_or(|until| Instant::now() >= until)
    }

    /// A write failed. It is said once for each pause.
    pub fn write_failed(&self, dir: &std::path::Path, error: &Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut until = self.paused_until.lock();
        if until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        *until = Some(Instant::now() + PAUSE);
        let (dir, pause) = (dir.display(), PAUSE.as_secs());
        log::error!("cache: {dir} takes no writes, nothing is stored there for {pause} s: {error}");
    }

    /// A file could not be read. It is gone from the index, so it is not said again.
    pub fn read_failed(&self, path: &std::path::Path, error: &Error) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        log::warn!("cache: {} is dropped: {error}", path.display());
    }

    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub fn recover(&self) {
        *self.paused_until.lock() = None;
    }
}
