//! `peak_ewma`: of two endpoints drawn by weight, the one whose answer is expected sooner.
//!
//! Expected is the latency of late, in which a peak counts at once, times the requests that the
//! endpoint has already (Finagle's load metric, behind the power of two choices).

use super::Member;
use super::weights::Weights;
use crate::upstream::clock;

/// Stands for the latency of an endpoint that has not answered yet, in nanoseconds: so small that
/// a first request goes there at once, and yet more than nothing, so that not all of them do.
const UNKNOWN: f64 = 1e5;

pub(super) struct PeakEwma {
    weights: Weights,
}

impl PeakEwma {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { weights: Weights::new(members) }
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        may: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        let (first, second) = self.weights.draw_two(members, may)?;
        let Some(second) = second else { return Some(first) };
        let now = clock::now();
        let dearer = cost(&members[first], now) > cost(&members[second], now);
        Some(if dearer { second } else { first })
    }
}

/// The weight counts for what goes on only: it is drawn by already, so two that are idle and as
/// quick must cost the same.
fn cost(member: &Member, now: u64) -> f64 {
    let expected = member.endpoint.latency.expected(now).max(UNKNOWN);
    expected * (1.0 + f64::from(member.endpoint.in_flight()) / f64::from(member.weight.max(1)))
}
