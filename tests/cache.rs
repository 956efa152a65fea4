//! The cache from outside, where a case file cannot tell it: many clients, time, failing origins,
//! a directory that outlives the process, HTTP/2 and TLS in front, purges.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use peers::{Authority, Folder, PLAIN, Site, curl, raw_origin, read_head, until};
use support::client::{Client, Response};

/// An origin that answers each request as told, counts them, and can be made to fail.
struct Origin {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
    conditions: Arc<AtomicUsize>,
}

/// `head` are header lines; the body is the number of the request. A condition gets a 304.
fn numbering(head: &'static str, delay: Duration) -> Origin {
    let asked = Arc::new(AtomicUsize::new(0));
    let down = Arc::new(AtomicBool::new(false));
    let conditions = Arc::new(AtomicUsize::new(0));
    let (count, failing, conditional) = (asked.clone(), down.clone(), conditions.clone());
    let address = raw_origin(move |mut stream| {
        loop {
            let request = String::from_utf8_lossy(&read_head(&mut stream)).to_ascii_lowercase();
            if request.is_empty() || failing.load(SeqCst) {
                return;
            }
            let number = count.fetch_add(1, SeqCst) + 1;
            std::thread::sleep(delay);
            let answer = match request.contains("if-none-match:") {
                true => {
                    conditional.fetch_add(1, SeqCst);
                    format!("HTTP/1.1 304 X\r\n{head}\r\n")
                }
                false => {
                    let body = number.to_string();
                    format!("HTTP/1.1 200 X\r\n{head}content-length: {}\r\n\r\n{body}", body.len())
                }
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    Origin { address, asked, down, conditions }
}

impl Origin {
    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

fn site(origin: &Origin, cache: &str, more: &str) -> Site {
    Site::start(config(origin, cache, more))
}

fn config(origin: &Origin, cache: &str, more: &str) -> String {
    format!(
        "{PLAIN}{more}\nupstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}], retries: 0 }} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o, cache: {cache} }}]\n",
        origin.address
    )
}

fn did(response: &Response) -> String {
    response.values("cache-status").join(", ")
}

#[test]
fn many_who_want_the_same_make_one_request() {
    const CLIENTS: usize = 1000;
    let origin = numbering("cache-control: max-age=60\r\n", Duration::from_millis(500));
    let site = site(&origin, "{ wait: 30s }", "");
    let address = site.address("public");
    let mut clients: Vec<Client> =
        (0..CLIENTS).map(|_| Client::connect(address).expect("the listener accepts")).collect();
    for client in &mut clients {
        client.send(b"GET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n").expect("sent");
    }
    for client in &mut clients {
        let response = client.receive(false).expect("an answer");
        assert_eq!((response.status, response.text()), (200, "1".to_owned()));
    }
    assert_eq!(origin.asked(), 1, "one request for all");
    let collapsed = site.metric(r#"selvedge_cache_requests_total{result="collapsed",route="all"}"#);
    assert!(collapsed.is_some_and(|count| count > 500.0), "{collapsed:?}");
}

#[test]
fn what_cannot_be_stored_holds_nobody_up() {
    const CLIENTS: usize = 20;
    let origin = numbering("cache-control: private\r\n", Duration::from_millis(200));
    let site = site(&origin, "{ wait: 30s }", "");
    let began = std::time::Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = site.connect();
            client.send(b"GET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n").expect("sent");
            client
        })
        .collect();
    let mut bodies: Vec<String> =
        clients.into_iter().map(|mut c| c.receive(false).expect("an answer").text()).collect();
    let took = began.elapsed();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), CLIENTS, "each its own");
    // One after the other would be four seconds.
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn stale_is_served_while_one_refresh_runs() {
    let origin = numbering(
        "cache-control: max-age=1, stale-while-revalidate=60\r\n",
        Duration::from_millis(300),
    );
    let site = site(&origin, "{}", "");
    assert_eq!(site.get("/x").text(), "1");
    std::thread::sleep(Duration::from_millis(2100));
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = site.connect();
            client.send(b"GET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n").expect("sent");
            client
        })
        .collect();
    for mut client in clients {
        let response = client.receive(false).expect("an answer");
        assert_eq!(response.text(), "1", "nobody waits");
        let status = did(&response);
        assert!(status.contains("hit; ttl=-"), "{status}");
        assert!(status.ends_with("detail=stale-while-revalidate"), "{status}");
    }
    until("the refresh is stored", || site.get("/x").text() == "2");
    assert_eq!(origin.asked(), 2, "one refresh for ten clients");
    let refreshed = site.metric(r#"selvedge_cache_refreshes_total{outcome="success",route="all"}"#);
    assert_eq!(refreshed, Some(1.0));
}

#[test]
fn a_refresh_runs_no_filter_for_clients_twice() {
    let origin =
        numbering("cache-control: max-age=1, stale-while-revalidate=60\r\n", Duration::ZERO);
    let folder = Folder::new();
    folder.write(
        "f.rhai",
        r#"fn on_request(req) { log::info("asked"); req.headers["x-plan"] = "free"; }
           fn on_upstream_request(req) { log::info(`upstream ${req.headers["x-plan"]} ${req.client.ip}`); }
           fn on_response(res, req) { log::info("answered"); }"#,
    );
    let config = config(&origin, "{}, filters: [f]", "filters: { f: { script: f.rhai } }");
    let site = Site::start_in(folder, config);
    site.get("/x");
    std::thread::sleep(Duration::from_millis(2100));
    site.get("/x");
    until("the refresh is stored", || site.get("/x").text() == "2");
    // The access log is written behind the requests.
    until("both hooks ran once for each client", || {
        let clients = site.count_logged(r#""path":"/x""#);
        site.count_logged(": asked") == clients && site.count_logged(": answered") == clients
    });
    assert_eq!(site.count_logged(": upstream free 127.0.0.1"), 2, "as the client's request was");
}

#[test]
fn stale_stands_in_for_an_origin_that_fails() {
    let origin =
        numbering("cache-control: max-age=1, stale-if-error=3\r\netag: \"a\"\r\n", Duration::ZERO);
    let site = site(&origin, "{}", "");
    assert_eq!(site.get("/x").text(), "1");
    origin.down.store(true, SeqCst);
    std::thread::sleep(Duration::from_millis(2100));
    let response = site.get("/x");
    assert_eq!((response.status, response.text()), (200, "1".to_owned()));
    assert!(did(&response).contains("detail=upstream_closed"), "{}", did(&response));
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(site.get("/x").status, 502, "its time is over");
    origin.down.store(false, SeqCst);
    let response = site.get("/x");
    assert_eq!((response.status, response.text()), (200, "1".to_owned()));
    assert!(did(&response).contains("fwd=stale; fwd-status=304; stored"), "{}", did(&response));
    assert_eq!(origin.conditions.load(SeqCst), 1, "asked whether it is still good");
    assert!(did(&site.get("/x")).contains("hit"), "and it is");
}

#[test]
fn operators_purge_by_url_tag_prefix_host_and_all() {
    let origin = numbering(
        "cache-control: max-age=60\r\ncache-tag: news, front\r\nvary: x-kind\r\n",
        Duration::ZERO,
    );
    let site = site(&origin, "{}", "");
    let hit = |path: &str| did(&site.get(path)).contains("hit");
    let fill = || {
        for path in ["/a/1", "/a/2", "/b"] {
            site.get(path);
            assert!(hit(path), "{path} is stored");
        }
    };
    let purge = |what: &str| {
        let answer = site.admin(&format!("POST /purge?{what}"), "Content-Length: 0\r\n");
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        serde_json::from_str::<serde_json::Value>(&answer.text()).expect("JSON")
    };
    fill();
    assert_eq!(purge("url=http://shop.test/a/1")["purged"]["memory"], 1);
    assert!(!hit("/a/1") && hit("/a/2") && hit("/b"));
    fill();
    purge("prefix=shop.test/a/");
    assert!(!hit("/a/1") && !hit("/a/2") && hit("/b"));
    fill();
    assert_eq!(purge("tag=news")["purged"]["memory"], 3);
    assert!(!hit("/b"));
    fill();
    purge("tag=other");
    assert!(hit("/b"));
    purge("host=other.test");
    assert!(hit("/b"));
    purge("host=SHOP.test");
    assert!(!hit("/b"));
    fill();
    purge("all");
    assert!(!hit("/b"));
    fill();
    purge("all&soft");
    assert!(did(&site.get("/b")).contains("fwd=stale"), "stale, not gone");
    for bad in ["", "url=", "url=x&tag=y", "colour=red", "soft"] {
        let answer = site.admin(&format!("POST /purge?{bad}"), "Content-Length: 0\r\n");
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    assert_eq!(site.admin("GET /purge?all", "").status, 405);
}

#[test]
fn operators_see_what_is_stored_and_why_not() {
    let origin = numbering("cache-control: max-age=60\r\ncache-tag: news\r\n", Duration::ZERO);
    let site = site(&origin, "{}", "");
    site.get("/x");
    let explain = |url: &str| {
        let answer = site.admin(&format!("GET /cache?url={url}"), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_str::<serde_json::Value>(&answer.text()).expect("JSON")
    };
    let told = explain("http://shop.test/x");
    assert_eq!(told["route"], "all", "{told}");
    let entry = &told["entries"][0];
    assert_eq!((&entry["state"], &entry["tags"][0]), (&"fresh".into(), &"news".into()), "{told}");
    let told = explain("shop.test/other");
    assert_eq!(told["entries"], serde_json::json!([]), "{told}");
    let held = site.admin("GET /cache", "").text();
    assert!(held.contains(r#""entries": 1"#), "{held}");
    assert_eq!(site.metric(r#"selvedge_cache_entries{tier="memory"}"#), Some(1.0));
    let admin = site.address("admin").to_string();
    let told = peers::run(
        env!("CARGO_BIN_EXE_selvedge"),
        &["cache", "explain", "http://shop.test/x", "--admin", &admin],
    );
    assert!(told.out.contains(r#""state": "fresh""#), "{}", told.all());
    let purged = peers::run(
        env!("CARGO_BIN_EXE_selvedge"),
        &["purge", "http://shop.test/x", "--admin", &admin],
    );
    assert!(purged.out.contains(r#""memory": 1"#), "{}", purged.all());
    assert_eq!(explain("http://shop.test/x")["entries"], serde_json::json!([]));
}

#[test]
fn a_directory_outlives_the_process_and_purges_do_too() {
    let origin = numbering("cache-control: max-age=600\r\n", Duration::ZERO);
    let folder = Folder::new();
    let disk = "cache: { memory: 1MiB, max_object: 64KiB, disk: { path: cache, size: 64MiB, max_object: 1MiB } }\n\
                access_log: { format: \"off\" }";
    let text = config(&origin, "{}", disk);
    let first = Site::start_in(folder, &text);
    assert_eq!(first.get("/kept").text(), "1");
    assert_eq!(first.get("/purged").text(), "2");
    until("both are written", || {
        first.metric(r#"selvedge_cache_entries{tier="disk"}"#) == Some(2.0)
    });
    let purged = first.admin("POST /purge?url=shop.test/purged", "Content-Length: 0\r\n");
    assert_eq!(purged.status, 200, "{}", purged.text());
    let Site { folder, mut proxy } = first;
    proxy.signal("TERM");
    proxy.wait(Duration::from_secs(20)).expect("it ends");
    let second = Site::start_in(folder, &text);
    let response = second.get("/kept");
    assert_eq!(response.text(), "1", "out of the directory");
    assert!(did(&response).contains("hit"), "{}", did(&response));
    assert_eq!(second.get("/purged").text(), "3", "purged is purged");
}

#[test]
fn http_2_and_tls_stand_in_front_of_it() {
    let origin = numbering("cache-control: max-age=60\r\n", Duration::ZERO);
    let folder = Folder::new();
    Authority::new(&folder, "ca").sign("a.test", &["a.test"]);
    let site = Site::start_in(
        folder,
        format!(
            "listeners:\n  tls: {{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: a.test.crt, key: a.test.key }}] }} }}\n\
             upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}\n\
             routes: [{{ name: all, match: {{}}, upstream: o, cache: {{}} }}]\n",
            origin.address
        ),
    );
    let port = site.address("tls").port();
    let ca = site.folder.path("ca.crt").display().to_string();
    let (resolve, url) = (format!("a.test:{port}:127.0.0.1"), format!("https://a.test:{port}/x"));
    for version in ["--http2", "--http2", "--http1.1"] {
        let ran = curl(&["-si", version, "--cacert", &ca, "--resolve", &resolve, &url]);
        assert!(ran.out.trim_end().ends_with("\r\n\r\n1"), "{version}: {}", ran.all());
    }
    assert_eq!(origin.asked(), 1, "one entry for both versions");
}

/// AC-048: a filter gives lifetimes by type and status, and says how long stale may stand in.
#[test]
fn ac_048_ttl_by_type_and_status_and_stale_on_error() {
    const HEAD: &str = "content-type: image/png\r\netag: \"a\"\r\n";
    let origin = numbering(HEAD, Duration::ZERO);
    let folder = Folder::new();
    folder.write(
        "ttl.rhai",
        r#"fn on_upstream_response(res, req) {
             if res.headers["set-cookie"] != () { res.cache.no_store = true; return }
             if res.status == 404 { res.cache.ttl = 1 }
             if res.headers["content-type"] == "image/png" { res.cache.ttl = 2 }
             res.cache.stale_if_error = 3;
           }
           fn on_response(res, req) {
             let status = res.headers["cache-status"];
             let word = "MISS";
             if res.from == "cache" { word = if status.contains("ttl=-") { "STALE" } else { "HIT" } }
             res.headers["x-cache"] = word;
           }"#,
    );
    let filters = "filters: { ttl: { script: ttl.rhai } }";
    let site = Site::start_in(folder, config(&origin, "{}, filters: [ttl]", filters));
    let word = |response: &Response| response.values("x-cache").join(",");
    assert_eq!(word(&site.get("/a.png")), "MISS");
    assert_eq!(word(&site.get("/a.png")), "HIT");
    origin.down.store(true, SeqCst);
    std::thread::sleep(Duration::from_millis(3100));
    let stale = site.get("/a.png");
    assert_eq!((stale.text(), word(&stale)), ("1".to_owned(), "STALE".to_owned()));
    std::thread::sleep(Duration::from_millis(3100));
    assert_eq!(site.get("/a.png").status, 502, "that is over too");
    origin.down.store(false, SeqCst);
    let back = site.get("/a.png");
    assert_eq!((back.status, back.text()), (200, "1".to_owned()), "{}", did(&back));
    assert_eq!(origin.conditions.load(SeqCst), 1, "revalidated");
    assert_eq!(word(&site.get("/a.png")), "HIT", "the filter's word holds after a 304");
}
