//! What repetitions may cost: a share of the requests under way, and a wait before each.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::attempt::take;
use super::balance::rng;
use super::pool::Pool;
use crate::config::upstreams::Retry;

/// The longest wait's bound, as a multiple of the first one's.
const LONGEST_WAIT: u32 = 10;

/// A repetition under way; it counts against the budget while it lives.
#[must_use = "dropped at once, it counts nothing"]
pub struct Repetition(Arc<Pool>);

impl Pool {
    /// A place in the budget, if there is one.
    pub fn repeat(self: &Arc<Self>, config: &Retry) -> Option<Repetition> {
        let standing = self.standing();
        let most = most(config, standing.requests.load(Relaxed));
        take(&standing.repeating, Some(most)).then(|| Repetition(Arc::clone(self)))
    }
}

impl Drop for Repetition {
    fn drop(&mut self) {
        self.0.standing().repeating.fetch_sub(1, Relaxed);
    }
}

fn most(config: &Retry, active: u32) -> u32 {
    let share = u64::from(active) * u64::from(config.budget.0) / 100;
    u32::try_from(share).unwrap_or(u32::MAX).max(config.budget_min)
}

/// How long the `nth` repetition waits, from 1. Random over all of it, so that requests which
/// failed together do not come back together.
pub fn backoff(first: Duration, nth: u32) -> Duration {
    let factor = 1u32.checked_shl(nth.saturating_sub(1)).unwrap_or(u32::MAX).min(LONGEST_WAIT);
    let bound = u64::try_from(first.saturating_mul(factor).as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng::below(bound.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::Percent;

    #[test]
    fn the_budget_is_a_share_and_never_less_than_its_minimum() {
        let config = crate::upstream::tests::upstream(&[]).retry;
        assert_eq!(most(&config, 0), 3);
        assert_eq!(most(&config, 16), 3);
        assert_eq!(most(&config, 1000), 200);
        assert_eq!(most(&Retry { budget: Percent(0), ..config }, 1000), 3);
    }

    #[test]
    fn waits_differ_and_are_bounded() {
        let first = Duration::from_millis(10);
        for (nth, bound) in [(1, 10), (2, 20), (3, 40), (9, 100), (u32::MAX, 100)] {
            let waits: Vec<_> = (0..200).map(|_| backoff(first, nth)).collect();
            let bound = Duration::from_millis(bound);
            assert!(waits.iter().all(|wait| *wait < bound), "the wait {nth} is too long");
            assert!(waits.iter().any(|wait| *wait > bound / 2), "the wait {nth} is too short");
            assert!(waits.iter().any(|wait| *wait < bound / 2), "the wait {nth} is not random");
        }
    }
}
