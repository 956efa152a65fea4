//! Protocols between the built binary and real peers: curl, openssl, gRPC, WebSockets, nghttp2.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use peers::{
    Authority, Folder, PLAIN, Peer, Ran, Site, all_to, curl, forget_peak, get, memory, origin,
    raw_origin, read_head, request, run, run_with, tool, until,
};
use support::client::{Client, exchange};

const MIB: u64 = 1 << 20;
/// What a body may add to the memory of the proxy.
const MOST_GROWTH: u64 = 32 * MIB;
const LARGE: u64 = 100 * MIB;

/// A listener `public` with TLS; `more` are further keys of its section.
fn tls(folder: &Folder, certificates: &[&str], more: &str) -> String {
    let pair = |name: &&str| {
        let path = |kind: &str| folder.path(&format!("{name}.{kind}")).display().to_string();
        format!("{{ cert: \"{}\", key: \"{}\" }}", path("crt"), path("key"))
    };
    let pairs: Vec<String> = certificates.iter().map(pair).collect();
    format!(
        "listeners: {{ public: {{ address: \"127.0.0.1:0\", tls: {{ certificates: [{}] {more} }} }} }}\n",
        pairs.join(", "),
    )
}

const HELLO: &str = "routes: [{ name: all, match: {}, respond: { body: hello } }]\n";

fn ca_file(folder: &Folder) -> String {
    folder.path("ca.crt").display().to_string()
}

/// `curl https://NAME/` to this site, told where the name is and whom to trust.
fn https(site: &Site, name: &str, more: &[&str]) -> Ran {
    let port = site.address("public").port();
    let (ca, resolve) = (ca_file(&site.folder), format!("{name}:{port}:127.0.0.1"));
    let url = format!("https://{name}:{port}/");
    let mut args = vec!["--cacert", &ca, "--resolve", &resolve];
    args.extend_from_slice(more);
    args.push(&url);
    curl(&args)
}

fn s_client(site: &Site, more: &[&str], input: &str) -> Ran {
    let address = site.address("public").to_string();
    let ca = ca_file(&site.folder);
    let mut args = vec!["s_client", "-connect", &address, "-CAfile", &ca];
    args.extend_from_slice(more);
    run_with("openssl", &args, input.as_bytes())
}

fn one_certificate(more: &str) -> Site {
    let folder = Folder::new();
    Authority::new(&folder, "ca").sign("a.test", &["a.test"]);
    let config = tls(&folder, &["a.test"], more) + HELLO;
    Site::start_in(folder, config)
}

#[test]
fn tls_speaks_http2_by_alpn_and_http1() {
    let site = one_certificate("");
    let version = ["-w", " %{http_version}"];
    let two = https(&site, "a.test", &version);
    assert_eq!(two.out, "hello 2", "{}", two.all());
    let one = https(&site, "a.test", &["--http1.1", version[0], version[1]]);
    assert_eq!(one.out, "hello 1.1", "{}", one.all());

    let site = one_certificate(", http2: false");
    let off = https(&site, "a.test", &version);
    assert_eq!(off.out, "hello 1.1", "http2: false: {}", off.all());
}

#[test]
fn certificates_are_chosen_by_server_name() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    authority.sign("a.test", &["a.test", "www.a.test"]);
    authority.sign("b.test", &["b.test"]);
    authority.sign("wild", &["*.wild.test"]);
    let config = tls(&folder, &["a.test", "b.test", "wild"], "") + HELLO;
    let site = Site::start_in(folder, config);
    for name in ["a.test", "www.a.test", "b.test", "x.wild.test", "B.Test"] {
        let ran = https(&site, name, &[]);
        assert_eq!(ran.out, "hello", "{name}: {}", ran.all());
    }
    for name in ["c.test", "x.y.wild.test", "wild.test"] {
        let ran = https(&site, name, &[]);
        assert_eq!(ran.code, 60, "{name} has no certificate: {}", ran.all());
        let shown = s_client(&site, &["-servername", name], "");
        assert!(shown.out.contains("subject=CN = a.test"), "{name}: {}", shown.all());
    }
    let none = s_client(&site, &["-noservername"], "");
    assert!(none.out.contains("subject=CN = a.test"), "no name: {}", none.all());
}

