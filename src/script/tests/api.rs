//! What scripts can call, by use.

use http::{HeaderMap, HeaderValue};

use super::*;
use crate::script::api::docs;

fn exchange() -> Exchange {
    let mut exchange = Exchange::for_test();
    let request = Arc::make_mut(&mut exchange.request);
    request.host = "shop.test".into();
    request.path = "/item/7".into();
    request.query = Some("a=1&b=2".into());
    request.params = vec![("id".into(), "7".into())];
    for (name, value) in
        [("host", "shop.test"), ("accept", "text/html"), ("cookie", "sid=abc; lang=de")]
    {
        request.headers.insert(name, HeaderValue::from_static(value));
    }
    request.headers.insert("user-agent", HeaderValue::from_static("curl/8"));
    request.client.tls = Some(TlsInfo {
        version: "TLSv1.3".into(),
        cipher: "TLS13_AES_128_GCM_SHA256".into(),
        sni: Some("shop.test".into()),
        alpn: Some("h2".into()),
        cert: Some(CertInfo {
            cn: "ann".into(),
            san: vec!["ann.test".into()],
            issuer: "ca".into(),
            serial: "01".into(),
            fingerprint: "ab".into(),
        }),
    });
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/html"));
    let response = ResponseDraft {
        status: StatusCode::OK,
        headers,
        body: MessageBody::Untouched,
        from: From::Origin,
        transforms: Vec::new(),
        cache: Some(Box::default()),
    };
    exchange.response = Some(Arc::new(response));
    let ending = Ending {
        status: 200,
        bytes_in: 3,
        bytes_out: 5,
        took: Duration::from_micros(12_500),
        first_byte: Some(Duration::from_millis(12)),
        upstream: Some("shop".into()),
        endpoint: Some("127.0.0.1:9000".into()),
        upstream_time: Some(Duration::from_millis(10)),
        attempts: 1,
        ..Ending::default()
    };
    Arc::make_mut(&mut exchange.request).ending = Some(Arc::new(ending));
    let (kind, message) = ("connect".into(), "no endpoint".into());
    exchange.event = Some(Event { name: "refresh".into(), time: 1_767_225_600 });
    exchange.error = Some(ErrorInfo { kind, status: 502, message });
    exchange
}

fn umea() -> Place {
    let text = |text: &str| Some(text.to_owned());
    let location = Location {
        country: text("SE"),
        region: text("AC"),
        city: text("Umeå"),
        continent: text("EU"),
        lat: Some(63.8),
        lon: None,
        tz: text("Europe/Stockholm"),
    };
    Place { location, asn: Some(64500) }
}

