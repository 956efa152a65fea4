//! Upstreams with real peers: TLS to origins, gRPC over it, origins that die, hang or are slow.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use peers::{
    Authority, Folder, Load, PLAIN, Peer, Site, all_to, forget_peak, memory, origin, raw_origin,
    read_head, request, until,
};
use support::client::{Client, exchange};
use support::origin::Origin;

/// Origins by name with the certificates `NAME.crt`, and a route `/NAME` to each.
struct Secure {
    site: Site,
    _peers: Vec<Peer>,
}

/// What an upstream says about TLS, unless a test says something else.
const TRUST: &str = "server_name: origin.test, ca: ca.crt";

fn start_tls(folder: &Folder, certificate: &str, more: &[&str]) -> (Peer, SocketAddr) {
    let path = |kind: &str| folder.path(&format!("{certificate}.{kind}")).display().to_string();
    let (cert, key) = (path("crt"), path("key"));
    let mut peer = Peer::start("tls_peer.py", &[&[cert.as_str(), key.as_str()], more].concat());
    let address = peer.address();
    (peer, address)
}

fn upstream(name: &str, address: SocketAddr, more: &str) -> String {
    format!("  {name}: {{ endpoints: [{{ address: \"{address}\" }}], retries: 0, {more} }}\n")
}

fn routes(names: &[&str]) -> String {
    let route = |name: &&str| {
        format!(
            "  - {{ name: {name}, match: {{ path: \"/{name}/{{rest*}}\" }}, upstream: {name} }}\n"
        )
    };
    format!("routes:\n{}", names.iter().map(route).collect::<String>())
}

impl Secure {
    /// `peers`: name, certificate, and what its upstream says beside `endpoints`.
    fn start(folder: Folder, peers: &[(&str, &str, &str)]) -> Self {
        let (mut running, mut upstreams) = (Vec::new(), "upstreams:\n".to_owned());
        for (name, certificate, more) in peers {
            let (peer, address) = start_tls(&folder, certificate, &[]);
            upstreams.push_str(&upstream(name, address, more));
            running.push(peer);
        }
        let names: Vec<&str> = peers.iter().map(|(name, _, _)| *name).collect();
        let site = Site::start_in(folder, format!("{PLAIN}{upstreams}{}", routes(&names)));
        Self { site, _peers: running }
    }
}

#[test]
fn an_origins_certificate_is_verified() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    authority.sign("good", &["origin.test"]);
    authority.sign("misnamed", &["other.test"]);
    authority.sign_expired("expired", "origin.test");
    authority.self_signed("selfish", "origin.test");
    Authority::new(&folder, "others").sign("stranger", &["origin.test"]);
    let tls = format!("tls: {{ {TRUST} }}");
    let names = ["good", "misnamed", "expired", "selfish", "stranger"];
    let mut peers: Vec<_> = names.map(|name| (name, name, tls.as_str())).to_vec();
    // Without `ca` the system's authorities count, which know nothing of ours.
    peers.push(("system", "good", "tls: { server_name: origin.test }"));
    let secure = Secure::start(folder, &peers);
    let site = &secure.site;

    let good = site.get("/good/x?y=1");
    assert_eq!(good.status, 200, "{}\n{}", good.text(), site.proxy.log());
    let seen: serde_json::Value = serde_json::from_slice(&good.body).expect("JSON");
    assert_eq!((&seen["sni"], &seen["target"]), (&"origin.test".into(), &"/good/x?y=1".into()));
    assert_eq!(seen["tls"], "TLSv1.3", "{seen}");
    for (name, why) in [
        ("misnamed", "certificate not valid for name"),
        ("expired", "Expired"),
        ("selfish", "UnknownIssuer"),
        ("stranger", "UnknownIssuer"),
        ("system", "UnknownIssuer"),
    ] {
        let answer = site.get(&format!("/{name}/x"));
        assert_eq!(answer.status, 502, "{name}: {}", answer.text());
        assert!(
            !answer.text().contains("ertificate"),
            "{name} tells the client: {}",
            answer.text()
        );
        until(&format!("the log says why {name} is refused"), || {
            let log = site.proxy.log();
            let line = log.lines().find(|line| line.contains(&format!("route {name}:")));
            line.is_some_and(|line| line.contains("TLS failed") && line.contains(why))
        });
    }
    until("each is an error of its kind", || {
        site.count_logged("\"error\":\"upstream_tls\"") == peers.len() - 1
    });
}

