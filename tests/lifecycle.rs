//! The life of the built binary: start, reload, health, drain, logs; and filters that wait or loop
//! while others are served.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use peers::{
    Folder, Load, PATIENCE, PLAIN, Site, all_to, curl, free_port, get, origin, read_head, request,
    until,
};
use support::client::{Client, Response, exchange};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn fixed(body: &str) -> String {
    format!("routes: [{{ name: all, match: {{}}, respond: {{ body: \"{body}\" }} }}]\n")
}

fn is_200(response: &Response) -> Result<(), String> {
    match response.status {
        200 => Ok(()),
        _ => Err(format!("{response:?}")),
    }
}

// ---- reload

#[test]
fn reloads_under_load_fail_no_request() {
    let page = |n: usize| format!("{PLAIN}{}", fixed(&"abcdefgh"[n..=n].repeat(3000)));
    let site = Site::start(page(0));
    // A body of two configurations would be mixed letters.
    let whole = |response: &Response| {
        is_200(response)?;
        let first = response.body.first().copied();
        let mixed = response.body.len() != 3000 || response.body.iter().any(|b| Some(*b) != first);
        if mixed { Err(format!("mixed: {}", response.text())) } else { Ok(()) }
    };
    let load = Load::start(site.address("public"), 4, whole);
    load.more(50);
    for n in 1..8 {
        if n % 2 == 0 {
            site.configure(page(n));
            site.proxy.signal("HUP");
            until("SIGHUP reloads", || site.count_logged("reloaded: ") == n);
        } else {
            site.reloaded(page(n));
        }
        // At once, for every connection made from now on.
        assert!(site.get("/").text().starts_with(&"abcdefgh"[n..=n]), "after reload {n}");
        load.more(50);
    }
    assert!(load.done() >= 400, "{} requests", load.done());
    assert_eq!(load.stop(), Vec::<String>::new(), "failed requests");
    assert_eq!(site.metric("selvedge_reloads_total{outcome=\"success\"}"), Some(8.0));
}

#[test]
fn a_request_in_flight_ends_under_the_configuration_it_began_with() {
    let slow = origin("[{ delay_ms: 500, body: old }]");
    let site = Site::start(format!("{PLAIN}{}", all_to(slow.address)));
    let mut client = site.connect();
    client.send(request("/").as_bytes()).expect("sends");
    until("the origin has it", || !slow.take().is_empty());
    site.reloaded(format!("{PLAIN}{}", fixed("new")));
    assert_eq!(site.get("/").text(), "new");
    assert_eq!(client.receive(false).expect("a response").text(), "old");
    // The connection itself goes on, with the new one.
    client.send(request("/").as_bytes()).expect("sends");
    assert_eq!(client.receive(false).expect("a response").text(), "new", "same connection");
}

#[test]
fn a_broken_configuration_is_refused_and_the_old_one_serves_on() {
    let folder = Folder::new();
    folder.write("f.rhai", "fn on_request(req) { response(200, \"filtered\") }");
    let filtered = format!(
        "{PLAIN}filters: {{ f: {{ script: f.rhai }} }}\n\
         routes: [{{ name: all, match: {{}}, filters: [f], respond: {{}} }}]\n"
    );
    let site = Site::start_in(folder, &filtered);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound");
    let broken = [
        ("not YAML", "routes: [".to_owned()),
        ("a wrong key", format!("{filtered}limts: {{}}\n")),
        ("no route", PLAIN.to_owned()),
        ("a missing script", filtered.replace("f.rhai", "g.rhai")),
        (
            "an address in use",
            filtered.replace("{ public:", &format!("{{ b: {{ address: \"{taken}\" }}, public:")),
        ),
        (
            "another admin address",
            filtered.replace("admin: {", "admin: { address: \"[::1]:0\" }\nx: {"),
        ),
    ];
    // Keeps the port until the end.
    let _holder = TcpListener::bind(taken);
    for (what, config) in &broken {
        if *what == "an address in use" && _holder.is_err() {
            continue;
        }
        site.configure(config);
        let answer = site.reload();
        assert_eq!(answer.status, 422, "{what}: {}", answer.text());
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let problems = answer["problems"].as_array().expect("problems");
        assert!(!problems.is_empty(), "{what}: {answer}");
        assert!(problems[0]["message"].is_string(), "{what}: {answer}");
        assert_eq!(site.get("/").text(), "filtered", "after {what}");
    }
    site.proxy.signal("HUP");
    site.logged("reload refused: ");
    assert_eq!(site.get("/").text(), "filtered");
    assert_eq!(get(site.address("admin"), "/readyz").status, 200, "still ready");

    // A script that does not compile is a problem with its own place.
    site.configure(&filtered);
    site.folder.write("f.rhai", "fn on_request(req) {\n  let = 1;\n}");
    let answer = site.reload();
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("f.rhai"), "{}", answer.text());
    assert_eq!(site.get("/").text(), "filtered");
    site.folder.write("f.rhai", "fn on_request(req) { response(200, \"again\") }");
    assert_eq!(site.reload().status, 200, "the repaired script");
    assert_eq!(site.get("/").text(), "again");
}