#[test]
fn old_versions_of_tls_are_refused() {
    let old = ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"];
    let site = one_certificate("");
    let ran = s_client(&site, &old, "");
    let refused =
        ran.code != 0 && ran.err.contains("alert") && ran.out.contains("Cipher is (NONE)");
    assert!(refused, "TLS 1.1: {}", ran.all());
    let ran = s_client(&site, &["-tls1_2"], "");
    assert!(ran.out.contains("Verify return code: 0 (ok)"), "TLS 1.2: {}", ran.all());

    let site = one_certificate(", min_version: \"1.3\"");
    let ran = s_client(&site, &["-tls1_2"], "");
    assert!(ran.err.contains("alert protocol version"), "TLS 1.2: {}", ran.all());
    let ran = s_client(&site, &["-tls1_3"], "");
    assert!(ran.out.contains("Verify return code: 0 (ok)"), "TLS 1.3: {}", ran.all());
}

#[test]
fn tls_sessions_are_resumed() {
    let site = one_certificate("");
    let session = site.folder.path("session.pem").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        // A response makes the client read on until the tickets came.
        let head = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        let common = [version, "-servername", "a.test", "-ign_eof"];
        let first = s_client(&site, &[&common[..], &["-sess_out", &session]].concat(), head);
        assert!(first.out.contains("New, TLS"), "{version}: {}", first.all());
        assert!(first.out.contains("hello"), "{version}: {}", first.all());
        let again = s_client(&site, &[&common[..], &["-sess_in", &session]].concat(), head);
        assert!(again.out.contains("Reused, TLS"), "{version}: {}", again.all());
        assert!(again.out.contains("hello"), "{version}: {}", again.all());
    }
}

#[test]
fn client_certificates_are_asked_for_and_judged() {
    for auth in ["optional", "required"] {
        let folder = Folder::new();
        Authority::new(&folder, "ca").sign("a.test", &["a.test"]);
        Authority::new(&folder, "clients").sign("alice", &["alice.test"]);
        Authority::new(&folder, "others").sign("mallory", &["alice.test"]);
        folder.write(
            "who.rhai",
            "fn on_request(req) { let c = req.client.tls.cert; \
             Response::text(if c == () { \"nobody\" } else { c.cn }) }",
        );
        let more = format!(", client_auth: {auth}, client_ca: clients.crt");
        let config = tls(&folder, &["a.test"], &more)
            + "filters: { who: { script: who.rhai } }\n\
               routes: [{ name: all, match: {}, filters: [who], respond: {} }]\n";
        let site = Site::start_in(folder, config);
        let shown = |name: &str| {
            let file = |kind: &str| site.folder.path(&format!("{name}.{kind}"));
            let (cert, key) =
                (file("crt").display().to_string(), file("key").display().to_string());
            https(&site, "a.test", &["--cert", &cert, "--key", &key])
        };
        let alice = shown("alice");
        assert_eq!(alice.out, "alice", "{auth}: {}", alice.all());
        let mallory = shown("mallory");
        assert_ne!(mallory.code, 0, "{auth}, another authority: {}", mallory.all());
        assert_eq!(mallory.out, "", "{auth}, another authority");
        // No session is ever resumed past the verification: none is handed out.
        let (cert, key) = (site.folder.path("alice.crt"), site.folder.path("alice.key"));
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        for version in ["-tls1_2", "-tls1_3"] {
            let head = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            let args = [version, "-servername", "a.test", "-ign_eof", "-cert", &cert, "-key", &key];
            let ran = s_client(&site, &args, head);
            assert!(ran.out.contains("\n\r\nalice"), "{auth}, {version}: {}", ran.all());
            let ticket = ran.out.contains("ession ticket") || ran.out.contains("ession Ticket");
            let session =
                ran.out.split("Session-ID: ").nth(1).is_some_and(|id| !id.starts_with('\n'));
            assert!(!ticket && !session, "{auth}, {version}: {}", ran.all());
        }
        let nobody = https(&site, "a.test", &[]);
        match auth {
            "optional" => assert_eq!(nobody.out, "nobody", "{auth}: {}", nobody.all()),
            _ => assert_ne!(nobody.code, 0, "{auth}, no certificate: {}", nobody.all()),
        }
    }
}

