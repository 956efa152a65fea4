//! What holds for every algorithm, over pools made at random, and how well each keeps to weights.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Balancer, Member};
use crate::config::upstreams::{Balance, HashKey};
use crate::upstream::endpoint::Endpoint;

const ALL: [Balance; 4] =
    [Balance::RoundRobin, Balance::LeastRequest, Balance::Random, Balance::Hash(HashKey::ClientIp)];

fn members(weights: &[u32]) -> Arc<[Member]> {
    let member = |(port, weight): (u16, &u32)| Member {
        endpoint: Endpoint::new(SocketAddr::from(([10, 0, 0, 1], port))),
        weight: *weight,
    };
    (1u16..).zip(weights).map(member).collect()
}

/// How often each endpoint is picked, in the members' order.
fn tally(balance: &Balance, members: &Arc<[Member]>, picks: u32) -> Vec<u32> {
    let balancer = Balancer::new(balance, Arc::clone(members), true);
    let mut counts = HashMap::new();
    for key in 0..picks {
        let picked = balancer.pick(&key.to_be_bytes(), &[]).unwrap();
        *counts.entry(picked.address()).or_insert(0) += 1;
    }
    members.iter().map(|m| counts.get(&m.endpoint.address()).copied().unwrap_or(0)).collect()
}

proptest! {
    /// Each member is given a weight, whether it is healthy and whether it was tried.
    #[test]
    fn only_what_may_be_picked_is(
        made in prop::collection::vec((1u32..20, any::<bool>(), any::<bool>()), 1..8),
        key in any::<u64>(),
    ) {
        let members = members(&made.iter().map(|m| m.0).collect::<Vec<_>>());
        let mut skip = Vec::new();
        for (member, (_, healthy, tried)) in members.iter().zip(&made) {
            member.endpoint.set_healthy(*healthy);
            if *tried {
                skip.push(Arc::clone(&member.endpoint));
            }
        }
        let all_down = made.iter().all(|m| !m.1);
        let some = made.iter().any(|m| !m.2 && (m.1 || all_down));
        for balance in &ALL {
            let balancer = Balancer::new(balance, Arc::clone(&members), true);
            for step in 0..20 {
                let picked = balancer.pick(&key.wrapping_add(step).to_be_bytes(), &skip);
                prop_assert_eq!(picked.is_some(), some, "{:?}", balance);
                let Some(picked) = picked else { break };
                prop_assert!(!skip.iter().any(|e| Arc::ptr_eq(e, &picked)), "{:?}", balance);
                prop_assert!(picked.healthy() || all_down, "{:?}", balance);
            }
        }
    }

    #[test]
    fn round_robin_is_exact_over_a_round(weights in prop::collection::vec(1u32..30, 1..8)) {
        let total = weights.iter().sum();
        prop_assert_eq!(tally(&Balance::RoundRobin, &members(&weights), total), weights);
    }
}

#[test]
fn the_others_come_near_the_weights() {
    for balance in &ALL[1..] {
        let counts = tally(balance, &members(&[1, 2, 5]), 80_000);
        for (count, want) in counts.iter().zip([10_000, 20_000, 50_000]) {
            let off = f64::from(count.abs_diff(want)) / f64::from(want);
            assert!(off < 0.25, "{balance:?}: {counts:?}");
        }
    }
}

#[test]
fn a_downed_neighbours_turns_are_shared() {
    let members = members(&[1, 1, 1]);
    members[1].endpoint.set_healthy(false);
    for balance in [Balance::RoundRobin, Balance::Random] {
        let counts = tally(&balance, &members, 3000);
        assert!(counts[1] == 0 && counts[0].abs_diff(counts[2]) < 300, "{balance:?}: {counts:?}");
    }
}

#[test]
fn least_request_avoids_the_busy() {
    let members = members(&[1, 1]);
    let _busy = members[0].endpoint.begin();
    assert_eq!(tally(&Balance::LeastRequest, &members, 100), [0, 100]);
}

#[test]
fn hashing_is_stable_and_few_keys_move() {
    let four = members(&[1, 1, 1, 1]);
    let hash = &ALL[3];
    let balancer = Balancer::new(hash, Arc::clone(&four), true);
    let place = |key: u32| balancer.pick(&key.to_be_bytes(), &[]).unwrap().address();
    let before: Vec<_> = (0..1000).map(place).collect();
    assert_eq!(before, (0..1000).map(place).collect::<Vec<_>>());
    four[0].endpoint.set_healthy(false);
    let down = four[0].endpoint.address();
    for (key, was) in (0..1000).zip(before) {
        assert!(was == down || place(key) == was, "key {key} moved needlessly");
    }
}

#[test]
fn the_largest_pools_are_built_and_picked_from() {
    let weights: Vec<u32> = (0..1000).map(|i| i + 1).collect();
    let members = members(&weights);
    for balance in &ALL {
        let balancer = Balancer::new(balance, Arc::clone(&members), true);
        assert!(balancer.pick(b"key", &[]).is_some(), "{balance:?}");
    }
}
