//! What a run of a hook costs, in instructions: `cargo bench --bench filters`.
//!
//! Each case runs under callgrind, twice with different numbers of runs; the difference is what
//! one run costs, whatever starting took. It repeats to the digit, also on a busy machine.
//! `cargo bench --bench filters -- check` fails when a case costs a tenth more than it may.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use selvedge::config::body::BodyAccess;
use selvedge::config::filters::{Fetch, Filter, FilterLimits, Lowering, OnFault};
use selvedge::script::{
    Exchange, FakeHost, From, Hook, Limits, MessageBody, Outcome, ResponseDraft, Script, compile,
    run,
};
use selvedge::state::Lists;

/// A case: its script, the hooks that it runs, and the instructions that it may take.
struct Case {
    name: &'static str,
    script: &'static str,
    hooks: &'static [Hook],
    most: u64,
}

const CASES: [Case; 3] = [
    Case { name: "empty", script: "fn on_request(req) {}", hooks: &[Hook::Request], most: 400 },
    Case {
        name: "reads",
        script: "fn on_request(req) { let path = req.path; }",
        hooks: &[Hook::Request],
        most: 4_000,
    },
    Case {
        name: "w6",
        script: include_str!("w6.rhai"),
        hooks: &[Hook::Request, Hook::Response],
        most: 9_000,
    },
];

const FEW: u64 = 1_000;
const MANY: u64 = 6_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["run", case, lowering, runs] => {
            repeat(case, lowering, runs.parse().expect("a number of runs"));
            ExitCode::SUCCESS
        }
        ["check"] => report(true),
        _ => report(false),
    }
}

fn report(check: bool) -> ExitCode {
    let mut fits = true;
    println!("{:<10}{:>10}{:>10}{:>10}", "case", "lowered", "rhai", "may be");
    for case in &CASES {
        let (lowered, rhai) = (cost(case, "on"), cost(case, "off"));
        println!("{:<10}{lowered:>10}{rhai:>10}{:>10}", case.name, case.most);
        fits &= lowered <= case.most + case.most / 10;
    }
    if check && !fits {
        eprintln!("a run costs more than it may");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Instructions of one run.
fn cost(case: &Case, lowering: &str) -> u64 {
    let (few, many) = (counted(case, lowering, FEW), counted(case, lowering, MANY));
    (many - few) / (MANY - FEW)
}

fn counted(case: &Case, lowering: &str, runs: u64) -> u64 {
    let me = std::env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(me)
        .args(["run", case.name, lowering, &runs.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("valgrind is installed");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let counted = told.lines().find_map(|line| line.split("Collected :").nth(1));
    counted.and_then(|text| text.trim().parse().ok()).expect("callgrind tells a number")
}

fn repeat(case: &str, lowering: &str, runs: u64) {
    let case = CASES.iter().find(|known| known.name == case).expect("a known case");
    let folder = std::env::temp_dir().join(format!("selvedge-filters-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("filter.rhai");
    std::fs::write(&file, case.script).expect("a file");
    let lowering = if lowering == "off" { Lowering::Off } else { Lowering::On };
    let script = Arc::new(compile(&filter(file, lowering), &Lists::default()).expect("a script"));
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    let exchange = exchange();
    for _ in 0..runs {
        for hook in case.hooks {
            once(&script, *hook, exchange.clone());
        }
    }
}

fn once(script: &Arc<Script>, hook: Hook, exchange: Exchange) {
    let limits = Limits::from(&FilterLimits::default());
    let host = Arc::new(FakeHost::default());
    let mut future = pin!(run(script, hook, exchange, host, limits));
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(run) = future.as_mut().poll(&mut context) else { panic!("it waits") };
    assert!(matches!(run.outcome, Outcome::Continue), "{:?}", run.outcome);
}

fn filter(script: PathBuf, lowering: Lowering) -> Filter {
    let fetch = Fetch {
        allow: Vec::new(),
        max: 0,
        timeout: std::time::Duration::from_secs(1),
        max_body: 0,
    };
    Filter {
        name: "w6".into(),
        script,
        config: serde_json::Value::Null,
        secrets: Default::default(),
        fetch,
        body: BodyAccess::NONE,
        state: Default::default(),
        schedule: Vec::new(),
        limits: FilterLimits::default(),
        on_fault: OnFault::Closed,
        breaker: None,
        tests: Default::default(),
        lowering,
    }
}

/// The request that `proxying` sends, and nginx's answer.
fn exchange() -> Exchange {
    let mut exchange = Exchange::for_test();
    let request = Arc::make_mut(&mut exchange.request);
    request.path = "/k1".into();
    for (name, value) in [
        ("host", "127.0.0.1:9000"),
        ("cookie", "theme=dark; uid=u-1234567; sess=abcdef0123456789"),
        ("accept-language", "de-DE,de;q=0.9"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) bench"),
    ] {
        let name = http::HeaderName::from_static(name);
        request.headers.insert(name, http::HeaderValue::from_static(value));
    }
    let mut response = ResponseDraft::new(http::StatusCode::OK, "");
    (response.body, response.from) = (MessageBody::Untouched, From::Origin);
    for (name, value) in [
        ("server", "nginx"),
        ("content-type", "application/octet-stream"),
        ("content-length", "1024"),
        ("etag", "\"6565f0a1-400\""),
    ] {
        let name = http::HeaderName::from_static(name);
        response.headers.insert(name, http::HeaderValue::from_static(value));
    }
    exchange.response = Some(Arc::new(response));
    exchange
}