#[test]
fn listeners_come_and_go_without_touching_the_others() {
    let site = Site::start(format!("{PLAIN}{}", fixed("hi")));
    let public = site.address("public");
    let mut kept = site.connect();
    kept.send(request("/").as_bytes()).expect("sends");
    assert_eq!(kept.receive(false).expect("a response").status, 200);
    let load = Load::start(public, 2, is_200);

    let second = free_port();
    let two = format!("{{ second: {{ address: \"{second}\" }}, public:");
    site.reloaded(format!("{}{}", PLAIN.replace("{ public:", &two), fixed("hi")));
    site.logged(&format!("listening: second on {second}"));
    assert_eq!(get(second, "/").text(), "hi", "the new listener");
    let mut on_second = Client::connect(second).expect("connects");
    on_second.send(request("/").as_bytes()).expect("sends");
    assert_eq!(on_second.receive(false).expect("a response").status, 200);
    load.more(20);

    site.reloaded(format!("{PLAIN}{}", fixed("hi")));
    site.logged(&format!("closed: second on {second}"));
    until("the removed listener refuses", || TcpStream::connect(second).is_err());
    assert!(on_second.closed(), "its idle connection closes");
    load.more(20);
    assert_eq!(load.stop(), Vec::<String>::new(), "requests to the listener that stays");
    kept.send(request("/").as_bytes()).expect("the connection is still open");
    assert_eq!(kept.receive(false).expect("a response").status, 200, "kept");
}

#[test]
fn a_reload_changes_what_new_connections_of_a_listener_may() {
    let page = |name: &str, more: &str, limits: &str| {
        format!(
            "listeners: {{ {name}: {{ address: \"127.0.0.1:0\" {more} }} }}\n\
             admin: {{ address: \"127.0.0.1:0\" }}\nlimits: {{ {limits} }}\n{}",
            fixed("hi")
        )
    };
    let site = Site::start(page("public", "", ""));
    let public = site.address("public");
    let answers = |bytes: &str| exchange(public, bytes.as_bytes()).map(|answer| answer.status);
    let plain = request("/");
    let h2 = || curl(&["--http2-prior-knowledge", &site.url("/")]).code;
    assert_eq!((answers(&plain), h2()), (Ok(200), 0), "before");

    site.reloaded(page("public", ", proxy_protocol: [127.0.0.0/8]", ""));
    assert!(answers(&plain).is_err(), "without the PROXY header that is now wanted");
    assert_eq!(answers(&format!("PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n{plain}")), Ok(200));
    site.reloaded(page("public", ", h2c: false", ""));
    assert_eq!(answers(&plain), Ok(200), "no PROXY header again");
    assert_ne!(h2(), 0, "HTTP/2 is off");
    site.reloaded(page("public", "", "headers: 1, head: 1KiB"));
    assert_eq!(h2(), 0, "HTTP/2 is on");
    let two = plain.replace("\r\n\r\n", "\r\nA: b\r\n\r\n");
    assert_eq!(answers(&two), Ok(431), "headers");
    assert_eq!(answers(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(1100))), Ok(431), "head");
    let mut client = Client::connect(public).expect("connects");
    site.reloaded(page("public", "", "requests_per_connection: 1, head_timeout: 1s"));
    client.send(b"GET / HTTP/1.1\r\n").expect("sends");
    assert_eq!(client.receive(false).expect("told so").status, 408, "open connections, too");
    let mut client = Client::connect(public).expect("connects");
    client.send(plain.as_bytes()).expect("sends");
    let answer = client.receive(false).expect("a response");
    assert_eq!(answer.values("connection"), ["close"], "requests_per_connection");
    site.reloaded(page("public", "", "connections: 1"));
    let _one = Client::connect(public).expect("connects");
    until("a second one is turned away", || answers(&plain) == Ok(503));
}

