//! Drawing a member at random, in proportion to the weights.

use super::Member;
use super::rng;

/// Draws over all members until one passes; beyond, those that pass are drawn from in one walk.
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
        self.draw_except(members, usize::MAX, &may)
    }

    /// One that passes, and another one if there is one.
    pub(super) fn draw_two(
        &self,
        members: &[Member],
        may: impl Fn(&Member) -> bool,
    ) -> Option<(usize, Option<usize>)> {
        let first = self.draw_except(members, usize::MAX, &may)?;
        Some((first, self.draw_except(members, first, &may)))
    }

    fn draw_except(
        &self,
        members: &[Member],
        except: usize,
        may: &impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        let total = self.sums.last().copied().filter(|total| *total > 0)?;
        for _ in 0..DRAWS {
            let point = rng::below(total);
            let index = self.sums.partition_point(|sum| *sum <= point);
            if index != except && members.get(index).is_some_and(may) {
                return Some(index);
            }
        }
        draw_by_walk(members, except, may)
    }
}

/// Each that passes replaces the one before with the likelihood of its weight among those so far,
/// so that one walk is enough and nothing has to be noted.
fn draw_by_walk(
    members: &[Member],
    except: usize,
    may: &impl Fn(&Member) -> bool,
) -> Option<usize> {
    let (mut drawn, mut total) = (None, 0);
    for (index, member) in members.iter().enumerate() {
        if index != except && may(member) {
            let weight = u64::from(member.weight).max(1);
            total += weight;
            if rng::below(total) < weight {
                drawn = Some(index);
            }
        }
    }
    drawn
}
