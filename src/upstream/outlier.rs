//! Passive health: how an endpoint's answers went, and when it is ejected for that.
//!
//! The counts are an endpoint's, the judgement is its pool's. Rows of failures are judged as they
//! come, shares and times against those of the other endpoints at each interval.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;

use super::clock;
use super::endpoint::{Endpoint, Reason};
use super::pool::Pool;
use crate::config::upstreams::Outlier;

/// Endpoints that it takes to say what is usual.
const PEERS: usize = 3;

/// Doublings of the first ejection at most: enough to reach any maximum.
const DOUBLINGS: u32 = 20;

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered(StatusCode),
    /// No connection, or TLS failed.
    NotConnected,
    /// The exchange broke, or what came was no HTTP.
    Broken,
    TimedOut,
}

impl Outcome {
    /// Whether it counts as a failure of the origin.
    pub fn failed(self) -> bool {
        match self {
            Self::Answered(status) => status.is_server_error(),
            Self::NotConnected | Self::Broken | Self::TimedOut => true,
        }
    }

    fn is_local(self) -> bool {
        !matches!(self, Self::Answered(_))
    }

    fn is_gateway(self) -> bool {
        match self {
            Self::Answered(status) => matches!(status.as_u16(), 502..=504),
            _ => true,
        }
    }
}

/// What is counted of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// In a row.
    failures: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    /// Since the last interval.
    total: AtomicU32,
    failed: AtomicU32,
    answered: AtomicU32,
    nanos: AtomicU64,
    /// How often it was ejected lately.
    ejections: AtomicU32,
    /// When the ejection ends, and after it when the last one ended.
    until: AtomicU64,
}

/// One interval's counts.
struct Sample {
    endpoint: Arc<Endpoint>,
    success: f64,
    latency: f64,
}

impl Record {
    fn count(&self, outcome: Outcome, took: Duration) {
        let row = |counter: &AtomicU32, hit: bool| match hit {
            true => drop(counter.fetch_add(1, Relaxed)),
            // A store only where there is something to clear: all answers share this line.
            false if counter.load(Relaxed) > 0 => counter.store(0, Relaxed),
            false => {}
        };
        row(&self.failures, outcome.failed());
        row(&self.gateway, outcome.is_gateway());
        row(&self.local, outcome.is_local());
        self.total.fetch_add(1, Relaxed);
        if outcome.failed() {
            self.failed.fetch_add(1, Relaxed);
        }
        if !outcome.is_local() {
            self.answered.fetch_add(1, Relaxed);
            self.nanos.fetch_add(clock::nanos(took), Relaxed);
        }
    }

    fn clear_rows(&self) {
        for row in [&self.failures, &self.gateway, &self.local] {
            row.store(0, Relaxed);
        }
    }

    /// The row that is too long, in words, and its label.
    fn too_many(&self, config: &Outlier) -> Option<(&'static str, String)> {
        let rows = [
            (&self.local, config.consecutive_local, "local", "attempts without an answer"),
            (&self.gateway, config.consecutive_gateway, "gateway", "gateway errors"),
            (&self.failures, config.consecutive_5xx, "5xx", "failures"),
        ];
        rows.into_iter().find_map(|(row, limit, label, what)| {
            let count = row.load(Relaxed);
            (limit > 0 && count >= limit).then(|| (label, format!("{count} {what} in a row")))
        })
    }

    /// Takes the interval's counts; `None` if they are too few to say anything.
    fn take(&self, endpoint: &Arc<Endpoint>, at_least: u32) -> Option<Sample> {
        let total = self.total.swap(0, Relaxed);
        let failed = self.failed.swap(0, Relaxed);
        let answered = self.answered.swap(0, Relaxed);
        let nanos = self.nanos.swap(0, Relaxed);
        (total >= at_least.max(1)).then(|| Sample {
            endpoint: Arc::clone(endpoint),
            success: 100.0 * f64::from(total.saturating_sub(failed)) / f64::from(total),
            latency: nanos as f64 / f64::from(answered.max(1)),
        })
    }
}