fn endpoint_of(state: &serde_json::Value, upstream: usize, endpoint: usize) -> &serde_json::Value {
    &state["upstreams"][upstream]["endpoints"][endpoint]
}

#[test]
fn endpoints_that_stay_keep_their_health() {
    let live = origin("[{}]");
    let (dead, other) = (free_port(), origin("[{}]"));
    let config = |more: &str| {
        format!(
            "{PLAIN}upstreams:\n  o:\n    endpoints: [{{ address: \"{}\" }}, {{ address: \"{dead}\" }}{more}]\n    \
             health: {{ interval: 60s, unhealthy_after: 1 }}\n\
             routes: [{{ name: all, match: {{}}, upstream: o }}]\n",
            live.address
        )
    };
    let site = Site::start(config(""));
    site.logged("is unhealthy");
    site.reloaded(config(&format!(", {{ address: \"{}\" }}", other.address)));
    // Read at once: with checks a minute apart, nobody has asked again.
    let state = site.upstreams();
    assert_eq!(endpoint_of(&state, 0, 1)["healthy"], false, "the dead one: {state}");
    assert_eq!(endpoint_of(&state, 0, 0)["healthy"], true, "the live one: {state}");
    assert_eq!(endpoint_of(&state, 0, 2)["healthy"], true, "the new one: {state}");
    assert_eq!(site.count_logged("is unhealthy"), 1, "{}", site.proxy.log());
}

// ---- stop

/// Ends the process and judges how.
fn ends(site: &mut Site, within: Duration, what: &str) {
    let began = Instant::now();
    site.proxy.signal("TERM");
    let code = site.proxy.wait(PATIENCE).unwrap_or_else(|e| panic!("{what}: {e}"));
    let took = began.elapsed();
    assert_eq!(code, 0, "{what}: exit code\n{}", site.proxy.log());
    assert!(took < within, "{what}: took {took:?}\n{}", site.proxy.log());
}

#[test]
fn a_graceful_stop_answers_what_is_in_flight() {
    let slow = origin("[{ delay_ms: 1000, body: late }]");
    let mut site = Site::start(format!("{PLAIN}{}", all_to(slow.address)));
    let (public, admin) = (site.address("public"), site.address("admin"));
    assert_eq!(get(admin, "/readyz").status, 200, "ready before");
    let mut client = site.connect();
    client.send(request("/").as_bytes()).expect("sends");
    let url = site.url("/h2");
    let h2 = std::thread::spawn(move || curl(&["--http2-prior-knowledge", &url]));
    let mut seen = 0;
    until("the origin has both", || {
        seen += slow.take().len();
        seen == 2
    });
    site.proxy.signal("TERM");
    until("new connections are refused", || TcpStream::connect(public).is_err());
    assert_eq!(get(admin, "/readyz").status, 503, "not ready while it drains");
    assert_eq!(get(admin, "/healthz").status, 200, "but alive");
    let answer = client.receive(false).expect("the request in flight is answered");
    assert_eq!((answer.status, answer.text().as_str()), (200, "late"), "{answer:?}");
    assert!(client.closed(), "and its connection closes");
    let h2 = h2.join().expect("no panic");
    assert_eq!((h2.code, h2.out.as_str()), (0, "late"), "HTTP/2: {}", h2.all());
    assert_eq!(site.proxy.wait(MS(1000)), Ok(0), "exit code\n{}", site.proxy.log());
}

/// HTTP/2's preface and an empty SETTINGS frame, then `GET /` on stream 1.
const H2_GET: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x06\x01\x05\0\0\0\x01\x82\x84\x86\x41\x01a";

/// An HTTP/2 connection whose one request was answered.
fn idle_h2(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(H2_GET).expect("sends");
    loop {
        let (head, payload) = read_frame(&mut stream).expect("an answer");
        acknowledge(&mut stream, head, &payload);
        if payload == b"hi" {
            return stream;
        }
    }
}

fn read_frame(stream: &mut TcpStream) -> std::io::Result<([u8; 9], Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload)?;
    Ok((head, payload))
}