#[test]
fn an_origins_certificate_may_be_named_and_its_tls_required_to_be_new() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    authority.sign("good", &["origin.test"]);
    authority.sign("renewed", &["origin.test"]);
    let of = |name: &str| {
        let file = folder.path(&format!("{name}.crt")).display().to_string();
        let ran =
            peers::run("openssl", &["x509", "-in", &file, "-noout", "-fingerprint", "-sha256"]);
        ran.out.trim().rsplit('=').next().unwrap_or_default().to_owned()
    };
    let pinned =
        format!("tls: {{ {TRUST}, fingerprints: [\"{}\"], min_version: 1.3 }}", of("good"));
    let secure = Secure::start(
        folder,
        &[("good", "good", pinned.as_str()), ("renewed", "renewed", pinned.as_str())],
    );
    let site = &secure.site;
    assert_eq!(site.get("/good/x").status, 200, "{}", site.proxy.log());
    for _ in 0..2 {
        let answer = site.get("/renewed/x");
        assert_eq!(answer.status, 502, "{}", answer.text());
    }
    site.logged("none of the fingerprints is the certificate's");
    site.logged("\"error\":\"upstream_tls\"");
}

#[test]
fn an_origin_may_ask_for_a_certificate() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    authority.sign("good", &["origin.test"]);
    authority.sign("gateway", &["gateway.test"]);
    Authority::new(&folder, "others").sign("stranger", &["gateway.test"]);
    let ca = folder.path("ca.crt").display().to_string();
    let (_peer, address) = start_tls(&folder, "good", &[&ca]);
    let shows = |name: &str| {
        let certificate = format!("certificate: {{ cert: {name}.crt, key: {name}.key }}");
        upstream(name, address, &format!("tls: {{ {TRUST}, {certificate} }}"))
    };
    let none = upstream("none", address, &format!("tls: {{ {TRUST} }}"));
    let upstreams = format!("upstreams:\n{}{}{none}", shows("gateway"), shows("stranger"));
    let config = format!("{PLAIN}{upstreams}{}", routes(&["gateway", "stranger", "none"]));
    let site = Site::start_in(folder, config);
    for _ in 0..2 {
        // Connections are not shared with upstreams that show another certificate.
        let known = site.get("/gateway/x");
        assert_eq!(known.status, 200, "{}\n{}", known.text(), site.proxy.log());
        assert!(known.text().contains("\"client\": \"gateway\""), "{}", known.text());
        for name in ["stranger", "none"] {
            assert_eq!(site.get(&format!("/{name}/x")).status, 502, "{name}");
        }
    }
    // A reload reads the files anew and refuses a pair that does not fit.
    let wrong = shows("gateway").replace("gateway.key", "stranger.key");
    site.configure(format!("{PLAIN}upstreams:\n{wrong}{}", routes(&["gateway"])));
    let answer = site.reload();
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("stranger.key"), "{}", answer.text());
}