/// An attempt at `endpoint` ended: count it, and eject what fails too often in a row.
pub(super) fn observe(pool: &Pool, endpoint: &Arc<Endpoint>, outcome: Outcome, took: Duration) {
    let Some(config) = &pool.config().outlier else { return };
    endpoint.record.count(outcome, took);
    if !outcome.failed() || endpoint.is_out_for(Reason::Ejected) {
        return;
    }
    if let Some((label, why)) = endpoint.record.too_many(config) {
        eject(pool, config, endpoint, label, &why);
    }
}

/// Ends ejections that are over.
pub(super) fn release(pool: &Pool, now: u64) {
    let Some(config) = &pool.config().outlier else { return };
    for member in pool.balancer().members() {
        let (endpoint, record) = (&member.endpoint, &member.endpoint.record);
        let until = record.until.load(Relaxed);
        if endpoint.is_out_for(Reason::Ejected) {
            if now >= until {
                record.clear_rows();
                pool.let_in(endpoint, Reason::Ejected, "its ejection is over");
            }
        } else if until > 0 && clock::between(until, now) >= config.max_ejection {
            record.ejections.store(0, Relaxed);
            record.until.store(0, Relaxed);
        }
    }
}

/// Compares the endpoints over the interval that ends.
pub(super) fn compare(pool: &Pool) {
    let Some(config) = &pool.config().outlier else { return };
    let balancer = pool.balancer();
    let endpoints = balancer.members().iter().map(|member| &member.endpoint);
    let samples: Vec<Sample> = endpoints
        .filter_map(|endpoint| endpoint.record.take(endpoint, config.min_requests))
        .collect();
    if samples.len() < PEERS {
        return;
    }
    let success = median(samples.iter().map(|sample| sample.success));
    let latency = median(samples.iter().map(|sample| sample.latency));
    for sample in samples.iter().filter(|sample| !sample.endpoint.is_out_for(Reason::Ejected)) {
        let below = config.success_rate_below;
        if below.is_some_and(|points| sample.success + f64::from(points.0) < success) {
            let why = format!("{:.0}% succeed, of others {success:.0}%", sample.success);
            eject(pool, config, &sample.endpoint, "success_rate", &why);
        } else if config
            .latency_above
            .is_some_and(|times| sample.latency > latency * f64::from(times))
        {
            let why = format!("{:.0} ms, others {:.0} ms", sample.latency / 1e6, latency / 1e6);
            eject(pool, config, &sample.endpoint, "latency", &why);
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Takes `endpoint` out for a while, unless too many are out already.
fn eject(pool: &Pool, config: &Outlier, endpoint: &Arc<Endpoint>, label: &'static str, why: &str) {
    let _one_at_a_time = pool.ejecting().lock();
    if endpoint.is_out_for(Reason::Ejected) || !may_eject(pool, config, endpoint) {
        return;
    }
    let record = &endpoint.record;
    let times = record.ejections.fetch_add(1, Relaxed).min(DOUBLINGS);
    let time = config.ejection.saturating_mul(1 << times).min(config.max_ejection);
    record.until.store(clock::now().saturating_add(clock::nanos(time)), Relaxed);
    pool.metrics().ejection(label);
    pool.take_out(endpoint, Reason::Ejected, &format!("{why}, for {time:?}"));
}

/// The share that may be out, at least one; and one that takes traffic must remain.
fn may_eject(pool: &Pool, config: &Outlier, endpoint: &Arc<Endpoint>) -> bool {
    let balancer = pool.balancer();
    let members = balancer.members();
    let ejected = members.iter().filter(|m| m.endpoint.is_out_for(Reason::Ejected)).count();
    let allowed = (members.len() * config.max_ejected.0 as usize / 100).max(1);
    let others = members
        .iter()
        .any(|member| !Arc::ptr_eq(&member.endpoint, endpoint) && balancer.well(&member.endpoint));
    config.max_ejected.0 > 0 && ejected < allowed && others
}
