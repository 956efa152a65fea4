//! Upstreams with real peers: TLS to origins, gRPC over it, origins that die, hang or are slow.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::net::SocketAddr;

use peers::{Authority, Folder, PLAIN, Peer, Site, all_to, origin, until};

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
