//! An attempt: one exchange with one endpoint, from its choice until it ends. What came of it is
//! told here, and so reaches the balancer, the ejection of outliers and the circuit breaker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::StatusCode;

use super::balance::{Ask, NoChoice};
use super::circuit::{Circuit, Pass};
use super::clock;
use super::endpoint::Endpoint;
use super::outlier::{self, Outcome};
use super::pool::Pool;
use crate::config::upstreams::Caps;

/// Choices of an endpoint that others filled up in the same moment.
const CHOICES: usize = 4;

/// Why a request is not let through to any endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no endpoint to try")]
    NoEndpoint,
    #[error("no endpoint within the fence")]
    Fenced,
    #[error("the limit of {0} is reached")]
    Full(Limit),
    #[error("the circuit is open")]
    CircuitOpen,
}

/// A limit of an upstream, by its key in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Requests,
    Pending,
    Connections,
    EndpointRequests,
    EndpointConnections,
}

impl Limit {
    pub fn label(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Pending => "pending",
            Self::Connections => "connections",
            Self::EndpointRequests => "endpoint_requests",
            Self::EndpointConnections => "endpoint_connections",
        }
    }
}

impl Refusal {
    /// As metrics count it; a lack of endpoints shows in their own.
    fn label(self) -> Option<&'static str> {
        match self {
            Self::NoEndpoint => None,
            Self::Fenced => Some("fence"),
            Self::Full(limit) => Some(limit.label()),
            Self::CircuitOpen => Some("circuit"),
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

/// What goes on in an upstream as a whole; outlives reloads.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) requests: AtomicU32,
    pub(super) pending: AtomicU32,
    pub(super) connections: AtomicU32,
    /// Repetitions that count against the budget.
    pub(super) repeating: AtomicU32,
    pub(super) circuit: Circuit,
}

impl Standing {
    fn enter(&self, caps: &Caps) -> Result<(), Refusal> {
        if !take(&self.requests, caps.requests) {
            return Err(Refusal::Full(Limit::Requests));
        }
        if !take(&self.pending, caps.pending) {
            self.requests.fetch_sub(1, Relaxed);
            return Err(Refusal::Full(Limit::Pending));
        }
        Ok(())
    }

    fn leave(&self) {
        self.pending.fetch_sub(1, Relaxed);
        self.requests.fetch_sub(1, Relaxed);
    }
}

/// Adds one unless there are `most` already.
pub(super) fn take(counter: &AtomicU32, most: Option<u32>) -> bool {
    let before = counter.fetch_add(1, Relaxed);
    let fits = most.is_none_or(|most| before < most);
    if !fits {
        counter.fetch_sub(1, Relaxed);
    }
    fits
}

/// An exchange going on with an endpoint.
#[must_use = "the exchange counts only while this is held"]
pub struct Attempt {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    began: u64,
    pass: Pass,
    pending: bool,
    judged: bool,
}

impl Attempt {
    pub(super) fn begin(pool: &Arc<Pool>, ask: &Ask<'_>) -> Result<Self, Refusal> {
        let standing = pool.standing();
        let begun = standing
            .enter(&pool.config().caps)
            .and_then(|()| Self::at_some_endpoint(pool, ask).inspect_err(|_| standing.leave()));
        begun.inspect_err(|refusal| {
            if let Some(label) = refusal.label() {
                pool.metrics().refused(label);
            }
        })
    }

    fn at_some_endpoint(pool: &Arc<Pool>, ask: &Ask<'_>) -> Result<Self, Refusal> {
        let pass = pool.pass_circuit().ok_or(Refusal::CircuitOpen)?;
        let endpoint = choose(pool, ask).inspect_err(|_| {
            if pass == Pass::Probe {
                pool.standing().circuit.abandon();
            }
        })?;
        let (pool, began) = (Arc::clone(pool), clock::now());
        Ok(Self { pool, endpoint, began, pass, pending: true, judged: false })
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// A connection stands: the request no longer waits for one.
    pub fn connected(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.pool.standing().pending.fetch_sub(1, Relaxed);
        }
    }

    /// The head of the final response came.
    pub fn answered(&mut self, status: StatusCode) {
        self.judge(Outcome::Answered(status));
    }

    /// There is no answer, and that is not the client's doing.
    pub fn failed(&mut self, outcome: Outcome) {
        self.judge(outcome);
    }

    /// Only the first word counts: what an origin does after its answer is not its health.
    fn judge(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.judged, true) {
            return;
        }
        let now = clock::now();
        let took = clock::between(self.began, now);
        self.endpoint.latency.observe(took, outcome.failed(), now);
        outlier::observe(&self.pool, &self.endpoint, outcome, took);
        self.pool.judge_circuit(self.pass, outcome.failed(), now);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.connected();
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
        let standing = self.pool.standing();
        standing.requests.fetch_sub(1, Relaxed);
        if !self.judged && self.pass == Pass::Probe {
            standing.circuit.abandon();
        }
    }
}

/// An endpoint with a place taken at it.
fn choose(pool: &Pool, ask: &Ask<'_>) -> Result<Arc<Endpoint>, Refusal> {
    let balancer = pool.balancer();
    for _ in 0..CHOICES {
        let member = balancer.pick(ask).map_err(|why| match why {
            NoChoice::NoneWell => Refusal::NoEndpoint,
            NoChoice::Fenced => Refusal::Fenced,
            NoChoice::Full => Refusal::Full(Limit::EndpointRequests),
        })?;
        if take(&member.endpoint.in_flight, pool.config().caps.endpoint_requests) {
            return Ok(Arc::clone(&member.endpoint));
        }
    }
    Err(Refusal::Full(Limit::EndpointRequests))
}
