//! Use cases that need more than a case file can say: TLS, many clients, chance. Named by their ids.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peers::{
    Authority, Folder, PLAIN, Ran, Site, curl, get, memory, origin, raw_origin, read_head, run,
    until,
};
use support::client::{Client, Response, exchange};
use support::origin::Origin;

/// A shipped filter's path.
fn shipped(name: &str) -> String {
    format!("{}/scripts/{name}.rhai", env!("CARGO_MANIFEST_DIR"))
}

/// The values of a header that an origin saw last; then it has forgotten all.
fn last(origin: &Origin, name: &str) -> Vec<String> {
    let seen = origin.take().pop().expect("the origin saw a request");
    let headers = seen.headers.into_iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
    headers.map(|(_, value)| value).collect()
}

/// A plain listener and one with TLS, on which clients may show a certificate.
fn with_tls(rest: &str) -> Site {
    let folder = Folder::new();
    Authority::new(&folder, "ca").sign("a.test", &["a.test"]);
    let clients = Authority::new(&folder, "clients");
    clients.sign("alice", &["alice.test"]);
    clients.sign("bob", &["bob.test"]);
    Authority::new(&folder, "others").sign("mallory", &["alice.test"]);
    let config = format!(
        "listeners:\n  \
           public: {{ address: \"127.0.0.1:0\" }}\n  \
           tls: {{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: a.test.crt, key: a.test.key }}], \
                   client_auth: optional, client_ca: clients.crt }} }}\n{}",
        rest.replace("FINGERPRINT", &fingerprint(&folder, "alice")),
    );
    Site::start_in(folder, config)
}

/// SHA-256 of a certificate in lower-case hex, by openssl.
fn fingerprint(folder: &Folder, name: &str) -> String {
    let file = folder.path(&format!("{name}.crt")).display().to_string();
    let ran = run("openssl", &["x509", "-in", &file, "-noout", "-fingerprint", "-sha256"]);
    let (_, hex) = ran.out.trim().split_once('=').expect("a fingerprint");
    hex.replace(':', "").to_ascii_lowercase()
}

fn https(site: &Site, path: &str, more: &[&str]) -> Ran {
    let port = site.address("tls").port();
    let ca = site.folder.path("ca.crt").display().to_string();
    let (resolve, url) =
        (format!("a.test:{port}:127.0.0.1"), format!("https://a.test:{port}{path}"));
    let args = ["--cacert", &ca, "--resolve", &resolve, "-w", "\n%{http_code}", &url];
    curl(&[&args[..], more].concat())
}

