//! Which keys were asked for before: a table of fingerprints that forgets.

use std::sync::atomic::{AtomicU32, Ordering};

/// Keys that are remembered, about; 1 MiB.
const SLOTS: usize = 1 << 18;

pub struct Seen(Box<[AtomicU32]>);

impl Default for Seen {
    fn default() -> Seen {
        Seen((0..SLOTS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Seen {
    /// Whether `key` came before. From now on it did.
    pub fn again(&self, key: u128) -> bool {
        let print = (key >> 64) as u32 | 1;
        self.0[key as usize % SLOTS].swap(print, Ordering::Relaxed) == print
    }
}
