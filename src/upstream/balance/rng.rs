//! Random numbers for balancing: fast and without a lock, of no use where they must be secret.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
}

/// A number from 0 to below `bound`, which must not be 0. The bias is below 2⁻³² for bounds of 32 bits.
pub fn below(bound: u64) -> u64 {
    let wide = u128::from(next()) * u128::from(bound);
    (wide >> 64) as u64
}

fn next() -> u64 {
    STATE.with(|state| {
        let seed = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(seed);
        mix(seed)
    })
}

/// Spreads a number's bits over all 64: SplitMix64's last step (Steele, Lea, Flood 2014).
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
