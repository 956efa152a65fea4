//! `least_request`: of two endpoints drawn by weight, the less busy for its weight.
//!
//! The power of two choices: nearly as even as asking all, and no herd runs to the idlest one.

use super::Member;
use super::weights::Weights;

pub(super) struct LeastRequest {
    weights: Weights,
}

impl LeastRequest {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { weights: Weights::new(members) }
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        may: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        let (first, second) = self.weights.draw_two(members, may)?;
        let second = second.filter(|second| busier(&members[first], &members[*second]));
        Some(second.unwrap_or(first))
    }
}

/// Whether `a` has more in flight for its weight than `b`.
fn busier(a: &Member, b: &Member) -> bool {
    let load = |member: &Member| u64::from(member.endpoint.in_flight());
    load(a) * u64::from(b.weight) > load(b) * u64::from(a.weight)
}
