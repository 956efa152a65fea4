//! Tests of the runtime as its callers see it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::compile::compile_source;
use super::*;
use crate::config::body::{BodyAccess, BodyMode};
use crate::config::filters::{Fetch, Filter, FilterLimits, OnFault, Origin, Secret};
use crate::config::state::{Access, Algorithm, Grants, Namespace, RateLimit};
use crate::state::{Geo, Lists, Live, Location, Place};

mod after;
mod api;
mod body;
mod coverage;
mod crypto;
mod hostile;
mod leaks;
mod lint;
mod lowering;
mod programs;
mod rest;
mod state;

fn filter() -> Filter {
    let secret = Secret::new(b"s3cret".as_slice());
    Filter {
        name: "test".into(),
        script: "test.rhai".into(),
        config: serde_json::json!({ "greeting": "hello", "list": [1, 2] }),
        secrets: BTreeMap::from([("key".to_owned(), secret)]),
        fetch: Fetch {
            allow: vec![Origin { tls: false, host: "api".into(), port: 80 }],
            max: 2,
            timeout: Duration::from_secs(1),
            max_body: 1 << 20,
        },
        state: grants(),
        schedule: Vec::new(),
        limits: FilterLimits::default(),
        body: BodyAccess { request: BodyMode::Buffer, ..BodyAccess::NONE },
        on_fault: OnFault::Closed,
        breaker: None,
        tests: Default::default(),
        lowering: crate::config::filters::Lowering::usual().unwrap(),
    }
}

fn grants() -> Grants {
    let namespace = |name: &str| {
        let (size, max_value) = (1 << 20, 1 << 10);
        Arc::new(Namespace { name: name.to_owned(), size, max_value, ttl: None })
    };
    let few = RateLimit {
        name: "few".to_owned(),
        limit: 2,
        per: Duration::from_secs(60),
        algorithm: Algorithm::SlidingWindow,
        keys: 1000,
    };
    let names = |name: &str| BTreeSet::from([name.to_owned()]);
    Grants {
        kv: BTreeMap::from([
            ("users".to_owned(), (namespace("users"), Access::ReadWrite)),
            ("flags".to_owned(), (namespace("flags"), Access::Read)),
        ]),
        rate_limits: BTreeMap::from([("few".to_owned(), Arc::new(few))]),
        counters: names("visits"),
        locks: names("room"),
        dicts: names("codes"),
        ipsets: names("office"),
    }
}

fn lists() -> Lists {
    let codes = crate::state::Dict::from_csv("a,1\nb,2").expect("CSV");
    let office = crate::state::IpSet::new(&["10.0.0.0/8".parse().expect("a network")]);
    Lists {
        dicts: BTreeMap::from([("codes".to_owned(), Arc::new(Live::fixed(codes)))]),
        ipsets: BTreeMap::from([("office".to_owned(), Arc::new(Live::fixed(office)))]),
        geo: vec![Arc::new(Live::fixed(Geo::default()))],
    }
}

fn script(source: &str) -> Arc<Script> {
    match compile_source(&filter(), &lists(), source.to_owned()) {
        Ok(script) => Arc::new(script),
        Err(problems) => panic!("{}", problems[0]),
    }
}

fn problem(source: &str) -> Diagnostic {
    compile_source(&filter(), &lists(), source.to_owned()).map(|_| ()).unwrap_err().remove(0)
}

fn limits() -> Limits {
    Limits::from(&FilterLimits::default())
}

async fn run_with(source: &str, exchange: Exchange, host: Arc<dyn Host>) -> Run {
    run(&script(source), Hook::Request, exchange, host, limits()).await
}

async fn run_request(body: &str) -> Run {
    let source = format!("fn on_request(req) {{ {body} }}");
    run_with(&source, Exchange::for_test(), Arc::new(FakeHost::default())).await
}

fn fault(run: &Run) -> &Fault {
    match &run.outcome {
        Outcome::Fault(fault) => fault,
        other => panic!("no fault but {other:?}"),
    }
}

