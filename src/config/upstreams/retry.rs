//! Which failures are tried again, what that may cost, and how long it waits.

use std::time::Duration;

use http::{Method, StatusCode};

use super::watching::Statuses;
use crate::config::problem::Problems;
use crate::config::read::{At, choice, section};
use crate::config::values::Percent;

/// How further endpoints are tried; how many is `retries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    pub on: Vec<RetryOn>,
    pub status: Option<Statuses>,
    /// Those that may be repeated though they are not idempotent.
    pub methods: Vec<Method>,
    /// The share of the requests under way that may be repetitions.
    pub budget: Percent,
    /// As many may be repetitions in any case.
    pub budget_min: u32,
    /// The first wait at most; each further one is up to twice as long.
    pub backoff: Duration,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    Connect,
    Reset,
    Timeout,
    RefusedStream,
}

section! {
    /// Which requests are tried again, and how; how often is `retries`.
    pub struct RawRetry as "retry" {
        /// `connect`: no connection. `reset`: it broke before the answer, or what came was none.
        /// `timeout`: no answer within `first_byte`. `refused_stream`: an HTTP/2 origin did not
        /// begin with it.
        on: Vec<RetryOn> = "[connect, reset, timeout, refused_stream]",
        /// Answers that are not passed on while another endpoint can be tried, such as `503` or
        /// `[502, 503, 504]`.
        status: Option<At<Statuses>>,
        /// Methods that may be repeated besides the idempotent ones. Say it only of origins that
        /// know a repetition when they see it.
        methods: Vec<Method> = "[]",
        /// The share of an upstream's requests under way that may be repetitions. A repetition
        /// after a connection that could not be made does not count: no origin saw that.
        budget: At<Percent> = "20%",
        /// So many may be repetitions in any case.
        budget_min: At<u32> = "3",
        /// The longest wait before the first repetition; the wait is random, and its bound doubles
        /// with each further one, up to ten times this.
        backoff: At<Duration> = "25ms",
    }
}

choice!(RetryOn {
    "connect" => RetryOn::Connect,
    "reset" => RetryOn::Reset,
    "timeout" => RetryOn::Timeout,
    "refused_stream" => RetryOn::RefusedStream,
});

const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

pub fn resolve_retry(raw: RawRetry, problems: &mut Problems) -> Retry {
    if let Some(status) = raw.status.as_ref().filter(|all| all.value.contain(StatusCode::OK)) {
        status.problem(problems, "200 is a success, which needs no repetition", None);
    }
    if raw.budget.value == Percent(0) && raw.budget_min.value == 0 {
        let hint = Some("retries: 0 switches repetitions off".into());
        raw.budget_min.problem(problems, "this budget allows no repetition", hint);
    }
    if raw.backoff.value > LONGEST_BACKOFF {
        raw.backoff.problem(problems, "a backoff is at most 10s", None);
    }
    Retry {
        on: raw.on,
        status: raw.status.map(|status| status.value),
        methods: raw.methods,
        budget: raw.budget.value,
        budget_min: raw.budget_min.value,
        backoff: raw.backoff.value,
    }
}
