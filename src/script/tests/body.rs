//! Bodies, as scripts read and set them.

use bytes::Bytes;
use http::HeaderValue;

use super::*;

fn holding(body: &'static [u8], headers: &[(&'static str, &'static str)]) -> Exchange {
    let mut exchange = Exchange::for_test();
    let request = Arc::make_mut(&mut exchange.request);
    request.body = MessageBody::Held(Bytes::from_static(body));
    for (name, value) in headers {
        request.headers.insert(*name, HeaderValue::from_static(value));
    }
    exchange
}

async fn run_on(exchange: Exchange, body: &str) -> Run {
    let source = format!("fn on_request(req) {{ {body} }}");
    run_with(&source, exchange, Arc::new(FakeHost::default())).await
}

#[tokio::test]
async fn a_held_body_is_read_in_every_form() {
    let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    for (body, headers, test) in [
        (&b"abc"[..], &[][..], r#"req.body.text() == "abc" && req.body.len == 3"#),
        (b"", &[], r#"req.body.text() == "" && req.body.len == 0"#),
        (b"a\xffb", &[], r#"req.body.text() == "a\ufffdb" && req.body.bytes()[1] == 255"#),
        (b"abc", &[], "req.body.bytes() == blob(3, 0x61) == false && req.body.bytes().len() == 3"),
        (br#"{"a":[1]}"#, &[], "req.body.json().a == [1]"),
        (b"a=1&b=%2F+", &form, r#"req.body.form() == #{ a: "1", b: "/ " }"#),
        (b"", &form, "req.body.form() == #{}"),
        (b"abc", &[], r#"hash::sha1(req.body) == hash::sha1("abc")"#),
    ] {
        let run = run_on(holding(body, headers), &format!("if {test} {{ response(299) }}")).await;
        assert!(matches!(&run.outcome, Outcome::Answer(_)), "{test}: {:?}", run.outcome);
    }
}

#[tokio::test]
async fn what_a_body_is_not_is_an_error_to_catch() {
    let gzip = [("content-encoding", "x-lz")];
    for (body, headers, call, kind) in [
        (&b"{"[..], &[][..], "json()", "parse"),
        (b"", &[], "json()", "parse"),
        (b"\xff", &[], "json()", "parse"),
        (b"a=1", &[], "form()", "invalid"),
        (b"abc", &gzip, "text()", "unavailable"),
        (b"abc", &gzip, "json()", "unavailable"),
    ] {
        let script = format!(
            r#"try {{ req.body.{call} }} catch (e) {{ if e.kind == "{kind}" {{ return response(299) }} throw e }}"#
        );
        let run = run_on(holding(body, headers), &script).await;
        assert!(matches!(&run.outcome, Outcome::Answer(_)), "{call} {body:?}: {:?}", run.outcome);
    }
    let raw =
        run_on(holding(b"abc", &gzip), "if req.body.bytes().len == 3 { response(299) }").await;
    assert!(matches!(raw.outcome, Outcome::Answer(_)), "as it came: {:?}", raw.outcome);
}

#[tokio::test]
async fn a_body_of_a_megabyte_is_hashed_and_handed_on_without_an_array() {
    let large: &'static [u8] = Box::leak(vec![b'x'; (1 << 20) + 1].into_boxed_slice());
    let script = r#"
        let bytes = req.body.bytes();
        if bytes.len != 1048577 || hash::xxh(bytes) != hash::xxh(req.body) { throw "another" }
        try { bytes.to_blob(); throw "a large blob" } catch (e) { if e.kind != "limit" { throw e } }
        try { req.body.text(); throw "a large string" } catch (e) { if e.kind != "limit" { throw e } }
        fetch("http://api/copy", #{ method: "POST", body: req.body }); ()"#;
    let host = Arc::new(FakeHost::default().answering(StatusCode::OK, ""));
    let source = format!("fn on_request(req) {{ {script} }}");
    let run = run_with(&source, holding(large, &[]), host.clone()).await;
    assert!(matches!(run.outcome, Outcome::Continue), "{:?}", run.outcome);
    assert!(host.fetched.lock()[0].body == large);
}

#[tokio::test]
async fn an_edit_replaces_and_forgets_what_was_said_of_the_bytes() {
    let headers = [("content-encoding", "gzip"), ("content-md5", "x"), ("content-type", "text/x")];
    for (edit, body, kind) in [
        (r#"req.body.set_text("new")"#, "new", "text/x"),
        (r#"req.body = "new""#, "new", "text/x"),
        ("req.body = #{ a: 1 }", r#"{"a":1}"#, "text/x"),
        ("req.body.set_json([1])", "[1]", "application/json"),
        ("req.body.set_bytes(blob(2, 65))", "AA", "text/x"),
        ("req.body = ()", "", "text/x"),
    ] {
        let run = run_on(holding(b"old", &headers), edit).await;
        let request = &run.exchange.request;
        let expected = MessageBody::Replaced(Bytes::copy_from_slice(body.as_bytes()));
        assert_eq!(request.body, expected, "{edit}: {:?}", run.outcome);
        assert_eq!(request.headers["content-type"], kind, "{edit}");
        assert_eq!(request.headers.len(), 1, "{edit}: {:?}", request.headers);
    }
    let read = run_on(holding(b"old", &headers), "req.body.bytes();").await;
    assert_eq!(read.exchange.request.headers.len(), 3, "reading changes nothing");
    let faulted = run_on(holding(b"old", &[]), r#"req.body = "new"; throw "no""#).await;
    let old = MessageBody::Held(Bytes::from_static(b"old"));
    assert_eq!(faulted.exchange.request.body, old, "a fault leaves no edit");
}

#[test]
fn a_body_that_is_not_granted_is_found_at_load() {
    let mut filter = filter();
    filter.body = BodyAccess::NONE;
    for use_of_it in
        ["req.body.text()", "req.body = 1", "let b = req.body", "if req.body.len > 1 {}"]
    {
        let source = format!("fn on_request(req) {{ {use_of_it}; }}");
        let problems = compile_source(&filter, &lists(), source).map(|_| ()).unwrap_err();
        assert_eq!(problems[0].message, "this filter sees no request bodies", "{use_of_it}");
        let hint = problems[0].hint.as_deref();
        assert_eq!(hint, Some("set body: { request: buffer } in its configuration"));
    }
    let elsewhere = "fn on_response(res, req) { res.body = req.path; }".to_owned();
    assert!(compile_source(&filter, &lists(), elsewhere).is_ok());
}