#[test]
fn a_handshake_that_does_not_come_is_cut() {
    let folder = Folder::new();
    Authority::new(&folder, "ca").sign("a.test", &["a.test"]);
    let config = tls(&folder, &["a.test"], "") + HELLO + "limits: { handshake_timeout: 300ms }\n";
    let site = Site::start_in(folder, config);
    for bytes in [&b""[..], &b"\x16\x03\x01"[..]] {
        let began = Instant::now();
        let mut client = site.connect();
        client.send(bytes).expect("sends");
        assert!(client.closed(), "the connection should close");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(250), "{bytes:?}: after {took:?} only");
        assert!(took < Duration::from_secs(2), "{bytes:?}: after {took:?}");
    }
    let after = https(&site, "a.test", &[]);
    assert_eq!(after.out, "hello", "others are served: {}", after.all());
}

#[test]
fn http2_with_prior_knowledge() {
    let echo = origin("[{ path: /empty, status: 204 }, {}]");
    let site = Site::start(format!("{PLAIN}{}", all_to(echo.address)));
    let h2 = |args: &[&str]| curl(&[&["--http2-prior-knowledge"], args].concat());
    let ran = h2(&["-w", "\n%{http_version}", "-d", "a body", &site.url("/x?y=1")]);
    let (body, version) = ran.out.rsplit_once('\n').unwrap_or_default();
    assert_eq!(version, "2", "{}", ran.all());
    let seen: serde_json::Value = serde_json::from_str(body).expect("the origin's echo");
    assert_eq!((&seen["target"], &seen["body"]), (&"/x?y=1".into(), &"a body".into()), "{seen}");
    let head = h2(&["-I", &site.url("/x")]);
    assert!(head.out.starts_with("HTTP/2 200"), "HEAD: {}", head.all());
    let empty = h2(&["-w", "%{http_code}", &site.url("/empty")]);
    assert_eq!(empty.out, "204", "{}", empty.all());

    let load = run("nghttp", &["-ans", "-m", "50", &site.url("/many")]);
    assert!(load.out.lines().filter(|line| line.contains(" 200 ")).count() == 50, "{}", load.all());

    let off = "listeners: { public: { address: \"127.0.0.1:0\", h2c: false } }\n";
    let site = Site::start(format!("{off}{HELLO}"));
    let ran = h2(&[&site.url("/")]);
    assert_ne!(ran.code, 0, "h2c: false: {}", ran.all());
}

/// A site in front of an HTTP/2 origin.
fn before_http2(listeners: &str, origin: SocketAddr) -> String {
    format!(
        "{listeners}upstreams: {{ o: {{ endpoints: [{{ address: \"{origin}\" }}], protocol: http2 }} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o }}]\n"
    )
}

#[test]
fn grpc_passes_with_trailers_and_status() {
    let mut server = Peer::start("grpc_peer.py", &["serve"]);
    let origin = server.address();
    let folder = Folder::new();
    Authority::new(&folder, "ca").sign("a.test", &["a.test"]);
    let (cert, key) = (folder.path("a.test.crt"), folder.path("a.test.key"));
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let mut tls_server = Peer::start("grpc_peer.py", &["serve", &cert, &key]);
    let behind_tls = before_http2(PLAIN, tls_server.address()).replace(
        "protocol: http2",
        &format!("protocol: http2, tls: {{ server_name: a.test, ca: {} }}", ca_file(&folder)),
    );
    let secure = tls(&folder, &["a.test"], "");
    let secure = Site::start_in(folder, before_http2(&secure, origin));
    let plain = Site::start(before_http2(PLAIN, origin));
    let to_tls = Site::start(behind_tls);
    let expected = serde_json::json!({
        "say": ["hello world", "OK", "t-42"],
        "large": 1_000_006,
        "count": [true, "OK", "100"],
        "collect": "a+b+c",
        "refuse": ["FAILED_PRECONDITION", "not now"],
    });
    let ca = ca_file(&secure.folder);
    let calls: [(&Site, &[&str]); 3] = [(&plain, &[]), (&secure, &[&ca, "a.test"]), (&to_tls, &[])];
    for (site, more) in calls {
        let address = site.address("public").to_string();
        let mut client =
            Peer::start("grpc_peer.py", &[&["call", address.as_str()][..], more].concat());
        let line = client.line();
        let found: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("no answers but {line:?}:\n{}", site.proxy.log()));
        assert_eq!(found, expected, "{more:?}\n{}", site.proxy.log());
    }
}

