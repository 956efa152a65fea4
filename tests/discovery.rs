//! Endpoints that are found out: names whose records change, a name server that fails, a file that
//! is written anew. And those that are reached otherwise than by a plain connection.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peers::{Folder, PLAIN, Site, origin, until};
use support::dns::{Mood, NameServer, Record};

const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn site(upstream: &str) -> Site {
    Site::start(format!(
        "{PLAIN}upstreams:\n  o: {{ {upstream} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o }}]\n"
    ))
}

fn addresses(site: &Site) -> Vec<String> {
    let state = site.upstreams();
    let endpoints = state["upstreams"][0]["endpoints"].as_array().cloned().unwrap_or_default();
    endpoints.iter().map(|e| e["address"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_names_addresses_come_and_go_and_the_last_good_ones_stay() {
    let (names, origin) = (NameServer::start(), origin("[{ body: found }]"));
    let port = origin.address.port();
    names.set("shop.test", &[Record::A(Ipv4Addr::LOCALHOST)]);
    let site = site(&format!(
        "discover: {{ dns: \"shop.test:{port}\", resolver: \"{}\", refresh: 200ms }}",
        names.address
    ));
    let at = |ip: Ipv4Addr| SocketAddr::from((ip, port)).to_string();
    until("the first answer", || addresses(&site) == [at(Ipv4Addr::LOCALHOST)]);
    assert_eq!(site.get("/x").text(), "found");
    names.set("shop.test", &[Record::A(SECOND), Record::A(Ipv4Addr::LOCALHOST)]);
    until("the second address", || addresses(&site).len() == 2);
    assert_eq!(addresses(&site), [at(Ipv4Addr::LOCALHOST), at(SECOND)]);

    names.mood(Mood::Fails);
    site.logged("discovery failed, 2 endpoints stay");
    assert_eq!((addresses(&site).len(), site.get("/x").status), (2, 200));
    names.mood(Mood::Silent);
    assert_eq!(site.get("/x").status, 200, "no request waits for a name server");
    names.mood(Mood::Answers);
    names.set("shop.test", &[Record::A(Ipv4Addr::LOCALHOST)]);
    until("the second one is gone", || addresses(&site) == [at(Ipv4Addr::LOCALHOST)]);
    site.logged("discovery works again");
    let failures = "selvedge_upstream_discovery_failures_total{upstream=\"o\"}";
    assert!(site.metric(failures) >= Some(1.0), "{:?}", site.metric(failures));
    let gone = format!("selvedge_endpoint_healthy{{endpoint=\"{}\",upstream=\"o\"}}", at(SECOND));
    assert_eq!(site.metric(&gone), None, "its series is gone as well");
}

#[test]
fn what_an_operator_said_outlives_other_endpoints_and_reloads() {
    let (names, origin) = (NameServer::start(), origin("[{ body: found }]"));
    let port = origin.address.port();
    names.set("shop.test", &[Record::A(Ipv4Addr::LOCALHOST), Record::A(SECOND)]);
    let site = site(&format!(
        "discover: {{ dns: \"shop.test:{port}\", resolver: \"{}\", refresh: 100ms }}",
        names.address
    ));
    until("both are known", || addresses(&site).len() == 2);
    let drain = format!("POST /upstreams/o/drain?endpoint={SECOND}:{port}");
    assert_eq!(site.admin(&drain, "Content-Length: 0\r\n").status, 200);
    names.set("shop.test", &[Record::A(SECOND)]);
    until("one is left", || addresses(&site).len() == 1);
    assert_eq!(site.get("/x").status, 503, "it is still drained");
    assert_eq!(site.reload().status, 200);
    assert_eq!(addresses(&site).len(), 1, "known without a new answer");
    assert_eq!(site.get("/x").status, 503, "and still drained");
}

#[test]
fn services_have_ports_priorities_and_weights() {
    let names = NameServer::start();
    let (first, second) = (origin("[{ body: first }]"), origin("[{ body: second }]"));
    let service = |priority, origin: &support::origin::Origin| Record::Srv {
        priority,
        weight: 7,
        port: origin.address.port(),
        target: "here.test",
    };
    names.set("here.test", &[Record::A(Ipv4Addr::LOCALHOST)]);
    names.set("_http._tcp.shop.test", &[service(20, &second), service(10, &first)]);
    let site = site(&format!(
        "discover: {{ srv: _http._tcp.shop.test, resolver: \"{}\" }}",
        names.address
    ));
    until("both are known", || addresses(&site).len() == 2);
    assert_eq!(site.upstreams()["upstreams"][0]["endpoints"][0]["weight"], 7);
    for _ in 0..4 {
        assert_eq!(site.get("/x").text(), "first");
    }
    first.kill();
    assert_eq!(site.get("/x").text(), "second");
}

#[test]
fn an_answer_too_large_for_a_datagram_is_fetched_over_tcp() {
    let (names, origin) = (NameServer::start(), origin("[{}]"));
    let many: Vec<Record> =
        (1..=60).map(|last| Record::A(Ipv4Addr::new(127, 0, 1, last))).collect();
    names.set("shop.test", &many);
    let site = site(&format!(
        "discover: {{ dns: \"shop.test:{}\", resolver: \"{}\" }}",
        origin.address.port(),
        names.address
    ));
    until("all are known", || addresses(&site).len() == 60);
    assert!(names.over_tcp() > 0);
}

#[test]
fn a_list_of_endpoints_is_read_when_it_changes_and_a_bad_one_is_not_taken() {
    let (a, b) = (origin("[{ body: a }]"), origin("[{ body: b }]"));
    let folder = Folder::new();
    let list = |text: &str| folder.path("list.yaml").display().to_string() + text;
    let file = list("");
    let write = |text: String| std::fs::write(&file, text).expect("writes");
    write(format!("- {{ address: \"{}\" }}\n", a.address));
    let site = site(&format!("discover: {{ file: \"{file}\", refresh: 100ms }}"));
    assert_eq!(site.get("/x").text(), "a");
    write(format!("- {{ address: \"{}\", weight: 2 }}\n", b.address));
    until("the other one serves", || site.get("/x").text() == "b");
    write("- { address: nowhere }\n".to_owned());
    site.logged("discovery failed, 1 endpoints stay");
    assert_eq!(site.get("/x").text(), "b");
}

#[test]
fn a_unix_socket_is_an_endpoint() {
    let folder = Folder::new();
    let path = folder.path("origin.sock");
    let listener = UnixListener::bind(&path).expect("binds");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nunix",
            );
        }
    });
    let site = site(&format!(
        "endpoints: [{{ address: \"unix:{}\" }}], health: {{ interval: 50ms }}",
        path.display()
    ));
    assert_eq!(site.get("/x").text(), "unix", "{}", site.proxy.log());
    until("it was checked", || site.upstreams()["upstreams"][0]["endpoints"][0]["checked"] == true);
}