fn answer(run: &Run) -> &ResponseDraft {
    match &run.outcome {
        Outcome::Answer(answer) => answer,
        other => panic!("no answer but {other:?}"),
    }
}

fn body(response: &ResponseDraft) -> String {
    match &response.body {
        MessageBody::Replaced(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("not a body of the script's own: {other:?}"),
    }
}

fn limit(run: &Run) -> LimitKind {
    match fault(run).cause {
        Cause::Limit(hit) => {
            assert!(hit.used > hit.allowed, "{hit}");
            hit.kind
        }
        other => panic!("no limit but {other:?}: {}", fault(run)),
    }
}

#[tokio::test]
async fn an_edit_of_headers_reaches_the_exchange() {
    let run = run_request(
        r#"req.headers["X-A"] = "1"; req.headers["x-n"] = 7; req.headers["x-l"] = ["a", "b"];
           req.headers["gone"] = (); if req.headers["x-a"] != "1" { throw "case" }
           req.path = "/new"; req.query["q"] = "a b";"#,
    )
    .await;
    assert!(matches!(run.outcome, Outcome::Continue), "{:?}", run.outcome);
    let request = &run.exchange.request;
    assert_eq!(request.headers["x-a"], "1");
    assert_eq!(request.headers["x-n"], "7");
    assert_eq!(request.headers.get_all("x-l").iter().count(), 2);
    assert_eq!((request.path.as_str(), request.query.as_deref()), ("/new", Some("q=a+b")));
    assert!(run.figures.operations > 0);
}

#[tokio::test]
async fn a_fault_rolls_back_all_edits() {
    let mut exchange = Exchange::for_test();
    Arc::make_mut(&mut exchange.request).headers.insert("keep", "1".parse().unwrap());
    let source = "fn on_request(req) {\n  req.path = \"/x\"; req.headers[\"keep\"] = ();\n  \
                  req.ctx.a = 1;\n  throw \"oops\";\n}";
    let run = run_with(source, exchange, Arc::new(FakeHost::default())).await;
    let fault = fault(&run);
    assert_eq!((fault.line, fault.message.as_str()), (4, "oops"));
    assert_eq!(fault.source_line, "  throw \"oops\";");
    assert_eq!(run.exchange.request.path, "/");
    assert_eq!(run.exchange.request.headers["keep"], "1");
    assert!(run.exchange.request.ctx.snapshot().is_empty());
}

#[tokio::test]
async fn an_endless_loop_ends_at_a_limit() {
    let script = script("\nfn on_request(req) { loop { } }");
    let host: Arc<dyn Host> = Arc::new(FakeHost::default());
    let mut bounds = limits();
    bounds.operations = u64::MAX;
    let ended = run(&script, Hook::Request, Exchange::for_test(), host.clone(), bounds).await;
    assert_eq!(limit(&ended), LimitKind::Cpu);
    let fault = fault(&ended);
    assert_eq!((fault.line, fault.source_line.as_str()), (2, "fn on_request(req) { loop { } }"));
    bounds = limits();
    bounds.operations = 1000;
    let ended = run(&script, Hook::Request, Exchange::for_test(), host, bounds).await;
    assert_eq!(limit(&ended), LimitKind::Operations);
}

#[tokio::test]
async fn what_the_machine_runs_meanwhile_is_not_the_scripts_time() {
    let script = script("fn on_request(req) { let i = 0; while i < 60000 { i += 1; } () }");
    let host: Arc<dyn Host> = Arc::new(FakeHost::default());
    let once = |bounds| run(&script, Hook::Request, Exchange::for_test(), host.clone(), bounds);
    let mut bounds = limits();
    bounds.cpu = Duration::from_secs(10);
    let alone = once(bounds).await;
    assert!(matches!(alone.outcome, Outcome::Continue), "{:?}", alone.outcome);
    // Many times more threads than processors: the run takes many times longer.
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads = 16 * std::thread::available_parallelism().map_or(1, usize::from);
    let spin = || {
        let over = Arc::clone(&over);
        std::thread::spawn(move || while !over.load(std::sync::atomic::Ordering::Relaxed) {})
    };
    let spinning: Vec<_> = (0..threads).map(|_| spin()).collect();
    bounds.cpu = alone.figures.cpu * 4;
    let begun = Instant::now();
    let busy = once(bounds).await;
    let took = begun.elapsed();
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    spinning.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(matches!(busy.outcome, Outcome::Continue), "{:?} in {took:?}", busy.outcome);
}

#[tokio::test]
async fn a_limit_cannot_be_caught_and_counts_in_callbacks() {
    let run = run_request("loop { try { loop { [1,2,3].map(|x| x + 1); } } catch { } }").await;
    limit(&run);
}

#[tokio::test]
async fn memory_bombs_end() {
    let bomb = script("fn on_request(req) { let s = \"xxxxxxxxxx\"; loop { s += s; } }");
    let mut bounds = limits();
    bounds.memory = 256 << 10;
    let host = Arc::new(FakeHost::default());
    let bombed = run(&bomb, Hook::Request, Exchange::for_test(), host, bounds).await;
    assert_eq!(limit(&bombed), LimitKind::Memory);
    assert!(bombed.figures.peak_memory > 256 << 10, "{:?}", bombed.figures);
    assert!(bombed.figures.peak_memory < 2 << 20, "{:?}", bombed.figures);
    let bombs = [
        ("let s = \"xxxxxxxxxx\"; loop { s += s; }", LimitKind::String),
        ("let a = [1]; loop { a += a; }", LimitKind::Array),
        ("let m = #{}; loop { m = #{ a: m, b: m }; }", LimitKind::Map),
    ];
    for (body, kind) in bombs {
        let run = run_request(body).await;
        assert_eq!(limit(&run), kind, "{body}");
        assert!(fault(&run).message.contains("limit: more than"), "{}", fault(&run));
    }
}

#[tokio::test]
async fn recursion_ends() {
    let source = "fn f(n) { f(n + 1) } fn on_request(req) { f(0) }";
    let run = run_with(source, Exchange::for_test(), Arc::new(FakeHost::default())).await;
    assert_eq!(limit(&run), LimitKind::Calls);
    assert_eq!(fault(&run).message, "the script met the calls limit: more than 32 deep");
}

#[tokio::test]
async fn the_wall_limit_holds_while_a_script_waits() {
    let script = script("fn on_request(req) { try { sleep(60) } catch { sleep(60) } }");
    let mut bounds = limits();
    bounds.wall = Duration::from_millis(30);
    let start = Instant::now();
    let host = Arc::new(FakeHost::default());
    let run = run(&script, Hook::Request, Exchange::for_test(), host, bounds).await;
    assert!(matches!(fault(&run).cause, Cause::Limit(hit) if hit.kind == LimitKind::Wall));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn waiting_often_evades_no_limit() {
    let script = script("fn on_request(req) { loop { try { sleep(0.0) } catch { } } }");
    let host: Arc<dyn Host> = Arc::new(FakeHost::default());
    let short = |wall, operations| Limits { wall, operations, ..limits() };
    let cases = [
        (short(Duration::from_millis(30), u64::MAX), LimitKind::Wall),
        (short(Duration::from_secs(60), 100), LimitKind::Operations),
    ];
    for (bounds, kind) in cases {
        let run = run(&script, Hook::Request, Exchange::for_test(), host.clone(), bounds);
        let ended = tokio::time::timeout(Duration::from_secs(5), run).await;
        assert_eq!(limit(&ended.expect("it ends")), kind);
    }
}

#[tokio::test]
async fn throw_answers_and_a_hook_returns_only_responses() {
    let run =
        run_request(r##"throw #{ status: 401, body: "no", headers: #{ "x-why": "a" } }"##).await;
    let response = answer(&run);
    assert_eq!(response.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        (body(response).as_str(), &response.headers["x-why"]),
        ("no", &"a".parse().unwrap())
    );
    let run = run_request(r#"Response::html("<b>")"#).await;
    assert_eq!(body(answer(&run)), "<b>");
    let run = run_request("42").await;
    assert_eq!(fault(&run).cause, Cause::Returned);
    assert!(fault(&run).message.contains("i64"), "{}", fault(&run));
}

#[tokio::test]
async fn fetch_suspends_and_obeys_the_grants() {
    let host = FakeHost { delay: Duration::from_millis(20), ..FakeHost::default() };
    let host = Arc::new(host.answering(StatusCode::OK, r#"{"user":"ann"}"#));
    let source = r##"fn on_request(req) {
        let r = fetch("http://api/who", #{ headers: #{ "x-a": "1" } });
        let denied = "";
        let other = "http://other/";
        try { fetch(other) } catch (e) { denied = e.kind; }
        response(200, r.json().user + " " + denied)
    }"##;
    let run = run_with(source, Exchange::for_test(), host.clone()).await;
    assert_eq!(body(answer(&run)), "ann denied");
    assert_eq!(host.fetched.lock()[0].headers["x-a"], "1");
}

#[tokio::test]
async fn fetches_run_side_by_side() {
    let host = FakeHost { delay: Duration::from_millis(50), ..FakeHost::default() };
    let host = host.answering(StatusCode::OK, "a").answering(StatusCode::OK, "b");
    let source = r#"fn on_request(req) {
        let all = fetch_all(["http://api/1", "http://api/2", "http://api/3"]);
        response(200, all[0].text() + all[1].text() + all[2].error.kind)
    }"#;
    let start = Instant::now();
    let run = run_with(source, Exchange::for_test(), Arc::new(host)).await;
    assert_eq!(body(answer(&run)), "ablimit");
    assert!(start.elapsed() < Duration::from_millis(95), "one after the other");
    let host = FakeHost::default().answering(StatusCode::OK, "later");
    let source = r#"fn on_request(req) {
        let p = fetch_start("http://api/"); let q = fetch_start("http://api/"); q.cancel();
        response(200, p.wait().text())
    }"#;
    let run = run_with(source, Exchange::for_test(), Arc::new(host)).await;
    assert_eq!(body(answer(&run)), "later");
}

#[tokio::test]
async fn a_dropped_run_ends_its_script() {
    let script =
        script("fn on_request(req) { req.ctx.a = 1; loop { try { sleep(60); } catch { } } }");
    let exchange = Exchange::for_test();
    let ctx = exchange.request.ctx.clone();
    let weak = Arc::downgrade(&script);
    let host = Arc::new(FakeHost::default());
    let future = run(&script, Hook::Request, exchange, host.clone(), limits());
    assert!(tokio::time::timeout(Duration::from_millis(20), future).await.is_err());
    drop(script);
    assert!(weak.upgrade().is_none(), "the fiber still holds the script");
    assert_eq!(Arc::strong_count(&host), 1);
    assert!(ctx.snapshot().is_empty(), "its edits are undone");
}

#[tokio::test]
async fn two_fibers_interleave() {
    let spin = script("fn on_request(req) { let n = 0; while n < 30000 { n += 1; } }");
    let mut bounds = limits();
    bounds.cpu = Duration::from_secs(20);
    let host: Arc<dyn Host> = Arc::new(FakeHost::default());
    let spin = tokio::spawn({
        let host = host.clone();
        async move { run(&spin, Hook::Request, Exchange::for_test(), host, bounds).await }
    });
    tokio::task::yield_now().await;
    let quick = script("fn on_request(req) { let p = req.path; }");
    run(&quick, Hook::Request, Exchange::for_test(), host, bounds).await;
    assert!(!spin.is_finished(), "the quick one did not have to wait for the slow one");
    let spin = spin.await.unwrap();
    assert!(matches!(spin.outcome, Outcome::Continue), "{:?}", spin.outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_move_between_threads() {
    let script =
        script("fn on_request(req) { for i in 0..5 { sleep(0.001); let a = [1]; a.push(i); } }");
    let runs = (0..100).map(|_| {
        let script = script.clone();
        tokio::spawn(async move {
            let host = Arc::new(FakeHost::default());
            run(&script, Hook::Request, Exchange::for_test(), host, limits()).await
        })
    });
    for run in runs.collect::<Vec<_>>() {
        let run = run.await.unwrap();
        assert!(matches!(run.outcome, Outcome::Continue), "{:?}", run.outcome);
    }
}

#[tokio::test]
async fn ctx_and_responses_in_later_hooks() {
    let script = script(
        r#"fn on_request(req) { req.ctx.user = #{ name: "ann" }; req.ctx.user.name = "bob"; }
           fn on_response(res, req) { res.headers["x-user"] = req.ctx.user.name; res.status = 201; }
           fn on_log(req, res) { log::info(`${req.ctx.user.name} ${res.status}`, #{ a: 1 }); }
           fn on_error(err, req) { response(err.status, err.kind) }"#,
    );
    let host = Arc::new(FakeHost::default());
    let step = |hook, exchange| run(&script, hook, exchange, host.clone(), limits());
    let mut exchange = step(Hook::Request, Exchange::for_test()).await.exchange;
    let mut response = ResponseDraft::new(StatusCode::OK, "");
    response.body = MessageBody::Untouched;
    exchange.response = Some(Arc::new(response));
    let run = step(Hook::Response, exchange).await;
    assert!(matches!(run.outcome, Outcome::Continue), "{:?}", run.outcome);
    let response = run.exchange.response.as_ref().unwrap();
    assert_eq!((response.status.as_u16(), &response.body), (201, &MessageBody::Untouched));
    assert_eq!(response.headers["x-user"], "bob");
    let mut exchange = step(Hook::Log, run.exchange).await.exchange;
    assert_eq!(host.logged.lock()[0].1, "bob 201");
    exchange.error = Some(ErrorInfo { kind: "connect".into(), status: 502, message: "".into() });
    let run = step(Hook::Error, exchange).await;
    assert_eq!((answer(&run).status.as_u16(), body(answer(&run)).as_str()), (502, "connect"));
}

#[tokio::test]
async fn a_typo_of_a_property_is_a_fault() {
    for body in ["r.pth", "r.pth = 1", "r.headrs[\"a\"]", "response(200).sttus"] {
        let run = run_request(&format!("let r = req; {body}; ()")).await;
        fault(&run);
    }
}

#[tokio::test]
async fn constants_config_and_secrets() {
    let source = r#"
        const RE = regex("^/a+$");
        const KEY = secret("key");
        const LIST = [1, 2, 3];
        fn on_request(req) {
            print(KEY); print(`${KEY}`);
            let leaked = "no";
            try { json::stringify(KEY); leaked = "yes"; } catch { }
            [1].map(|x| config.greeting);
            response(200, `${RE.is_match("/aa")} ${LIST[2]} ${config.greeting} ${leaked} ${hmac::sha256(KEY, "x") == hmac::sha256("s3cret", "x")}`)
        }"#;
    let host = Arc::new(FakeHost::default());
    let first = run_with(source, Exchange::for_test(), host.clone()).await;
    assert_eq!(body(answer(&first)), "true 3 hello no true");
    assert!(host.logged.lock().iter().all(|line| !line.1.contains("s3cret")));
    let frozen = "const L = [1]; fn add(list) { list.push(2) } fn on_request(req) {
        add(L); let mine = config; mine.greeting = 1; let l = L; l.push(4);
        response(200, `${L} ${config.list} ${config.greeting}`) }";
    let script = script(frozen);
    for _ in 0..2 {
        let again = run(&script, Hook::Request, Exchange::for_test(), host.clone(), limits());
        assert_eq!(body(answer(&again.await)), "[1] [1, 2] hello", "an edit is of a copy");
    }
}

#[test]
fn what_is_wrong_is_found_at_load_with_its_place() {
    let found = problem("fn on_request(req) {\n  let path = 1;\n  pth\n}");
    assert_eq!((found.line, found.column), (3, 3), "{found}");
    let cases = [
        ("fn on_reqest(req) { }", "on_request"),
        ("fn on_request() { }", "on_request(req)"),
        ("fn on_request(req) { cache(\"a\"); }", "not part of this version"),
        ("fn on_request(req) { metrics::count(\"a\"); }", ""),
        ("fn on_request(req) { respnse(200) }", "response"),
        ("fn on_request(req) { hash::sha265(\"a\") }", "hash::sha256"),
        ("fn f() { }", "define one of"),
    ];
    for (source, hint) in cases {
        let found = problem(source);
        let shown = found.to_string();
        assert!(shown.contains(hint), "{source}: {shown}");
    }
    problem("fn on_request(req) { eval(\"1\") }");
    problem("fn f(x) { x } fn on_request(req) { Fn(\"f\").curry(1).call() }");
    problem("fn on_request(req) { import \"/etc/hostname\" as h; h::x() }");
    problem("let x = 1; loop { x += 1; } fn on_request(req) { }");
    problem("import \"/etc/passwd\" as p; fn on_request(req) { }");
    problem("const R = fetch(\"http://api/\"); fn on_request(req) { }");
}

#[tokio::test]
async fn imports_stay_in_the_folder_and_their_functions_are_called() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lib.rhai"), "const K = 2; fn twice(x) { x * global::K }")
        .unwrap();
    let mut filter = filter();
    filter.script = folder.path().join("main.rhai");
    let source = "import \"lib\" as lib; fn on_request(req) { response(200, `${lib::twice(4)}`) }";
    std::fs::write(&filter.script, source).unwrap();
    let script = Arc::new(compile(&filter, &lists()).unwrap_or_else(|e| panic!("{}", e[0])));
    let host = Arc::new(FakeHost::default());
    let run = run(&script, Hook::Request, Exchange::for_test(), host, limits()).await;
    assert_eq!(body(answer(&run)), "8");
    for path in ["../main", "/main"] {
        let source = format!("import \"{path}\" as x; fn on_request(req) {{ }}");
        assert!(compile_source(&filter, &lists(), source).is_err(), "{path} must be refused");
    }
}

#[tokio::test]
async fn a_panic_is_a_value_and_busy_is_refused() {
    let fiber = fiber::Fiber::new(limits(), || -> i32 { panic!("boom") }).ok().unwrap();
    assert_eq!(fiber.await.result.unwrap_err(), "boom");
    let waits = || fiber::wait(async { panic!("in a future") }).unwrap_or(0);
    let fiber = fiber::Fiber::new(limits(), waits).ok().unwrap();
    assert_eq!(fiber.await.result.unwrap_err(), "in a future");
    let mut bounds = limits();
    bounds.fibers = 0;
    let script = script("fn on_request(req) { let p = req.path; }");
    let host = Arc::new(FakeHost::default());
    let run = run(&script, Hook::Request, Exchange::for_test(), host, bounds).await;
    assert_eq!(fault(&run).cause, Cause::Busy);
}

#[test]
fn nothing_waits_while_a_script_is_loaded() {
    for call in ["sleep(1)", "fetch(\"http://api/\")", "fetch_start(\"http://api/\")"] {
        let refused = problem(&format!("{call};\nfn on_request(req) {{ }}"));
        assert!(refused.message.contains("not possible while the script is loaded"), "{refused}");
    }
}

#[test]
fn the_future_is_send() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let script = script("fn on_request(req) { }");
    drop(send(run(
        &script,
        Hook::Request,
        Exchange::for_test(),
        Arc::new(FakeHost::default()),
        limits(),
    )));
}
