//! Listeners on real sockets, with an application that tells the client who it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;
use crate::config::listeners::{Certificate, ClientAuth, Listener, Tls, TlsVersion};

/// Answers `client listener sni`.
struct Whoami;

#[async_trait]
impl HttpServerApp for Whoami {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        drain: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        let digest = session.digest()?.proxy_digest.clone()?;
        let state = digest.user_data.as_ref()?.downcast_ref::<Arc<ConnState>>()?.clone();
        state.request_begins(session.req_header());
        if *drain.borrow() {
            session.set_keepalive(None);
        }
        let sni = state.tls.as_ref().and_then(|tls| tls.sni.clone()).unwrap_or_default();
        let body = format!("{} {} {sni}", state.client, state.listener);
        let mut head = pingora::http::ResponseHeader::build(200, None).ok()?;
        head.insert_header("content-length", body.len().to_string()).ok()?;
        session.write_response_header(Box::new(head)).await.ok()?;
        session.write_response_body(body.into(), true).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok()?;
        state.request_ends();
        Some(ReusedHttpStream::from_reusable_stream(reusable?, settings))
    }
}

fn listener() -> Listener {
    Listener {
        name: "main".into(),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        proxy_protocol: Vec::new(),
        h2c: true,
    }
}

fn serve(listener: Listener, limits: ConnLimits) -> (ListenerSet<Whoami>, SocketAddr) {
    let set = ListenerSet::new(Arc::new(Whoami), limits);
    set.start(bind(&[listener]).expect("binds")).expect("starts");
    let address = set.local_addr("main").expect("listens");
    (set, address)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), future).await.expect("done within 5 s")
}

async fn connect(address: SocketAddr) -> TcpStream {
    within(TcpStream::connect(address)).await.expect("connects")
}

async fn read_some<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut buffer = [0; 4096];
    let count = within(stream.read(&mut buffer)).await.unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// One request and its answer, which must come in one write.