/// Trailers are about the origin's bytes; and where there is nothing but a head, a filter can still
/// give a body.
#[test]
fn bodies_of_an_http2_origin_are_transformed_and_replaced() {
    let mut server = Peer::start("grpc_peer.py", &["serve"]);
    let folder = Folder::new();
    folder.write("add.rhai", "fn on_response(res, req) { res.append(\"!\"); }");
    folder.write("set.rhai", "fn on_response(res, req) { res.body.set_text(\"given\"); }");
    folder.write("frame", "\0\0\0\0\x05world");
    let config = format!(
        "{PLAIN}\
         upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}], protocol: http2 }} }}\n\
         filters: {{ add: {{ script: add.rhai }}, set: {{ script: set.rhai }} }}\n\
         routes:\n\
         - {{ name: add, match: {{ path: \"/add/{{rest*}}\" }}, strip_prefix: /add, filters: [add], upstream: o }}\n\
         - {{ name: set, match: {{ path: \"/set/{{rest*}}\" }}, strip_prefix: /set, filters: [set], upstream: o }}\n",
        server.address()
    );
    let site = Site::start_in(folder, config);
    let frame = format!("@{}", site.folder.path("frame").display());
    let call = |path: &str| {
        let grpc = ["-H", "Content-Type: application/grpc", "-H", "TE: trailers"];
        let rest = ["-i", "--http2-prior-knowledge", "--data-binary", &frame, &site.url(path)];
        let ran = curl(&[&grpc[..], &rest].concat());
        assert_eq!(ran.code, 0, "{path}: {}", ran.all());
        ran.out
    };
    let added = call("/add/test.Echo/Say");
    assert!(added.ends_with("hello world!") && !added.contains("x-trailer"), "{added}");
    assert!(call("/set/test.Echo/Say").ends_with("\r\n\r\ngiven"), "with a body before");
    let refused = call("/set/test.Echo/Refuse");
    assert!(refused.ends_with("\r\n\r\ngiven"), "a head alone: {refused}");
    assert!(refused.contains("content-length: 5"), "{refused}");
}

#[test]
fn http1_and_http2_reach_an_http2_origin() {
    let echo = origin("[{}]");
    // The origin that speaks HTTP/2 is another of our own, before one that speaks HTTP/1.1.
    let inner = Site::start(format!("{PLAIN}{}", all_to(echo.address)));
    let outer = Site::start(before_http2(PLAIN, inner.address("public")));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let ran = curl(&[version, "-d", "a body", &outer.url("/x")]);
        let seen: serde_json::Value =
            serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{version}: {}", ran.all()));
        assert_eq!((&seen["method"], &seen["body"]), (&"POST".into(), &"a body".into()), "{seen}");
    }
    until("the inner proxy's log", || inner.count_logged("\"HTTP/2\"") == 2);
}

/// HTTP/2 names the host in a pseudo-header and may split cookies.
#[test]
fn http2_requests_keep_host_and_cookies_with_another_path() {
    let echo = origin("[{}]");
    let inner = Site::start(format!("{PLAIN}{}", all_to(echo.address)));
    let stripped = |origin: SocketAddr, protocol: &str| {
        Site::start(format!(
            "{PLAIN}upstreams: {{ o: {{ endpoints: [{{ address: \"{origin}\" }}], protocol: {protocol} }} }}\n\
             routes: [{{ name: api, match: {{ path: \"/api/{{rest*}}\" }}, strip_prefix: /api, upstream: o }}]\n"
        ))
    };
    let (direct, outer) =
        (stripped(echo.address, "http1"), stripped(inner.address("public"), "http2"));
    for (what, site) in [("HTTP/1.1 origin", &direct), ("HTTP/2 origin", &outer)] {
        let cookies = ["-H", "cookie: a=1", "-H", "cookie: b=2"];
        let ran = run("nghttp", &[&cookies[..], &[&site.url("/%61pi/./x?y=/%61pi")]].concat());
        let seen: serde_json::Value = serde_json::from_str(&ran.out)
            .unwrap_or_else(|_| panic!("{what}: {}\n{}", ran.all(), site.proxy.log()));
        assert_eq!(seen["target"], "/x?y=/%61pi", "{what}");
        let values = |name: &str| {
            let headers = seen["headers"].as_array().into_iter().flatten();
            headers.filter(|pair| pair[0] == name).map(|pair| pair[1].clone()).collect::<Vec<_>>()
        };
        assert_eq!(values("host"), [site.address("public").to_string()], "{what}: {seen}");
        assert_eq!(values("cookie"), ["a=1; b=2"], "{what}: {seen}");
    }
}

