//! Pools, checks and the client against real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::attempt::{Limit, Refusal};
use super::balance::Ask;
use super::circuit::State;
use super::client::{Client, ClientError, ClientRequest, Target};
use super::endpoint::Reason;
use super::origin::{Origin, closed};
use super::outlier::{self, Outcome};
use super::pool::Pool;
use super::watch::spawn;
use crate::config::upstreams::{
    self, Balance, Breaker, Caps, Health, HttpProbe, Outlier, Probe, Protocol, Retry, RetryOn,
    Timeouts, Upstream, UpstreamTls,
};
use crate::config::values::Percent;
use crate::telemetry::metrics::Metrics;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok";

fn endpoint(address: SocketAddr) -> upstreams::Endpoint {
    upstreams::Endpoint { address: address.into(), weight: 1, priority: 0, region: None }
}

pub(super) fn upstream(addresses: &[SocketAddr]) -> Upstream {
    let second = Duration::from_secs(1);
    Upstream {
        name: "u".into(),
        endpoints: addresses.iter().map(|address| endpoint(*address)).collect(),
        discovery: None,
        regions: Vec::new(),
        balance: Balance::RoundRobin,
        slow_start: None,
        panic_below: Percent(50),
        caps: Caps::default(),
        health: None,
        outlier: None,
        breaker: None,
        timeouts: Timeouts {
            connect: second,
            first_byte: second,
            idle: second,
            total: second,
            announce: false,
        },
        retries: 1,
        retry: Retry {
            on: vec![RetryOn::Connect],
            status: None,
            methods: Vec::new(),
            budget: Percent(20),
            budget_min: 3,
            backoff: Duration::from_millis(1),
        },
        protocol: Protocol::Http1,
        proxy_protocol: None,
        max_connection_age: None,
        tls: None,
        host: None,
    }
}

/// By connecting.
pub(super) fn checked(addresses: &[SocketAddr]) -> Upstream {
    let health = Health {
        probe: Probe::Tcp,
        port: None,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        unhealthy_after: 2,
        healthy_after: 2,
    };
    Upstream { health: Some(health), ..upstream(addresses) }
}

fn checked_by_http(address: SocketAddr, body: Option<&str>) -> Upstream {
    let text = "upstreams: { u: { endpoints: [{ address: \"127.0.0.1:1\" }], health: { http: { path: /up } } } }\n\
                listeners: { l: { address: \":1\" } }\nroutes: [{ name: r, match: { path: / }, upstream: u }]\n";
    let read = crate::config::parse(text, std::path::Path::new("x.yaml")).expect("valid");
    let Some(Probe::Http(probe)) = read.upstreams[0].health.clone().map(|h| h.probe) else {
        panic!("an HTTP probe was configured")
    };
    let mut config = checked(&[address]);
    if let Some(health) = &mut config.health {
        health.probe = Probe::Http(HttpProbe { body: body.map(Into::into), ..probe });
    }
    config
}

fn build(config: &Upstream, previous: Option<&Pool>) -> Arc<Pool> {
    let metrics = Metrics::new().expect("registers");
    Arc::new(Pool::build(config, &metrics.upstream("u"), previous).expect("a pool"))
}

fn first(pool: &Pool) -> Arc<super::endpoint::Endpoint> {
    Arc::clone(&pool.balancer().members()[0].endpoint)
}