/// As every client does with SETTINGS (4) and PING (6).
fn acknowledge(stream: &mut TcpStream, [_, _, _, kind, flags, ..]: [u8; 9], payload: &[u8]) {
    let answer = match kind {
        4 if flags == 0 => vec![0, 0, 0, 4, 1, 0, 0, 0, 0],
        6 if flags == 0 => [&[0, 0, 8, 6, 1, 0, 0, 0, 0], payload].concat(),
        _ => return,
    };
    let _ = stream.write_all(&answer);
}

#[test]
fn an_idle_server_stops_at_once() {
    let mut site = Site::start(format!("{PLAIN}{}", fixed("hi")));
    ends(&mut site, MS(300), "without connections");

    let mut site = Site::start(format!("{PLAIN}{}", fixed("hi")));
    let mut idle: Vec<Client> = (0..5).map(|_| site.connect()).collect();
    for client in &mut idle {
        client.send(request("/").as_bytes()).expect("sends");
        assert_eq!(client.receive(false).expect("a response").status, 200);
    }
    ends(&mut site, MS(300), "with idle HTTP/1.1 connections");
    assert!(idle.iter_mut().all(Client::closed), "they are closed");

    let mut site = Site::start(format!("{PLAIN}{}", fixed("hi")));
    let mut h2 = idle_h2(site.address("public"));
    // It is polite, but keeps the connection open.
    let polite = std::thread::spawn(move || {
        while let Ok((head, payload)) = read_frame(&mut h2) {
            acknowledge(&mut h2, head, &payload);
        }
    });
    ends(&mut site, MS(300), "with an idle HTTP/2 connection");
    polite.join().expect("no panic");

    let mut site = Site::start(format!("{PLAIN}{}", fixed("hi")));
    let _h2 = idle_h2(site.address("public"));
    ends(&mut site, MS(1500), "with an idle HTTP/2 connection that does not answer");

    let mut site = Site::start(format!("{PLAIN}{}", fixed("hi")));
    let _silent = site.connect();
    until("it is accepted", || site.proxy.log().contains("ready"));
    ends(&mut site, MS(1000), "with a connection that never spoke");
}

#[test]
fn the_drain_timeout_cuts_what_hangs() {
    let hanging = origin("[{ delay_ms: 30000 }]");
    let config = format!("{PLAIN}limits: {{ drain_timeout: 500ms }}\n{}", all_to(hanging.address));
    let mut site = Site::start(config);
    let mut client = site.connect();
    client.send(request("/").as_bytes()).expect("sends");
    until("the origin has it", || !hanging.take().is_empty());
    let began = Instant::now();
    ends(&mut site, MS(1500), "with a request that hangs");
    assert!(began.elapsed() >= MS(450), "before the timeout: {:?}", began.elapsed());
    assert!(client.receive(false).is_err(), "cut");
    assert!(site.proxy.log().contains("1 connections cut"), "{}", site.proxy.log());
    let line = "\"status\":0,\"bytes_in\":0,\"bytes_out\":0,";
    let logged = site.proxy.log();
    let logged = logged.lines().find(|text| text.contains(line)).unwrap_or_default();
    assert!(logged.contains("\"error\":\"drain\""), "{logged}\n{}", site.proxy.log());
}

#[test]
fn a_second_signal_ends_a_drain() {
    for (first, second) in [("INT", "INT"), ("TERM", "INT"), ("TERM", "TERM")] {
        let hanging = origin("[{ delay_ms: 30000 }]");
        let mut site = Site::start(format!("{PLAIN}{}", all_to(hanging.address)));
        let mut client = site.connect();
        client.send(request("/").as_bytes()).expect("sends");
        until("the origin has it", || !hanging.take().is_empty());
        site.proxy.signal(first);
        site.logged("draining: 1 requests");
        site.proxy.signal(second);
        let code = site.proxy.wait(MS(1000)).expect("ends");
        assert_eq!(code, 0, "{first}, {second}: {}", site.proxy.log());
    }
}