#[test]
fn websockets_pass_both_ways_and_outlive_a_reload() {
    let mut server = Peer::start("websocket_peer.py", &["serve"]);
    let config = format!("{PLAIN}{}", all_to(server.address()));
    let site = Site::start(&config);
    let url = format!("ws://{}/chat", site.address("public"));
    let mut client = Peer::start("websocket_peer.py", &["talk", &url]);
    assert_eq!(client.line(), "connected", "{}", site.proxy.log());
    assert_eq!(client.ask("send 1048576"), "same", "{}", site.proxy.log());
    assert_eq!(client.ask("send 1"), "same");

    site.configure(format!("{config}trusted_proxies: [10.0.0.0/8]\n"));
    site.proxy.signal("HUP");
    site.logged("reloaded: ");
    assert_eq!(client.ask("send 65536"), "same", "after the reload");
    assert_eq!(client.ask("close"), "closed 4001 as you wish");
    site.logged("\"status\":101");
    assert_eq!(server.line(), "ended 4001 as you wish", "the client's answer");
}

#[test]
fn either_side_may_end_a_websocket() {
    let mut server = Peer::start("websocket_peer.py", &["serve"]);
    let folder = Folder::new();
    Authority::new(&folder, "ca").sign("a.test", &["a.test"]);
    let ca = ca_file(&folder);
    let timeouts = "timeouts: { idle: 200ms, first_byte: 200ms, total: 200ms }, endpoints";
    let config = tls(&folder, &["a.test"], "")
        + &all_to(server.address()).replace("endpoints", timeouts)
        + "limits: { tunnel_timeout: 500ms }\n";
    let site = Site::start_in(folder, config);
    let url = format!("wss://{}/chat", site.address("public"));
    let connect = || {
        let mut client = Peer::start("websocket_peer.py", &["talk", &url, &ca]);
        assert_eq!(client.line(), "connected", "{}", site.proxy.log());
        assert_eq!(client.ask("text \u{e9}t\u{e9}"), "same", "{}", site.proxy.log());
        client
    };
    assert_eq!(connect().ask("end 4321"), "closed 4321 enough");
    assert_eq!(server.line(), "ended 4321 enough");
    assert_eq!(connect().ask("leave"), "left");
    assert_eq!(server.line(), "ended broken", "the origin learns of it");
    // Neither the limit for an answer nor the one for all of a request ends a tunnel.
    let mut client = connect();
    let began = Instant::now();
    assert_eq!(client.ask("wait"), "broken", "an origin that is silent");
    let took = began.elapsed();
    assert!(took > Duration::from_millis(400), "after {took:?} only");
    assert!(took < Duration::from_secs(3), "after {took:?}");
    assert_eq!(server.line(), "ended broken");
}

