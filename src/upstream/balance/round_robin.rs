//! `round_robin`: a fixed round in which each endpoint stands as often as its weight says.
//!
//! The round is laid out once, with the turns of each endpoint spread evenly over it, so that
//! choosing is one atomic addition.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Member;

/// Turns in a round at most (4 bytes each); larger weights are scaled down to fit.
const MAX_TURNS: u64 = 1 << 16;

pub(super) struct RoundRobin {
    round: Box<[u32]>,
    next: AtomicUsize,
}

impl RoundRobin {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { round: lay_out(&turns(members)), next: AtomicUsize::new(0) }
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        may: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        let len = self.round.len();
        if len == 0 {
            return None;
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        for step in 0..len {
            let index = self.round[start.wrapping_add(step) % len] as usize;
            if may(&members[index]) {
                if step > 0 {
                    // The turns passed over are used up; the neighbour would get them all otherwise.
                    self.next.fetch_add(step, Ordering::Relaxed);
                }
                return Some(index);
            }
        }
        None
    }
}

/// How often each member stands in a round: its weight, in lowest terms.
fn turns(members: &[Member]) -> Vec<u64> {
    let weights = members.iter().map(|member| u64::from(member.weight).max(1));
    let divisor = weights.clone().fold(0, gcd).max(1);
    let total: u64 = weights.clone().map(|weight| weight / divisor).sum();
    if total <= MAX_TURNS {
        return weights.map(|weight| weight / divisor).collect();
    }
    weights.map(|weight| (weight / divisor * MAX_TURNS / total).max(1)).collect()
}

/// Puts the k-th of a member's n turns at (k + ½) / n of the round.
fn lay_out(turns: &[u64]) -> Box<[u32]> {
    let mut places: Vec<(f64, u32)> = Vec::new();
    for (member, count) in (0u32..).zip(turns) {
        places.extend((0..*count).map(|k| ((k as f64 + 0.5) / *count as f64, member)));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places.into_iter().map(|(_, member)| member).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
