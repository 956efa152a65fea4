//! How long an endpoint takes to answer, as `peak_ewma` sees it: a peak counts at once and fades.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::clock;

/// After this time an answer counts for a third (1/e) of what it did.
const DECAY: Duration = Duration::from_secs(10);

/// What a failure counts as at least: an endpoint that fails fast must not look fast.
const FAILURE: Duration = Duration::from_secs(1);

/// An average that decays, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// The bits of a float.
    average: AtomicU64,
    at: AtomicU64,
}

impl Latency {
    /// What is expected now: the average, faded by the time since the last answer.
    pub(super) fn expected(&self, now: u64) -> f64 {
        f64::from_bits(self.average.load(Relaxed)) * self.kept(now)
    }

    pub(super) fn observe(&self, took: Duration, failed: bool, now: u64) {
        let took = if failed { took.max(FAILURE) } else { took };
        let (sample, kept) = (took.as_nanos() as f64, self.kept(now));
        self.at.store(now, Relaxed);
        // Two answers at once may overwrite each other: the next one puts that right.
        let average = f64::from_bits(self.average.load(Relaxed));
        let next = if sample > average { sample } else { average * kept + sample * (1.0 - kept) };
        self.average.store(next.to_bits(), Relaxed);
    }

    fn kept(&self, now: u64) -> f64 {
        let passed = now.saturating_sub(self.at.load(Relaxed)) as f64;
        (-passed / clock::nanos(DECAY) as f64).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(10), false, MS);
        latency.observe(Duration::from_millis(500), false, 2 * MS);
        assert!(latency.expected(2 * MS) >= 500e6, "a peak is believed at once");
        latency.observe(Duration::from_millis(10), false, 3 * MS);
        assert!(latency.expected(3 * MS) > 400e6, "one good answer does not outweigh it");
        assert!(latency.expected(60_000 * MS) < 10e6, "long after, it has another chance");
    }

    #[test]
    fn a_quick_failure_does_not_look_quick() {
        let latency = Latency::default();
        latency.observe(Duration::from_micros(10), true, MS);
        assert!(latency.expected(MS) >= 1e9);
    }
}
