//! Time as a number, for atomics: nanoseconds since this program first asked.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Never 0, so that 0 can stand for "not yet".
pub fn now() -> u64 {
    nanos(START.elapsed()).saturating_add(1)
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The time from `then` to `now`, none if it is the other way round.
pub(super) fn between(then: u64, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(then))
}
