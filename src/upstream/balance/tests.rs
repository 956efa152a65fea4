//! What holds for every algorithm, over pools made at random, and how well each keeps to weights.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{Ask, Balancer, Member, NoChoice};
use crate::config::upstreams::{Balance, HashKey, Upstream};
use crate::config::values::Percent;
use crate::upstream::endpoint::{Endpoint, Reason};
use crate::upstream::tests::upstream;

const ALL: [Balance; 6] = [
    Balance::RoundRobin,
    Balance::LeastRequest,
    Balance::PeakEwma,
    Balance::Random,
    Balance::Hash(HashKey::ClientIp),
    Balance::Maglev(HashKey::ClientIp),
];
const HASHING: [Balance; 2] =
    [Balance::Hash(HashKey::ClientIp), Balance::Maglev(HashKey::ClientIp)];

fn member(port: u16, weight: u32) -> Member {
    let address = SocketAddr::from(([10, 0, 0, 1], port));
    Member { endpoint: Endpoint::new(address.into()), weight, priority: 0, region: None }
}

fn members(weights: &[u32]) -> Arc<[Member]> {
    (1u16..).zip(weights).map(|(port, weight)| member(port, *weight)).collect()
}

/// With checks, so that their verdict counts.
fn config(balance: &Balance) -> Upstream {
    Upstream {
        balance: balance.clone(),
        regions: ["near".into(), "far".into()].to_vec(),
        ..crate::upstream::tests::checked(&[])
    }
}

fn balancer(balance: &Balance, members: &Arc<[Member]>) -> Balancer {
    Balancer::new(&config(balance), Arc::clone(members))
}

fn fail(member: &Member) {
    member.endpoint.take_out(Reason::Unhealthy, "for the test");
}

fn pick(balancer: &Balancer, key: u32) -> Arc<Endpoint> {
    let ask = Ask { key: &key.to_be_bytes(), ..Ask::default() };
    Arc::clone(&balancer.pick(&ask).expect("somebody").endpoint)
}

/// How often each endpoint is picked, in the members' order.
fn tally(balancer: &Balancer, picks: u32) -> Vec<u32> {
    let mut counts = HashMap::new();
    for key in 0..picks {
        *counts.entry(pick(balancer, key).id()).or_insert(0) += 1;
    }
    let count = |member: &Member| counts.get(&member.endpoint.id()).copied().unwrap_or(0);
    balancer.members().iter().map(count).collect()
}

proptest! {
    // Six pools are built for each case, of which maglev's table takes a while in a debug build.
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Each member is given a weight, a priority, whether it is healthy and whether it was tried.
    #[test]
    fn only_what_may_be_picked_is(
        made in prop::collection::vec((1u32..20, 0u32..3, any::<bool>(), any::<bool>()), 1..8),
        key in any::<u32>(),
        panics in any::<bool>(),
    ) {
        let all: Arc<[Member]> = (1u16..)
            .zip(&made)
            .map(|(port, made)| Member { priority: made.1, ..member(port, made.0) })
            .collect();
        let mut skip = Vec::new();
        for (member, (_, _, healthy, tried)) in all.iter().zip(&made) {
            if !healthy {
                fail(member);
            }
            if *tried {
                skip.push(Arc::clone(&member.endpoint));
            }
        }
        let panic_below = Percent(if panics { 50 } else { 0 });
        for balance in &ALL {
            let config = Upstream { panic_below, ..config(balance) };
            let balancer = Balancer::new(&config, Arc::clone(&all));
            let all_down = made.iter().all(|m| !m.2);
            let some_well = made.iter().any(|m| !m.3 && m.2);
            let some_untried = made.iter().any(|m| !m.3);
            for step in 0..20 {
                let key = key.wrapping_add(step).to_be_bytes();
                let picked = balancer.pick(&Ask { key: &key, skip: &skip, ..Ask::default() });
                if some_well {
                    prop_assert!(picked.is_ok(), "{:?}", balance);
                } else if !panics || !some_untried {
                    prop_assert!(picked.is_err(), "{:?}", balance);
                } else if all_down {
                    prop_assert!(picked.is_ok(), "{:?}: all count as healthy", balance);
                }
                let Ok(picked) = picked else { break };
                let endpoint = &picked.endpoint;
                prop_assert!(!skip.iter().any(|e| Arc::ptr_eq(e, endpoint)), "{:?}", balance);
                prop_assert!(endpoint.healthy() || balancer.in_panic(), "{:?}", balance);
            }
        }
    }

    #[test]
    fn round_robin_is_exact_over_a_round(weights in prop::collection::vec(1u32..30, 1..8)) {
        let total = weights.iter().sum();
        prop_assert_eq!(tally(&balancer(&ALL[0], &members(&weights)), total), weights);
    }

    /// Nobody waits for ever, however light.
    #[test]
    fn nobody_starves(weights in prop::collection::vec(1u32..8, 2..7)) {
        for balance in &ALL {
            let counts = tally(&balancer(balance, &members(&weights)), 3000);
            prop_assert!(counts.iter().all(|count| *count > 0), "{:?}: {:?}", balance, counts);
        }
    }
}