/// Answers each request with this many bytes, and counts those of requests.
fn bulk_origin(bytes: u64) -> (SocketAddr, Arc<AtomicUsize>) {
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let address = raw_origin(move |mut stream| {
        let head = read_head(&mut stream);
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if text.starts_with("put") {
            let end = text.find("\r\n\r\n").map_or(head.len(), |at| at + 4);
            count.fetch_add(head.len() - end, Relaxed);
            let chunked = text.contains("transfer-encoding");
            let mut piece = vec![0; 1 << 16];
            let mut tail = head[end..].to_vec();
            while !(chunked && tail.ends_with(b"0\r\n\r\n"))
                && (chunked || (count.load(Relaxed) as u64) < bytes)
            {
                let Ok(n @ 1..) = stream.read(&mut piece) else { return };
                count.fetch_add(n, Relaxed);
                tail = piece[n.saturating_sub(5)..n].to_vec();
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        } else {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
            let piece = vec![b'x'; 1 << 16];
            for _ in 0..bytes / piece.len() as u64 {
                if stream.write_all(&piece).is_err() {
                    return;
                }
            }
        }
    });
    (address, received)
}

#[test]
fn large_bodies_stream_in_little_memory() {
    let (address, received) = bulk_origin(LARGE);
    let site = Site::start(format!("{PLAIN}{}", all_to(address)));
    let upload = site.folder.path("upload");
    let file = std::fs::File::create(&upload).expect("a file");
    file.set_len(LARGE).expect("a sparse file");
    let (upload, url) = (upload.display().to_string(), site.url("/x"));
    let growth = |version: &str, args: &[&str]| {
        forget_peak(site.proxy.pid());
        let (before, _) = memory(site.proxy.pid());
        let ran = curl(&[&[version], args, &[url.as_str()]].concat());
        let (_, peak) = memory(site.proxy.pid());
        let grown = peak.saturating_sub(before);
        assert!(grown < MOST_GROWTH, "{version} {args:?}: {} MiB", grown / MIB);
        ran
    };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let ran = growth(version, &["-o", "/dev/null", "-w", "%{size_download}"]);
        assert_eq!(ran.out, LARGE.to_string(), "{version}: {}", ran.all());
        received.store(0, Relaxed);
        let ran = growth(version, &["-T", &upload]);
        assert_eq!(ran.out, "done", "{version}: {}", ran.all());
        assert!(received.load(Relaxed) as u64 >= LARGE, "{version}: {received:?}");
    }
}

fn at_most_1kib(origin: SocketAddr) -> Site {
    Site::start(format!("{PLAIN}{}", all_to(origin).replace("1GiB", "1KiB")))
}

#[test]
fn bodies_above_the_limit_get_413() {
    let echo = origin("[{}]");
    let site = at_most_1kib(echo.address);
    let url = site.url("/x");
    for (length, status) in [(1024, "200"), (100_000, "413")] {
        let body = site.folder.write("body", "x".repeat(length)).display().to_string();
        let data = format!("@{body}");
        let http1 = |more: &[&str]| {
            let args = ["-w", "%{http_code}", "-o", "/dev/null", "--data-binary", &data, &url];
            curl(&[&args[..], &["-H", "Expect:"], more].concat())
        };
        // curl 7.88 loses an HTTP/2 response that comes before its request is sent; nghttp does not.
        let http2 = |more: &[&str]| run("nghttp", &[&["-nv", "-d", &body], more, &[&url]].concat());
        let status2 = format!(":status: {status}");
        let known = [http1(&[]), http2(&[])];
        let seen = echo.take().len();
        let unknown =
            [http1(&["-H", "Transfer-Encoding: chunked"]), http2(&["--no-content-length"])];
        for (how, [one, two]) in [("known", known), ("unknown", unknown)] {
            assert_eq!(one.out, status, "HTTP/1.1, {length} bytes, {how}: {}", one.all());
            assert!(two.out.contains(&status2), "HTTP/2, {length} bytes, {how}: {}", two.all());
        }
        // Where the length is known, nothing of it reaches the origin.
        assert_eq!(seen, if status == "200" { 2 } else { 0 }, "{length} bytes");
        echo.take();
    }
}

#[test]
fn expect_100_continue_is_answered() {
    // As RFC 9110 has it, the origin answers the expectation.
    let asks = raw_origin(|mut stream| {
        let head = read_head(&mut stream);
        let expects = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("100-continue");
        let mut body = [0; 3];
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        if expects && stream.read_exact(&mut body).is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
            let _ = stream.write_all(&body);
        }
    });
    let site = at_most_1kib(asks);
    let head = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut client = site.connect();
    client.send(head(3).as_bytes()).expect("sends");
    // Nothing is sent until the body is asked for.
    while !client.buffered().ends_with(b"\r\n\r\n") {
        assert_ne!(client.fill().expect("100 comes"), 0, "closed instead of 100");
    }
    let first = String::from_utf8_lossy(client.buffered()).into_owned();
    assert!(first.starts_with("HTTP/1.1 100"), "{first}");
    client.send(b"abc").expect("sends");
    let answer = client.receive(false).expect("a response");
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"), "{answer:?}");

    let refused = exchange(site.address("public"), head(5000).as_bytes()).expect("a response");
    assert_eq!(refused.status, 413, "refused before the body: {refused:?}");
}