#[test]
fn http2_to_an_origin_is_agreed_on_by_alpn() {
    let folder = Folder::new();
    Authority::new(&folder, "ca").sign("good", &["origin.test"]);
    // The origin that speaks HTTP/2 over TLS is another of our own.
    let echo = origin("[{}]");
    let path = |name: &str| folder.path(name).display().to_string();
    let pair = format!("{{ cert: \"{}\", key: \"{}\" }}", path("good.crt"), path("good.key"));
    let listener = format!(
        "listeners: {{ public: {{ address: \"127.0.0.1:0\", tls: {{ certificates: [{pair}] }} }} }}\n"
    );
    let inner = Site::start(format!("{listener}{}", all_to(echo.address)));
    let (_peer, only_one) = start_tls(&folder, "good", &[]);
    let tls = format!("tls: {{ {TRUST} }}");
    let auto = format!("{tls}, protocol: auto");
    let two = format!("{tls}, protocol: http2");
    let upstreams = [
        upstream("agreed", inner.address("public"), &auto),
        upstream("required", inner.address("public"), &two),
        upstream("fallback", only_one, &auto),
        upstream("missing", only_one, &two),
        upstream("one", inner.address("public"), &tls),
    ];
    let names = ["agreed", "required", "fallback", "missing", "one"];
    let config = format!("{PLAIN}upstreams:\n{}{}", upstreams.concat(), routes(&names));
    let site = Site::start_in(folder, config);
    for (name, status, protocol) in [
        ("agreed", 200, Some("HTTP/2")),
        ("required", 200, Some("HTTP/2")),
        ("one", 200, Some("HTTP/1.1")),
        ("fallback", 200, None),
        ("missing", 502, None),
    ] {
        for _ in 0..2 {
            let answer = site.get(&format!("/{name}/x"));
            assert_eq!(answer.status, status, "{name}: {}\n{}", answer.text(), site.proxy.log());
        }
        let Some(protocol) = protocol else { continue };
        let line = |log: &str| {
            let lines = log.lines().filter(|line| line.contains(&format!("\"/{name}/x\"")));
            lines.filter(|line| line.contains(&format!("\"protocol\":\"{protocol}\""))).count()
        };
        until(&format!("{name} came by {protocol}"), || line(&inner.proxy.log()) == 2);
    }
}

#[test]
fn checks_and_fetches_speak_tls_to_origins() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    authority.sign("good", &["origin.test"]);
    authority.sign("misnamed", &["other.test"]);
    folder.write(
        "ask.rhai",
        "fn on_request(req) {
            let name = req.params.rest;
            try { return Response::text(fetch(`http://${name}/fetched`).json().sni); }
            catch (e) { return Response::text(e.kind); }
        }",
    );
    let health =
        format!("tls: {{ {TRUST} }}, health: {{ http: {{ path: /health }}, interval: 50ms }}");
    let (_good, good) = start_tls(&folder, "good", &[]);
    let (_misnamed, misnamed) = start_tls(&folder, "misnamed", &[]);
    let (first, second) =
        (upstream("good", good, &health), upstream("misnamed", misnamed, &health));
    let site = Site::start_in(
        folder,
        format!(
            "{PLAIN}upstreams:\n{first}{second}\
             filters:\n  ask: {{ script: ask.rhai, fetch: {{ allow: [\"http://good\", \"http://misnamed\"] }} }}\n\
             routes: [{{ name: ask, match: {{ path: \"/{{rest*}}\" }}, filters: [ask], respond: {{}} }}]\n"
        ),
    );
    site.logged("certificate not valid for name");
    until("the checks have their verdicts", || {
        // In the order of the names.
        let state = site.upstreams();
        let of = |upstream: usize| state["upstreams"][upstream]["endpoints"][0].clone();
        of(0)["healthy"] == true && of(0)["checked"] == true && of(1)["healthy"] == false
    });
    assert_eq!(site.get("/good").text(), "origin.test", "{}", site.proxy.log());
    assert_eq!(site.get("/misnamed").text(), "connect", "{}", site.proxy.log());
}

#[test]
fn grpc_checks_ask_a_real_server() {
    let mut server = Peer::start("grpc_peer.py", &["serve"]);
    let address = server.address();
    let asking = |name: &str, service: &str| {
        let health = format!("health: {{ interval: 50ms, grpc: {{ service: \"{service}\" }} }}");
        upstream(name, address, &format!("protocol: http2, {health}"))
    };
    let (all, sick, unknown) =
        (asking("a", ""), asking("b", "sick"), asking("c", "there.is.none.Such"));
    let site = Site::start(format!("{PLAIN}upstreams:\n{all}{sick}{unknown}{}", routes(&["a"])));
    until("each check has its verdict", || {
        let state = site.upstreams();
        let of = |index: usize| state["upstreams"][index]["endpoints"][0].clone();
        let verdicts = [0, 1, 2].map(|index| of(index)["healthy"] == true);
        of(0)["checked"] == true && verdicts == [true, false, false]
    });
}

