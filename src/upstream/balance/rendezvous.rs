//! Where a key goes when those next to it are out: the highest of all scores (rendezvous hashing).
//!
//! It asks every member and so is slower than a ring or a table, but any part of the members may
//! be missing, and only the keys of a missing one move.

use super::Member;
use super::rng::mix;

pub(super) fn choose(members: &[Member], key: u64, may: impl Fn(&Member) -> bool) -> Option<usize> {
    let passing = members.iter().enumerate().filter(|(_, member)| may(member));
    passing
        .map(|(index, member)| (index, score(member, key)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(index, _)| index)
}

/// Wins as often as its weight says (Wang and Ravishankar's weighted form).
fn score(member: &Member, key: u64) -> f64 {
    // 53 bits and a half, so that the logarithm is never that of 0.
    let unit = ((mix(member.endpoint.id() ^ key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(member.weight.max(1)) / unit.ln()
}