async fn get<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> String {
    within(stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")).await.expect("writes");
    read_some(stream).await
}

#[tokio::test]
async fn two_requests_share_a_connection() {
    let (set, address) = serve(listener(), ConnLimits::default());
    let mut client = connect(address).await;
    for _ in 0..2 {
        let answer = get(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let expected = format!("{} main ", client.local_addr().expect("is bound"));
        assert!(answer.ends_with(&expected), "head and body in one write: {answer}");
    }
    let accepted = set.counters().accepted.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((accepted, set.open(), set.in_flight()), (1, 1, 0));
}

#[tokio::test]
async fn requests_of_a_connection_are_counted() {
    let limits = ConnLimits { requests_per_connection: 2, ..ConnLimits::default() };
    let (_set, address) = serve(listener(), limits);
    let mut client = connect(address).await;
    get(&mut client).await;
    get(&mut client).await;
    assert_eq!(read_some(&mut client).await, "", "closed after two");
}

#[tokio::test]
async fn slow_heads_are_cut() {
    let limits = ConnLimits { head: Duration::from_millis(100), ..ConnLimits::default() };
    let (set, address) = serve(listener(), limits);
    let mut client = connect(address).await;
    client.write_all(b"GET / HTTP/1.1\r\nHo").await.expect("writes");
    let answer = read_some(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(read_some(&mut client).await, "");
    assert_eq!(set.counters().cut(Cut::Head), 1);
}

#[tokio::test]
async fn silent_connections_are_cut() {
    let limits = ConnLimits { keep_alive: Duration::from_millis(100), ..ConnLimits::default() };
    let (set, address) = serve(listener(), limits);
    let mut client = connect(address).await;
    get(&mut client).await;
    assert_eq!(read_some(&mut client).await, "");
    assert_eq!(set.counters().cut(Cut::Idle), 1);
}

#[tokio::test]
async fn proxy_headers_name_the_client() {
    let trusted = vec!["127.0.0.0/8".parse().expect("is a network")];
    let (set, address) =
        serve(Listener { proxy_protocol: trusted, ..listener() }, ConnLimits::default());
    let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f".to_vec();
    v2.extend([192, 0, 2, 7, 192, 0, 2, 1, 0x0f, 0xa0, 0, 80]);
    v2.extend(b"tlv");
    for header in [v1, v2] {
        let mut client = connect(address).await;
        client.write_all(&header).await.expect("writes");
        let answer = get(&mut client).await;
        assert!(answer.ends_with("192.0.2.7:4000 main "), "{answer}");
    }
    assert_eq!(get(&mut connect(address).await).await, "", "no header");
    assert_eq!(set.counters().rejected(Rejection::ProxyHeader), 1);
}

#[tokio::test]
async fn proxy_headers_of_strangers_are_a_bad_request() {
    let (_set, address) = serve(listener(), ConnLimits::default());
    let mut client = connect(address).await;
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\n";
    client.write_all(header).await.expect("writes");
    let answer = get(&mut client).await;
    assert!(!answer.contains("192.0.2.7"), "{answer}");
}

#[tokio::test]
async fn addresses_have_a_cap_of_their_own() {
    let limits = ConnLimits { per_address: 1, ..ConnLimits::default() };
    let (set, address) = serve(listener(), limits);
    let mut first = connect(address).await;
    get(&mut first).await;
    let answer = read_some(&mut connect(address).await).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(set.counters().rejected(Rejection::PerAddress), 1);
    drop(first);
    within(async {
        while set.open() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(get(&mut connect(address).await).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn h2c_is_told_by_its_preface_without_holding_up_http1() {
    let (_set, address) = serve(listener(), ConnLimits::default());
    let mut h2 = connect(address).await;
    h2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("writes");
    let mut frame = [0; 4];
    within(h2.read_exact(&mut frame)).await.expect("answers");
    assert_eq!(frame[3], 4, "the server's SETTINGS");
    let mut short = connect(address).await;
    short.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("writes");
    let answer = read_some(&mut short).await;
    assert!(answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn a_drain_closes_idle_connections_at_once() {
    let (set, address) = serve(listener(), ConnLimits::default());
    let mut client = connect(address).await;
    get(&mut client).await;
    let started = Instant::now();
    set.stop_accepting();
    set.drain();
    assert_eq!(read_some(&mut client).await, "");
    assert_eq!(set.drained(Instant::now() + Duration::from_secs(5)).await, 0);
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
}

#[tokio::test]
async fn a_reload_keeps_sockets_that_stay() {
    let (set, address) = serve(listener(), ConnLimits::default());
    let mut client = connect(address).await;
    get(&mut client).await;
    let other = Listener { name: "other".into(), ..listener() };
    let change = set.prepare(&[listener(), other]).expect("prepares");
    set.apply(change).expect("applies");
    assert_eq!(set.local_addr("main"), Some(address));
    assert!(set.local_addr("other").is_some());
    assert!(get(&mut client).await.contains(" 200 "), "not disturbed");
    assert!(set.remove("main"));
    assert_eq!(read_some(&mut client).await, "", "drained with its listener");
}

#[tokio::test]
async fn tls_serves_the_name_asked_for() {
    let files = crate::tls::tests::Files::new();
    let (cert, key) = files.certificate("a", "a.test");
    let tls = Tls {
        certificates: vec![Certificate { cert: cert.clone(), key }],
        min_version: TlsVersion::V12,
        client_auth: ClientAuth::None,
        http2: true,
    };
    let (_set, address) = serve(Listener { tls: Some(tls), ..listener() }, ConnLimits::default());
    let connector = crate::tls::tests::client(&cert);
    let name = "a.test".try_into().expect("is a name");
    let tcp = connect(address).await;
    let mut client = within(connector.connect(name, tcp)).await.expect("shakes hands");
    let answer = get(&mut client).await;
    assert!(answer.ends_with(" main a.test"), "{answer}");
}