#[test]
fn the_others_come_near_the_weights() {
    for balance in &ALL[1..] {
        let counts = tally(&balancer(balance, &members(&[1, 2, 5])), 80_000);
        let spread: f64 = match balance {
            // A ring is uneven by its nature.
            Balance::Hash(_) => 0.25,
            _ => 0.05,
        };
        for (count, want) in counts.iter().zip([10_000, 20_000, 50_000]) {
            let off = f64::from(count.abs_diff(want)) / f64::from(want);
            assert!(off < spread, "{balance:?}: {counts:?}");
        }
    }
}

#[test]
fn a_downed_neighbours_turns_are_shared() {
    for balance in [Balance::RoundRobin, Balance::Random] {
        let members = members(&[1, 1, 1]);
        fail(&members[1]);
        let counts = tally(&balancer(&balance, &members), 3000);
        assert!(counts[1] == 0 && counts[0].abs_diff(counts[2]) < 300, "{balance:?}: {counts:?}");
    }
}

#[test]
fn the_busy_are_avoided() {
    for balance in [Balance::LeastRequest, Balance::PeakEwma] {
        let members = members(&[1, 1]);
        members[0].endpoint.in_flight.store(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(tally(&balancer(&balance, &members), 100), [0, 100], "{balance:?}");
    }
}

#[test]
fn peak_ewma_avoids_the_slow() {
    let members = members(&[1, 1, 1]);
    for (member, millis) in members.iter().zip([10, 100, 12]) {
        let took = Duration::from_millis(millis);
        member.endpoint.latency.observe(took, false, crate::upstream::clock::now());
    }
    let counts = tally(&balancer(&Balance::PeakEwma, &members), 300);
    assert_eq!(counts[1], 0, "of two drawn, the slow one always loses: {counts:?}");
}

#[test]
fn hashing_is_stable_and_only_keys_of_the_dead_move() {
    for balance in &HASHING {
        let members = members(&[1, 1, 1, 1]);
        let balancer = balancer(balance, &members);
        let place = |key: u32| pick(&balancer, key).id();
        let before: Vec<_> = (0..1000).map(place).collect();
        assert_eq!(before, (0..1000).map(place).collect::<Vec<_>>(), "{balance:?}");
        fail(&members[0]);
        let down = members[0].endpoint.id();
        for (key, was) in (0..1000).zip(before) {
            assert!(was == down || place(key) == was, "{balance:?}: key {key} moved needlessly");
        }
    }
}

#[test]
fn few_keys_move_when_a_member_joins() {
    for balance in &HASHING {
        let (four, five) = (members(&[1; 4]), members(&[1; 5]));
        let (before, after) = (balancer(balance, &four), balancer(balance, &five));
        let newcomer = five[4].endpoint.id();
        let (mut joined, mut needless) = (0, 0);
        for key in 0..10_000 {
            let (was, is) = (pick(&before, key).id(), pick(&after, key).id());
            match is == newcomer {
                true => joined += 1,
                false => needless += u32::from(was != is),
            }
        }
        assert!((1000..3000).contains(&joined), "{balance:?}: the fifth has {joined}");
        assert!(needless < 600, "{balance:?}: {needless} moved between the others");
    }
}

#[test]
fn the_largest_pools_are_built_and_picked_from() {
    let weights: Vec<u32> = (0..1000).map(|i| i + 1).collect();
    let members = members(&weights);
    for balance in &ALL {
        assert!(balancer(balance, &members).pick(&Ask::default()).is_ok(), "{balance:?}");
    }
}

/// Two members in each of two regions.
fn two_regions() -> Arc<[Member]> {
    let region = |port: u16| Some(if port < 3 { "near" } else { "far" }.into());
    (1..5).map(|port| Member { region: region(port), ..member(port, 1) }).collect()
}

#[test]
fn what_the_near_region_cannot_take_spills_over() {
    for balance in &ALL {
        let members = two_regions();
        let balancer = balancer(balance, &members);
        let far = |counts: &[u32]| counts[2] + counts[3];
        assert_eq!(far(&tally(&balancer, 1000)), 0, "{balance:?}: all healthy");
        fail(&members[0]);
        balancer.refresh();
        // One of two, times the provision: seven in ten stay.
        let spilt = far(&tally(&balancer, 10_000));
        assert!((2700..3300).contains(&spilt), "{balance:?}: {spilt}");
        fail(&members[1]);
        balancer.refresh();
        let counts = tally(&balancer, 1000);
        assert_eq!(far(&counts), 1000, "{balance:?}: {counts:?}");
        assert!(!balancer.in_panic(), "{balance:?}: the far region is well");
    }
}

#[test]
fn traffic_comes_back_to_a_region_as_it_warms_up() {
    let members = two_regions();
    let slow_start = Some(Duration::from_secs(3600));
    let config = Upstream { slow_start, ..config(&Balance::RoundRobin) };
    let balancer = Balancer::new(&config, Arc::clone(&members));
    for member in &members[..2] {
        fail(member);
        member.endpoint.let_in(Reason::Unhealthy);
    }
    balancer.refresh();
    let counts = tally(&balancer, 10_000);
    let near = counts[0] + counts[1];
    assert!((1100..1700).contains(&near), "a tenth, times the provision: {counts:?}");
}

#[test]
fn a_fence_is_never_crossed() {
    let near: Arc<str> = "near".into();
    let within = |balancer: &Balancer| {
        let ask = Ask { fence: std::slice::from_ref(&near), ..Ask::default() };
        balancer.pick(&ask).map(|member| member.region.clone())
    };
    for balance in &ALL {
        let members = two_regions();
        let config = Upstream { panic_below: Percent(0), ..config(balance) };
        let balancer = Balancer::new(&config, Arc::clone(&members));
        for dead in 0..2 {
            assert_eq!(within(&balancer), Ok(Some(Arc::clone(&near))), "{balance:?}");
            fail(&members[dead]);
            balancer.refresh();
        }
        assert_eq!(within(&balancer), Err(NoChoice::NoneWell), "{balance:?}");
        let elsewhere: Arc<str> = "moon".into();
        let ask = Ask { fence: &[elsewhere], ..Ask::default() };
        assert_eq!(balancer.pick(&ask).err(), Some(NoChoice::Fenced), "{balance:?}");
    }
}

#[test]
fn below_the_threshold_all_count_as_healthy() {
    let members = members(&[1; 4]);
    let balancer = balancer(&Balance::RoundRobin, &members);
    for dead in &members[..2] {
        fail(dead);
        balancer.refresh();
        assert!(!balancer.in_panic());
    }
    fail(&members[2]);
    balancer.refresh();
    assert!(balancer.in_panic());
    assert_eq!(tally(&balancer, 40), [10; 4]);
    // What an operator took out stays out.
    members[0].endpoint.take_out(Reason::Disabled, "for the test");
    balancer.refresh();
    assert_eq!(tally(&balancer, 300)[0], 0);
}

#[test]
fn a_sticky_request_stays_while_its_endpoint_is_drained_and_no_longer() {
    let members = members(&[1, 1]);
    let balancer = balancer(&Balance::RoundRobin, &members);
    let ask = Ask { prefer: Some(members[0].endpoint.id()), ..Ask::default() };
    let sticks = || {
        let picked = (0..10).map(|_| balancer.pick(&ask).expect("somebody").endpoint.id());
        picked.filter(|id| Some(*id) == ask.prefer).count()
    };
    assert_eq!(sticks(), 10);
    members[0].endpoint.take_out(Reason::Drained, "for the test");
    assert_eq!(sticks(), 10);
    assert_eq!(tally(&balancer, 10), [0, 10], "others do not go there");
    fail(&members[0]);
    assert_eq!(sticks(), 0);
}

#[test]
fn a_newcomer_comes_to_its_share_slowly() {
    for balance in &ALL[..4] {
        let members = members(&[1, 1]);
        let slow_start = Some(Duration::from_secs(3600));
        let config = Upstream { slow_start, ..config(balance) };
        let balancer = Balancer::new(&config, Arc::clone(&members));
        members[1].endpoint.warm_up();
        let counts = tally(&balancer, 10_000);
        assert!((200..2000).contains(&counts[1]), "{balance:?}: {counts:?}");
        fail(&members[0]);
        assert_eq!(tally(&balancer, 10), [0, 10], "{balance:?}: alone it takes all");
    }
}

#[test]
fn one_that_has_enough_to_do_is_passed_over() {
    let members = members(&[1, 1]);
    let mut config = upstream(&[]);
    config.caps.endpoint_requests = Some(2);
    let balancer = Balancer::new(&config, Arc::clone(&members));
    let busy = |member: &Member| {
        member.endpoint.in_flight.store(2, std::sync::atomic::Ordering::Relaxed);
    };
    busy(&members[0]);
    assert_eq!(tally(&balancer, 10), [0, 10]);
    busy(&members[1]);
    assert_eq!(balancer.pick(&Ask::default()).err(), Some(NoChoice::Full));
}
