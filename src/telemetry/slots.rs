//! A small map from label values to series that is read and filled without a lock.

use once_cell::sync::OnceCell;

/// Up to `N` values made at first use and found by a scan; past `N`, a value is made at each use.
#[derive(Debug)]
pub(super) struct Slots<K, V, const N: usize>([OnceCell<(K, V)>; N]);

impl<K: Copy + PartialEq, V, const N: usize> Slots<K, V, N> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| OnceCell::new()))
    }

    /// Calls `then` with the value of `key`; `make` runs at its first use only.
    pub(super) fn with(&self, key: K, make: impl Fn() -> V, then: impl FnOnce(&V)) {
        for slot in &self.0 {
            // The first empty slot becomes ours, or that of whoever was faster.
            let (found, value) = slot.get_or_init(|| (key, make()));
            if *found == key {
                return then(value);
            }
        }
        then(&make());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn makes_once_and_survives_overflow() {
        let slots: Slots<u8, u8, 2> = Slots::new();
        let made = Cell::new(0);
        let get = |key: u8| {
            let seen = Cell::new(0);
            slots.with(
                key,
                || {
                    made.set(made.get() + 1);
                    key * 10
                },
                |value| seen.set(*value),
            );
            seen.get()
        };
        assert_eq!([get(1), get(2), get(1), get(2)], [10, 20, 10, 20]);
        assert_eq!(made.get(), 2, "each made once");
        assert_eq!([get(3), get(3)], [30, 30]);
        assert_eq!(made.get(), 4, "past the end: made each time");
    }
}
