//! Scripts that mean harm: each ends soon, holds little, leaves nothing, and harms no other.

use super::*;

/// With the default limits (50 ms of CPU) and an unoptimised build.
const SOON: Duration = Duration::from_millis(500);
/// The same by the clock, on a machine that has much else to do.
const SOON_BY_CLOCK: Duration = Duration::from_secs(5);
/// Twice the limit: what one native may take before the next look.
const MUCH: usize = 32 << 20;

/// Name, functions beside the hook, the hook's body.
const SCRIPTS: &[(&str, &str, &str)] = &[
    ("spin", "", "loop { }"),
    ("spin in a callback", "", "let a = []; a.pad(9000, 1); loop { a.map(|x| x + 1); }"),
    (
        "slow comparison",
        "",
        "let a = []; a.pad(9000, 1); a.sort(|x, y| { for i in 0..99999 { } 0 })",
    ),
    ("recursion", "fn f(n) { f(n + 1) }", "f(0)"),
    ("recursion that catches", "fn f(n) { try { f(n + 1) } catch { f(n + 1) } }", "f(0)"),
    ("recursion in callbacks", "fn f(n) { [n].map(|x| f(x + 1)) }", "f(0)"),
    ("doubling text", "", r#"let s = "x"; loop { try { s += s; } catch { } }"#),
    ("tripling text", "", r#"let s = "x"; loop { s = `${s}${s}${s}`; }"#),
    ("doubling array", "", "let a = [1]; loop { a = [a, a]; }"),
    ("doubling map", "", "let a = #{}; loop { a = #{ x: a, y: a }; }"),
    (
        "frames that hold",
        r#"fn f(n) { let s = ""; s.pad(1000000, "y"); s += n; f(n + 1) }"#,
        "f(0)",
    ),
    (
        "many texts in a map",
        "",
        r#"let s = ""; s.pad(900000, "x"); let m = #{}; for i in 0..9000 { m["k" + i] = s + i; }"#,
    ),
    (
        "cookies without end",
        "",
        r#"let s = ""; s.pad(100000, "x"); for i in 0..9999 { req.cookies["k" + i] = s; }"#,
    ),
    (
        "headers without end",
        "",
        r#"let s = ""; s.pad(100000, "x"); for i in 0..9999 { req.headers.append("a", s); }"#,
    ),
    (
        "query without end",
        "",
        r#"let s = ""; s.pad(100000, "x"); for i in 0..9999 { req.query.append("a", s); }"#,
    ),
    (
        "ctx without end",
        "",
        r#"let s = ""; s.pad(100000, "x"); for i in 0..9999 { req.ctx["k" + i] = s; }"#,
    ),
    ("pad of an array", "", "let a = []; a.pad(1000000000000000000, 1);"),
    ("pad of a text", "", r#"let s = ""; s.pad(1000000000000000000, "ab");"#),
    ("pad of bytes", "", "let b = blob(1); b.pad(1000000000, 3);"),
    ("bytes", "", "blob(2000000000)"),
    (
        "a longer text by replace",
        "",
        r#"let s = ""; s.pad(20000, "a"); let t = s; s.replace("a", t);"#,
    ),
    (
        "a longer text by replace of nothing",
        "",
        r#"let s = ""; s.pad(900000, "a"); let t = s; s.replace("", t);"#,
    ),
    ("a longer text by regex", "", r#"let s = ""; s.pad(20000, "a"); regex("a").replace(s, s)"#),
    (
        "a longer text by a group",
        "",
        r#"let s = ""; s.pad(900000, "a"); regex("(a+)").replace(s, "$1$1$1$1$1$1$1$1$1")"#,
    ),
    ("escaping", "", r#"let s = ""; s.pad(1000000, "\""); loop { html::escape(s); }"#),
    (
        "splitting",
        "",
        r#"let s = ""; s.pad(1000000, ","); loop { try { s.split(","); } catch { } }"#,
    ),
    (
        "splitting from the end",
        "",
        r#"let s = ""; s.pad(1000000, ","); loop { try { s.split_rev(","); } catch { } }"#,
    ),
    (
        "splitting into at most",
        "",
        r#"let s = ""; s.pad(1000000, ","); loop { try { s.split(",", 900000); } catch { } }"#,
    ),
    (
        "splitting at spaces",
        "",
        r#"let s = ""; s.pad(1000000, "a "); loop { try { s.split(); } catch { } }"#,
    ),
    (
        "all matches",
        "",
        r#"let s = ""; s.pad(1000000, "a"); loop { try { regex("a").find_all(s); } catch { } }"#,
    ),
    (
        "a search of long text",
        "",
        r#"let s = ""; s.pad(1000000, "a"); let t = ""; t.pad(500000, "a"); t += "b"; loop { s.index_of(t); }"#,
    ),
    (
        "an expression that explodes",
        "",
        r#"let s = ""; s.pad(1000000, "01"); regex("[01]*1[01]{400}2").is_match(s)"#,
    ),
    (
        "an expression that is large",
        "",
        r#"loop { try { regex("(?:a{1,90}){1,90}"); } catch { } }"#,
    ),
    (
        "an expression of many letters",
        "",
        r#"loop { try { regex(`\\w{200}\\d{200}\\pL{200}`); } catch { } }"#,
    ),
    (
        "a nest of arrays",
        "",
        "let a = []; let b = []; for i in 0..9000 { a = [a]; b = [b]; } a == b",
    ),
    ("a nest of maps", "", "let a = #{}; loop { a = #{ x: a }; }"),
    ("a nest by property", "", "let m = #{ a: #{} }; let p = m; loop { p.a = #{ a: p }; }"),
    ("a nest, printed", "", "let a = []; for i in 0..5000 { a = [a]; } print(a)"),
    ("a nest, as JSON", "", "let a = []; for i in 0..5000 { a = [a]; } json::stringify(a)"),
    ("a nest, kept", "", "let a = []; for i in 0..5000 { a = [a]; } req.ctx.a = a;"),
    ("a nest, thrown", "", "let a = []; for i in 0..5000 { a = [a]; } throw a"),
    ("JSON that is deep", "", r#"let s = ""; s.pad(100000, "["); json::parse(s)"#),
    ("JSON that is deep, by Rhai", "", r#"let s = ""; s.pad(100000, "["); parse_json(s)"#),
    (
        "JSON that is wide",
        "",
        r#"let s = ""; s.pad(999990, "[],"); loop { json::parse("[" + s + "[]]"); }"#,
    ),
    (
        "sizes counted again and again",
        "",
        "let a = []; for i in 0..99 { let b = []; b.pad(100, 0); a.push(b); } loop { a[98][99] += 1; }",
    ),
    (
        "a search in arrays",
        "",
        "let a = []; for i in 0..9999 { a.push(i); } loop { a.contains(-1); a.dedup(); }",
    ),
    (
        "squares in callbacks",
        "",
        "let a = []; for i in 0..9999 { a.push(i); } let b = a; a.map(|x| b.filter(|y| y == x).len)",
    ),
    (
        "a shared value in itself",
        "",
        "let a = [1]; let f = || a; a.append(a); a += a; f.call().append(a); let b = []; b.push(a); b[0][0] = 2; a.push(b); a == b",
    ),
    (
        "a shared value compared with itself",
        "",
        "let a = [1]; let f = || a; let same = a == a && f.call() == a; let b = a; b == a",
    ),
    ("a sleep into the past", "", "sleep(-1.0)"),
    (
        "large locals in each frame, and a loop at the bottom",
        r#"fn f(d) { let s = ""; s.pad(1000000, "y"); s += d; if d < 30 { f(d + 1) } else { loop { } } }"#,
        "f(0)",
    ),
    ("long ranges", "", "for i in 0..1000000000000000000 { }"),
    (
        "ranges into arrays",
        "",
        "let v = []; for i in range(0, 1000000000000000000, 1) { v.push(i); }",
    ),
    ("a flood of lines", "", r#"let s = ""; s.pad(100000, "p"); loop { debug(s); print(s); }"#),
    ("many random bytes", "", "loop { random::bytes(4096); }"),
    ("hashing", "", r#"let s = ""; s.pad(1000000, "p"); loop { hash::sha512(s); }"#),
    (
        "numbers",
        "",
        "let x = 1 << 1000000; x += 1 >> -5; 9223372036854775807 ** 9223372036854775807",
    ),
    ("a radix", "", r#"parse_int("zz", 99)"#),
    (
        "places in texts",
        "",
        r#"let s = "héllo"; s.sub_string(-9223372036854775807 - 1, 9223372036854775807); s.crop(9223372036854775807, -1); s[-100]"#,
    ),
    (
        "bits",
        "",
        "let x = 5; x.get_bits(63, 9223372036854775807); x.set_bits(-64, 64, -1); x[-9223372036854775807 - 1..9223372036854775807]",
    ),
    (
        "no numbers",
        "",
        "let a = []; for i in 0..200 { a.push(if i % 3 == 0 { 0.0/0.0 } else { i * 1.0 }); } a.sort(); a.sort(|x, y| random::int(-1, 1)); sleep(0.0/0.0)",
    ),
    ("times", "", "let t = timestamp(); let u = t + 9223372036854775807; u - t"),
    ("times of floats", "", "let t = timestamp(); let u = t + 1e300; u - t"),
    ("dates", "", "time::http_date(9223372036854775807)"),
    ("leaving from a callback", "", "[1, 2, 3].map(|x| exit(x))"),
    ("the engine's own types", "", r#"let f = Fn("on_request"); f.call(f)"#),
];

/// A map of 900 names for one text of a megabyte, by the end of its use.
const SHARED: &str = r#"let s = ""; s.pad(1000000, "x"); let m = #{};
    for i in 0..900 { m["k" + i] = s; }"#;

const USES_OF_SHARED: &[&str] = &[
    "print(m)",
    "debug(m)",
    "m.to_string()",
    "m.to_debug()",
    "`${m}`",
    "\"\" + m",
    "let t = \"\"; t += m;",
    "[m].to_string()",
    "json::stringify(m)",
    "m.to_json()",
    "response(200, #{}, m)",
    "response(200, m)",
    "Response::json([m])",
    "fetch(\"http://api/\", #{ form: m })",
    "fetch(\"http://api/\", #{ json: m })",
    "fetch(\"http://api/\", #{ headers: m })",
    "log::info(m, m)",
    "throw m",
    "throw #{ status: 200, headers: m }",
    "req.ctx.m = m;",
    "m",
    "m == m",
    "m.values()",
    "random::weighted(m)",
];

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What is wrong with how a script ended, if anything.
async fn judged(name: &str, source: &str) -> Option<String> {
    let script = script(source);
    let host = Arc::new(FakeHost::default());
    let start = Instant::now();
    let run = run(&script, Hook::Request, Exchange::for_test(), host, limits()).await;
    let (took, peak) = (start.elapsed(), run.figures.peak_memory);
    if std::env::var("SHOW").is_ok() {
        let o: String = format!("{:?}", run.outcome).chars().take(250).collect();
        eprintln!("{name}: {took:?} {peak} {o}");
    }
    let cpu = run.figures.cpu;
    if cpu > SOON || took > SOON_BY_CLOCK || peak > MUCH {
        return Some(format!("{name}: {cpu:?} in {took:?}, {peak} bytes"));
    }
    let panicked = matches!(&run.outcome, Outcome::Fault(fault) if fault.cause == Cause::Panic);
    panicked.then(|| format!("{name}: {:?}", run.outcome))
}

#[tokio::test]
async fn they_all_end_soon_and_hold_little() {
    let mut bad = Vec::new();
    for (name, functions, body) in SCRIPTS {
        bad.extend(judged(name, &format!("{functions}\nfn on_request(req) {{ {body} }}")).await);
    }
    for used in USES_OF_SHARED {
        bad.extend(
            judged(
                used,
                &format!("fn on_request(req) {{ {SHARED} let used = {{ {used} }}; used }}"),
            )
            .await,
        );
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Set in the process that measures, which runs nothing else.
const ALONE: &str = "SELVEDGE_TEST_ALONE";

#[test]
fn a_thousand_that_wait_hold_little() {
    if std::env::var_os(ALONE).is_some() {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(a_thousand_wait());
        return;
    }
    let name = "script::tests::hostile::a_thousand_that_wait_hold_little";
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    let ran = alone.args(["--exact", name]).env(ALONE, "1").output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}

async fn a_thousand_wait() {
    const MANY: usize = 1000;
    /// A guard, a quarter above what is measured: three pages of stack and 6 KiB of values, task
    /// and prepared request; without optimisation our natives' frames take two more pages.
    const EACH: usize = if cfg!(debug_assertions) { 36 << 10 } else { 24 << 10 };
    let script = script("fn on_request(req) { let got = fetch(\"http://api/\"); () }");
    let host = FakeHost { delay: Duration::from_secs(60), ..FakeHost::default() };
    let host = Arc::new(host);
    let start = |_| {
        let (script, host) = (script.clone(), host.clone());
        tokio::spawn(async move {
            run(&script, Hook::Request, Exchange::for_test(), host, limits()).await
        })
    };
    let before = resident();
    let runs: Vec<_> = (0..MANY).map(start).collect();
    while host.fetched.lock().len() < MANY {
        tokio::task::yield_now().await;
    }
    let each = resident().saturating_sub(before) / MANY;
    assert!(runs.iter().all(|run| !run.is_finished()), "they wait");
    runs.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(each < EACH, "{each} bytes each");
}