#[test]
fn a_drain_can_wait_until_it_was_seen() {
    let delayed =
        |delay: &str| format!("{PLAIN}limits: {{ drain_delay: {delay} }}\n{}", fixed("hi"));
    let mut site = Site::start(delayed("1s"));
    let (public, admin) = (site.address("public"), site.address("admin"));
    let load = Load::start(public, 2, is_200);
    load.more(20);
    let began = Instant::now();
    site.proxy.signal("TERM");
    until("it is not ready", || get(admin, "/readyz").status == 503);
    let seen = began.elapsed();
    assert!(seen < MS(500), "readiness is lost at once, not after {seen:?}");
    load.more(20);
    let served = get(public, "/");
    assert_eq!(served.text(), "hi", "new connections are served");
    assert_eq!(served.values("connection"), ["close"], "but not for long");
    assert_eq!(load.stop(), Vec::<String>::new(), "failed requests");
    assert_eq!(site.proxy.wait(MS(3000)), Ok(0), "{}", site.proxy.log());
    let took = began.elapsed();
    assert!(took > MS(950) && took < MS(2000), "after {took:?}");

    let mut site = Site::start(delayed("30s"));
    site.proxy.signal("TERM");
    site.logged("the listeners close in 30s");
    site.proxy.signal("TERM");
    assert_eq!(site.proxy.wait(MS(1000)), Ok(0), "a second signal\n{}", site.proxy.log());
}

#[test]
fn a_taken_port_is_named_and_ends_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let folder = Folder::new();
    let listener = format!("listeners: {{ front: {{ address: \"{address}\" }} }}\n");
    let admin = format!(
        "listeners: {{ front: {{ address: \"127.0.0.1:0\" }} }}\nadmin: {{ address: \"{address}\" }}\n"
    );
    for (name, config) in [("front", listener), ("admin", admin)] {
        let file = folder.write("selvedge.yaml", config + &fixed("hi"));
        let began = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_selvedge"))
            .args(["run", "-c"])
            .arg(file)
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(began.elapsed() < MS(2000), "{name}: took {:?}", began.elapsed());
        assert!(said.contains(name) && said.contains(&address.to_string()), "{name}: {said}");
        assert!(said.contains("in use"), "{name}: {said}");
    }
}

// ---- health

