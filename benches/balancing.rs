//! What it costs to choose an endpoint, and a whole attempt: `cargo bench --bench balancing`.
//!
//! The bounds are 200 ns at 10 endpoints and 1 µs at 1,000 for the choice alone.

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use selvedge::config::{self, upstreams::Upstream};
use selvedge::telemetry::metrics::Metrics;
use selvedge::upstream::balance::Ask;
use selvedge::upstream::pool::Pool;

const PICKS: u32 = 100_000;
const ROUNDS: usize = 10;

const KINDS: [(&str, &str); 7] = [
    ("round_robin", "balance: round_robin"),
    ("least_request", "balance: least_request"),
    ("peak_ewma", "balance: peak_ewma"),
    ("random", "balance: random"),
    ("hash", "balance: hash, hash_by: { client_ip: true }"),
    ("maglev", "balance: maglev, hash_by: { client_ip: true }"),
    (
        "all of it",
        "balance: peak_ewma, slow_start: 10s, outlier: {}, breaker: {}, limits: { requests: 100000, endpoint_requests: 1000 }",
    ),
];

fn main() {
    println!(
        "{:16} {:>10} {:>10} {:>12} {:>12}",
        "ns", "choose 10", "of 1,000", "attempt 10", "of 1,000"
    );
    for (name, settings) in KINDS {
        let (few, many) = (pool(settings, 10), pool(settings, 1000));
        let choose = |pool: &Arc<Pool>| {
            best(|key| {
                let ask = Ask { key, ..Ask::default() };
                black_box(pool.balancer().pick(&ask).is_ok());
            })
        };
        let attempt = |pool: &Arc<Pool>| {
            best(|key| {
                let ask = Ask { key, ..Ask::default() };
                if let Ok(mut attempt) = pool.begin(&ask) {
                    attempt.answered(StatusCode::OK);
                }
            })
        };
        println!(
            "{name:16} {:>10.0} {:>10.0} {:>12.0} {:>12.0}",
            choose(&few),
            choose(&many),
            attempt(&few),
            attempt(&many)
        );
    }
}

/// Nanoseconds of one call: the best round, which the neighbours disturbed least.
fn best(call: impl Fn(&[u8])) -> f64 {
    let round = |_| {
        let began = Instant::now();
        (0..PICKS).for_each(|key| call(&key.to_be_bytes()));
        began.elapsed().as_nanos() as f64 / f64::from(PICKS)
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn pool(settings: &str, count: u16) -> Arc<Pool> {
    let endpoints: Vec<String> = (1..=count)
        .map(|port| format!("{{ address: \"{}\" }}", SocketAddr::from(([10, 0, 0, 1], port))))
        .collect();
    let text = format!(
        "listeners: {{ l: {{ address: \":1\" }} }}\n\
         upstreams: {{ u: {{ endpoints: [{}], {settings} }} }}\n\
         routes: [{{ name: r, match: {{ path: / }}, upstream: u }}]\n",
        endpoints.join(", ")
    );
    let config = config::parse(&text, Path::new("bench.yaml")).expect("valid");
    let upstream: &Upstream = &config.upstreams[0];
    let metrics = Metrics::new().expect("registers").upstream("u");
    Arc::new(Pool::build(upstream, &metrics, None).expect("a pool"))
}
