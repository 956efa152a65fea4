//! What is refused when a script is loaded, and what must not be.

use super::*;

fn refused(source: &str, text: &str, at: (usize, usize)) {
    let found = problem(source);
    let shown = found.to_string();
    assert!(shown.contains(text), "{source}: {shown}");
    assert_eq!((found.line, found.column), at, "{source}: {shown}");
}

#[test]
fn properties_that_do_not_exist_are_found_with_their_place() {
    refused("fn on_request(req) {\n  req.paht\n}", "did you mean req.path?", (2, 7));
    refused("fn on_request(r) {\n  r.paht = 1;\n}", "did you mean r.path?", (2, 5));
    refused("fn on_response(res, req) {\n  res.sttus\n}", "did you mean res.status?", (2, 7));
    refused("fn on_error(err, req) {\n  err.knd\n}", "did you mean err.kind?", (2, 7));
    refused("fn on_request(req) { [1].map(|x| 1); req.bearer }", "write req.bearer(..)", (1, 42));
    refused("fn on_request(req) {\n  req.id = \"a\";\n}", "req.id cannot be set", (2, 7));
    refused("fn on_request(req) {\n  req.client.ipp\n}", "did you mean req.client.ip?", (2, 14));
    refused(
        "fn on_request(req) {\n  req.client.tls.cert.cnn\n}",
        "req.client.tls.cert.cn?",
        (2, 23),
    );
}

#[test]
fn calls_that_fit_nothing_are_found_with_their_place() {
    refused("fn on_request(req) {\n  req.headers.gett(\"x\")\n}", "no function gett", (2, 15));
    refused("fn on_request(req) {\n  hash::sha256()\n}", "write hash::sha256(data)", (2, 9));
    refused("fn on_request(req) {\n  req.bearer(1)\n}", "write req.bearer()", (2, 7));
    refused("fn f(a, b) { a + b } fn on_request(req) {\n  f(1)\n}", "it takes 2", (2, 3));
    refused("fn on_request(req) {\n  req.headers.appnd(\"a\", 1)\n}", "append", (2, 15));
}

#[test]
fn what_is_not_granted_is_found_with_its_place() {
    let allow = "fetch.allow has http://api";
    refused("fn on_request(req) {\n  fetch(\"http://other/\")\n}", allow, (2, 9));
    refused("fn on_request(req) {\n  fetch(`http://other/${req.path}`)\n}", allow, (2, 9));
    refused("fn on_request(req) {\n  fetch_start(\"https://api/\")\n}", allow, (2, 15));
    refused("fn on_request(req) {\n  fetch_all([#{ url: \"http://b/\" }])\n}", allow, (2, 22));
    refused("fn on_request(req) {\n  fetch(\"/relative\")\n}", "not an absolute", (2, 9));
    refused("fn on_request(req) {\n  secret(\"kye\")\n}", "did you mean key?", (2, 10));
}

#[test]
fn what_is_kept_and_not_granted_is_found_with_its_place() {
    let cases = [
        ("kv(\"user\").get(\"a\")", "did you mean users?", 6),
        ("kv(\"users\").delete(kv(\"x\").get(\"a\"))", "under this filter's kv: x", 25),
        ("kv(\"flags\").put(\"a\", 1)", "grant kv: { flags: read_write }", 15),
        ("kv(\"flags\").put_if_absent(\"a\", 1).to_string()", "may only read", 15),
        ("rate_limit(\"fw\", \"a\")", "did you mean few?", 14),
        ("counter(\"visit\").add(1)", "did you mean visits?", 11),
        ("lock(\"rooms\")", "did you mean room?", 8),
        ("dict(\"code\")", "did you mean codes?", 8),
        ("ipset(\"all\")", "under this filter's ipsets: all", 9),
    ];
    for (call, expected, column) in cases {
        refused(&format!("fn on_request(req) {{\n  {call};\n}}"), expected, (2, column));
    }
    refused("const D = dict(\"code\");\nfn on_request(req) { D.len }", "codes?", (1, 16));
}

#[test]
fn constants_cannot_be_changed() {
    for change in [
        "L[0] = 1",
        "L += 1",
        "L = 2",
        "M.a = 1",
        "M.a.b = 1",
        "M[\"a\"] += 1",
        "L.push(1)",
        "M.clear()",
        "M.a.push(1)",
    ] {
        let source =
            format!("const L = [1]; const M = #{{ a: 1 }};\nfn on_request(req) {{ {change}; }}");
        refused(&source, "is a constant", (2, 22));
    }
    refused("fn on_request(req) {\n  config.greeting = 1;\n}", "config is a constant", (2, 3));
    script(
        "const N = [1]; fn on_request(req) { let n = 0; let l = []; N.for_each(|| { n += 1; l.push(n) }); }",
    );
}