fn with_limits(limits: &str) -> Site {
    Site::start(format!("{PLAIN}limits: {{ {limits} }}\n{HELLO}"))
}

#[test]
fn a_head_that_drips_is_cut() {
    let site = with_limits("head_timeout: 1s");
    let began = Instant::now();
    let mut stream = TcpStream::connect(site.address("public")).expect("connects");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let mut answer = Vec::new();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n");
    // A byte of a header for each tenth of a second, which is never silent for long.
    loop {
        let mut piece = [0; 1024];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let _ = stream.write_all(b"x");
            }
            Err(_) => break,
        }
        assert!(began.elapsed() < Duration::from_secs(5), "still open");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900), "after {took:?} only");
    assert!(took < Duration::from_secs(2), "after {took:?}");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
}

#[test]
fn idle_connections_are_cut() {
    let site = with_limits("keep_alive: 500ms");
    let never_used = site.connect();
    let mut used = site.connect();
    used.send(request("/").as_bytes()).expect("sends");
    assert_eq!(used.receive(false).expect("a response").status, 200);
    for (what, mut client) in [("used", used), ("never used", never_used)] {
        let began = Instant::now();
        assert!(client.closed(), "{what}: should close");
        assert!(began.elapsed() < Duration::from_secs(2), "{what}: after {:?}", began.elapsed());
    }
}

#[test]
fn a_connection_serves_so_many_requests() {
    let site = with_limits("requests_per_connection: 3");
    let mut client = site.connect();
    for i in 1..=3 {
        client.send(request("/").as_bytes()).expect("sends");
        let answer = client.receive(false).expect("a response");
        let closes = answer.values("connection").iter().any(|v| v.eq_ignore_ascii_case("close"));
        assert_eq!(closes, i == 3, "request {i}: {answer:?}");
    }
    assert!(client.closed(), "after the third");
}

#[test]
fn connections_are_capped_in_all_and_by_address() {
    for limit in ["connections: 3", "connections_per_address: 3"] {
        let site = with_limits(limit);
        let mut held: Vec<Client> = (0..3).map(|_| site.connect()).collect();
        for client in &mut held {
            client.send(request("/").as_bytes()).expect("sends");
            assert_eq!(client.receive(false).expect("a response").status, 200, "{limit}");
        }
        let mut fourth = site.connect();
        let answer = fourth.receive(false).expect("an answer");
        assert_eq!(answer.status, 503, "{limit}: {answer:?}");
        assert!(fourth.closed(), "{limit}: should close");
        drop(held.pop());
        until(&format!("{limit}: there is room again"), || {
            exchange(site.address("public"), request("/").as_bytes()).is_ok_and(|r| r.status == 200)
        });
        assert_eq!(held.len(), 2);
    }
}

fn behind_proxy(trusted: &str, origin: SocketAddr) -> Site {
    let listener = format!(
        "listeners: {{ public: {{ address: \"127.0.0.1:0\", proxy_protocol: [{trusted}] }} }}\n"
    );
    Site::start(format!("{listener}{}", all_to(origin)))
}