/// An origin that can be killed: its listener closes, and so does every connection.
struct Mortal {
    address: SocketAddr,
    dead: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    open: Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Mortal {
    fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    fn at(address: impl std::net::ToSocketAddrs) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mortal =
            Self { address, dead: Arc::default(), served: Arc::default(), open: Arc::default() };
        let (dead, served, open) =
            (mortal.dead.clone(), mortal.served.clone(), mortal.open.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                if dead.load(Relaxed) {
                    return;
                }
                open.lock().expect("no panic").extend(stream.try_clone());
                let (dead, served) = (dead.clone(), served.clone());
                std::thread::spawn(move || {
                    while !read_head(&mut stream).is_empty() && !dead.load(Relaxed) {
                        served.fetch_add(1, Relaxed);
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        if stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        mortal
    }

    fn kill(&self) {
        self.dead.store(true, Relaxed);
        // Wakes the thread that accepts, which drops the listener.
        let _ = TcpStream::connect(self.address);
        for stream in self.open.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        until("its port is closed", || TcpStream::connect(self.address).is_err());
    }
}

fn two_origins(first: SocketAddr, second: SocketAddr, health: &str) -> String {
    format!(
        "{PLAIN}upstreams: {{ o: {{ endpoints: [{{ address: \"{first}\" }}, {{ address: \"{second}\" }}] {health} }} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o }}]\n"
    )
}

#[test]
fn an_origin_that_dies_under_load_fails_no_request() {
    let health = ", health: { http: { path: /up }, interval: 50ms, timeout: 500ms }";
    for health in ["", health] {
        let (a, b) = (Mortal::start(), Mortal::start());
        let site = Site::start(two_origins(a.address, b.address, health));
        let load = Load::start(site.address("public"), 4, is_200);
        until("both serve", || a.served.load(Relaxed) > 20 && b.served.load(Relaxed) > 20);
        a.kill();
        load.more(200);
        assert_eq!(load.stop(), Vec::<String>::new(), "health {health:?}\n{}", site.proxy.log());
        if !health.is_empty() {
            site.logged(&format!("endpoint {} is unhealthy", a.address));
            let state = site.upstreams();
            assert_eq!(endpoint_of(&state, 0, 0)["healthy"], false, "{state}");
            let dead =
                format!("selvedge_endpoint_healthy{{endpoint=\"{}\",upstream=\"o\"}}", a.address);
            assert_eq!(site.metric(&dead), Some(0.0), "{dead}");
        }
    }
}

#[test]
fn checks_come_early_and_often_and_each_change_is_one_line() {
    let (a, b) = (Mortal::start(), Mortal::start());
    let health =
        ", health: { interval: 100ms, timeout: 500ms, unhealthy_after: 2, healthy_after: 2 }";
    b.kill();
    let site = Site::start(two_origins(a.address, b.address, health));
    let began = Instant::now();
    let unhealthy = |address: SocketAddr| format!("endpoint {address} is unhealthy");
    let healthy = |address: SocketAddr| format!("endpoint {address} is healthy");
    site.logged(&unhealthy(b.address));
    // The first check decides; twice the promise, for a busy machine.
    assert!(began.elapsed() < MS(200), "first check after {:?}", began.elapsed());

    let began = Instant::now();
    let b = Mortal::at(b.address);
    site.logged(&healthy(b.address));
    assert!(began.elapsed() < MS(600), "recovery noticed after {:?}", began.elapsed());
    let began = Instant::now();
    b.kill();
    until("it is noticed", || site.count_logged(&unhealthy(b.address)) == 2);
    assert!(began.elapsed() < MS(600), "death noticed after {:?}", began.elapsed());
    // Many more checks, and no further line.
    let _b = Mortal::at(b.address);
    until("it is back", || site.count_logged(&healthy(b.address)) == 2);
    let served = a.served.load(Relaxed);
    let lines = site.count_logged("healthy");
    site.get("/");
    assert_eq!((lines, served), (4, 0), "{}", site.proxy.log());
}

// ---- filters

fn filtered(script: &str, filter: &str, rest: &str) -> Site {
    let folder = Folder::new();
    folder.write("f.rhai", script);
    let config = format!(
        "{PLAIN}filters: {{ f: {{ script: f.rhai {filter} }} }}\n{rest}routes:\n\
         - {{ name: plain, match: {{ path: /plain }}, respond: {{ body: plain }} }}\n\
         - {{ name: all, match: {{}}, filters: [f], respond: {{}} }}\n"
    );
    Site::start_in(folder, config)
}

const IN_FLIGHT: &str = "selvedge_requests_in_flight";

#[test]
fn a_client_that_leaves_ends_its_filter() {
    let slow = origin("[{ path: /slow, delay_ms: 1500 }, {}]");
    let upstreams =
        format!("upstreams: {{ api: {{ endpoints: [{{ address: \"{}\" }}] }} }}\n", slow.address);
    let scripts = [
        (
            "fetch",
            "fn on_request(req) { fetch(\"http://api/slow\"); fetch(\"http://api/after\"); () }",
        ),
        (
            "sleep",
            "fn on_request(req) { fetch(\"http://api/first\"); sleep(1.5); fetch(\"http://api/after\"); () }",
        ),
    ];
    let mut wrong = Vec::new();
    for (what, script) in scripts {
        let site = filtered(script, ", fetch: { allow: [\"http://api\"] }", &upstreams);
        let ways: [(&str, &[u8]); 2] =
            [("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), ("HTTP/2", H2_GET)];
        for (protocol, bytes) in ways {
            let mut client = site.connect();
            client.send(bytes).expect("sends");
            until(&format!("{what}, {protocol}: the filter runs"), || !slow.take().is_empty());
            assert_eq!(site.metric(IN_FLIGHT), Some(1.0), "{what}, {protocol}");
            let began = Instant::now();
            drop(client);
            until(&format!("{what}, {protocol}: it ends"), || site.metric(IN_FLIGHT) == Some(0.0));
            let (took, after) = (began.elapsed(), slow.take());
            if took > MS(1000) || !after.is_empty() {
                wrong.push(format!(
                    "{what}, {protocol}: ended after {took:?}, then asked {after:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "filters went on: {wrong:#?}");
}

#[test]
fn endless_loops_hold_nobody_up() {
    let site = filtered(
        "fn on_request(req) { loop { } }",
        ", limits: { cpu: 1s, operations: 1000000000000 }",
        "",
    );
    let address = site.address("public");
    let looping: Vec<_> =
        (0..8).map(|_| std::thread::spawn(move || get(address, "/loop"))).collect();
    until("all eight run", || site.metric(IN_FLIGHT) >= Some(8.0));
    let mut slowest = Duration::ZERO;
    let mut during = 0;
    while during < 20 && !looping.iter().any(std::thread::JoinHandle::is_finished) {
        let began = Instant::now();
        let answer = get(address, "/plain");
        slowest = slowest.max(began.elapsed());
        assert_eq!(answer.text(), "plain");
        during += 1;
    }
    assert!(during > 0, "the loops ended before anything was asked");
    assert!(slowest < MS(500), "the slowest of {during} took {slowest:?}");
    for answer in looping {
        let answer = answer.join().expect("no panic");
        assert_eq!(answer.status, 500, "a loop meets its limit: {answer:?}");
    }
    site.logged("cpu");
}

// ---- access log

fn logging(folder: &Folder, log: &str) -> String {
    let path = folder.path("access.log").display().to_string();
    format!("{PLAIN}access_log: {{ {log}, path: \"{path}\" }}\n{}", fixed("hi"))
}

fn lines(folder: &Folder, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

const SECRETIVE: &[u8] =
    b"GET /a?b=%22c%22 HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: te\"st\\\r\n\
    Authorization: Bearer sesame\r\nProxy-Authorization: Basic sesame\r\nCookie: id=sesame\r\n\r\n";

#[test]
fn access_log_lines_are_json_without_credentials() {
    let site = Site::start(format!("{PLAIN}{}", fixed("hi")));
    let answer = exchange(site.address("public"), SECRETIVE).expect("a response");
    assert_eq!(answer.status, 200, "{answer:?}");
    // Malformed requests are logged, too, and must not break the format.
    let _ = exchange(site.address("public"), b"GET /x\x01y HTTP/1.1\r\nHost: a\r\n\r\n");
    site.logged("\"user_agent\":");
    let log = site.proxy.log();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let parsed: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let line = parsed.iter().find(|line| line["path"] == "/a?b=%22c%22").expect("its line");
    assert_eq!((&line["status"], &line["user_agent"]), (&200.into(), &"te\"st\\".into()), "{line}");
    for key in ["time", "request_id", "client", "method", "route", "duration", "bytes_out"] {
        assert!(line.get(key).is_some(), "no {key} in {line}");
    }
    assert!(!log.contains("sesame"), "{log}");
}

#[test]
fn access_log_in_the_common_format_goes_to_a_file_and_is_reopened() {
    let folder = Folder::new();
    let config = logging(&folder, "format: common");
    let mut site = Site::start_in(folder, config);
    exchange(site.address("public"), SECRETIVE).expect("a response");
    until("the line is written", || lines(&site.folder, "access.log").len() == 1);
    let line = lines(&site.folder, "access.log").remove(0);
    let like = regex::Regex::new(
        r#"^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /a\?b=%22c%22 HTTP/1\.1" 200 2 "-" "te\\x22st\\x5c"$"#,
    );
    assert!(like.expect("a regex").is_match(&line), "{line}");
    assert!(!line.contains("sesame"), "{line}");

    // As logrotate does it: move away, then tell.
    std::fs::rename(site.folder.path("access.log"), site.folder.path("old.log")).expect("moves");
    site.get("/before");
    until("the moved file is still used", || lines(&site.folder, "old.log").len() == 2);
    site.proxy.signal("USR1");
    until("a new file", || site.folder.path("access.log").exists());
    site.get("/after");
    until("the new file is used", || lines(&site.folder, "access.log").len() == 1);
    assert!(lines(&site.folder, "access.log")[0].contains("/after"));
    assert_eq!(lines(&site.folder, "old.log").len(), 2, "the old file is left alone");

    // Nothing is lost at the end.
    site.get("/last");
    ends(&mut site, MS(1000), "with a log to flush");
    assert!(lines(&site.folder, "access.log").iter().any(|line| line.contains("/last")), "flushed");
}

#[test]
fn an_access_log_changes_by_reload() {
    let folder = Folder::new();
    let config = logging(&folder, "format: json");
    let site = Site::start_in(folder, &config);
    site.get("/json");
    until("a line of JSON", || lines(&site.folder, "access.log").len() == 1);
    site.reloaded(config.replace("json", "common"));
    site.get("/common");
    until("a second line", || lines(&site.folder, "access.log").len() == 2);
    assert!(lines(&site.folder, "access.log")[1].starts_with("127.0.0.1 - - ["));
    site.reloaded(format!("{PLAIN}access_log: {{ format: \"off\" }}\n{}", fixed("hi")));
    site.get("/off");
    assert_eq!(lines(&site.folder, "access.log").len(), 2, "off");
}
