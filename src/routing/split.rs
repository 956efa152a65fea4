//! Shares of a route's requests for several upstreams: a canary, or a move from one to another.

use xxhash_rust::xxh64::xxh64;

use super::conditions::Conditions;
use super::router::RequestView;
use crate::config::traffic;

/// Not the seed by which an upstream hashes: else all that goes to a small share would meet at a
/// few of its endpoints.
const SEED: u64 = 0x73_70_6c_69_74;

/// A split, ready to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    parts: Box<[(u32, Conditions)]>,
    total: u64,
}

impl Split {
    /// Fails with the reason if no request can fulfil a part's conditions.
    pub fn build(config: &traffic::Split) -> Result<Self, String> {
        let part = |part: &traffic::Part| Ok((part.weight, Conditions::new(&part.conditions)?));
        let parts = config.parts.iter().map(part).collect::<Result<Box<[_]>, String>>()?;
        let total = parts.iter().map(|(weight, _)| u64::from(*weight)).sum();
        Ok(Self { parts, total })
    }

    /// The part for `request`: the first whose conditions it fulfils, else the one in whose share
    /// `key` falls. A share that grows takes keys from its neighbours and gives none away.
    pub fn choose(&self, request: &RequestView<'_>, key: &[u8]) -> usize {
        let fulfilled = |(_, conditions): &(u32, Conditions)| {
            !conditions.is_empty() && conditions.hold(request)
        };
        if let Some(index) = self.parts.iter().position(fulfilled) {
            return index;
        }
        let wide = u128::from(xxh64(key, SEED)) * u128::from(self.total);
        let mut place = (wide >> 64) as u64;
        for (index, (weight, _)) in self.parts.iter().enumerate() {
            match place.checked_sub(u64::from(*weight)) {
                Some(beyond) => place = beyond,
                None => return index,
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::config::routes::{Condition, ConditionOn, Test};

    fn split(weights: &[u32]) -> Split {
        let part = |(upstream, weight): (usize, &u32)| traffic::Part {
            upstream,
            weight: *weight,
            conditions: Vec::new(),
        };
        let parts = weights.iter().enumerate().map(part).collect();
        Split::build(&traffic::Split { by: None, parts }).expect("a split")
    }

    fn choose(split: &Split, headers: &HeaderMap, key: u32) -> usize {
        let view = RequestView { host: "a", path: "/", method: &Method::GET, headers, query: None };
        split.choose(&view, &key.to_be_bytes())
    }

    fn shares(split: &Split) -> Vec<usize> {
        let chosen = (0..10_000).map(|key| choose(split, &HeaderMap::new(), key));
        let mut shares = vec![0; split.parts.len()];
        chosen.for_each(|index| shares[index] += 1);
        shares
    }

    #[test]
    fn shares_follow_the_weights() {
        let found = shares(&split(&[90, 7, 3, 0]));
        for (found, expected) in found.iter().zip([9000usize, 700, 300, 0]) {
            assert!(found.abs_diff(expected) <= expected / 5, "{found} instead of {expected}");
        }
        assert_eq!(shares(&split(&[0, 1])), [0, 10_000]);
    }

    #[test]
    fn a_canary_that_grows_keeps_those_it_has() {
        let (small, large) = (split(&[95, 5]), split(&[80, 20]));
        for key in 0..10_000 {
            let was = choose(&small, &HeaderMap::new(), key);
            let is = choose(&large, &HeaderMap::new(), key);
            assert!(was == 0 || is == 1, "{key} left the canary");
        }
    }

    #[test]
    fn conditions_come_before_shares() {
        let mut config = traffic::Split { by: None, parts: Vec::new() };
        let on = |name: &str| Condition {
            on: ConditionOn::Header(name.to_owned()),
            test: Test::Present,
        };
        for (upstream, weight, conditions) in [(0, 1, Vec::new()), (1, 0, vec![on("x-canary")])] {
            config.parts.push(traffic::Part { upstream, weight, conditions });
        }
        let split = Split::build(&config).expect("a split");
        let mut headers = HeaderMap::new();
        assert_eq!((0..100).filter(|key| choose(&split, &headers, *key) == 1).count(), 0);
        headers.insert("x-canary", "1".parse().expect("a value"));
        assert_eq!((0..100).filter(|key| choose(&split, &headers, *key) == 0).count(), 0);
    }
}