#[test]
fn ac_008_a_certificate_is_an_identity() {
    let origin = origin("[{ body: hello }]");
    let site = with_tls(&format!(
        "upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}\n\
         filters: {{ cert: {{ script: \"{}\", config: {{ fingerprints: [FINGERPRINT] }} }} }}\n\
         routes: [{{ name: all, match: {{}}, filters: [cert], upstream: o }}]\n",
        origin.address,
        shipped("client_cert"),
    ));
    let show = |name: &str| {
        let file = |kind| site.folder.path(&format!("{name}.{kind}")).display().to_string();
        let forged = "X-Client-CN: root";
        https(
            &site,
            "/",
            &[
                "--cert",
                &file("crt"),
                "--key",
                &file("key"),
                "-H",
                forged,
                "-H",
                "X-Client-Role: admin",
            ],
        )
    };
    let alice = show("alice");
    assert_eq!(alice.out, "hello\n200", "{}", alice.all());
    let seen = origin.take().pop().expect("alice's request");
    let value = |name: &str| -> Vec<&str> {
        let headers = seen.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        headers.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(value("x-client-cn"), ["alice"]);
    assert_eq!(value("x-client-fingerprint"), [fingerprint(&site.folder, "alice")]);
    assert!(value("x-client-role").is_empty());
    let bob = show("bob");
    assert!(bob.out.ends_with("\n403"), "a certificate that is not listed: {}", bob.all());
    let mallory = show("mallory");
    assert_ne!(mallory.code, 0, "another authority: {}", mallory.all());
    let nobody = https(&site, "/", &[]);
    assert!(nobody.out.ends_with("\n403"), "no certificate: {}", nobody.all());
    assert_eq!(get(site.address("public"), "/").status, 403, "no TLS");
    assert!(origin.take().is_empty(), "the origin saw what was refused");
}

#[test]
fn ac_026_a_path_needs_tls_1_3() {
    let origin = origin("[{ body: hello }]");
    let site = with_tls(&format!(
        "upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}\n\
         filters: {{ version: {{ script: \"{}\" }} }}\n\
         routes:\n  \
           - {{ name: pay, match: {{ path: \"/pay/{{rest*}}\" }}, filters: [version], upstream: o }}\n  \
           - {{ name: all, match: {{}}, upstream: o }}\n",
        origin.address,
        shipped("tls_version"),
    ));
    let old = https(&site, "/pay/1", &["--tls-max", "1.2"]);
    assert_eq!(old.out, "Please use TLS version 1.3 or higher.\n403", "{}", old.all());
    assert!(origin.take().is_empty(), "the origin saw what was refused");
    let new = https(&site, "/pay/1", &["--tlsv1.3"]);
    assert_eq!(new.out, "hello\n200", "{}", new.all());
    assert_eq!(last(&origin, "x-tls"), ["TLSv1.3"]);
    let elsewhere = https(&site, "/other", &["--tls-max", "1.2"]);
    assert_eq!(elsewhere.out, "hello\n200", "{}", elsewhere.all());
    let plain = get(site.address("public"), "/pay/1?a=%2F");
    assert_eq!(
        (plain.status, plain.values("location")),
        (308, vec!["https://shop.test/pay/1?a=%2F"])
    );
}

#[test]
fn ac_019_both_groups_are_about_as_large() {
    let origin = origin("[{ body: page }]");
    let site = Site::start(format!(
        "listeners: {{ public: {{ address: \"127.0.0.1:0\" }} }}\n\
         upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}\n\
         filters: {{ ab: {{ script: \"{}\" }} }}\n\
         routes: [{{ name: all, match: {{}}, filters: [ab], upstream: o }}]\n\
         access_log: {{ format: off }}\n",
        origin.address,
        shipped("ab"),
    ));
    const VISITS: usize = 2000;
    let mut client = site.connect();
    for visit in 0..VISITS {
        client.send(b"GET /page HTTP/1.1\r\nHost: shop.test\r\n\r\n").expect("sends");
        let response = client.receive(false).unwrap_or_else(|e| panic!("visit {visit}: {e}"));
        assert_eq!(response.status, 200);
    }
    let seen = origin.take();
    assert_eq!(seen.len(), VISITS);
    let control = seen.iter().filter(|seen| seen.target == "/control/page").count();
    let test = seen.iter().filter(|seen| seen.target == "/test/page").count();
    assert_eq!(control + test, VISITS);
    assert!((880..=1120).contains(&control), "{control} of {VISITS} in control");
}

#[test]
fn ac_027_who_waits_delays_nobody() {
    const SUSPECTS: usize = 100;
    const OTHERS: usize = 500;
    let origin = origin("[{ body: hello }]");
    let site = Site::start(format!(
        "listeners: {{ public: {{ address: \"127.0.0.1:0\" }} }}\n\
         upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}\n\
         filters: {{ slow: {{ script: \"{}\", config: {{ pattern: scan, seconds: 1.5 }} }} }}\n\
         routes: [{{ name: all, match: {{}}, filters: [slow], upstream: o }}]\n\
         access_log: {{ format: off }}\n",
        origin.address,
        shipped("slow_down"),
    ));
    let address = site.address("public");
    let scan = "GET /scan HTTP/1.1\r\nHost: a\r\nUser-Agent: portscan/1\r\n\r\n";
    // One that hangs up while it waits.
    let mut gone = site.connect();
    gone.send(scan.as_bytes()).expect("sends");
    drop(gone);
    let (delays, times) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SUSPECTS {
            scope.spawn(|| {
                let begun = Instant::now();
                let response = exchange(address, scan.as_bytes()).expect("an answer");
                assert_eq!(response.status, 200);
                delays.lock().expect("no panic").push(begun.elapsed());
            });
        }
        // They are all in flight before the others come.
        std::thread::sleep(Duration::from_millis(300));
        let mut client = Client::connect(address).expect("connects");
        for _ in 0..OTHERS {
            let begun = Instant::now();
            client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").expect("sends");
            assert_eq!(client.receive(false).expect("an answer").status, 200);
            times.lock().expect("no panic").push(begun.elapsed());
        }
    });
    let mut times = times.into_inner().expect("no panic");
    times.sort();
    assert!(
        times[OTHERS * 99 / 100] < Duration::from_millis(200),
        "p99 {:?}",
        times[OTHERS * 99 / 100]
    );
    let delays = delays.into_inner().expect("no panic");
    assert_eq!(delays.len(), SUSPECTS);
    for delay in delays {
        assert!((1500..2500).contains(&delay.as_millis()), "{delay:?}");
    }
    let scans = origin.take().iter().filter(|seen| seen.target == "/scan").count();
    assert_eq!(scans, SUSPECTS, "and not the one that hung up");
}

