//! Filters at the end of requests, at their limits and over reloads. Use cases are named by their ids.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use peers::{Folder, PATIENCE, PLAIN, Peer, Site, get, origin, raw_origin, read_head, until};
use support::client::{Client, exchange};

/// A filter of this text before everything, with further keys.
fn filtered(origin: SocketAddr, script: &str, keys: &str) -> Site {
    let folder = Folder::new();
    folder.write("filter.rhai", script);
    Site::start_in(folder, config(origin, keys))
}

fn config(origin: SocketAddr, keys: &str) -> String {
    format!(
        "{PLAIN}upstreams: {{ o: {{ endpoints: [{{ address: \"{origin}\" }}] }} }}\n\
         filters: {{ f: {{ script: filter.rhai{keys} }} }}\n\
         routes: [{{ name: all, match: {{}}, filters: [f], upstream: o, max_body: 1GiB }}]\n"
    )
}

#[test]
fn on_log_holds_up_no_request_is_bounded_and_ends_before_the_process() {
    let origin = origin("[{ body: hello }]");
    let script = "fn on_log(req, res) { sleep(1.0); log::info(\"told \" + req.path); }";
    let folder = Folder::new();
    folder.write("filter.rhai", script);
    let limits = "limits: { after_response: 3 }\n";
    let mut site = Site::start_in(folder, config(origin.address, "") + limits);
    let mut client = site.connect();
    let begun = Instant::now();
    for visit in 0..5 {
        client.send(format!("GET /{visit} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("sends");
        assert_eq!(client.receive(false).expect("an answer").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_millis(900), "took {:?}", begun.elapsed());
    let dropped = r#"selvedge_filter_after_dropped_total{filter="f"}"#;
    until("two were too many", || site.metric(dropped) == Some(2.0));
    drop(client);
    site.proxy.signal("TERM");
    assert_eq!(site.proxy.wait(Duration::from_secs(10)), Ok(0));
    assert_eq!(site.count_logged("told /"), 3, "{}", site.proxy.log());
}

#[test]
fn ac_059_a_websocket_for_those_with_a_token() {
    let mut server = Peer::start("websocket_peer.py", &["serve"]);
    let script = r#"
        fn on_request(req) {
            if req.query["token"] != "letmein" { return response(401); }
            req.query.remove("token");
        }
        fn on_log(req, res) {
            let o = req.outcome;
            log::info(`ended ${o.status}`, #{ path: req.url, got: o.bytes_in, sent: o.bytes_out });
        }"#;
    // The socket idles for longer than a hook may take.
    let site = filtered(server.address(), script, ", limits: { wall: 100ms }");
    let url = |query: &str| format!("ws://{}/chat?{query}", site.address("public"));
    let upgrade = "GET /chat?token=no HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let refused = exchange(site.address("public"), upgrade.as_bytes()).expect("an answer");
    assert_eq!(refused.status, 401);
    site.logged("ended 401");
    let mut client = Peer::start("websocket_peer.py", &["talk", &url("a=1&token=letmein")]);
    assert_eq!(client.line(), "connected", "{}", site.proxy.log());
    assert_eq!(client.ask("send 1048576"), "same", "{}", site.proxy.log());
    site.folder.write("filter.rhai", "fn on_request(req) { response(403) }");
    assert_eq!(site.reload().status, 200);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(client.ask("send 10"), "same", "after the reload");
    assert_eq!(site.count_logged("ended 101"), 0, "it is open still");
    assert_eq!(client.ask("close"), "closed 4001 as you wish");
    assert_eq!(server.line(), "ended 4001 as you wish");
    site.logged("ended 101");
    let log = site.proxy.log();
    let line = log.lines().find(|line| line.contains("ended 101")).expect("a line");
    assert!(line.contains("/chat?a=1\""), "the origin's query has no token: {line}");
    let count = |name: &str| -> u64 {
        let (_, rest) = line.split_once(&format!("{name}=\"")).expect("the field");
        rest.split('"').next().expect("a value").parse().expect("a number")
    };
    assert!(count("got") > 1_048_576 && count("sent") > 1_048_576, "{line}");
    assert_eq!(site.count_logged("ended 101"), 1, "once");
}

/// More than Pingora holds, and no text.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 31 % 256).expect("a byte")).collect()
}

#[test]
fn ac_032_a_shadow_gets_a_copy_and_disturbs_nobody() {
    let main = origin("[{ body: done }]");
    let shadow = origin("[{ path: /slow, delay_ms: 2000 }, { path: /broken, status: 500 }, {}]");
    let folder = Folder::new();
    folder.write(
        "shadow.rhai",
        r#"fn on_request(req) {
            let path = req.path;
            let body = req.body.bytes();
            after_response(|done| fetch("http://shadow" + path, #{
                method: "POST", body: body, headers: #{ "x-shadow": "1" } }), #{ if_aborted: true });
        }"#,
    );
    let config = |shadow: SocketAddr| {
        format!(
            "{PLAIN}upstreams:\n  o: {{ endpoints: [{{ address: \"{}\" }}] }}\n  \
             shadow: {{ endpoints: [{{ address: \"{shadow}\" }}] }}\n\
             filters: {{ shadow: {{ script: shadow.rhai, body: {{ request: buffer }}, fetch: {{ allow: [\"http://shadow\"] }} }} }}\n\
             routes:\n  - {{ name: plain, match: {{ path: /plain }}, upstream: o }}\n  \
             - {{ name: all, match: {{}}, filters: [shadow], upstream: o }}\n",
            main.address
        )
    };
    let site = Site::start_in(folder, config(shadow.address));
    let body = bytes(200_000);
    let post = |path: &str| {
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(&body);
        let begun = Instant::now();
        let response = exchange(site.address("public"), &request).expect("an answer");
        assert_eq!((response.status, response.text().as_str()), (200, "done"), "{path}");
        begun.elapsed()
    };
    for path in ["/x", "/slow", "/broken"] {
        // The client closes right after its response.
        assert!(post(path) < Duration::from_millis(1500), "{path}: it waits for the shadow");
        let mut copies = Vec::new();
        until("the shadow has its copy", || {
            copies.extend(shadow.take());
            !copies.is_empty()
        });
        let copy = &copies[0];
        assert!(copy.body[..] == body[..], "{path}: {} bytes", copy.body.len());
        let marked = copy.headers.iter().any(|(name, value)| name == "x-shadow" && value == "1");
        assert!(marked, "{:?}", copy.headers);
        let seen = main.take();
        assert_eq!(seen.len(), 1);
        assert!(
            seen[0].body[..] == body[..] && !seen[0].headers.iter().any(|(n, _)| n == "x-shadow")
        );
    }
    site.reloaded(config("127.0.0.1:1".parse().expect("an address")));
    assert!(post("/dead") < Duration::from_millis(1500));
    assert_eq!(main.take().len(), 1);
}

/// Kilobytes of memory that a process holds.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// An origin for large bodies: reads what comes, tells how much, and sends `LARGE` bytes.
fn large_origin() -> SocketAddr {
    raw_origin(|mut stream| {
        let head = read_head(&mut stream);
        let text = String::from_utf8_lossy(&head).into_owned();
        let end = head.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        if text.starts_with("POST") {
            let mut left = LARGE - (head.len() - end);
            let mut piece = vec![0; 65536];
            while left > 0 {
                match stream.read(&mut piece) {
                    Ok(n @ 1..) => left -= n,
                    _ => return,
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall");
        } else if text.starts_with("GET /events") {
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
            );
            for event in 0..3 {
                let _ = stream.write_all(format!("data: {event}\n\n").as_bytes());
                std::thread::sleep(Duration::from_millis(400));
            }
        } else {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\nETag: \"strong\"\r\nContent-Encoding: odd\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes());
            let piece = bytes(1 << 16);
            for _ in 0..LARGE >> 16 {
                if stream.write_all(&piece).is_err() {
                    return;
                }
            }
        }
    })
}

const LARGE: usize = 64 << 20;

#[test]
fn ac_039_a_filter_of_headers_leaves_bodies_alone() {
    let script = "fn on_request(req) { req.headers[\"x-a\"] = \"1\"; }\n\
                  fn on_response(res, req) { res.headers[\"x-b\"] = \"2\"; }";
    let site = filtered(large_origin(), script, "");
    let address = site.address("public");
    get(address, "/warm");
    let before = resident(site.proxy.pid());
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sends");
    let head = read_head(&mut stream);
    let end = head.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    for line in ["content-length: 67108864", "etag: \"strong\"", "content-encoding: odd", "x-b: 2"]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
    let (mut at, mut piece, sent) = (0, vec![0; 1 << 16], bytes(1 << 16));
    let mut check = |got: &[u8]| {
        for byte in got {
            assert_eq!(*byte, sent[at % sent.len()], "byte {at}");
            at += 1;
        }
        at
    };
    let mut received = check(&head[end..]);
    let mut most = before;
    while received < LARGE {
        let n = stream.read(&mut piece).expect("more");
        assert!(n > 0, "{received} of {LARGE} bytes");
        received = check(&piece[..n]);
        if received % (8 << 20) < n {
            most = most.max(resident(site.proxy.pid()));
        }
    }
    let mut upload = TcpStream::connect(address).expect("connects");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\nConnection: close\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).expect("sends");
    for _ in 0..LARGE >> 16 {
        upload.write_all(&piece).expect("the body is read");
        most = most.max(resident(site.proxy.pid()));
    }
    let mut answer = String::new();
    upload.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("all"), "{answer}");
    let grown = most - before;
    assert!(grown < 8 << 10, "{grown} KiB more");
}

#[test]
fn ac_039_events_pass_as_they_come() {
    let script = "fn on_response(res, req) { res.headers[\"x-b\"] = \"2\"; }";
    let site = filtered(large_origin(), script, "");
    let mut stream = TcpStream::connect(site.address("public")).expect("connects");
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").expect("sends");
    let begun = Instant::now();
    let (mut read, mut piece) = (String::new(), [0; 4096]);
    for event in 0..3 {
        let wanted = format!("data: {event}\n\n");
        while !read.contains(&wanted) {
            let n = stream.read(&mut piece).expect("more");
            assert!(n > 0, "no {wanted:?} in {read}");
            read.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
        let late = begun.elapsed().saturating_sub(Duration::from_millis(400) * event);
        assert!(late < Duration::from_millis(350), "event {event} {late:?} late");
    }
}

const RUNAWAYS: [(&str, &str); 6] = [
    ("loop", "loop {}"),
    ("recurse", "f(0)"),
    ("text", "let s = \"x\"; loop { s += s; }"),
    ("array", "let a = [1]; loop { a += a; }"),
    ("map", "let m = #{}; let i = 0; loop { m[\"k\" + i] = i; i += 1; }"),
    (
        "regex",
        "let s = \"\"; s.pad(1000000, \"01\"); loop { regex(\"[01]*1[01]{400}2\").is_match(s); }",
    ),
];

/// A route for each of them, and one without a filter.
fn runaways(origin: SocketAddr) -> Site {
    let folder = Folder::new();
    let (mut filters, mut routes) = (String::new(), String::new());
    for (name, body) in RUNAWAYS {
        folder.write(
            &format!("{name}.rhai"),
            format!("fn f(n) {{ f(n + 1) + 1 }}\nfn on_request(req) {{ {body} }}"),
        );
        filters += &format!("  {name}: {{ script: {name}.rhai }}\n");
        routes += &format!(
            "  - {{ name: {name}, match: {{ path: /{name} }}, filters: [{name}], upstream: o }}\n"
        );
    }
    Site::start_in(
        folder,
        format!(
            "{PLAIN}upstreams: {{ o: {{ endpoints: [{{ address: \"{origin}\" }}] }} }}\n\
             filters:\n{filters}routes:\n{routes}  - {{ name: all, match: {{}}, upstream: o }}\n",
        ),
    )
}

#[test]
fn ac_051_scripts_that_run_away_harm_nobody() {
    let origin = origin("[{ body: hello }]");
    let site = runaways(origin.address);
    let address = site.address("public");
    get(address, "/warm");
    // Before the storm, of which the log shows only ten lines a second.
    assert_eq!(get(address, "/loop").status, 500);
    site.logged("loop.rhai:2:1: the script met the cpu limit");
    let before = resident(site.proxy.pid());
    let (over, begun) = (AtomicBool::new(false), Instant::now());
    let mut times = std::thread::scope(|scope| {
        for (name, _) in RUNAWAYS {
            let over = &over;
            scope.spawn(move || {
                while !over.load(SeqCst) && begun.elapsed() < PATIENCE {
                    let path = format!("/{name}");
                    assert_eq!(get(address, &path).status, 500, "{name}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let mut client = Client::connect(address).expect("connects");
        let times: Vec<Duration> = (0..500)
            .map(|_| {
                let begun = Instant::now();
                client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").expect("sends");
                assert_eq!(client.receive(false).expect("an answer").status, 200);
                begun.elapsed()
            })
            .collect();
        over.store(true, SeqCst);
        times
    });
    times.sort();
    // What the use case asks for is 100 ms, of a release build on a machine of its own.
    assert!(times[495] < Duration::from_millis(250), "p99 {:?}", times[495]);
    let grown = resident(site.proxy.pid()).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    let limits = [("loop", "cpu"), ("recurse", "calls"), ("text", "string"), ("regex", "cpu")];
    for (name, limit) in limits {
        let series =
            format!("selvedge_filter_limit_hits_total{{filter=\"{name}\",limit=\"{limit}\"}}");
        assert!(site.metric(&series).is_some_and(|hits| hits >= 1.0), "{series}");
    }
}

#[test]
fn ac_054_a_bad_deploy_is_refused_and_a_good_one_is_whole() {
    let origin = origin("[{}]");
    let version = |number: u32| {
        format!(
            "fn on_request(req) {{ req.ctx.v = {number}; }}\n\
             fn on_response(res, req) {{ res.headers[\"x-version\"] = `{number} ${{req.ctx.v}}`; }}"
        )
    };
    let site = filtered(origin.address, &version(1), "");
    let address = site.address("public");
    let bad = [
        "fn on_request(req) { let x = ; }",
        "fn on_request(req) { fecth(\"http://a/\"); }",
        "fn on_request(req) { req.pathh == \"/\" }",
        "fn on_request(req) { kv(\"none\").get(\"a\"); }",
        "import \"missing\" as m;\nfn on_request(req) { m::f(); }",
    ];
    let (over, versions) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(address).expect("connects");
            while !over.load(SeqCst) && begun.elapsed() < PATIENCE {
                client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").expect("sends");
                let response = client.receive(false).expect("an answer");
                assert_eq!(response.status, 200);
                match response.values("x-version")[..] {
                    ["1 1"] => {}
                    ["2 2"] => versions.store(2, SeqCst),
                    ref other => panic!("of two versions: {other:?}"),
                }
            }
        });
        for script in bad {
            site.folder.write("filter.rhai", script);
            let answer = site.reload();
            assert_ne!(answer.status, 200, "{script}");
            let told: serde_json::Value = serde_json::from_str(&answer.text()).expect("JSON");
            let problem = &told["problems"][0];
            let file = problem["file"].as_str().unwrap_or_default();
            assert!(file.ends_with("filter.rhai"), "{script}: {told}");
            assert_eq!(problem["line"], 1, "{script}: {told}");
            assert!(problem["column"].as_u64().is_some_and(|at| at >= 1), "{script}: {told}");
        }
        assert_eq!(versions.load(SeqCst), 0, "the old version serves");
        site.folder.write("filter.rhai", version(2));
        assert_eq!(site.reload().status, 200);
        until("the new one serves", || versions.load(SeqCst) == 2);
        over.store(true, SeqCst);
    });
}

#[test]
fn a_version_that_faults_falls_back_to_the_one_before() {
    let origin = origin("[{ body: hello }]");
    let good = "fn on_request(req) { response(203, \"good\") }";
    let keys = ", on_fault: previous, breaker: { failures: 50%, min_requests: 3, open: 60s }";
    let site = filtered(origin.address, good, keys);
    assert_eq!(site.get("/").text(), "good");
    let runs = || site.metric(r#"selvedge_filter_previous_runs_total{filter="f"}"#);
    site.folder.write("filter.rhai", "fn on_request(req) { throw \"broken\"; }");
    assert_eq!(site.reload().status, 200);
    for run in 1..=3 {
        assert_eq!(site.get("/").text(), "good");
        assert_eq!(runs(), Some(f64::from(run)));
    }
    site.logged("filter.rhai:1:22: ");
    site.logged("filter f: out for a while, as it faults too often");
    assert_eq!(site.metric(r#"selvedge_filter_out{filter="f"}"#), Some(1.0));
    let faults = r#"selvedge_filter_runs_total{filter="f",hook="on_request",outcome="fault"}"#;
    assert_eq!((site.get("/").text().as_str(), site.metric(faults)), ("good", Some(3.0)));
    // Another change that faults: what it falls back to is still what last did well.
    site.folder.write("filter.rhai", "fn on_request(req) { throw \"as broken\"; }");
    assert_eq!(site.reload().status, 200);
    assert_eq!(site.get("/").text(), "good");
    // The same script again, for another reason.
    site.reloaded(config(origin.address, keys) + "trusted_proxies: [10.0.0.0/8]\n");
    assert_eq!(site.get("/").text(), "good");
    site.folder.write("filter.rhai", "fn on_request(req) { response(203, \"better\") }");
    assert_eq!(site.reload().status, 200);
    assert_eq!(site.get("/").text(), "better");
}

#[test]
fn without_a_version_before_a_fault_is_closed() {
    let origin = origin("[{ body: hello }]");
    let site = filtered(origin.address, "fn on_request(req) { throw 1; }", ", on_fault: previous");
    assert_eq!(site.get("/").status, 500);
}