#[tokio::test]
async fn every_entry_of_the_reference_has_an_example_that_is_true() {
    let mut bad = Vec::new();
    for doc in docs() {
        let Some(example) = doc.example else {
            bad.push(format!("{}: no example", doc.signature));
            continue;
        };
        let (hook, signature) = match doc.area {
            "Error" => (Hook::Error, "on_error(err, req)"),
            "Outcome" => (Hook::Log, "on_log(req, res)"),
            "Cache" => (Hook::UpstreamResponse, "on_upstream_response(res, req)"),
            "Schedule" => (Hook::Schedule, "on_schedule(ev)"),
            _ => (Hook::Response, "on_response(res, req)"),
        };
        let source = format!(
            "fn {signature} {{ let ok = {{ {example} }}; if ok {{ return response(299) }} }}"
        );
        let host = FakeHost { place: umea(), ..FakeHost::default() };
        let host = host.answering(StatusCode::OK, "1").answering(StatusCode::OK, "2");
        let script = match compile_source(&filter(), &lists(), source) {
            Ok(script) => Arc::new(script),
            Err(problems) => {
                bad.push(problems[0].to_string());
                continue;
            }
        };
        let run = run(&script, hook, exchange(), Arc::new(host), limits()).await;
        if !matches!(&run.outcome, Outcome::Answer(answer) if answer.status.as_u16() == 299) {
            bad.push(format!("{example}: {:?}", run.outcome));
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    let reference = reference();
    assert!(reference.contains("hash::sha256(data)"));
    assert!(reference.contains("also `response(status)`"), "overloads are listed");
}

#[tokio::test]
async fn started_fetches_proceed_beside_the_script_and_beside_each_other() {
    let host = FakeHost { delay: Duration::from_millis(60), ..FakeHost::default() };
    let host = host.answering(StatusCode::OK, "a").answering(StatusCode::OK, "b");
    let source = r#"fn on_request(req) {
        let a = fetch_start("http://api/1"); let b = fetch_start("http://api/2");
        let early = a.done;
        sleep(0.075);
        let late = a.done && b.done;
        response(200, `${early} ${late} ${a.wait().text()} ${b.wait().text()} ${a.wait().ok}`)
    }"#;
    let run = run_with(source, exchange(), Arc::new(host)).await;
    assert_eq!(body(answer(&run)), "false true a b true");
    let host = FakeHost { delay: Duration::from_millis(60), ..FakeHost::default() };
    let host = host.answering(StatusCode::OK, "a").answering(StatusCode::OK, "b");
    let source = r#"fn on_request(req) {
        let a = fetch_start("http://api/1"); let b = fetch_start("http://api/2");
        a.wait(); b.wait(); ()
    }"#;
    let start = Instant::now();
    run_with(source, exchange(), Arc::new(host)).await;
    assert!(start.elapsed() < Duration::from_millis(115), "one after the other");
}

/// Answers never; counts the fetches that were dropped.
struct Stuck(Arc<std::sync::atomic::AtomicUsize>);

struct Dropped(Arc<std::sync::atomic::AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Host for Stuck {
    fn fetch(&self, _: FetchRequest) -> BoxFuture<'static, Result<FetchResponse, FetchError>> {
        let dropped = Dropped(self.0.clone());
        Box::pin(async move {
            let _dropped = dropped;
            std::future::pending().await
        })
    }

    fn log(&self, _: log::Level, _: &str, _: &[(String, String)]) {}

    fn state(&self) -> &Arc<crate::state::State> {
        unreachable!("these scripts keep nothing")
    }

    fn place(&self, _: std::net::IpAddr) -> Result<Place, String> {
        unreachable!("these scripts ask for no place")
    }

    fn key_sets(&self) -> &KeySets {
        unreachable!("no test of this host has keys")
    }

    fn upstream_healthy(&self, _: &str) -> Option<bool> {
        None
    }
}

#[tokio::test]
async fn a_started_fetch_ends_when_it_is_cancelled_and_with_its_hook() {
    let dropped = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = || dropped.load(std::sync::atomic::Ordering::Relaxed);
    let source = r#"fn on_request(req) {
        let p = fetch_start("http://api/"); p.cancel(); sleep(0.005);
        let kind = ""; try { p.wait() } catch (e) { kind = e.kind; }
        response(200, `${p.done} ${kind}`)
    }"#;
    let run = run_with(source, exchange(), Arc::new(Stuck(dropped.clone()))).await;
    assert_eq!(body(answer(&run)), "true unavailable");
    assert_eq!(count(), 1);
    let source = r#"fn on_request(req) { let p = fetch_start("http://api/"); sleep(0.001); () }"#;
    run_with(source, exchange(), Arc::new(Stuck(dropped.clone()))).await;
    tokio::task::yield_now().await;
    assert_eq!(count(), 2);
}

