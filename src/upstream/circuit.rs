//! A circuit breaker, of an upstream or a filter: closed, open for a while, then half open for some probes.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::clock;
use crate::config::upstreams::Breaker;

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

/// What requests meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How a request may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Free,
    /// The breaker waits for what comes of it.
    Probe,
    Refused,
}

/// A breaker's state; what it is set to comes with each call, since a reload may change that.
#[derive(Debug, Default)]
pub struct Circuit {
    state: AtomicU8,
    /// When it opened, or when the window began.
    since: AtomicU64,
    total: AtomicU32,
    failed: AtomicU32,
    /// Probes let through, and those that succeeded.
    probes: AtomicU32,
    passed: AtomicU32,
}

impl Circuit {
    pub fn state(&self) -> State {
        match self.state.load(Relaxed) {
            OPEN => State::Open,
            HALF_OPEN => State::HalfOpen,
            _ => State::Closed,
        }
    }

    /// Whether a request may pass, and whether that changed the state.
    pub fn admit(&self, config: &Breaker, now: u64) -> (Pass, bool) {
        let state = self.state.load(Relaxed);
        if state == CLOSED {
            return (Pass::Free, false);
        }
        let mut changed = false;
        if state == OPEN {
            if clock::between(self.since.load(Relaxed), now) < config.open {
                return (Pass::Refused, false);
            }
            changed = self.turn(OPEN, HALF_OPEN);
        }
        let taken = self
            .probes
            .fetch_update(Relaxed, Relaxed, |out| (out < config.probes).then_some(out + 1));
        (if taken.is_ok() { Pass::Probe } else { Pass::Refused }, changed)
    }

    /// A request that passed has ended; whether that changed the state.
    pub fn judge(&self, config: &Breaker, pass: Pass, failed: bool, now: u64) -> bool {
        match pass {
            Pass::Free => self.count(config, failed, now),
            Pass::Probe if failed => {
                self.since.store(now, Relaxed);
                self.turn(HALF_OPEN, OPEN)
            }
            Pass::Probe => {
                let passed = self.passed.fetch_add(1, Relaxed) + 1;
                passed >= config.probes && {
                    self.since.store(now, Relaxed);
                    self.turn(HALF_OPEN, CLOSED)
                }
            }
            Pass::Refused => false,
        }
    }

    /// A probe came to nothing that could be judged, such as when its client left.
    pub fn abandon(&self) {
        let _ = self.probes.fetch_update(Relaxed, Relaxed, |out| out.checked_sub(1));
    }

    fn count(&self, config: &Breaker, failed: bool, now: u64) -> bool {
        let since = self.since.load(Relaxed);
        if clock::between(since, now) >= config.window
            && self.since.compare_exchange(since, now, Relaxed, Relaxed).is_ok()
        {
            self.total.store(0, Relaxed);
            self.failed.store(0, Relaxed);
        }
        let total = u64::from(self.total.fetch_add(1, Relaxed)) + 1;
        if !failed {
            return false;
        }
        let failures = u64::from(self.failed.fetch_add(1, Relaxed)) + 1;
        let enough = total >= u64::from(config.min_requests);
        enough && failures * 100 >= total * u64::from(config.failures.0) && {
            self.since.store(now, Relaxed);
            self.turn(CLOSED, OPEN)
        }
    }

    /// Goes from one state to another, with all counts anew; false if someone else did.
    fn turn(&self, from: u8, to: u8) -> bool {
        let turned = self.state.compare_exchange(from, to, Relaxed, Relaxed).is_ok();
        if turned {
            for counter in [&self.total, &self.failed, &self.probes, &self.passed] {
                counter.store(0, Relaxed);
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::values::Percent;

    const SECOND: u64 = 1_000_000_000;

    fn config() -> Breaker {
        Breaker {
            failures: Percent(50),
            min_requests: 4,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            probes: 2,
        }
    }

    fn opened() -> Circuit {
        let circuit = Circuit::default();
        for failed in [false, false, true, true] {
            circuit.judge(&config(), Pass::Free, failed, SECOND);
        }
        assert_eq!(circuit.state(), State::Open);
        circuit
    }

    #[test]
    fn it_opens_at_the_share_of_failures_and_not_by_few_requests() {
        let circuit = Circuit::default();
        for _ in 0..3 {
            assert!(!circuit.judge(&config(), Pass::Free, true, SECOND), "too few");
        }
        assert!(circuit.judge(&config(), Pass::Free, true, SECOND));
        assert_eq!(circuit.admit(&config(), SECOND), (Pass::Refused, false));
    }

    #[test]
    fn a_window_forgets() {
        let circuit = Circuit::default();
        for second in [1, 20, 40, 60, 80, 100] {
            assert!(!circuit.judge(&config(), Pass::Free, true, second * SECOND));
        }
        assert_eq!(circuit.state(), State::Closed);
    }

    #[test]
    fn half_open_lets_the_probes_through_and_no_more() {
        let circuit = opened();
        assert_eq!(circuit.admit(&config(), 7 * SECOND), (Pass::Probe, true));
        assert_eq!(circuit.admit(&config(), 7 * SECOND), (Pass::Probe, false));
        assert_eq!(circuit.admit(&config(), 7 * SECOND), (Pass::Refused, false));
        circuit.abandon();
        assert_eq!(circuit.admit(&config(), 7 * SECOND), (Pass::Probe, false));
        assert!(!circuit.judge(&config(), Pass::Probe, false, 7 * SECOND));
        assert!(circuit.judge(&config(), Pass::Probe, false, 7 * SECOND), "closed by the second");
        assert_eq!(circuit.state(), State::Closed);
    }

    #[test]
    fn a_failed_probe_opens_it_again() {
        let circuit = opened();
        assert_eq!(circuit.admit(&config(), 7 * SECOND).0, Pass::Probe);
        assert!(circuit.judge(&config(), Pass::Probe, true, 8 * SECOND));
        assert_eq!(circuit.admit(&config(), 12 * SECOND), (Pass::Refused, false));
        assert_eq!(circuit.admit(&config(), 13 * SECOND).0, Pass::Probe);
    }
}
