//! `random`: each request draws an endpoint, in proportion to the weights.

use super::Member;
use super::weights::Weights;

pub(super) struct Random {
    weights: Weights,
}

impl Random {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { weights: Weights::new(members) }
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        may: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        self.weights.draw(members, may)
    }
}