#[tokio::test]
async fn the_grant_of_fetches_counts_all_hooks_of_a_request() {
    let source = r#"fn on_request(req) { fetch("http://api/"); fetch("http://api/"); () }
        fn on_upstream_request(req) {
            try { fetch("http://api/"); () } catch (e) { return response(200, e.kind) }
        }"#;
    let script = script(source);
    let host = FakeHost::default().answering(StatusCode::OK, "").answering(StatusCode::OK, "");
    let host: Arc<dyn Host> = Arc::new(host.answering(StatusCode::OK, ""));
    let first = run(&script, Hook::Request, exchange(), host.clone(), limits()).await;
    assert!(matches!(first.outcome, Outcome::Continue), "{:?}", first.outcome);
    let second = run(&script, Hook::UpstreamRequest, first.exchange, host.clone(), limits()).await;
    assert_eq!(body(answer(&second)), "limit");
    let other = run(&script, Hook::UpstreamRequest, exchange(), host, limits()).await;
    assert!(matches!(other.outcome, Outcome::Continue), "its own count: {:?}", other.outcome);
}

#[tokio::test]
async fn nothing_is_injected_into_cookies() {
    let cases = [
        (r#"res.set_cookie("a;b", "1")"#, "is not a cookie's name"),
        (r#"res.set_cookie("a", "1; Domain=evil")"#, "the value of cookie a has ';'"),
        (r#"res.set_cookie("a", "1,b=2")"#, "the value of cookie a has ','"),
        (r#"res.set_cookie("a", "1\r\nx: y")"#, "the value of cookie a has '\\r'"),
        (
            r#"res.set_cookie("a", "1", #{ path: "/; Domain=evil" })"#,
            "the path of cookie a has ';'",
        ),
        (r#"res.set_cookie("a", "1", #{ domain: "b\n" })"#, "the domain of cookie a has '\\n'"),
        (r#"res.set_cookie("a", "1", #{ same_site: "Lax; Secure" })"#, "the same_site of cookie a"),
        (r#"res.set_cookie("a", "1", #{ same_site: "Lex" })"#, "Strict, Lax or None"),
        (r#"res.set_cookie("a", "1", #{ max_age: "1; Domain=evil" })"#, "max_age is whole seconds"),
        (r#"res.set_cookie("a", "1", #{ secure: "no" })"#, "secure is true or false"),
        (r#"req.cookies["a"] = "1; b=2""#, "the value of cookie a has ';'"),
    ];
    for (call, expected) in cases {
        let source = format!("fn on_response(res, req) {{ {call}; }}");
        let host = Arc::new(FakeHost::default());
        let run = run(&script(&source), Hook::Response, exchange(), host, limits()).await;
        let message = &fault(&run).message;
        assert!(message.contains(expected), "{call}: {message}");
    }
}

#[tokio::test]
async fn headers_cannot_break_the_message() {
    let cases = [
        (r#"req.headers["a"] = "1\r\nb: 2""#, "the value of header a"),
        (r#"req.headers["a"] = "1\u0000""#, "the value of header a"),
        (r#"req.headers.append("a", "1\n")"#, "the value of header a"),
        (r#"req.headers["a b"] = "1""#, "is not a header's name"),
        (r#"req.headers["a:\r\nb"] = "1""#, "is not a header's name"),
        (r#"req.headers["Content-Length"] = 5"#, "content-length is set by the proxy itself"),
        (r#"req.headers["transfer-encoding"] = "chunked""#, "set by the proxy itself"),
        (r#"req.headers.remove("connection")"#, "set by the proxy itself"),
        (r#"req.headers.te = "trailers""#, "set by the proxy itself"),
        (r#"req.headers.append("Upgrade", "h2c")"#, "set by the proxy itself"),
        (r#"let r = response(200); r.headers["keep-alive"] = "a""#, "set by the proxy itself"),
        (r#"response(99)"#, "a status is 200 to 599"),
        (r#"let r = response(200); r.status = 1000"#, "a status is 200 to 599"),
        (r#"response(101)"#, "a status is 200 to 599"),
        (r#"throw #{ status: 42 }"#, "a status is 200 to 599"),
        (r#"throw #{ status: "no" }"#, "a status is 200 to 599"),
        (r#"let path = "\r\nX: y"; fetch("http://api/" + path)"#, "not an absolute"),
        (r#"fetch("http://api/", #{ method: "GET /\r\n" })"#, "not a method"),
        (r#"fetch("http://api/", #{ headers: #{ a: "b\r\nc: d" } })"#, "the value of header a"),
        (r#"fetch("http://api/", #{ headers: #{ host: "other" } })"#, "the host of a fetch"),
        (r#"response(200, #{ "content-length": 0 })"#, "set by the proxy itself"),
        (r#"fetch("http://api/", #{ headers: #{ "Transfer-Encoding": "x" } })"#, "by the proxy"),
        (r#"Response::redirect("/\r\nSet-Cookie: a=b")"#, "a redirect's URL"),
        (r#"req.method = "GET / HTTP/1.1\r\n""#, "is not a method"),
        (r#"req.path = "/a b""#, "is not an encoded path"),
        (r#"req.query = "a#b""#, "is not an encoded query"),
    ];
    for (call, expected) in cases {
        let run = run_request(&format!("{call}; ()")).await;
        let message = &fault(&run).message;
        assert!(message.contains(expected), "{call}: {message}");
    }
}

#[tokio::test]
async fn the_host_and_its_header_are_one() {
    let run = run_with(
        r#"fn on_request(req) {
            req.headers["Host"] = "a.test:81"; let first = req.host;
            req.host = "b.test"; let second = req.headers["host"];
            response(200, first + " " + second)
        }"#,
        exchange(),
        Arc::new(FakeHost::default()),
    )
    .await;
    assert_eq!(body(answer(&run)), "a.test:81 b.test");
    assert_eq!(run.exchange.request.headers["host"], "b.test");
    assert_eq!(run.exchange.request.headers.get_all("host").iter().count(), 1);
    for call in [
        r#"req.headers.remove("host")"#,
        r#"req.headers.append("host", "b")"#,
        r#"req.headers["host"] = ["a", "b"]"#,
        r#"req.host = "a@b""#,
        r#"req.host = "a b""#,
    ] {
        fault(&run_request(&format!("{call}; ()")).await);
    }
    let run = run_request(r#"response(200, req.headers["host"])"#).await;
    assert_eq!(body(answer(&run)), "example.com", "as in HTTP/2, without a header");
}

#[tokio::test]
async fn bytes_that_are_no_text_pass() {
    let mut exchange = exchange();
    Arc::make_mut(&mut exchange.request)
        .headers
        .insert("x-raw", HeaderValue::from_bytes(b"a\xff").unwrap());
    let source = r#"fn on_request(req) {
        let raw = req.headers.get_bytes("x-raw"); req.headers["x-copy"] = raw;
        response(200, `${raw.len} ${raw[1]} ${req.headers.get_bytes("none") == ()}`)
    }"#;
    let run = run_with(source, exchange, Arc::new(FakeHost::default())).await;
    assert_eq!(body(answer(&run)), "2 255 true");
    assert_eq!(run.exchange.request.headers["x-copy"].as_bytes(), b"a\xff");
}

#[tokio::test]
async fn urls_in_parts() {
    let run = run_request(
        r#"let u = url("https://Shop.test:8443/a?x=1&y=%20");
           let seen = `${u.scheme} ${u.host} ${u.port} ${u.path} ${u.query.to_string()} ${u.query["y"]}|`;
           u.scheme = "http"; u.host = "b.test"; u.port = (); u.path = "/c%2F"; u.query["x"] = "a b";
           seen += u.to_string(); u.query = (); seen += "|" + u;
           for bad in ["/relative", "ftp://a/", "http://a@b/", "http:///", "mailto:a"] {
               try { url(bad); seen += bad } catch (e) { if e.kind != "parse" { seen += e.kind } }
           }
           for host in ["a:1", "a@b", "a/b", ""] { try { u.host = host; seen += host } catch { } }
           try { u.port = 65536; seen += "port" } catch { }
           response(200, seen)"#,
    )
    .await;
    let expected =
        "https shop.test 8443 /a x=1&y=%20  |http://b.test/c%2F?x=a+b&y=%20|http://b.test/c%2F";
    assert_eq!(body(answer(&run)), expected);
}

#[tokio::test]
async fn what_the_client_prefers() {
    let run = run_request(
        r#"let seen = [];
           req.headers["accept"] = "text/*, text/html;q=0, application/json;q=0.9";
           seen.push(req.accepts(["text/html", "application/json", "text/csv"]));
           seen.push(req.accepts(["image/png"]));
           req.headers["accept-language"] = "fr-CH, en;q=0.9, *;q=0.1";
           seen.push(req.accept_language(["en-GB", "fr"]));
           seen.push(req.accept_language(["it"]));
           req.headers["accept-language"] = ();
           seen.push(req.accept_language(["it", "en"]));
           req.headers["authorization"] = "basic " + base64::encode("ann:p:w");
           seen.push(req.basic().user + "/" + req.basic().password);
           req.headers["authorization"] = "Basic ???";
           seen.push(req.basic());
           Response::json(seen)"#,
    )
    .await;
    assert_eq!(body(answer(&run)), r#"["text/csv",null,"fr","it","it","ann/p:w",null]"#);
}

#[tokio::test]
async fn a_native_that_panics_is_a_fault_of_its_own_kind() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let run = run_request("req.path = \"/x\"; try { panic_for_test() } catch { }").await;
    std::panic::set_hook(hook);
    assert_eq!(fault(&run).cause, Cause::Panic);
    assert!(fault(&run).message.contains("as the test wants"), "{}", fault(&run));
    assert_eq!(run.exchange.request.path, "/");
}

fn moved(host: FakeHost, status: u16, location: &str) -> FakeHost {
    let mut headers = HeaderMap::new();
    headers.insert("location", HeaderValue::from_str(location).unwrap());
    let (status, body) = (StatusCode::from_u16(status).unwrap(), bytes::Bytes::new());
    host.answers.lock().push_back(Ok(FetchResponse { status, headers, body }));
    host
}

#[tokio::test]
async fn redirects_are_followed_within_the_grant_only() {
    let ask = |url: &str| {
        format!(
            r#"fn on_request(req) {{
                let options = #{{ method: "POST", json: 1, redirect: "follow", headers: #{{ authorization: "x" }} }};
                try {{ return Response::text(fetch("{url}", options).text()); }}
                catch (e) {{ return Response::text(e.kind); }}
            }}"#
        )
    };
    let host = Arc::new(moved(FakeHost::default(), 302, "/b").answering(StatusCode::OK, "there"));
    let run = run_with(&ask("http://api/a"), exchange(), host.clone()).await;
    assert_eq!(body(answer(&run)), "there");
    let asked = host.fetched.lock().clone();
    assert_eq!(asked[1].url, "http://api/b");
    assert_eq!((&asked[1].method, asked[1].body.len()), (&http::Method::GET, 0));
    assert_eq!(asked[1].headers["authorization"], "x", "the same origin");
    for elsewhere in
        ["http://evil/b", "//evil/b", "http://api:81/b", "http://169.254.169.254/", "x:y"]
    {
        let host = Arc::new(moved(FakeHost::default(), 307, elsewhere));
        let run = run_with(&ask("http://api/a"), exchange(), host.clone()).await;
        assert_eq!(body(answer(&run)), "denied", "{elsewhere}");
        assert_eq!(host.fetched.lock().len(), 1, "{elsewhere} was asked");
    }
    // Each step counts: two may be started here.
    let host = moved(moved(FakeHost::default(), 302, "/b"), 302, "/c");
    let run = run_with(&ask("http://api/a"), exchange(), Arc::new(host)).await;
    assert_eq!(body(answer(&run)), "limit");
    let run = run_request(r#"fetch("http://api/", #{ redirect: "maybe" }); ()"#).await;
    assert!(fault(&run).message.contains("redirect is follow or manual"), "{}", fault(&run));
}
