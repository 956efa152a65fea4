//! Bodies that are held for filters, between the built binary and real peers.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use peers::{
    Folder, PLAIN, Site, curl, free_port, origin, raw_origin, read_head, run, run_with, until,
};
use support::client::exchange;
use support::origin::Seen;

/// More than Pingora holds, and no text.
const LARGE: usize = 300_000;

fn large_bytes() -> Vec<u8> {
    (0..LARGE).map(|at| u8::try_from(at * 31 % 256).expect("a byte")).collect()
}

fn large_file(folder: &Folder) -> String {
    let path: PathBuf = folder.path("large");
    std::fs::write(&path, large_bytes()).expect("the folder can be written to");
    path.display().to_string()
}

/// A filter that says how long the body is, before these endpoints.
fn held(endpoints: &[SocketAddr], more: &str) -> Site {
    let folder = Folder::new();
    folder.write("hold.rhai", "fn on_request(req) { req.headers[\"x-length\"] = req.body.len; }");
    let endpoints: Vec<String> =
        endpoints.iter().map(|address| format!("{{ address: \"{address}\" }}")).collect();
    let listeners = PLAIN.replace("\"127.0.0.1:0\" } }", "\"127.0.0.1:0\", h2c: true } }");
    Site::start_in(
        folder,
        format!(
            "{listeners}upstreams: {{ o: {{ endpoints: [{}] {more} }} }}\n\
             filters: {{ hold: {{ script: hold.rhai, body: {{ request: buffer }} }} }}\n\
             routes: [{{ name: all, match: {{}}, filters: [hold], upstream: o }}]\n\
             limits: {{ stall_timeout: 500ms, held_bodies: 1MiB }}\n",
            endpoints.join(", ")
        ),
    )
}

fn value<'s>(seen: &'s Seen, name: &str) -> Option<&'s str> {
    let mut values = seen.headers.iter().filter(|(known, _)| known == name);
    values.next().map(|(_, value)| value.as_str())
}

#[test]
fn a_held_body_reaches_the_origin_byte_for_byte_over_all_versions() {
    let echo = origin("[{ body: done }]");
    let inner = held(&[echo.address], "");
    let outer = held(&[inner.address("public")], ", protocol: http2");
    let file = large_file(&inner.folder);
    let (data, chunked) = (format!("@{file}"), ["-H", "Transfer-Encoding: chunked"]);
    for (what, site) in [("HTTP/1.1 origin", &inner), ("HTTP/2 origin", &outer)] {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            for (framing, more) in [("length", &[][..]), ("no length", &chunked[..])] {
                let url = site.url("/x");
                let args = [&[version, "--data-binary", &data, &url][..], more].concat();
                let ran = curl(&args);
                let case = format!("{what}, {version}, {framing}");
                assert_eq!(ran.out, "done", "{case}: {}\n{}", ran.all(), site.proxy.log());
                let seen = echo.take().pop().expect("a request");
                assert!(seen.body == large_bytes(), "{case}: {} bytes", seen.body.len());
                assert_eq!(value(&seen, "content-length"), Some("300000"), "{case}");
                assert_eq!(value(&seen, "transfer-encoding"), None, "{case}");
                assert_eq!(value(&seen, "x-length"), Some("300000"), "{case}");
            }
            let ran = curl(&[version, "-X", "POST", "-H", "Content-Length: 0", &site.url("/x")]);
            assert_eq!(ran.out, "done", "{what}, {version}, empty: {}", ran.all());
            assert!(echo.take().pop().expect("a request").body.is_empty());
        }
    }
    until("nothing is held any more", || inner.metric("selvedge_held_body_bytes") == Some(0.0));
}

#[test]
fn a_held_body_is_sent_again_to_another_endpoint() {
    // One that nobody listens at, one that reads some and breaks off, one that is well.
    let breaks_off = raw_origin(|mut stream| drop(read_head(&mut stream)));
    let well = origin("[{ body: done }]");
    let endpoints = [free_port(), breaks_off, well.address];
    let site = held(&endpoints, ", retries: 2");
    let data = format!("@{}", large_file(&site.folder));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for round in 0..endpoints.len() {
            let url = site.url("/x");
            let ran = curl(&[version, "-X", "PUT", "--data-binary", &data, &url]);
            assert_eq!(ran.out, "done", "{version}, {round}: {}\n{}", ran.all(), site.proxy.log());
            let seen = well.take().pop().expect("a request");
            assert!(seen.body == large_bytes(), "{version}, {round}: {} bytes", seen.body.len());
        }
    }
    let retries = site.metric("selvedge_upstream_retries_total{reason=\"reset\",upstream=\"o\"}");
    assert!(retries >= Some(2.0), "{retries:?}");
}