#[test]
fn proxy_headers_tell_the_client_address() {
    let echo = origin("[{}]");
    let site = behind_proxy("127.0.0.0/8", echo.address);
    let v2 = |family: u8, addresses: &[u8]| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
        header.extend([family, 0, addresses.len() as u8]);
        header.extend_from_slice(addresses);
        header
    };
    let v4 = [192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 9;
    let headers: [(&str, Vec<u8>, &str); 4] = [
        ("v1", b"PROXY TCP4 192.0.2.1 127.0.0.1 1234 80\r\n".to_vec(), "192.0.2.1"),
        ("v1", b"PROXY TCP6 2001:db8::1 ::1 1234 80\r\n".to_vec(), "2001:db8::1"),
        ("v2", v2(0x11, &v4), "192.0.2.7"),
        ("v2", v2(0x21, &v6), "2001:db8::9"),
    ];
    for (version, header, client) in headers {
        let bytes = [&header[..], request("/").as_bytes()].concat();
        let answer = exchange(site.address("public"), &bytes).expect("a response");
        assert_eq!(answer.status, 200, "{version} {client}: {answer:?}");
        let seen = echo.take();
        let found = seen[0].headers.iter().find(|(name, _)| name == "x-forwarded-for");
        assert_eq!(found.map(|(_, v)| v.as_str()), Some(client), "{version}: {seen:?}");
        site.logged(&format!("\"client\":\"{client}\""));
    }
    for missing in [request("/"), "PROXY TCP4 nonsense\r\n".to_owned() + &request("/")] {
        let outcome = exchange(site.address("public"), missing.as_bytes());
        assert!(outcome.is_err(), "{missing:?} was answered: {outcome:?}");
    }
    let ran = curl(&["--haproxy-protocol", &site.url("/curl")]);
    assert!(ran.out.contains("/curl"), "curl: {}", ran.all());
    echo.take();

    // From elsewhere a header is no header but a malformed request.
    let site = behind_proxy("10.0.0.0/8", echo.address);
    let bytes = b"PROXY TCP4 192.0.2.1 127.0.0.1 1234 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = exchange(site.address("public"), bytes);
    assert!(!answer.as_ref().is_ok_and(|a| a.status == 200), "untrusted: {answer:?}");
    assert_eq!(get(site.address("public"), "/").status, 200, "no header, not trusted");
    assert_eq!(echo.take().len(), 1, "the origin sees the good one only");
}

#[test]
fn broken_off_responses_look_broken_off() {
    let half = "HTTP/1.1 200 OK\\r\\nContent-Length: 1000\\r\\n\\r\\nabc";
    let chunk = "HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n3\\r\\nabc\\r\\n";
    let broken = origin(&format!(
        "[{{ path: /half, raw: \"{half}\" }}, {{ path: /chunk, raw: \"{chunk}\" }}]"
    ));
    let direct = Site::start(format!("{PLAIN}{}", all_to(broken.address)));
    let through_h2 = Site::start(before_http2(PLAIN, direct.address("public")));
    for (what, site) in [("HTTP/1.1 origin", &direct), ("HTTP/2 origin", &through_h2)] {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            for path in ["/half", "/chunk"] {
                let ran = curl(&[version, &site.url(path)]);
                assert_ne!(ran.code, 0, "{what} {version} {path} looks whole: {}", ran.all());
            }
        }
    }
}

#[test]
fn a_response_with_http1_trailers_passes_without_them() {
    let raw = "HTTP/1.1 200 OK\\r\\nTrailer: x-sum\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n\
               3\\r\\nabc\\r\\n0\\r\\nx-sum: 42\\r\\n\\r\\n";
    let trailing = origin(&format!("[{{ raw: \"{raw}\" }}]"));
    let site = Site::start(format!("{PLAIN}{}", all_to(trailing.address)));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let ran = curl(&["-i", version, &site.url("/")]);
        assert_eq!(ran.code, 0, "{version}: {}", ran.all());
        assert!(ran.out.ends_with("\r\n\r\nabc"), "{version}: {}", ran.all());
        assert!(!ran.out.contains("x-sum"), "{version}: {}", ran.all());
    }
}

#[test]
fn metrics_pass_promtool() {
    let echo = origin("[{}]");
    let site = Site::start(format!("{PLAIN}{}", all_to(echo.address)));
    site.get("/x");
    let missing = get(site.address("metrics"), "/other");
    assert_eq!(missing.status, 404, "{missing:?}");
    let page = get(site.address("metrics"), "/metrics").text();
    assert!(page.contains("selvedge_requests_total{code=\"200\""), "{page}");
    let ran = run_with(&tool("promtool"), &["check", "metrics"], page.as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.all());
}

#[test]
fn connections_are_counted() {
    let site = with_limits("connections_per_address: 2");
    let mut held = [site.connect(), site.connect()];
    for client in &mut held {
        client.send(request("/").as_bytes()).expect("sends");
        client.receive(false).expect("a response");
    }
    let _ = site.connect().receive(false);
    let rejected = "selvedge_connections_rejected_total{reason=\"per_address\"}";
    assert_eq!(site.metric(rejected), Some(1.0), "rejected");
    assert_eq!(site.metric("selvedge_connections_open"), Some(2.0), "open");
    let total = site.metric("selvedge_connections_total");
    assert!(total >= Some(2.0), "accepted: {total:?}");
}
