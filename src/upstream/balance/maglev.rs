//! `maglev`: a table from keys to endpoints, filled so that few keys move when endpoints change.
//!
//! Google's algorithm (Eisenbud et al., NSDI 2016): each endpoint has a permutation of the table's
//! places, and they take turns, as often as their weights say, at taking their next free one.

use super::Member;
use super::rendezvous;
use super::rng::mix;

/// A prime, as permutations need, and 65 places for each of a thousand endpoints.
const PLACES: usize = 65_537;

/// Further places asked when the first one's endpoint is out.
const MORE: u64 = 8;

const FREE: u16 = u16::MAX;

pub(super) struct Maglev {
    table: Box<[u16]>,
}

impl Maglev {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { table: fill(members) }
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        key: u64,
        may: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        for step in 0..=MORE {
            let place = if step == 0 { key } else { mix(key.wrapping_add(step)) };
            let index = usize::from(*self.table.get(place as usize % PLACES)?);
            if may(members.get(index)?) {
                return Some(index);
            }
        }
        rendezvous::choose(members, key, may)
    }
}

fn fill(members: &[Member]) -> Box<[u16]> {
    let heaviest = members.iter().map(|member| member.weight).max().unwrap_or(0);
    if heaviest == 0 || members.len() >= usize::from(FREE) {
        return Box::default();
    }
    let mut table = vec![FREE; PLACES];
    let mut walks: Vec<Walk> = members.iter().map(Walk::new).collect();
    let mut left = PLACES;
    for round in 1u64.. {
        for (index, (walk, member)) in (0u16..).zip(walks.iter_mut().zip(members)) {
            // The heaviest takes a place in each round, one of half its weight in every other.
            let due = round * u64::from(member.weight) / u64::from(heaviest);
            while walk.taken < due {
                let place = walk.next_free(&table);
                table[place] = index;
                walk.taken += 1;
                left -= 1;
                if left == 0 {
                    return table.into();
                }
            }
        }
    }
    table.into()
}

/// A member's permutation and how far it got.
struct Walk {
    place: usize,
    skip: usize,
    taken: u64,
}

impl Walk {
    fn new(member: &Member) -> Self {
        let id = member.endpoint.id();
        let place = mix(id) as usize % PLACES;
        let skip = mix(id ^ u64::MAX) as usize % (PLACES - 1) + 1;
        Self { place, skip, taken: 0 }
    }

    /// There is one, and the walk comes by all places before it repeats.
    fn next_free(&mut self, table: &[u16]) -> usize {
        loop {
            let place = self.place;
            self.place = (self.place + self.skip) % PLACES;
            if table[place] == FREE {
                return place;
            }
        }
    }
}