#[test]
fn a_client_that_leaves_or_stalls_in_its_body_meets_no_filter() {
    let echo = origin("[{}]");
    let site = held(&[echo.address], "");
    let runs =
        "selvedge_filter_runs_total{filter=\"hold\",hook=\"on_request\",outcome=\"continue\"}";
    let mut client = site.connect();
    let head = "POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc";
    client.send(head.as_bytes()).expect("sends");
    until("three bytes are held", || site.metric("selvedge_held_body_bytes") == Some(3.0));
    drop(client);
    site.logged("\"error\":\"client_gone\"");
    until("nothing is held", || site.metric("selvedge_held_body_bytes") == Some(0.0));
    assert!(site.proxy.log().contains("\"path\":\"/gone\""));

    let began = Instant::now();
    let response = exchange(site.address("public"), head.as_bytes()).expect("an answer");
    assert_eq!(response.status, 408);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let http2 = format!(
        "(printf abc; sleep 3) | curl -sS --max-time 20 --http2-prior-knowledge -T - -o /dev/null \
         -w '%{{http_code}} %{{time_total}}' {}",
        site.url("/slow")
    );
    let ran = run("sh", &["-c", &http2]);
    let (status, seconds) = ran.out.split_once(' ').unwrap_or_else(|| panic!("{}", ran.all()));
    assert_eq!(status, "408", "{}", ran.all());
    assert!(seconds.parse::<f64>().expect("seconds") < 3.0, "{seconds} s");
    assert_eq!(site.metric(runs), None, "no filter has run");
    assert!(echo.take().is_empty(), "the origin saw something");
}

#[test]
fn all_held_bodies_together_have_a_limit() {
    let echo = origin("[{}]");
    let site = held(&[echo.address], "");
    let part = vec![b'x'; 600_000];
    let head = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 600001\r\n\r\n";
    let mut first = site.connect();
    first.send(head.as_bytes()).expect("sends");
    first.send(&part).expect("sends");
    until("it is held", || site.metric("selvedge_held_body_bytes") == Some(600_000.0));
    let second = [head.replace("/first", "/second").as_bytes(), &part, b"x"].concat();
    let response = exchange(site.address("public"), &second).expect("an answer");
    assert_eq!((response.status, response.values("retry-after")), (503, vec!["1"]));
    site.logged("\"error\":\"bodies_busy\"");
    first.send(b"x").expect("sends");
    assert_eq!(first.receive(false).expect("an answer").status, 200);
    let response = exchange(site.address("public"), &second).expect("an answer");
    assert_eq!(response.status, 200, "what was given back can be held again");
}

/// A shipped filter's path.
fn shipped(name: &str) -> String {
    format!("{}/scripts/{name}.rhai", env!("CARGO_MANIFEST_DIR"))
}

fn signature(key: &str, body: &[u8]) -> String {
    let ran = run_with("openssl", &["dgst", "-sha256", "-hmac", key, "-r"], body);
    let digits = ran.out.split(' ').next().unwrap_or_default();
    assert_eq!(digits.len(), 64, "{}", ran.all());
    format!("X-Hub-Signature-256: sha256={digits}")
}

#[test]
fn ac_005_a_webhook_is_signed_over_its_raw_body() {
    let echo = origin("[{ body: taken }]");
    let folder = Folder::new();
    folder.write("key", "s3cret");
    let site = Site::start_in(
        folder,
        format!(
            "{PLAIN}upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}\n\
             filters: {{ hooks: {{ script: \"{}\", secrets: {{ key: {{ file: key }} }}, \
                        body: {{ request: buffer, limit: 1MiB }} }} }}\n\
             routes: [{{ name: hooks, match: {{ path: /hooks }}, filters: [hooks], upstream: o }}]\n",
            echo.address,
            shipped("webhook_signature"),
        ),
    );
    let url = site.url("/hooks");
    let post = |body: &[u8], signature: &str, more: &[&str]| {
        let file = site.folder.path("body");
        std::fs::write(&file, body).expect("the folder can be written to");
        let data = format!("@{}", file.display());
        let kind = "Content-Type: application/x-hook";
        let status = ["-w", "\n%{http_code}", "-H", kind, "-H", signature];
        curl(&[&status[..], &["--data-binary", &data, &url], more].concat()).out
    };
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    for (body, more) in [
        (vec![], &[][..]),
        (large_bytes(), &chunked[..]),
        (vec![b'"', 0xff, 0xfe, b'"'], &[]),
        (vec![b'x'; 1 << 20], &[]),
    ] {
        let answer = post(&body, &signature("s3cret", &body), more);
        assert_eq!(answer, "taken\n200", "{} bytes", body.len());
        let seen = echo.take().pop().expect("a request");
        assert!(seen.body == body, "{} bytes of {}", seen.body.len(), body.len());
        assert_eq!(value(&seen, "content-type"), Some("application/x-hook"));
        let answer = post(&body, &signature("guess", &body), more);
        assert_eq!(answer, "not signed with our key\n401", "{} bytes", body.len());
    }
    let above = vec![b'x'; (1 << 20) + 1];
    for more in [&[][..], &chunked] {
        let answer = post(&above, &signature("s3cret", &above), more);
        assert!(answer.ends_with("\n413"), "{answer}");
    }
    assert!(echo.take().is_empty(), "the origin saw what was refused");
}

