//! What the engine remembers between two runs of a script: which function a call means.
//!
//! Without it every run looks all its calls up anew. It holds nothing of a request.

use parking_lot::Mutex;
use rhai::{Caches, Dynamic};

/// Kept sets; a run beyond them begins without.
const KEPT: usize = 64;
/// A set is thrown away after so many runs: a script that makes up function names adds to it.
const RUNS: u32 = 1024;

/// One set, used by one run at a time.
#[derive(Default)]
pub(super) struct Kept {
    pub caches: Caches,
    /// Room for variables of lowered code; empty between two runs.
    pub stack: Vec<Dynamic>,
    runs: u32,
}

/// The sets of one script.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Kept>>);

impl Pool {
    pub fn take(&self) -> Kept {
        self.0.lock().pop().unwrap_or_default()
    }

    pub fn give_back(&self, mut kept: Kept) {
        kept.runs += 1;
        let mut pool = self.0.lock();
        if kept.runs < RUNS && pool.len() < KEPT {
            pool.push(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_comes_back_until_it_is_old() {
        let pool = Pool::default();
        for run in 0..RUNS {
            let kept = pool.take();
            assert_eq!(kept.runs, run);
            pool.give_back(kept);
        }
        assert_eq!(pool.take().runs, 0);
    }
}
