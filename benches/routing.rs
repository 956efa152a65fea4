//! Lookup with 10 and with 100,000 routes, in one run: `cargo bench --bench routing`.

use std::hint::black_box;
use std::time::Instant;

use http::{HeaderMap, Method};
use selvedge::config::pattern::{HostPattern, PathPattern};
use selvedge::config::routes::{Action, AmbiguousPath, Match, Route};
use selvedge::routing::path::normalise;
use selvedge::routing::{Found, RequestView, Router};

const FEW: usize = 10;
const MANY: usize = 100_000;
const QUERIES: usize = 10_000;
const ROUNDS: usize = 20;

type Make = fn(usize) -> (String, String);

fn main() {
    let kinds: [(&str, Make, Make); 3] = [
        (
            "one host, many paths",
            |i| ("shop.test".into(), format!("/svc{i}/v1/{{id}}/{{rest*}}")),
            |i| ("shop.test:443".into(), format!("/svc{i}/v1/77/a/b")),
        ),
        (
            "many hosts",
            |i| (format!("h{i}.shop.test"), "/api/{rest*}".into()),
            |i| (format!("h{i}.shop.test"), "/api/a/b".into()),
        ),
        (
            "many wildcards",
            |i| (format!("*.h{i}.shop.test"), "/api/{id}".into()),
            |i| (format!("a.b.h{i}.shop.test"), "/api/a".into()),
        ),
    ];
    println!("{:24} {:>8} {:>9} {:>11}", "", "10", "100,000", "difference");
    for (name, pattern, query) in kinds {
        let (few, many) = (find(FEW, pattern, query), find(MANY, pattern, query));
        println!("{name:24} {few:>5.0} ns {many:>6.0} ns {:>8.0} ns", many - few);
    }
    let began = Instant::now();
    for _ in 0..1_000_000 {
        let _ = black_box(normalise(black_box("/svc12/v1/77/a/b%20c")));
    }
    println!("normalise, nothing to do: {:.0} ns", began.elapsed().as_nanos() as f64 / 1e6);
}

/// Nanoseconds of one lookup: the best round, which the neighbours disturbed least.
fn find(count: usize, pattern: Make, query: Make) -> f64 {
    let routes: Vec<Route> = (0..count).map(|i| route(i, pattern(i))).collect();
    let router = Router::build(&routes).expect("no conflicts");
    let queries: Vec<_> = (0..QUERIES).map(|k| query(k * 7919 % count)).collect();
    let headers = HeaderMap::new();
    let round = |_| {
        let began = Instant::now();
        for (host, path) in &queries {
            let view =
                RequestView { host, path, method: &Method::GET, headers: &headers, query: None };
            assert!(matches!(black_box(router.find(&view)), Found::Route { .. }));
        }
        began.elapsed().as_nanos() as f64 / QUERIES as f64
    };
    (0..ROUNDS).map(round).fold(f64::MAX, f64::min)
}

fn route(index: usize, (host, path): (String, String)) -> Route {
    Route {
        traffic: Default::default(),
        name: format!("r{index}").into(),
        matches: Match {
            host: HostPattern::parse(&host).expect("a host"),
            path: PathPattern::parse(&path).expect("a path"),
            methods: vec![],
            conditions: vec![],
        },
        filters: vec![],
        action: Action::Upstream(0),
        rewrite: None,
        ambiguous_path: AmbiguousPath::Reject,
        timeout: None,
        cache: None,
        max_body: 0,
    }
}