/// An origin that answers once on each connection, and all that it was sent.
fn listening_in() -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                all.extend_from_slice(&buffer[..length]);
                if all.ends_with(b"\r\n\r\n") && all.windows(5).any(|w| w == b"HTTP/") {
                    break;
                }
            }
            kept.lock().expect("no panic while held").push(all);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    (address, seen)
}

#[test]
fn origins_are_told_who_connected() {
    let ((one, seen_one), (two, seen_two)) = (listening_in(), listening_in());
    let upstream = |name: &str, address, version| {
        format!(
            "  {name}: {{ endpoints: [{{ address: \"{address}\" }}], proxy_protocol: {version} }}\n"
        )
    };
    let site = Site::start(format!(
        "{PLAIN}upstreams:\n{}{}routes:\n  - {{ name: one, match: {{ path: /one }}, upstream: one }}\n  \
         - {{ name: two, match: {{ path: /two }}, upstream: two }}\n",
        upstream("one", one, "v1"),
        upstream("two", two, "v2")
    ));
    assert_eq!((site.get("/one").status, site.get("/two").status), (200, 200));
    let public = site.address("public");
    let one = seen_one.lock().expect("no panic while held")[0].clone();
    let one = String::from_utf8_lossy(&one).into_owned();
    let line = one.lines().next().unwrap_or_default().to_owned();
    assert!(line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{line}");
    assert!(line.ends_with(&format!(" {}", public.port())), "{line}");
    assert!(one.contains("\r\nGET /one HTTP/1.1\r\n"), "{one}");
    let two = seen_two.lock().expect("no panic while held")[0].clone();
    assert!(
        two.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01"),
        "{two:?}"
    );
}

#[test]
fn connections_above_the_limit_are_refused_at_once_and_counted() {
    let slow = origin("[{ path: /slow, delay_ms: 600 }, {}]");
    let site = site(&format!(
        "endpoints: [{{ address: \"{}\" }}], limits: {{ connections: 1 }}, retries: 0",
        slow.address
    ));
    std::thread::scope(|scope| {
        let held = scope.spawn(|| site.get("/slow").status);
        until("it is on its way", || !slow.seen.lock().expect("no panic while held").is_empty());
        let began = std::time::Instant::now();
        let refused = site.get("/fast");
        assert_eq!(refused.status, 503, "{}", site.proxy.log());
        assert!(began.elapsed() < Duration::from_millis(300), "took {:?}", began.elapsed());
        assert_eq!(held.join().expect("it ends"), 200);
    });
    assert_eq!(site.get("/fast").status, 200, "the kept connection serves the next");
    let refused = "selvedge_upstream_refusals_total{reason=\"connections\",upstream=\"o\"}";
    assert_eq!(site.metric(refused), Some(1.0));
    site.logged("\"error\":\"overloaded\"");
}
