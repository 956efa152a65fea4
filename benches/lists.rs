//! A look-up in a dict and an ipset of a million entries, beside a plain `HashMap` in the same
//! run: `cargo bench --bench lists`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use selvedge::state::{Dict, IpSet, Live};

const ENTRIES: u32 = 1_000_000;
const LOOKUPS: u32 = 100_000;
const ROUNDS: usize = 10;

fn main() {
    let keys: Vec<String> = (0..ENTRIES).map(|n| format!("key{n:07}")).collect();
    let plain: HashMap<&str, u32> = keys.iter().map(String::as_str).zip(0..).collect();
    let mut csv = String::new();
    for (n, key) in keys.iter().enumerate() {
        let _ = writeln!(csv, "{key},value{n}");
    }
    let dict = Live::fixed(Dict::from_csv(&csv).expect("good"));
    let address = |n: u32| IpAddr::from((n << 2).to_be_bytes());
    let nets: Vec<IpNet> = (0..ENTRIES).map(|n| address(n).into()).collect();
    let set = Live::fixed(IpSet::new(&nets));

    let base = each(|n| black_box(plain.get(keys[n as usize].as_str())).is_some());
    println!("{:8} {base:>6.0} ns", "HashMap");
    let show = |name: &str, nanos: f64| println!("{name:8} {nanos:>6.0} ns {:>6.2}x", nanos / base);
    show("dict", each(|n| dict.read(|dict| black_box(dict.get(&keys[n as usize])).is_some())));
    show("ipset", each(|n| set.read(|set| black_box(set.contains(address(n))))));
}

/// Nanoseconds of one look-up that finds something: the best round.
fn each(found: impl Fn(u32) -> bool) -> f64 {
    let round = |_| {
        let began = Instant::now();
        // A step that leads everywhere.
        (0..LOOKUPS).for_each(|n| assert!(found(n * 7919 % ENTRIES)));
        began.elapsed().as_nanos() as f64 / f64::from(LOOKUPS)
    };
    (0..ROUNDS).map(round).fold(f64::MAX, f64::min)
}
