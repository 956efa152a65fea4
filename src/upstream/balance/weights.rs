//! Drawing a member at random, in proportion to the weights.

use super::Member;
use super::rng;

/// Draws over all members until one passes; beyond, the passing ones are added up and drawn from.
const DRAWS: usize = 8;

/// The weights, added up for drawing.
pub(super) struct Weights {
    /// The sum of the weights up to and including each member.
    sums: Box<[u64]>,
}

impl Weights {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut total = 0;
        let add = |member: &Member| {
            total += u64::from(member.weight);
            total
        };
        Self { sums: members.iter().map(add).collect() }
    }

    /// One of the members that pass, each as likely as its weight says.
    pub(super) fn draw(&self, members: &[Member], may: impl Fn(&Member) -> bool) -> Option<usize> {
        let total = self.sums.last().copied().filter(|total| *total > 0)?;
        for _ in 0..DRAWS {
            let point = rng::below(total);
            let index = self.sums.partition_point(|sum| *sum <= point);
            if members.get(index).is_some_and(&may) {
                return Some(index);
            }
        }
        draw_by_scan(members, may)
    }
}

fn draw_by_scan(members: &[Member], may: impl Fn(&Member) -> bool) -> Option<usize> {
    // Health may change between two passes, so what passes is noted once.
    let passing: Vec<usize> = (0..members.len()).filter(|i| may(&members[*i])).collect();
    let total: u64 = passing.iter().map(|i| u64::from(members[*i].weight)).sum();
    if total == 0 {
        return passing.first().copied();
    }
    let mut point = rng::below(total);
    passing.into_iter().find(|index| {
        let weight = u64::from(members[*index].weight);
        let found = point < weight;
        point = point.saturating_sub(weight);
        found
    })
}