#[test]
fn constants_hold_nothing_that_requests_would_share() {
    let hint = "make it in a function";
    let hook = "fn on_request(req) { }";
    for made in ["response(403)", "[#{ a: Response::text(\"x\") }]", "response(403).headers"] {
        refused(&format!("let a = 1;\nconst DENIED = {made};\n{hook}"), hint, (2, 1));
    }
    refused(&format!("const HOME = url(\"http://a/\");\n{hook}"), "holds a Url", (1, 1));
    script(&format!(
        "const A = regex(\"a\"); const B = secret(\"key\"); const C = 1..3; const D = |x| x; {hook}"
    ));
}

#[test]
fn a_constant_has_no_prefix_where_it_was_made() {
    refused("const K = 1;\nfn on_request(req) { global::K }", "write K", (2, 30));
}

#[test]
fn imported_files_are_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut filter = filter();
    filter.script = folder.path().join("main.rhai");
    let source = "import \"lib\" as lib; fn on_request(req) { lib::f(1); }";
    let check = |lib: &str| {
        std::fs::write(folder.path().join("lib.rhai"), lib).unwrap();
        compile_source(&filter, &lists(), source.to_owned())
    };
    let cases = [
        ("fn f(x) {\n  g(x)\n}", "lib.rhai:2:3: there is no function g"),
        ("const K = 1; fn f(x) { x * K }", "Undefined variable: K"),
        ("fn f(x) { fetch(\"http://other/\"); x }", "fetch.allow has http://api"),
        ("const R = response(200); fn f(x) { x }", "the constant R holds a Response"),
    ];
    for (lib, expected) in cases {
        let shown = check(lib).expect_err(lib)[0].to_string();
        assert!(shown.contains(expected), "{lib}: {shown}");
    }
    std::fs::write(folder.path().join("deep.rhai"), "fn h(x) { x }").unwrap();
    let fine =
        "import \"deep\" as deep; const K = 2; fn g(x) { deep::h(x) * global::K } fn f(x) { g(x) }";
    check(fine).unwrap_or_else(|problems| panic!("{}", problems[0]));
}

#[test]
fn closures_that_would_outlive_or_race_are_found() {
    let kept = "could outlive it";
    let race = "while a itself is in use";
    let cases = [
        ("let x = []; x.push(|| x)", kept),
        ("let x = []; let f = || x; x.push(f)", kept),
        ("let x = []; let m = #{ f: || x }; m", kept),
        ("let x = []; let f = || x; let g = f; g.call()", kept),
        ("let x = []; keep(|| x)", kept),
        ("let x = []; let r = [1].reduce(|a, b| a, || x); r", kept),
        ("let a = [1]; a.map(|x| a.len + x)", race),
        ("let a = [1]; let f = |x| a.len + x; a.map(f)", race),
        ("let a = #{ b: [1] }; a.b.map(|x| a.len + x)", race),
        ("let a = [1]; filter(a, |x| a.len > x)", race),
    ];
    for (body, text) in cases {
        let source =
            format!("fn keep(f) {{ let g = f; g.call() }} fn on_request(req) {{ {body}; }}");
        let shown = problem(&source).to_string();
        assert!(shown.contains(text), "{source}: {shown}");
    }
}

