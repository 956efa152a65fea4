//! Rate limits: so many of a key in so much time, exact on this node.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::TestClock;
use super::keys::Keys;
use crate::config::state::{Algorithm, RateLimit};
use crate::telemetry::handles::RateLimitMetrics;
use crate::telemetry::metrics::Metrics;

/// Groups of requests that a sliding window remembers for one key. A limit up to this is exact; a
/// larger one counts a request for up to one 64th of the window longer, never shorter.
const GROUPS: u32 = 64;

/// What came of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// How many more would be allowed now.
    pub remaining: u32,
    /// Until one more would be allowed; zero where it is now.
    pub retry_after: Duration,
}

/// All limits by name. They outlive a reload; what a reload changes counts from the next request.
pub struct Limiters {
    by_name: ArcSwap<HashMap<String, Arc<Limiter>>>,
    /// None in tests.
    metrics: Option<Arc<Metrics>>,
    clock: Clock,
}

enum Clock {
    /// Times are counted from here.
    Since(Instant),
    Test(TestClock),
}

impl Clock {
    fn nanoseconds(&self) -> u64 {
        let time = match self {
            Self::Since(start) => start.elapsed(),
            Self::Test(now) => now(),
        };
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Default for Limiters {
    fn default() -> Self {
        let clock = Clock::Since(Instant::now());
        Self { by_name: ArcSwap::default(), metrics: None, clock }
    }
}

struct Limiter {
    keys: Keys<Spent>,
    metrics: Option<Arc<RateLimitMetrics>>,
}

/// What one key has used.
#[derive(Default)]
struct Spent {
    /// Token bucket: when it would be full again, in nanoseconds.
    full_at: u64,
    /// Sliding window: since when and how many, oldest first.
    groups: VecDeque<(u64, u32)>,
}

impl Limiters {
    pub(super) fn counted(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Some(Arc::clone(metrics)), ..Self::default() }
    }

    pub(super) fn by(clock: TestClock) -> Self {
        Self { clock: Clock::Test(clock), ..Self::default() }
    }

    /// Counts one request of `key`, if the limit allows it.
    pub fn take(&self, limit: &RateLimit, key: &str) -> Decision {
        let limiter = self.limiter(&limit.name);
        let (decision, forgotten) = limiter.keys.with(key, limit.keys, |spent| {
            // Taken inside of the lock, so that a key's time never goes back.
            spent.take(limit, self.clock.nanoseconds())
        });
        if let Some(metrics) = &limiter.metrics {
            metrics.decided(decision.allowed);
            metrics.forgotten(forgotten.0 as u64);
        }
        decision
    }

    fn limiter(&self, name: &str) -> Arc<Limiter> {
        if let Some(found) = self.by_name.load().get(name) {
            return Arc::clone(found);
        }
        let metrics = self.metrics.as_ref().map(|metrics| metrics.rate_limit(name));
        let limiter = Arc::new(Limiter { keys: Keys::new(), metrics });
        self.by_name.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.entry(name.to_owned()).or_insert_with(|| Arc::clone(&limiter));
            known
        });
        self.by_name.load().get(name).map_or(limiter, Arc::clone)
    }

    pub(super) fn retain(&self, names: &HashSet<&str>) {
        self.by_name.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.retain(|name, _| names.contains(name.as_str()));
            known
        });
    }
}

impl Spent {
    fn take(&mut self, limit: &RateLimit, now: u64) -> Decision {
        let per = u64::try_from(limit.per.as_nanos()).unwrap_or(u64::MAX);
        match limit.algorithm {
            Algorithm::TokenBucket { burst } => self.take_token(limit.limit, per, burst, now),
            Algorithm::SlidingWindow => self.take_place(limit.limit, per, now),
        }
    }

    /// The bucket as one time (GCRA): it is full at `full_at`, and each token takes `each` of it.
    fn take_token(&mut self, limit: u32, per: u64, burst: u32, now: u64) -> Decision {
        let each = (per / u64::from(limit)).max(1);
        let whole = each.saturating_mul(u64::from(burst));
        let full_at = self.full_at.clamp(now, now.saturating_add(whole)).saturating_add(each);
        let over = (full_at - now).saturating_sub(whole);
        if over > 0 {
            return Decision {
                allowed: false,
                remaining: 0,
                retry_after: Duration::from_nanos(over),
            };
        }
        self.full_at = full_at;
        let left = (whole - (full_at - now)) / each;
        Decision {
            allowed: true,
            remaining: u32::try_from(left).unwrap_or(u32::MAX),
            retry_after: Duration::ZERO,
        }
    }

