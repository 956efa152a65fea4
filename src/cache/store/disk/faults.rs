//! A disk that fails on order, for tests. In the product this is nothing.

use std::io::Result;

#[cfg(test)]
use std::sync::atomic::{AtomicI32, Ordering};

/// Asked before each write.
#[derive(Default)]
pub struct Faults {
    #[cfg(test)]
    errno: AtomicI32,
}

impl Faults {
    #[cfg(test)]
    pub fn check(&self) -> Result<()> {
        match self.errno.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(std::io::Error::from_raw_os_error(errno)),
        }
    }

    #[cfg(not(test))]
    pub fn check(&self) -> Result<()> {
        Ok(())
    }

    /// From now on every write fails so.
    #[cfg(test)]
    pub fn fail_with(&self, errno: Option<i32>) {
        self.errno.store(errno.unwrap_or(0), Ordering::Release);
    }
}