fn with_beacons(collector: SocketAddr, origin: SocketAddr, limits: &str) -> Site {
    let folder = Folder::new();
    folder.write(
        "answer.rhai",
        "fn on_request(req) { if req.path == \"/no\" { return response(403); } }",
    );
    let config = format!(
        "{PLAIN}
{limits}
upstreams:
  o: {{ endpoints: [{{ address: \"{origin}\" }}] }}
  collector: {{ endpoints: [{{ address: \"{collector}\" }}] }}
filters:
  beacon:
    script: \"{}\"
    fetch: {{ allow: [\"http://collector\"], timeout: 1s }}
    config: {{ to: \"http://collector/in\" }}
  answer: {{ script: answer.rhai }}
routes: [{{ name: all, match: {{}}, filters: [beacon, answer], upstream: o }}]
",
        shipped("beacon"),
    );
    Site::start_in(folder, config)
}

#[test]
fn ac_056_beacons_follow_responses_and_delay_none() {
    let collector = peers::origin("[{ status: 204, delay_ms: 500 }]");
    let origin = origin("[{ path: /slow, delay_ms: 2000 }, { body: hello }]");
    let mut site = with_beacons(collector.address, origin.address, "");
    let mut client = site.connect();
    let mut visit = |path: &str| {
        let begun = Instant::now();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(request.as_bytes()).expect("sends");
        (client.receive(false).expect("an answer").status, begun.elapsed())
    };
    let mut times: Vec<Duration> = (0..20).map(|_| visit("/a").1).collect();
    times.sort();
    assert!(times[10] < Duration::from_millis(20), "on one connection: {:?}", times[10]);
    assert_eq!(visit("/no").0, 403);
    let mut gone = site.connect();
    gone.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").expect("sends");
    until("the origin has it", || origin.take().iter().any(|seen| seen.target == "/slow"));
    drop(gone);
    let ok =
        r#"selvedge_filter_runs_total{filter="beacon",hook="after_response",outcome="continue"}"#;
    until("all are told", || site.metric(ok) == Some(22.0));
    // The process gives those in flight the time to end.
    assert_eq!(site.get("/last").status, 200);
    site.proxy.signal("TERM");
    assert_eq!(site.proxy.wait(Duration::from_secs(10)), Ok(0));
    assert!(!site.proxy.log().contains("were cut"), "{}", site.proxy.log());
    let told: Vec<serde_json::Value> = collector
        .take()
        .iter()
        .map(|seen| serde_json::from_slice(seen.body.as_ref()).expect("JSON"))
        .collect();
    let count = |path: &str| told.iter().filter(|beacon| beacon["path"] == path).count();
    assert_eq!(["/a", "/no", "/slow", "/last"].map(count), [20, 1, 1, 1], "{told:?}");
    let no = told.iter().find(|beacon| beacon["path"] == "/no").expect("one");
    assert_eq!((&no["status"], &no["bytes"]), (&403.into(), &0.into()));
    let page = told.iter().find(|beacon| beacon["path"] == "/a").expect("one");
    assert_eq!((&page["status"], &page["bytes"]), (&200.into(), &5.into()));
}

#[test]
fn ac_056_a_dead_collector_loses_beacons_and_no_requests() {
    let silent = raw_origin(|_| std::thread::sleep(Duration::from_secs(5)));
    let origin = origin("[{ body: hello }]");
    let site = with_beacons(silent, origin.address, "limits: { after_response: 10 }");
    let mut client = site.connect();
    for _ in 0..50 {
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").expect("sends");
        assert_eq!(client.receive(false).expect("an answer").status, 200);
    }
    let dropped = r#"selvedge_filter_after_dropped_total{filter="beacon"}"#;
    assert_eq!(site.metric(dropped), Some(40.0));
    let failed =
        r#"selvedge_filter_runs_total{filter="beacon",hook="after_response",outcome="fault"}"#;
    until("those under way have failed", || site.metric(failed) == Some(10.0));
    assert_eq!(site.metric("selvedge_filter_after_running"), Some(0.0));
    site.logged("filter beacon after_response request ");
}

/// The keys of RFC 8037 (A.1) and RFC 7515 (A.3), as an issuer signs with them and publishes them.
const ED25519: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;
const FIRST: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"one","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const SECOND: &str = r#"{"kty":"EC","crv":"P-256","kid":"two","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

/// An issuer that publishes what it is told, and counts who asks; without keys it does not answer.
struct Issuer {
    address: SocketAddr,
    keys: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn start() -> Self {
        let (keys, asked) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
        let (shown, count) = (Arc::clone(&keys), Arc::clone(&asked));
        let address = raw_origin(move |mut stream| {
            while !read_head(&mut stream).is_empty() {
                count.fetch_add(1, SeqCst);
                let keys = shown.lock().expect("no panic").clone();
                if keys.is_empty() {
                    return;
                }
                // Long enough for all to come meanwhile.
                std::thread::sleep(Duration::from_millis(100));
                let body = format!("{{\"keys\":[{keys}]}}");
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                if stream.write_all((head + &body).as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { address, keys, asked }
    }

    fn publish(&self, keys: &[&str]) {
        *self.keys.lock().expect("no panic") = keys.join(",");
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, SeqCst)
    }
}

/// `GET /<kid>` comes with a fresh token of that key, and is checked by the issuer's set.
fn checked_by(issuer: &Issuer) -> Site {
    let folder = Folder::new();
    folder.write(
        "mint.rhai",
        format!(
            "const KEYS = #{{ one: `{ED25519}`, two: `{P256}` }};\n\
             fn on_request(req) {{\n\
               let kid = req.path.sub_string(1);\n\
               let alg = if kid == \"two\" {{ \"ES256\" }} else {{ \"EdDSA\" }};\n\
               let key = KEYS[kid] ?? KEYS.one;\n\
               let token = jwt::sign(#{{ sub: \"ann\", exp: time::unix() + 60 }}, key, #{{ alg: alg, kid: kid }});\n\
               req.headers[\"authorization\"] = \"Bearer \" + token;\n\
             }}\n"
        ),
    );
    let config = format!(
        "{PLAIN}upstreams: {{ id: {{ endpoints: [{{ address: \"{}\" }}], retries: 0 }} }}\n\
         filters:\n  mint: {{ script: mint.rhai }}\n  \
         auth: {{ script: \"{}\", config: {{ alg: [EdDSA, ES256], jwks: \"http://id/keys\" }}, fetch: {{ allow: [\"http://id\"] }} }}\n\
         routes: [{{ name: all, match: {{}}, filters: [mint, auth], respond: {{ body: in }} }}]\n",
        issuer.address,
        shipped("auth_jwt"),
    );
    Site::start_in(folder, config)
}

#[test]
fn an_issuers_keys_are_fetched_once_follow_its_rotations_and_outlive_reloads() {
    let issuer = Issuer::start();
    let site = checked_by(&issuer);
    let status = |kid: &str| site.get(&format!("/{kid}")).status;
    assert_eq!(status("one"), 503, "the issuer does not answer");
    // A failure stands for a second.
    std::thread::sleep(Duration::from_millis(1100));
    issuer.asked();
    issuer.publish(&[FIRST]);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| status("one"))).collect();
        for one in asking {
            assert_eq!(one.join().expect("no panic"), 200);
        }
    });
    assert_eq!(issuer.asked(), 1, "for twenty that came at once");
    issuer.publish(&[FIRST, SECOND]);
    assert_eq!((status("two"), status("one")), (200, 200), "after a rotation");
    assert_eq!(issuer.asked(), 1);
    for kid in ["three", "four", "..%2Fone"] {
        let status = status(kid);
        assert!(status == 401 || status == 400, "{kid}: {status}");
    }
    assert_eq!(issuer.asked(), 0, "anybody can make up names of keys");
    issuer.publish(&[]);
    assert_eq!(site.reload().status, 200);
    assert_eq!((status("one"), status("two")), (200, 200), "after a reload without the issuer");
}

/// Answers all requests with one head and the given pieces, with a pause before each but the first.
fn in_pieces(head: &'static str, pieces: Vec<Vec<u8>>, pause: Duration) -> SocketAddr {
    raw_origin(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(
            format!("HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes(),
        );
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                std::thread::sleep(pause);
            }
            let _ = stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes());
            let _ = stream.write_all(&[piece.as_slice(), b"\r\n"].concat());
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    })
}

/// A route to `origin` through one shipped filter.
fn through(filter: &str, config: &str, origin: SocketAddr) -> Site {
    Site::start(format!(
        "listeners: {{ public: {{ address: \"127.0.0.1:0\" }} }}\n\
         upstreams: {{ o: {{ endpoints: [{{ address: \"{origin}\" }}] }} }}\n\
         filters: {{ f: {{ script: \"{}\", config: {config} }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{rest*}}\" }}, upstream: o, filters: [f] }}]\n",
        shipped(filter)
    ))
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text).expect("packed");
    packer.finish().expect("packed")
}

fn gunzip(packed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(packed);
    std::io::Read::read_to_end(&mut reader, &mut text).expect("a whole gzip stream");
    text
}

fn split(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    bytes.chunks(size).map(<[u8]>::to_vec).collect()
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.values(name).first().copied()
}

#[test]
fn ac_034_fields_leave_json_and_all_else_stays() {
    let json =
        br#"{"id":9007199254740993,"user":{"ssn":"1","name":"x"},"items":[{"cost":1,"n":2}]}"#;
    let less = br#"{"id":9007199254740993,"user":{"name":"x"},"items":[{"n":2}]}"#;
    let config = "{ remove: [user.ssn, \"items[].cost\"] }";
    let head = "Content-Type: application/json\r\nETag: \"1\"\r\nContent-MD5: x\r\n";
    let site = through("json_fields", config, in_pieces(head, split(json, 7), Duration::ZERO));
    let plain = site.get("/");
    assert_eq!(plain.text().as_bytes(), less);
    assert_eq!(header(&plain, "etag"), Some("W/\"1\""), "a weak validator");
    assert_eq!((header(&plain, "content-md5"), header(&plain, "content-length")), (None, None));

    let head = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let packed = in_pieces(head, split(&gzip(json), 5), Duration::ZERO);
    let site = through("json_fields", config, packed);
    let mut client = site.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n").expect("sent");
    let answer = client.receive(false).expect("an answer");
    assert_eq!(header(&answer, "content-encoding"), Some("gzip"));
    assert_eq!(gunzip(&answer.body), less);
    let unpacked = site.get("/");
    assert_eq!(header(&unpacked, "content-encoding"), None, "a client that accepts none");
    assert_eq!(unpacked.body, less);

    let odd =
        in_pieces("Content-Type: application/json\r\n", vec![b"{no".to_vec()], Duration::ZERO);
    let site = through("json_fields", config, odd);
    assert_eq!(site.get("/").body, b"{no");
    site.logged("the body is no JSON");
    let html = in_pieces("Content-Type: text/html\r\n", vec![json.to_vec()], Duration::ZERO);
    assert_eq!(through("json_fields", config, html).get("/").body, json);
}

#[test]
fn ac_037_text_is_replaced_as_it_streams_by() {
    let first = [vec![b'x'; 10_000], b"http://ol".to_vec()].concat();
    let pieces = vec![first, b"d.test and http://old.test".to_vec()];
    let head = "Content-Type: text/html\r\nETag: \"1\"\r\n";
    let origin = in_pieces(head, pieces, Duration::from_secs(1));
    let site = through(
        "replace_text",
        "{ from: \"http://old.test\", to: \"https://new.example\" }",
        origin,
    );
    let started = Instant::now();
    let mut client = site.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nRange: bytes=0-9\r\n\r\n").expect("sent");
    while client.buffered().iter().filter(|byte| **byte == b'x').count() < 10_000 - 64 {
        client.fill().expect("more of the first half");
    }
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    let answer = client.receive(false).expect("an answer");
    assert_eq!(answer.status, 200, "no part is transformed");
    let expected = [vec![b'x'; 10_000], b"https://new.example and https://new.example".to_vec()];
    assert_eq!(answer.body, expected.concat());
    assert_eq!(
        (header(&answer, "etag"), header(&answer, "content-length")),
        (Some("W/\"1\""), None)
    );
}

#[test]
fn ac_040_links_are_rewritten_and_all_else_is_the_same() {
    let page = "<!-- http://old.test/a --><A HREF='http://old.test/a?b=1&amp;c=2' title=\"http://old.test\">Gr\u{fc}\u{df}e http://old.test</A>\
        <img src=http://old.test/i.png alt=x><LINK href=\"http://old.test/s.css\"><a href=\"/local\">l</a>\
        <form action='http://old.test/f'></form><script>let u = 'http://old.test';</script>";
    let expected = "<!-- http://old.test/a --><A HREF=\"https://new.test/a?b=1&amp;c=2\" title=\"http://old.test\">Gr\u{fc}\u{df}e http://old.test</A>\
        <img src=\"https://new.test/i.png\" alt=x><LINK href=\"https://new.test/s.css\"><a href=\"/local\">l</a>\
        <form action='http://old.test/f'></form><script>let u = 'http://old.test';</script>";
    let config = "{ from: \"http://old.test\", to: \"https://new.test\" }";
    for size in [1, 3, 1000] {
        let head = "Content-Type: text/html; charset=utf-8\r\n";
        let origin = in_pieces(head, split(page.as_bytes(), size), Duration::ZERO);
        assert_eq!(through("html_links", config, origin).get("/").text(), expected, "by {size}");
    }
    let head = "Content-Type: text/html\r\nContent-Encoding: gzip\r\n";
    let origin = in_pieces(head, split(&gzip(page.as_bytes()), 9), Duration::ZERO);
    assert_eq!(through("html_links", config, origin).get("/").text(), expected, "packed");
    let origin = in_pieces("Content-Type: text/plain\r\n", vec![page.into()], Duration::ZERO);
    assert_eq!(through("html_links", config, origin).get("/").text(), page, "no HTML");
}

/// Card numbers in a stream of events, each of which comes on at once.
#[test]
fn cards_are_masked_in_a_stream_of_events() {
    let pieces =
        vec![b"data: 4111 1111 11".to_vec(), b"11 1111\n\n".to_vec(), b"data: 7\n\n".to_vec()];
    let origin =
        in_pieces("Content-Type: text/event-stream\r\n", pieces, Duration::from_millis(300));
    let answer = through("mask_cards", "{}", origin).get("/");
    assert_eq!(answer.text(), "data: **** **** **** 1111\n\ndata: 7\n\n");
}

/// However large a body is, the proxy holds a piece of it.
#[test]
fn a_large_document_passes_in_flat_memory() {
    const PIECES: usize = 1600;
    let piece = "<p>some text</p><a href=http://old.test/>x</a>".repeat(1400).into_bytes();
    let size = piece.len();
    let origin = raw_origin(move |mut stream| {
        read_head(&mut stream);
        let length = PIECES * size;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n"
        );
        let _ = stream.write_all(head.as_bytes());
        for _ in 0..PIECES {
            let _ = stream.write_all(&piece);
        }
    });
    let config = "{ from: \"http://old.test\", to: \"https://new.test\", types: [text/html] }";
    let site = through("replace_text", config, origin);
    let (before, _) = memory(site.proxy.pid());
    let mut client = site.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
    let answer = client.receive(false).expect("an answer");
    assert!(answer.body.len() > PIECES * size, "{} bytes", answer.body.len());
    let (_, highest) = memory(site.proxy.pid());
    let grown = highest.saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes more after {} bytes", answer.body.len());
}

/// Once a part of the body is out, only a broken connection tells that it is not all.
#[test]
fn a_fault_in_a_body_cuts_the_connection_and_leaves_the_work_after_it() {
    let pieces = vec![b"good\n".to_vec(), b"bad\n".to_vec(), b"more\n".to_vec()];
    let origin = in_pieces("Content-Type: text/plain\r\n", pieces, Duration::from_millis(200));
    let folder = Folder::new();
    folder.write(
        "both.rhai",
        "fn on_response(res, req) {\n\
             res.map_lines(|line| if line == \"bad\" {\n throw \"no such line\" });\n\
             after_response(|done| log::info(`after ${done.status} ${done.aborted}`), #{ if_aborted: true });\n\
         }",
    );
    let config = format!(
        "{PLAIN}\n\
         upstreams: {{ o: {{ endpoints: [{{ address: \"{origin}\" }}] }} }}\n\
         filters: {{ both: {{ script: both.rhai }} }}\n\
         routes: [{{ name: all, match: {{}}, filters: [both], upstream: o }}]\n"
    );
    let site = Site::start_in(folder, config);
    let mut client = site.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sends");
    let answer = client.receive(false).expect("a part of an answer");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"good\n"[..]));
    assert!(!answer.complete, "it is not all");
    let output = || site.proxy.output.lock().expect("output").clone();
    until("the fault names its line", || output().contains("both.rhai:3:"));
    until("the work is done", || output().contains("after 200 false"));
}