fn ports(count: u16) -> Vec<SocketAddr> {
    (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(5), "not within 5 s: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn get() -> ClientRequest {
    ClientRequest {
        method: Method::GET,
        path_and_query: "/a?b=c".into(),
        headers: HeaderMap::new(),
        host: "origin.test".into(),
        body: Bytes::new(),
        timeout: Duration::from_secs(5),
        max_body: 100,
    }
}

fn at(address: SocketAddr) -> Target {
    Target::Address { address, tls: None }
}

#[tokio::test]
async fn kept_connections_are_used_again() {
    let (origin, client) = (Origin::start(OK).await, Client::new(8));
    for _ in 0..3 {
        let response = client.request(at(origin.address), get()).await.unwrap();
        assert_eq!((response.status, &response.body[..]), (StatusCode::OK, &b"ok"[..]));
        assert_eq!(response.headers["x-a"], "b");
    }
    assert_eq!(origin.connections.load(Ordering::SeqCst), 1, "one connection for all");
}

#[tokio::test]
async fn the_timeout_is_over_all() {
    let (origin, client) = (Origin::start("").await, Client::new(8));
    let request = ClientRequest { timeout: Duration::from_millis(100), ..get() };
    let start = Instant::now();
    let ended = client.request(at(origin.address), request).await;
    assert!(matches!(ended, Err(ClientError::Timeout)), "{ended:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_large_body_is_refused() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for response in [OK, chunked] {
        let (origin, client) = (Origin::start(response).await, Client::new(8));
        let request = ClientRequest { max_body: 1, ..get() };
        let ended = client.request(at(origin.address), request).await;
        assert!(matches!(ended, Err(ClientError::TooLarge { max: 1 })), "{ended:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let ended = Client::new(8).request(at(closed().await), get()).await;
    assert!(matches!(ended, Err(ClientError::Connect { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_pool_is_tried_further_after_a_failed_connect() {
    let (origin, client) = (Origin::start(OK).await, Client::new(8));
    let pool = build(&upstream(&[closed().await, origin.address]), None);
    let ended = client.request(Target::Pool(Arc::clone(&pool)), get()).await.unwrap();
    assert_eq!(ended.status, StatusCode::OK);
    let balancer = pool.balancer();
    assert!(balancer.members().iter().all(|m| m.endpoint.in_flight() == 0), "nothing in flight");
}

#[tokio::test]
async fn an_endpoint_goes_down_and_comes_back() {
    let origin = Origin::start(OK).await;
    let pool = build(&checked_by_http(origin.address, Some("ok")), None);
    let task = spawn(&pool, &Arc::new(Client::new(8)), &Handle::current());
    let endpoint = first(&pool);
    until("the first check", || endpoint.known()).await;
    assert!(endpoint.healthy());
    origin.well.store(false, Ordering::SeqCst);
    until("it is out", || !endpoint.healthy()).await;
    let why = (Reason::Unhealthy, "status 503 instead of 200".to_owned());
    assert_eq!(endpoint.reasons(), [why]);
    origin.well.store(true, Ordering::SeqCst);
    until("it is back", || endpoint.healthy()).await;
    assert_eq!(endpoint.reasons(), []);
    drop(task);
}

#[tokio::test]
async fn a_body_without_the_text_fails_the_check() {
    let origin = Origin::start(OK).await;
    let pool = build(&checked_by_http(origin.address, Some("ready")), None);
    let _task = spawn(&pool, &Arc::new(Client::new(8)), &Handle::current());
    let endpoint = first(&pool);
    until("it is out", || !endpoint.healthy()).await;
    assert_eq!(endpoint.reasons()[0].1, "the body does not contain \"ready\"");
}

#[tokio::test]
async fn the_first_check_comes_soon_and_decides() {
    let pool = build(&checked(&[closed().await]), None);
    let start = Instant::now();
    let _task = spawn(&pool, &Arc::new(Client::new(8)), &Handle::current());
    let endpoint = first(&pool);
    until("it is out", || !endpoint.healthy()).await;
    assert!(endpoint.reasons()[0].1.starts_with("cannot connect"), "{:?}", endpoint.reasons());
    assert!(start.elapsed() < Duration::from_millis(500), "took {:?}", start.elapsed());
}

#[test]
fn a_reload_keeps_what_is_known_of_unchanged_addresses() {
    let addresses = ports(2);
    let old = build(&checked(&addresses[..1]), None);
    old.take_out(&first(&old), Reason::Unhealthy, "for the test");
    let _busy = old.begin(&Ask::default()).expect("in panic");
    let new = build(&checked(&addresses), Some(&old));
    let balancer = new.balancer();
    let (kept, added) = (&balancer.members()[0].endpoint, &balancer.members()[1].endpoint);
    assert!(!kept.healthy() && kept.in_flight() == 1);
    assert!(added.healthy() && !added.known());
    // Without checks, what an older configuration found out no longer counts.
    let unchecked = build(&upstream(&addresses), Some(&new));
    let begin = |_| unchecked.begin(&Ask::default()).expect("well").endpoint().address().clone();
    let picked: Vec<_> = (0..2).map(begin).collect();
    assert_eq!(picked, [addresses[0].into(), addresses[1].into()]);
}

#[test]
fn discovered_endpoints_keep_their_state_when_others_come_and_go() {
    let addresses = ports(3);
    let pool = build(&checked(&addresses[..2]), None);
    pool.take_out(&first(&pool), Reason::Unhealthy, "for the test");
    pool.set_endpoints(&[endpoint(addresses[2]), endpoint(addresses[0])]);
    let balancer = pool.balancer();
    let known: Vec<_> = balancer.members().iter().map(|m| m.endpoint.healthy()).collect();
    assert_eq!(known, [true, false]);
}

#[test]
fn peers_carry_all_limits_and_a_group() {
    let peer_of = |config: &Upstream| {
        let pool = build(config, None);
        pool.peer(&first(&pool), None).expect("a peer")
    };
    let plain = peer_of(&upstream(&ports(1)));
    let options = &plain.options;
    assert!(options.connection_timeout.is_some() && options.total_connection_timeout.is_some());
    assert!(options.read_timeout.is_some() && options.write_timeout.is_some());
    assert!(options.idle_timeout.is_some() && options.max_h2_streams == 100);
    let other = peer_of(&Upstream { name: "v".into(), ..upstream(&ports(1)) });
    let http2 = peer_of(&Upstream { protocol: Protocol::Http2, ..upstream(&ports(1)) });
    assert!(plain.group_key != other.group_key && plain.group_key != http2.group_key);
    assert_eq!(http2.options.alpn.get_min_http_version(), 2);
}

#[test]
fn a_bad_authority_names_the_upstream() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let ca = Some(file.path().into());
    let tls = UpstreamTls {
        server_name: "x".into(),
        ca,
        certificate: None,
        min_version: crate::config::listeners::TlsVersion::V12,
        fingerprints: Vec::new(),
    };
    let config = Upstream { tls: Some(tls), ..upstream(&ports(1)) };
    let metrics = Metrics::new().expect("registers").upstream("u");
    let error = Pool::build(&config, &metrics, None).err().expect("an empty bundle").to_string();
    assert!(error.starts_with("upstream `u`: ca ") && error.contains("no certificate"), "{error}");
}

fn outlier() -> Outlier {
    Outlier {
        consecutive_5xx: 5,
        consecutive_gateway: 3,
        consecutive_local: 2,
        success_rate_below: Some(Percent(20)),
        latency_above: Some(3),
        min_requests: 10,
        interval: Duration::from_secs(10),
        ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        max_ejected: Percent(50),
    }
}

fn watched(count: u16) -> Arc<Pool> {
    build(&Upstream { outlier: Some(outlier()), ..upstream(&ports(count)) }, None)
}

fn observe(pool: &Pool, index: usize, outcome: Outcome, times: u32, took: Duration) {
    let endpoint = Arc::clone(&pool.balancer().members()[index].endpoint);
    for _ in 0..times {
        outlier::observe(pool, &endpoint, outcome, took);
    }
}

fn ejected(pool: &Pool) -> Vec<usize> {
    let balancer = pool.balancer();
    let out = |index: &usize| balancer.members()[*index].endpoint.is_out_for(Reason::Ejected);
    (0..balancer.members().len()).filter(out).collect()
}

const SHORT: Duration = Duration::from_millis(10);

#[test]
fn rows_of_failures_eject_and_an_answer_ends_a_row() {
    let status = |code| Outcome::Answered(StatusCode::from_u16(code).unwrap());
    let pool = watched(4);
    for (outcome, limit) in [(status(500), 5), (status(503), 3), (Outcome::TimedOut, 2)] {
        let pool = watched(4);
        observe(&pool, 1, outcome, limit - 1, SHORT);
        observe(&pool, 1, status(404), 1, SHORT);
        observe(&pool, 1, outcome, limit - 1, SHORT);
        assert_eq!(ejected(&pool), [0; 0], "{outcome:?}");
        observe(&pool, 1, outcome, 1, SHORT);
        assert_eq!(ejected(&pool), [1], "{outcome:?}");
    }
    observe(&pool, 1, status(404), 100, SHORT);
    assert_eq!(ejected(&pool), [0; 0], "the client's errors are not the origin's");
}

#[test]
fn no_more_than_the_share_is_ejected_and_never_the_last() {
    let pool = watched(4);
    for index in 0..4 {
        observe(&pool, index, Outcome::Broken, 10, SHORT);
    }
    assert_eq!(ejected(&pool), [0, 1]);
    let alone = watched(1);
    observe(&alone, 0, Outcome::Broken, 10, SHORT);
    assert_eq!(ejected(&alone), [0; 0]);
    // Of two that are checked and one of them down, the other is the last.
    let both = Upstream { outlier: Some(outlier()), ..checked(&ports(2)) };
    let both = build(&both, None);
    both.take_out(&first(&both), Reason::Unhealthy, "for the test");
    observe(&both, 1, Outcome::Broken, 10, SHORT);
    assert_eq!(ejected(&both), [0; 0]);
}

#[test]
fn an_ejection_ends_and_the_next_one_is_longer() {
    let pool = watched(3);
    let second = 1_000_000_000;
    let now = super::clock::now();
    observe(&pool, 0, Outcome::Broken, 2, SHORT);
    outlier::release(&pool, now + 29 * second);
    assert_eq!(ejected(&pool), [0]);
    outlier::release(&pool, now + 31 * second);
    assert_eq!(ejected(&pool), [0; 0]);
    observe(&pool, 0, Outcome::Broken, 2, SHORT);
    outlier::release(&pool, now + 59 * second);
    assert_eq!(ejected(&pool), [0], "the second one is twice as long");
    outlier::release(&pool, now + 61 * second);
    assert_eq!(ejected(&pool), [0; 0]);
    // After the longest ejection's time in service all begins anew.
    outlier::release(&pool, now + 400 * second);
    observe(&pool, 0, Outcome::Broken, 2, SHORT);
    outlier::release(&pool, now + 31 * second);
    assert_eq!(ejected(&pool), [0; 0]);
}

#[test]
fn the_odd_one_out_is_found_by_its_share_of_successes_and_by_its_latency() {
    let pool = watched(4);
    for index in 0..4 {
        observe(&pool, index, Outcome::Answered(StatusCode::OK), 10, SHORT);
    }
    for _ in 0..4 {
        observe(&pool, 2, Outcome::Answered(StatusCode::INTERNAL_SERVER_ERROR), 1, SHORT);
        observe(&pool, 2, Outcome::Answered(StatusCode::OK), 1, SHORT);
    }
    outlier::compare(&pool);
    assert_eq!(ejected(&pool), [2], "78 of 100 against 100");
    for index in [0, 1, 3] {
        let took = if index == 3 { SHORT * 4 } else { SHORT };
        observe(&pool, index, Outcome::Answered(StatusCode::OK), 10, took);
    }
    outlier::compare(&pool);
    assert_eq!(ejected(&pool), [2, 3], "four times as slow");
    for index in [0, 1] {
        observe(
            &pool,
            index,
            Outcome::Answered(StatusCode::OK),
            10,
            SHORT * (1 + 9 * index as u32),
        );
    }
    outlier::compare(&pool);
    assert_eq!(ejected(&pool), [2, 3], "of two nobody can say which is odd");
}

#[test]
fn caps_refuse_at_once_and_what_ends_makes_room() {
    let full = |caps: Caps| build(&Upstream { caps, ..upstream(&ports(2)) }, None);
    let begin = |pool: &Arc<Pool>| pool.begin(&Ask::default());
    let requests = full(Caps { requests: Some(1), ..Caps::default() });
    let held = begin(&requests).expect("room");
    assert_eq!(begin(&requests).err(), Some(Refusal::Full(Limit::Requests)));
    drop(held);
    drop(begin(&requests).expect("room again"));

    let pending = full(Caps { pending: Some(1), ..Caps::default() });
    let mut waiting = begin(&pending).expect("room");
    assert_eq!(begin(&pending).err(), Some(Refusal::Full(Limit::Pending)));
    waiting.connected();
    drop(begin(&pending).expect("a connected one waits no longer"));

    let each = full(Caps { endpoint_requests: Some(1), ..Caps::default() });
    let (a, b) = (begin(&each).expect("one"), begin(&each).expect("the other"));
    assert_ne!(a.endpoint().address(), b.endpoint().address());
    assert_eq!(begin(&each).err(), Some(Refusal::Full(Limit::EndpointRequests)));
}

#[test]
fn a_circuit_opens_for_the_pool_and_stays_over_a_reload() {
    let breaker = Breaker {
        failures: Percent(50),
        min_requests: 4,
        window: Duration::from_secs(10),
        open: Duration::from_secs(3600),
        probes: 1,
    };
    let config = Upstream { breaker: Some(breaker), ..upstream(&ports(2)) };
    let pool = build(&config, None);
    for _ in 0..4 {
        pool.begin(&Ask::default()).expect("closed").failed(Outcome::Broken);
    }
    assert_eq!(pool.circuit(), State::Open);
    assert_eq!(pool.begin(&Ask::default()).err(), Some(Refusal::CircuitOpen));
    let next = build(&config, Some(&pool));
    assert_eq!(next.begin(&Ask::default()).err(), Some(Refusal::CircuitOpen));
    let balancer = next.balancer();
    assert!(balancer.members().iter().all(|m| m.endpoint.in_flight() == 0), "nothing is left over");
}