#[test]
fn ac_035_deep_and_endless_json_is_refused() {
    let echo = origin("[{}]");
    let site = Site::start(format!(
        "{PLAIN}upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}\n\
         filters: {{ orders: {{ script: \"{}\", body: {{ request: buffer }}, \
                    config: {{ fields: {{ qty: {{ type: integer }} }} }} }} }}\n\
         routes: [{{ name: orders, match: {{}}, filters: [orders], upstream: o }}]\n",
        echo.address,
        shipped("json_reshape"),
    ));
    let post = |body: &[u8]| {
        let length = body.len();
        let head = format!(
            "POST /orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        exchange(site.address("public"), &[head.as_bytes(), body].concat()).expect("an answer")
    };
    assert_eq!(post(&[b'['; 10_000]).status, 400);
    assert_eq!(post(&vec![b'['; 1 << 20]).status, 400);
    assert_eq!(post(format!("{{\"qty\":1{}}}", " ".repeat(1 << 20)).as_bytes()).status, 413);
    assert!(echo.take().is_empty(), "the origin saw what was refused");
    assert_eq!(post(b"{\"qty\":1}").status, 200, "and it serves on");
}

/// Compressed by gzip(1).
fn gzip(body: &[u8]) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut child = std::process::Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip is installed");
    let mut stdin = child.stdin.take().expect("piped");
    let (body, mut packed) = (body.to_vec(), Vec::new());
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    child.stdout.take().expect("piped").read_to_end(&mut packed).expect("reads");
    writer.join().expect("no panic").expect("writes");
    child.wait().expect("waits");
    packed
}

#[test]
fn collected_responses_keep_their_coding_unless_they_are_edited_over_all_versions() {
    let plain = large_bytes().repeat(3);
    let packed = gzip(&plain);
    let length = packed.len();
    let address = raw_origin(move |mut stream| {
        use std::io::Write;
        while !read_head(&mut stream).is_empty() {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nETag: \"e\"\r\nContent-Length: {length}\r\n\r\n"
            );
            if stream.write_all(&[head.as_bytes(), &packed].concat()).is_err() {
                return;
            }
        }
    });
    let folder = Folder::new();
    folder.write(
        "look.rhai",
        "fn on_response(res, req) {\n\
           if req.path == \"/read\" || req.path == \"/edit\" { res.headers[\"x-md5\"] = hash::md5(res.body.bytes()); }\n\
           if req.path == \"/edit\" { res.body = res.body; res.body.set_bytes(res.body.bytes().extract(0, 5)); }\n\
         }",
    );
    let listeners = PLAIN.replace("\"127.0.0.1:0\" } }", "\"127.0.0.1:0\", h2c: true } }");
    let site = Site::start_in(
        folder,
        format!(
            "{listeners}upstreams: {{ o: {{ endpoints: [{{ address: \"{address}\" }}] }} }}\n\
             filters: {{ look: {{ script: look.rhai, body: {{ response: buffer }}, limits: {{ cpu: 500ms }} }} }}\n\
             routes: [{{ name: all, match: {{}}, filters: [look], upstream: o }}]\n"
        ),
    );
    let file = site.folder.path("plain");
    std::fs::write(&file, &plain).expect("the folder can be written to");
    let md5 = run("md5sum", &[&file.display().to_string()]).out;
    let md5 = md5.split(' ').next().unwrap_or_default().to_owned();
    let out = site.folder.path("out").display().to_string();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (path, coded, read) in
            [("/untouched", true, false), ("/read", true, true), ("/edit", false, true)]
        {
            let url = site.url(path);
            let ran = curl(&[version, "--compressed", "-D", "-", "-o", &out, &url]);
            let head = ran.out.to_ascii_lowercase();
            let case = format!("{version} {path}: {}\n{}", ran.all(), site.proxy.log());
            assert_eq!(head.contains("content-encoding: gzip"), coded, "{case}");
            assert_eq!(head.contains("etag: \"e\""), coded, "{case}");
            assert_eq!(head.contains(&format!("x-md5: {md5}")), read, "{case}");
            let expected = if coded { length } else { 5 };
            assert!(head.contains(&format!("content-length: {expected}")), "{case}");
            let got = std::fs::read(&out).expect("curl wrote it");
            let wanted = if coded { &plain[..] } else { &plain[..5] };
            assert!(got == wanted, "{} bytes: {case}", got.len());
        }
    }
    until("nothing is held any more", || site.metric("selvedge_held_body_bytes") == Some(0.0));
    until("a line for each request", || site.count_logged("\"status\":200") == 6);
}