/// Endpoints with these keys beside their addresses, behind one upstream for every path.
fn balanced(origins: &[Origin], keys: &[&str], more: &str) -> String {
    let endpoints = origins.iter().zip(keys.iter().chain(std::iter::repeat(&"")));
    let endpoints =
        endpoints.map(|(origin, keys)| format!("{{ address: \"{}\" {keys} }}", origin.address));
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    format!(
        "{PLAIN}upstreams: {{ o: {{ endpoints: [{endpoints}], {more} }} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o }}]\n"
    )
}

fn three_origins() -> Vec<Origin> {
    (0..3).map(|_| origin("[{}]")).collect()
}

/// How many requests each origin saw since the last time.
fn shares(origins: &[Origin]) -> Vec<usize> {
    origins.iter().map(|origin| origin.take().len()).collect()
}

#[test]
fn weights_share_the_requests() {
    let origins = three_origins();
    let weights = [", weight: 3", ", weight: 2", ""];
    for (balance, slack) in [("round_robin", 0), ("random", 60), ("least_request", 60)] {
        let site = Site::start(balanced(&origins, &weights, &format!("balance: {balance}")));
        let mut client = site.connect();
        for _ in 0..300 {
            client.send(request("/x").as_bytes()).expect("sends");
            assert_eq!(client.receive(false).expect("a response").status, 200);
        }
        let found = shares(&origins);
        let near = |found: usize, expected: usize| found.abs_diff(expected) <= slack;
        let fair = near(found[0], 150) && near(found[1], 100) && near(found[2], 50);
        assert!(fair, "{balance}: {found:?} instead of [150, 100, 50]");
    }
}

#[test]
fn a_hash_keeps_what_belongs_together_at_one_origin() {
    for by in ["header: x-user", "cookie: user", "path: true"] {
        let request = |key: usize| match by {
            "path: true" => format!("GET /{key} HTTP/1.1\r\nHost: a\r\n\r\n"),
            _ => format!(
                "GET /x HTTP/1.1\r\nHost: a\r\nX-User: {key}\r\nCookie: a=b; user={key}; c=d\r\n\r\n"
            ),
        };
        let origins = three_origins();
        let hash = format!("balance: hash, hash_by: {{ {by} }}");
        let site = Site::start(balanced(&origins, &[], &hash));
        let place = |key: usize| {
            for _ in 0..3 {
                let answer = exchange(site.address("public"), request(key).as_bytes());
                assert_eq!(answer.expect("a response").status, 200, "{by}: {key}");
            }
            let found = shares(&origins);
            let at = found.iter().position(|count| *count == 3);
            at.unwrap_or_else(|| panic!("{by}: {key} went to {found:?}"))
        };
        let before: Vec<usize> = (0..30).map(place).collect();
        assert!((0..3).all(|at| before.contains(&at)), "{by}: {before:?} leaves one out");
        // Without one endpoint, only the keys that it had move.
        site.reloaded(balanced(&origins[..2], &[], &hash));
        let after: Vec<usize> = (0..30).map(place).collect();
        for (key, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(*before == 2 || before == after, "{by}: {key} moved from {before} to {after}");
        }
    }
    let origins = three_origins();
    let site = Site::start(balanced(&origins, &[], "balance: hash, hash_by: { cookie: user }"));
    (0..60).for_each(|_| drop(site.get("/x")));
    let spread = shares(&origins);
    assert!(spread.iter().all(|count| *count > 0), "without the cookie: {spread:?}");

    let site = Site::start(balanced(&origins, &[], "balance: hash, hash_by: { client_ip: true }"));
    (0..9).for_each(|n| drop(site.get(&format!("/{n}"))));
    assert_eq!(shares(&origins).iter().filter(|count| **count == 9).count(), 1, "one client");
}

