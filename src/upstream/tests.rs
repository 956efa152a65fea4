//! Pools, checks and the client against real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};

use super::client::{Client, ClientError, ClientRequest, Target};
use super::health::{HealthObserver, spawn};
use super::origin::{Origin, closed};
use super::pool::Pool;
use crate::config::upstreams::{
    Balance, Endpoint, Health, Probe, Protocol, Timeouts, Upstream, UpstreamTls,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok";

fn upstream(addresses: &[SocketAddr]) -> Upstream {
    let second = Duration::from_secs(1);
    Upstream {
        name: "u".into(),
        endpoints: addresses.iter().map(|a| Endpoint { address: *a, weight: 1 }).collect(),
        balance: Balance::RoundRobin,
        health: None,
        timeouts: Timeouts { connect: second, first_byte: second, idle: second, total: second },
        retries: 1,
        protocol: Protocol::Http1,
        tls: None,
        host: None,
    }
}

fn checked(address: SocketAddr, probe: Probe) -> Upstream {
    let health = Health {
        probe,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        unhealthy_after: 2,
        healthy_after: 2,
    };
    Upstream { health: Some(health), ..upstream(&[address]) }
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

struct Told(UnboundedSender<(bool, String)>);

impl HealthObserver for Told {
    fn transition(&self, _: &str, _: SocketAddr, healthy: bool, reason: &str) {
        self.0.send((healthy, reason.to_owned())).ok();
    }
}

fn observer() -> (Arc<dyn HealthObserver>, UnboundedReceiver<(bool, String)>) {
    #[expect(clippy::disallowed_methods)] // a test sends a handful
    let (sender, receiver) = unbounded_channel();
    (Arc::new(Told(sender)), receiver)
}

async fn next(told: &mut UnboundedReceiver<(bool, String)>) -> (bool, String) {
    timeout(Duration::from_secs(5), told.recv()).await.expect("no transition").unwrap()
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
    let config = upstream(&[closed().await, origin.address]);
    let pool = Arc::new(Pool::build(&config, None).unwrap());
    let ended = client.request(Target::Pool(Arc::clone(&pool)), get()).await.unwrap();
    assert_eq!(ended.status, StatusCode::OK);
    assert!(pool.members().iter().all(|m| m.endpoint.in_flight() == 0), "nothing in flight");
}

#[tokio::test]
async fn an_endpoint_goes_down_and_comes_back() {
    let origin = Origin::start(OK).await;
    let probe = Probe::Http { path: "/up".into(), host: None, status: StatusCode::OK };
    let pool = Arc::new(Pool::build(&checked(origin.address, probe), None).unwrap());
    let (observer, mut told) = observer();
    let task = spawn(&pool, &Arc::new(Client::new(8)), &observer, &Handle::current());

    // The first verdict, passed or not, makes the endpoint known; passing is no transition.
    let endpoint = Arc::clone(&pool.members()[0].endpoint);
    let start = Instant::now();
    while !endpoint.known() {
        assert!(start.elapsed() < Duration::from_secs(5), "no first check");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    origin.well.store(false, Ordering::SeqCst);
    assert_eq!(next(&mut told).await, (false, "status 503 instead of 200".into()));
    assert!(!endpoint.healthy());
    origin.well.store(true, Ordering::SeqCst);
    assert_eq!(next(&mut told).await, (true, "checks pass again".into()));
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    drop(task);
    assert!(told.try_recv().is_err(), "each transition is told once");
}

#[tokio::test]
async fn the_first_check_comes_soon_and_decides() {
    let pool = Arc::new(Pool::build(&checked(closed().await, Probe::Tcp), None).unwrap());
    let (observer, mut told) = observer();
    let start = Instant::now();
    let _task = spawn(&pool, &Arc::new(Client::new(8)), &observer, &Handle::current());
    let (healthy, reason) = next(&mut told).await;
    assert!(!healthy && reason.starts_with("cannot connect"), "{reason}");
    assert!(start.elapsed() < Duration::from_millis(500), "took {:?}", start.elapsed());
}

#[test]
fn a_reload_keeps_what_is_known_of_unchanged_addresses() {
    let [a, b] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let old = Pool::build(&checked(a, Probe::Tcp), None).unwrap();
    old.members()[0].endpoint.set_healthy(false);
    let _busy = old.members()[0].endpoint.begin();
    let mut config = checked(a, Probe::Tcp);
    config.endpoints.push(Endpoint { address: b, weight: 3 });
    let new = Pool::build(&config, Some(&old)).unwrap();
    let kept = &new.members()[0].endpoint;
    assert!(!kept.healthy() && kept.known() && kept.in_flight() == 1);
    assert!(new.members()[1].endpoint.healthy() && !new.members()[1].endpoint.known());
    // Without checks, what an older configuration found out no longer counts.
    let unchecked = Pool::build(&upstream(&[a, b]), Some(&new)).unwrap();
    let picked: Vec<_> = (0..2).map(|_| unchecked.pick(b"", &[]).unwrap().address()).collect();
    assert_eq!(picked, [a, b]);
}

#[test]
fn peers_carry_all_limits_and_a_group() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let peer_of = |config: &Upstream| {
        let pool = Pool::build(config, None).unwrap();
        pool.peer(&pool.members()[0].endpoint)
    };
    let plain = peer_of(&upstream(&[address]));
    let options = &plain.options;
    assert!(options.connection_timeout.is_some() && options.total_connection_timeout.is_some());
    assert!(options.read_timeout.is_some() && options.write_timeout.is_some());
    assert!(options.idle_timeout.is_some() && options.max_h2_streams == 100);
    let other = peer_of(&Upstream { name: "v".into(), ..upstream(&[address]) });
    let http2 = peer_of(&Upstream { protocol: Protocol::Http2, ..upstream(&[address]) });
    assert!(plain.group_key != other.group_key && plain.group_key != http2.group_key);
    assert_eq!(http2.options.alpn.get_min_http_version(), 2);
}

#[test]
fn a_bad_authority_names_the_upstream() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let ca = Some(file.path().into());
    let tls = UpstreamTls { server_name: "x".into(), ca, certificate: None };
    let config = Upstream { tls: Some(tls), ..upstream(&[([127, 0, 0, 1], 1).into()]) };
    let error = Pool::build(&config, None).err().expect("an empty bundle").to_string();
    assert!(error.starts_with("upstream `u`: ca ") && error.contains("no certificate"), "{error}");
}
