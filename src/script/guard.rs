//! Whether a filter may run: a breaker takes it out while it faults too often, and what it leaks
//! takes it out until the next reload. What happens without it is its `on_fault`, elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::config::filters::Filter;
use crate::config::upstreams::Breaker;
use crate::telemetry::handles::FilterMetrics;
use crate::upstream::circuit::{Circuit, Pass, State};
use crate::upstream::clock;

/// What stands between a filter and its runs, for one snapshot.
pub struct Guard {
    name: Arc<str>,
    breaker: Option<Breaker>,
    circuit: Circuit,
    leaked: AtomicU64,
    most: u64,
    stopped: AtomicBool,
    metrics: Arc<FilterMetrics>,
}

/// One run that may go ahead. Dropped without a verdict, it is none.
#[must_use = "the guard waits for what comes of it"]
pub struct Passed<'a> {
    guard: &'a Guard,
    pass: Pass,
    judged: bool,
}

impl Guard {
    pub fn new(filter: &Filter, metrics: &Arc<FilterMetrics>) -> Self {
        Self {
            name: filter.name.clone(),
            breaker: filter.breaker.clone(),
            circuit: Circuit::default(),
            leaked: AtomicU64::new(0),
            most: filter.limits.leaked,
            stopped: AtomicBool::new(false),
            metrics: Arc::clone(metrics),
        }
    }

    /// Shows in metrics how it stands: nothing of an earlier snapshot counts here.
    pub fn show(&self) {
        self.metrics.taken_out(!self.is_well());
        self.metrics.leaked(self.leaked.load(Relaxed));
    }

    /// Whether nothing has taken the filter out.
    pub fn is_well(&self) -> bool {
        !self.stopped.load(Relaxed) && self.circuit.state() == State::Closed
    }

    /// Asked before each run.
    pub fn pass(&self) -> Option<Passed<'_>> {
        if self.stopped.load(Relaxed) {
            return None;
        }
        let pass = match &self.breaker {
            None => Pass::Free,
            Some(breaker) => {
                let (pass, changed) = self.circuit.admit(breaker, clock::now());
                if changed {
                    self.tell();
                }
                pass
            }
        };
        (pass != Pass::Refused).then_some(Passed { guard: self, pass, judged: false })
    }

    /// Bytes that a run left behind.
    pub fn leaked(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let leaked = self.leaked.fetch_add(bytes, Relaxed).saturating_add(bytes);
        self.metrics.leaked(leaked);
        if leaked > self.most && !self.stopped.swap(true, Relaxed) {
            self.metrics.taken_out(true);
            let Self { name, most, .. } = self;
            log::error!(
                "filter {name}: out until the next reload: its runs left {leaked} bytes behind, in \
                 values that hold each other, and {most} are allowed"
            );
        }
    }

    fn tell(&self) {
        let (name, state) = (&self.name, self.circuit.state());
        self.metrics.taken_out(state != State::Closed);
        match state {
            State::Open => log::error!("filter {name}: out for a while, as it faults too often"),
            State::HalfOpen => log::info!("filter {name}: tried again"),
            State::Closed => log::info!("filter {name}: back, as it works again"),
        }
    }
}

impl Passed<'_> {
    /// What came of the run.
    pub fn judge(mut self, faulted: bool) {
        self.judged = true;
        let Some(breaker) = &self.guard.breaker else { return };
        if self.guard.circuit.judge(breaker, self.pass, faulted, clock::now()) {
            self.guard.tell();
        }
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        if !self.judged && self.pass == Pass::Probe {
            self.guard.circuit.abandon();
        }
    }
}
