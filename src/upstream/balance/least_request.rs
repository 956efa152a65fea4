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
        let first = self.weights.draw(members, &may)?;
        let other = |member: &Member| {
            !std::sync::Arc::ptr_eq(&member.endpoint, &members[first].endpoint) && may(member)
        };
        let Some(second) = self.weights.draw(members, other) else {
            return Some(first);
        };
        Some(if busier(&members[first], &members[second]) { second } else { first })
    }
}

/// Whether `a` has more in flight for its weight than `b`.
fn busier(a: &Member, b: &Member) -> bool {
    let load = |member: &Member| member.endpoint.in_flight() as u64;
    load(a) * u64::from(b.weight) > load(b) * u64::from(a.weight)
}