#[test]
fn a_reload_keeps_the_connections_to_origins() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let address = raw_origin(move |mut stream| {
        count.fetch_add(1, SeqCst);
        while !read_head(&mut stream).is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let config = format!("{PLAIN}{}", all_to(address));
    let site = Site::start(&config);
    for round in 0..3 {
        assert_eq!(site.get("/x").text(), "ok", "round {round}");
        site.reloaded(format!("{config}trusted_proxies: [10.0.0.{round}]\n"));
    }
    assert_eq!(accepted.load(SeqCst), 1, "one connection for all");
}

/// Answers at once until it is told to hang, then never; it still accepts, as a stopped process.
#[test]
fn an_origin_that_hangs_under_load_fails_no_get() {
    let hangs = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&hangs);
    let hanging = raw_origin(move |mut stream| {
        while !read_head(&mut stream).is_empty() {
            while told.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let good = origin("[{ body: ok }]");
    let site = Site::start(format!(
        "{PLAIN}upstreams: {{ o: {{ timeouts: {{ first_byte: 300ms }},\
         endpoints: [{{ address: \"{hanging}\" }}, {{ address: \"{}\" }}],\
         health: {{ http: {{ path: /health }}, interval: 100ms, timeout: 100ms }} }} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o }}]\n",
        good.address,
    ));
    let load = Load::start(site.address("public"), 4, |response| match response.status {
        200 => Ok(()),
        other => Err(format!("{other}: {}", response.text())),
    });
    load.more(100);
    hangs.store(true, SeqCst);
    site.logged("is unhealthy (no answer within 100ms)");
    load.more(200);
    assert_eq!(load.stop(), Vec::<String>::new(), "no request fails:\n{}", site.proxy.log());
    assert!(
        site.metric("selvedge_upstream_retries_total{reason=\"timeout\",upstream=\"o\"}")
            > Some(0.0),
        "retried"
    );
    hangs.store(false, SeqCst);
    site.logged("is healthy");
}

#[test]
fn clients_that_do_not_read_take_little_memory() {
    const MIB: u64 = 1 << 20;
    let endless = raw_origin(|mut stream| {
        let head = read_head(&mut stream);
        if head.starts_with(b"GET /small ") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return;
        }
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 100 * MIB);
        while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    let inner = Site::start(format!("{PLAIN}{}", all_to(endless)));
    let http2 = all_to(inner.address("public")).replace("] }", "], protocol: http2 }");
    let outer = Site::start(format!("{PLAIN}{http2}"));
    for (what, site) in [("HTTP/1.1 origin", &inner), ("HTTP/2 origin", &outer)] {
        forget_peak(site.proxy.pid());
        let (before, _) = memory(site.proxy.pid());
        let mut clients: Vec<Client> = (0..20).map(|_| site.connect()).collect();
        for client in &mut clients {
            client.send(request("/x").as_bytes()).expect("sends");
            client.fill().expect("the head comes");
        }
        // Nothing tells when the proxy stops to read; a second is long for memory to run away.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(50));
            let grown = memory(site.proxy.pid()).1.saturating_sub(before);
            assert!(grown < 64 * MIB, "{what}: {} MiB for 20 clients", grown / MIB);
        }
        assert_eq!(site.get("/small").text(), "ok", "{what}: others are served");
    }
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let endless = raw_origin(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    let site =
        Site::start(format!("{PLAIN}{}limits: {{ stall_timeout: 300ms }}\n", all_to(endless)));
    let mut client = site.connect();
    client.send(request("/x").as_bytes()).expect("sends");
    site.logged("\"error\":\"stalled\"");
    // The line is written before the request lets go of what it holds.
    until("nothing is in flight", || site.metric("selvedge_requests_in_flight") == Some(0.0));
}