    fn take_place(&mut self, limit: u32, per: u64, now: u64) -> Decision {
        // Requests closer than this share a group, which ends when its last one could.
        let width = if limit > GROUPS { per / u64::from(GROUPS) } else { 0 };
        let end = |since: u64| since.saturating_add(width).saturating_add(per);
        while self.groups.front().is_some_and(|(since, _)| end(*since) <= now) {
            self.groups.pop_front();
        }
        let used: u32 = self.groups.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count));
        if used >= limit {
            let until = self.places_free_at(used - limit, end);
            let retry_after = Duration::from_nanos(until.saturating_sub(now).max(1));
            return Decision { allowed: false, remaining: 0, retry_after };
        }
        match self.groups.back_mut() {
            Some((since, count)) if now <= since.saturating_add(width) => *count += 1,
            _ => self.groups.push_back((now, 1)),
        }
        Decision { allowed: true, remaining: limit - used - 1, retry_after: Duration::ZERO }
    }

    /// When more than `over` of the oldest have left; more than 0 after a limit was lowered.
    fn places_free_at(&self, over: u32, end: impl Fn(u64) -> u64) -> u64 {
        let mut left = 0_u32;
        for (since, count) in &self.groups {
            left = left.saturating_add(*count);
            if left > over {
                return end(*since);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn limit(limit: u32, per_ms: u64, algorithm: Algorithm) -> RateLimit {
        let per = Duration::from_millis(per_ms);
        RateLimit { name: "l".into(), limit, per, algorithm, keys: 1000 }
    }

    fn allowed(spent: &mut Spent, limit: &RateLimit, at_ms: u64) -> bool {
        spent.take(limit, at_ms * MS).allowed
    }

    #[test]
    fn a_sliding_window_holds_in_any_stretch_of_time() {
        for most in [1, 3, 10, 64, 65, 1000] {
            let limit = limit(most, 2000, Algorithm::SlidingWindow);
            let mut spent = Spent::default();
            let mut taken: Vec<u64> = Vec::new();
            // A step that divides nothing, so that requests fall anywhere.
            for at in (0..20_000).step_by(7) {
                for _ in 0..most / 50 + 1 {
                    if allowed(&mut spent, &limit, at) {
                        taken.push(at);
                    }
                }
            }
            let worst =
                |from: &u64| taken.iter().filter(|at| (*from..*from + 2000).contains(*at)).count();
            let worst = taken.iter().map(worst).max();
            assert!(worst <= Some(most as usize), "{worst:?} of {most}");
            // Ten windows, of which each may start up to a 64th late.
            assert!(taken.len() >= most as usize * 9, "{} of {most}", taken.len());
            assert!(spent.groups.len() <= GROUPS as usize + 1, "{}", spent.groups.len());
        }
    }

    #[test]
    fn a_window_says_when_to_come_back() {
        let limit = limit(2, 1000, Algorithm::SlidingWindow);
        let mut spent = Spent::default();
        assert_eq!(spent.take(&limit, 0).remaining, 1);
        assert_eq!(spent.take(&limit, 300 * MS).remaining, 0);
        let refused = spent.take(&limit, 400 * MS);
        assert_eq!((refused.allowed, refused.retry_after), (false, Duration::from_millis(600)));
        assert!(!allowed(&mut spent, &limit, 999));
        assert!(allowed(&mut spent, &limit, 1000));
        assert!(!allowed(&mut spent, &limit, 1000), "the one of 300 ms is still inside");
    }

    #[test]
    fn a_lowered_limit_counts_what_was() {
        let (five, two) =
            (limit(5, 1000, Algorithm::SlidingWindow), limit(2, 1000, Algorithm::SlidingWindow));
        let mut spent = Spent::default();
        for at in 0..5 {
            assert!(allowed(&mut spent, &five, at * 100));
        }
        let refused = spent.take(&two, 500 * MS);
        assert_eq!(refused.retry_after, Duration::from_millis(800), "four of five have left");
    }

    #[test]
    fn a_bucket_takes_a_burst_and_then_the_rate() {
        let limit = limit(10, 1000, Algorithm::TokenBucket { burst: 3 });
        let mut spent = Spent::default();
        let first: Vec<u32> = (0..3).map(|_| spent.take(&limit, 0).remaining).collect();
        assert_eq!(first, [2, 1, 0]);
        let refused = spent.take(&limit, 0);
        assert_eq!((refused.allowed, refused.retry_after), (false, Duration::from_millis(100)));
        assert!(!allowed(&mut spent, &limit, 99));
        assert!(allowed(&mut spent, &limit, 100), "one each 100 ms");
        assert!(!allowed(&mut spent, &limit, 100));
        let later: Vec<bool> = (0..4).map(|_| allowed(&mut spent, &limit, 5000)).collect();
        assert_eq!(later, [true, true, true, false], "no more than the burst is saved up");
    }

    #[test]
    fn a_smaller_burst_after_a_reload_locks_nobody_out() {
        let (large, small) = (
            limit(10, 1000, Algorithm::TokenBucket { burst: 1000 }),
            limit(10, 1000, Algorithm::TokenBucket { burst: 1 }),
        );
        let mut spent = Spent::default();
        (0..1000).for_each(|_| assert!(allowed(&mut spent, &large, 0)));
        assert_eq!(spent.take(&small, 0).retry_after, Duration::from_millis(100));
        assert!(allowed(&mut spent, &small, 100_000));
    }

    #[test]
    fn threads_together_get_exactly_the_limit() {
        let limiters = Limiters::default();
        let limit = limit(100, 60_000, Algorithm::SlidingWindow);
        let counts: Vec<usize> = std::thread::scope(|scope| {
            let work = || (0..100).filter(|_| limiters.take(&limit, "key").allowed).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("joins")).collect()
        });
        assert_eq!(counts.iter().sum::<usize>(), 100);
        assert!(limiters.take(&limit, "other").allowed);
    }
}
