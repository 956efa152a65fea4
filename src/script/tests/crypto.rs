//! Tokens, signatures and sealing as scripts use them.

use super::*;

async fn said(body: &str) -> String {
    let run = run_request(body).await;
    super::body(answer(&run)).to_owned()
}

/// What `e.kind` and the message of a failing call are.
async fn error_of(call: &str) -> String {
    said(&format!(
        "try {{ {call}; }} catch (e) {{ return response(200, `${{e.kind}}: ${{e.message}}`); }} response(200, \"none\")"
    ))
    .await
}

#[tokio::test]
async fn a_token_is_taken_or_refused_with_a_reason() {
    let reasons = said(
        r#"let key = secret_of();
           let sign = |claims| jwt::sign(claims, "s3cret", #{ alg: "HS256" });
           let now = time::unix();
           let good = sign.call(#{ sub: "ann", exp: now + 60 });
           let seen = [];
           for token in [good, (), "a.b", good + "x", good + "=", sign.call(#{ exp: now - 1 }), sign.call(#{ nbf: now + 60 }),
                         sign.call(#{ exp: now + 60, aud: "other" }),
                         jwt::sign(#{}, "other", #{ alg: "HS256" }), jwt::sign(#{}, "s3cret", #{ alg: "HS512" })] {
               try { seen.push(jwt::verify(token, key, #{ alg: "HS256" }).sub); }
               catch (e) { seen.push(if e.kind == "token" { e.reason } else { e }); }
           }
           Response::json(seen)
        } fn secret_of() { secret("key") "#,
    )
    .await;
    let expected = r#"["ann","absent","malformed","signature","malformed","expired","early","aud","signature","alg"]"#;
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn misuse_is_an_error_and_no_refusal() {
    let cases = [
        (r#"jwt::verify("a.b.c", "k", #{})"#, "invalid: jwt::verify needs to be told the alg"),
        (r#"jwt::verify("a.b.c", "k", #{ alg: [] })"#, "invalid: alg is a string or a list"),
        (r#"jwt::verify("a.b.c", "k", #{ alg: "none" })"#, "invalid: none is no algorithm"),
        (r#"jwt::verify("a.b.c", "k", #{ alg: "HS265" })"#, "invalid: there is no algorithm"),
        (
            r#"jwt::verify("a.b.c", "k", #{ alg: "ES512" })"#,
            "invalid: ES512 (P-521) is not offered",
        ),
        (
            r#"jwt::verify("a.b.c", "k", #{ alg: ["HS256", "RS256"] })"#,
            "invalid: HS algorithms take",
        ),
        (r#"jwt::verify("a.b.c", "k", #{ alg: "HS256", audience: "a" })"#, "no option audience"),
        (r#"jwt::verify("a.b.c", "k", #{ alg: "HS256", leeway: -1 })"#, "invalid: seconds are"),
        (r#"jwt::verify(7, "k", #{ alg: "HS256" })"#, "invalid: a token is a string, not i64"),
        (
            r#"jwt::verify(jwt::sign(#{}, "k", #{ alg: "HS256" }), "k", #{ alg: "RS256" })"#,
            "invalid: RS256 takes a key as PEM",
        ),
        (r#"jwt::sign(#{}, "k", #{})"#, "invalid: jwt::sign needs to be told the alg"),
        (r#"jwt::sign(#{}, "k", #{ alg: "EdDSA" })"#, "invalid: EdDSA takes a key as PEM or JWK"),
        (
            r#"jwt::verify("e30.e30.", jwks("http://api/k"), #{ alg: "HS256" })"#,
            "invalid: a key set has public keys",
        ),
        (
            r#"jwt::sign(#{}, jwks("http://api/k"), #{ alg: "RS256" })"#,
            "invalid: a string or bytes",
        ),
        (r#"jwt::decode_unverified("x")"#, "token: this is not a signed token"),
        (r#"crypto::verify("HS256", "k", "data", "00ff")"#, "invalid: a signature is bytes"),
        (r#"crypto::sign("MD5", "k", "data")"#, "invalid: there is no algorithm"),
        (r#"crypto::seal("short", "data")"#, "invalid: a key to seal with has at least 16 bytes"),
        (
            r#"let s = ""; s.pad(70000, "a"); crypto::seal("0123456789abcdef", s)"#,
            "limit: at most 65536 bytes",
        ),
    ];
    for (call, expected) in cases {
        let found = error_of(call).await;
        assert!(found.contains(expected), "{call}: {found}");
    }
}

#[tokio::test]
async fn hostile_data_in_keys_and_options_ends_within_the_limits() {
    for call in [
        r#"let big = "A"; for i in 0..19 { big += big; } jwt::verify(big + "." + big, "k", #{ alg: "HS256" })"#,
        r#"let big = "A"; for i in 0..19 { big += big; } crypto::open("0123456789abcdef", big)"#,
        r#"let a = []; for i in 0..9000 { a.push("x"); } jwt::verify("a.b.c", "k", #{ alg: "HS256", aud: a })"#,
        r#"let m = #{ kty: "oct" }; for i in 0..60 { m = #{ kty: "oct", k: "AA", x: m }; } crypto::sign("HS256", m, "a")"#,
    ] {
        let started = Instant::now();
        run_request(&format!("try {{ {call}; }} catch {{ }} response(200)")).await;
        assert!(started.elapsed() < Duration::from_millis(500), "{call}");
    }
    // What takes long is charged, so that it cannot be repeated for ever.
    let run = run_request(r#"loop { crypto::sign("HS256", "k", "data"); }"#).await;
    assert!(matches!(fault(&run).cause, Cause::Limit(_)), "{}", fault(&run));
}

#[tokio::test]
async fn what_is_sealed_is_text_for_a_cookie() {
    let seen = said(
        r#"let sealed = crypto::seal("0123456789abcdef", "ann;=\n", "session");
           res_cookie(sealed);
           let other = crypto::open("0123456789abcdef", sealed, "cart");
           let changed = crypto::open("0123456789abcdef", sealed + "A", "session");
           let right = crypto::open("0123456789abcdef", sealed, "session").as_string();
           Response::json([other, changed, right, sealed.contains("ann")])
        } fn res_cookie(value) { let r = response(200); r.set_cookie("s", value); "#,
    )
    .await;
    assert_eq!(seen, r#"[null,null,"ann;=\n",false]"#);
}

const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

const USES_SET: &str = r#"
    const KEYS = jwks("http://api/keys", #{ ttl: 60 });
    const PRIVATE = `{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`;
    fn ask(kid) {
        let token = jwt::sign(#{ sub: "ann" }, PRIVATE, #{ alg: "EdDSA", kid: kid });
        try { return jwt::verify(token, KEYS, #{ alg: ["EdDSA", "RS256"] }).sub; }
        catch (e) { return if e.kind == "token" { e.reason } else { e.kind }; }
    }
    fn on_request(req) { response(200, ask("a") + " " + ask("a") + " " + ask("b") + " " + ask("c")) }
"#;

#[tokio::test]
async fn a_key_set_is_fetched_by_the_grant_and_kept_by_the_host() {
    let host = FakeHost::default().answering(StatusCode::OK, SET).answering(StatusCode::OK, SET);
    let host = Arc::new(host);
    for fetched in [2, 2] {
        let run = run_with(USES_SET, Exchange::for_test(), host.clone()).await;
        assert_eq!(body(answer(&run)), "ann ann key key");
        assert_eq!(host.fetched.lock().len(), fetched, "kept from run to run");
    }
    let asked = host.fetched.lock()[0].clone();
    assert_eq!(asked.url.to_string(), "http://api/keys");
    assert_eq!(asked.headers["accept"], "application/json");
    let run = run_with(USES_SET, Exchange::for_test(), Arc::new(FakeHost::default())).await;
    assert_eq!(body(answer(&run)), "connect connect connect connect", "no keys is no refusal");
}

#[test]
fn a_key_set_needs_the_grant_at_load() {
    for source in [
        r#"const KEYS = jwks("http://evil/keys"); fn on_request(req) {}"#,
        r#"fn on_request(req) { jwt::verify("", jwks("http://evil/keys"), #{ alg: "RS256" }) }"#,
    ] {
        let problem = problem(source);
        assert!(
            problem.message.contains("http://evil is not in this filter's fetch.allow"),
            "{problem}"
        );
        assert_eq!(problem.line, 1, "{problem}");
    }
}
