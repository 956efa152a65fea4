//! What a thread used by itself, which on a busy machine is less than the time that passed.
//!
//! Reading it is a system call, so it is read seldom: once in [`FRESH`] at most while fibers are
//! short, and when a slice took so long that something must have happened.

use std::time::Duration;

use tokio::time::Instant;

/// How much older than a fiber's begin a mark may be, and so what a slice may count too much.
const FRESH: Duration = Duration::from_millis(1);
/// What one sleep counts: Rhai sleeps so long, five times, for a value that is locked.
const SLEEP: Duration = Duration::from_millis(10);

/// Of the thread, since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    cpu: Duration,
    /// How often it gave the processor away by itself.
    sleeps: u64,
}

impl Usage {
    /// None where the system does not tell.
    #[cfg(target_os = "linux")]
    pub fn now() -> Option<Self> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes a `timespec` to where the pointer points, which is ours.
        let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the call writes an `rusage` to where the pointer points, which is ours.
        let counted = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
        if told != 0 || counted != 0 {
            return None;
        }
        // SAFETY: all zeroes are an `rusage`, and so is what the call wrote.
        let sleeps = unsafe { usage.assume_init() }.ru_nvcsw;
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec).ok()?);
        let cpu = seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).ok()?);
        Some(Self { cpu, sleeps: u64::try_from(sleeps).ok()? })
    }

    #[cfg(not(target_os = "linux"))]
    pub fn now() -> Option<Self> {
        None
    }

    pub fn since(self, mark: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(mark.cpu),
            sleeps: self.sleeps.saturating_sub(mark.sleeps),
        }
    }

    /// The time for which it kept others of its thread waiting: computing or asleep, but not
    /// while the system ran something else.
    pub fn held_up(self) -> Duration {
        let sleeps = u32::try_from(self.sleeps).unwrap_or(u32::MAX);
        self.cpu.saturating_add(SLEEP.saturating_mul(sleeps))
    }
}

/// A thread's use at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    at: Instant,
    usage: Usage,
}

impl Mark {
    pub fn new(at: Instant, usage: Usage) -> Self {
        Self { at, usage }
    }

    pub fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > FRESH
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a thread that sleeps is what is looked at")]

    use super::*;

    fn during(work: impl FnOnce()) -> Duration {
        let before = Usage::now().expect("Linux tells");
        work();
        Usage::now().expect("Linux tells").since(before).held_up()
    }

    #[test]
    fn computing_and_sleeping_count() {
        let computed = during(|| {
            let begun = Usage::now().expect("Linux tells");
            while Usage::now().expect("Linux tells").since(begun).cpu < Duration::from_millis(5) {}
        });
        assert!(computed >= Duration::from_millis(5), "{computed:?}");
        let slept = during(|| (0..5).for_each(|_| std::thread::sleep(Duration::from_millis(1))));
        assert!(slept >= 5 * SLEEP, "{slept:?}");
    }

    #[test]
    fn what_the_system_runs_instead_does_not_count() {
        let usage = Usage { cpu: Duration::from_millis(3), sleeps: 0 };
        assert_eq!(usage.held_up(), Duration::from_millis(3));
    }
}