#[tokio::test]
async fn ordinary_scripts_are_not_refused() {
    let source = r##"
        const LIMIT = 2;
        fn retry(n, f) { for i in 0..n { try { return f.call(); } catch { } } () }
        fn greet() { this.name + "!" }
        fn helper(req) { req.anything }
        fn on_request(req) {
            let min = 1; let out = []; let path = req.path;
            [1, 2, 3].filter(|x| x > min && x <= LIMIT).for_each(|| out.push(this));
            [1, 2].map(|x| [1, 2].map(|y| out.push(x * y + min)));
            let double = |x| x * 2 + min; out.push(double.call(4));
            let got = retry(2, || fetch("http://api/" + path).text()); out.push(got);
            let m = #{ name: "m", speak: |x| x + 1, inner: #{} };
            m.other = |x| x; m["third"] = |x| x; m.inner.deep = 1; m.freely = m.inner.deep;
            m.speak(1); m.other(1); m.third(1);
            out.push(m.greet());
            out.push(req.headers.accept ?? "none"); out.push(req.query.page ?? "1");
            out.push(req.cookies.sid ?? "-"); req.ctx.anything = 1; req.params.whatever;
            req.ctx.list = [1]; req.tag; (req.path).len; req.path.len;
            let name = "http://elsewhere/"; try { fetch(name) } catch (e) { out.push(e.kind) }
            let s = "abc"; s.pad(4, "d"); s.sub_string(1); s.crop(1, 2); s.split(","); s.to_upper();
            let list = [3, 1]; list.sort(); list.sort(|a, b| a - b); list.index_of(1); list.splice(0, 1, []);
            Response::json(out)
        }
        fn on_response(res, req) { let req = #{ own: 1 }; req.own; res.headers["a"] = 1; }
    "##;
    let host = Arc::new(FakeHost::default().answering(StatusCode::OK, "got"));
    let run = run_with(source, Exchange::for_test(), host).await;
    let expected = r#"[2,2,3,3,5,9,"got","m!","none","1","-","denied"]"#;
    assert_eq!(body(answer(&run)), expected);
}

#[tokio::test]
async fn a_fetch_for_its_effect_is_no_answer_by_accident() {
    let message = "would be the hook's answer";
    refused("fn on_request(req) {\n  fetch(\"http://api/\");\n}", message, (2, 3));
    refused(
        "fn on_request(req) {\n  try { fetch(\"http://api/\"); } catch { }\n}",
        message,
        (2, 9),
    );
    refused(
        "fn on_request(req) {\n  if req.ua == \"\" { fetch(\"http://api/\") }\n}",
        message,
        (2, 21),
    );
    for body in [
        "let r = fetch(\"http://api/\");",
        "return fetch(\"http://api/\");",
        "fetch(\"http://api/\"); ()",
    ] {
        script(&format!("fn on_request(req) {{ {body} }}"));
    }
}

#[test]
fn what_a_catch_would_lose_is_found() {
    let lost = "a catch has no value";
    for value in ["e.kind", "false", "e", "`no ${e}`", "[e]", "#{ a: 1 }"] {
        let source = format!(
            "fn f() {{ true }}\nfn on_request(req) {{ try {{ f() }} catch (e) {{ {value} }} }}"
        );
        refused(&source, lost, (2, 46));
    }
    refused(
        "fn on_request(req) {\n  try { f() } catch { response(503) }\n} fn f() { }",
        lost,
        (2, 23),
    );
    refused(
        "fn on_request(req) {\n  try { f() } catch { Response::text(\"a\") }\n} fn f() { }",
        lost,
        (2, 33),
    );
    for fine in ["return false", "req.path = \"/\";", "f()", "()", "log::info(e)", "throw e", ""] {
        script(&format!(
            "fn f() {{ }} fn on_request(req) {{ try {{ f() }} catch (e) {{ {fine} }} }}"
        ));
    }
}

#[tokio::test]
async fn try_has_the_value_that_is_written() {
    let source = "fn good() { try { [1].len(); true } catch { return false } }
        fn on_request(req) { response(200, `${good()}`) }";
    let run = run_with(source, Exchange::for_test(), Arc::new(FakeHost::default())).await;
    assert_eq!(body(answer(&run)), "true");
}

#[test]
fn what_works_in_place_has_no_value_and_a_copy_must_be_kept() {
    let no_value = "in place and has no value";
    refused("fn on_request(req) {\n  let p = req.path.trim();\n}", no_value, (2, 20));
    refused("fn on_request(req) {\n  let p = \"a\"; let q = p.trim();\n}", no_value, (2, 26));
    refused(
        "fn on_request(req) {\n  req.path = req.path.replace(\"a\", \"b\");\n}",
        no_value,
        (2, 23),
    );
    refused(
        "fn f(p) {\n  if p.trim() == \"\" { }\n}\nfn on_request(req) { f(\"\"); }",
        no_value,
        (2, 8),
    );
    let lost = "a copy, which is lost";
    refused("fn on_request(req) {\n  req.path.trimmed();\n  ()\n}", lost, (2, 12));
    refused(
        "fn on_request(req) {\n  for p in [\"a\"] { p.replaced(\"a\", \"\"); }\n}",
        lost,
        (2, 22),
    );
    for fine in [
        "const R = regex(\"a\"); fn on_request(req) { req.path = R.replace(req.path, \"\"); }",
        "fn on_request(req) { let p = req.path; p.trim(); req.path.replace(\"a\", \"b\"); }",
        "fn clean(p) { p.trimmed() } fn on_request(req) { req.path = clean(req.path); }",
        "fn clean(p) { if p == \"\" { p.trimmed() } else { p } } fn on_request(req) { clean(\"\"); }",
        "fn on_request(req) { let p = req.path.trimmed().replaced(\"a\", \"b\"); }",
    ] {
        script(fine);
    }
}
