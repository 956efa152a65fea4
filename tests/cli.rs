//! What commands print and how they exit, whole. The files of `tests/cli/` hold sessions: lines
//! after `$` are run in that folder, and what follows is compared: stdout, stderr behind `! `,
//! the exit code. To renew them: `RENEW=1 cargo test --test cli`, then read the diff.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use peers::{Authority, Folder, PLAIN, Site};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli")
}

fn selvedge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(args).current_dir(folder()).env_remove("SELVEDGE_LOG").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    selvedge(args).output().expect("the binary runs")
}

/// Words of a command line; single quotes keep spaces together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, piece) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(piece.split_whitespace().map(str::to_owned)),
            _ => words.push(piece.to_owned()),
        }
    }
    words
}

/// The session with what its commands say now.
fn replayed(session: &str) -> String {
    let mut text = String::new();
    for command in session.lines().filter_map(|line| line.strip_prefix("$ selvedge")) {
        let args = words(command);
        let output = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        text.push_str(&format!("$ selvedge{command}\n"));
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        text.extend(out.lines().map(|line| format!("{line}\n")));
        text.extend(err.lines().map(|line| format!("! {line}\n")));
        let code = output.status.code().expect("it ends by itself");
        text.push_str(&format!("[exit {code}]\n\n"));
    }
    text.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[test]
fn sessions_go_as_written() {
    let mut stale = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).expect("tests/cli") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let written = std::fs::read_to_string(&path).expect("UTF-8");
        let now = replayed(&written);
        count += now.matches("[exit ").count();
        if written != now && std::env::var_os("RENEW").is_some() {
            std::fs::write(&path, now).expect("writable");
        } else if written != now {
            stale.push(format!("{}:\n{}", path.display(), first_difference(&written, &now)));
        }
    }
    assert!(count > 30, "only {count} commands were found");
    assert!(
        stale.is_empty(),
        "{}\nIf this is meant: RENEW=1 cargo test --test cli",
        stale.join("\n")
    );
}

fn first_difference(written: &str, now: &str) -> String {
    let mut pairs = written.lines().zip(now.lines());
    match pairs.find(|(written, now)| written != now) {
        Some((written, now)) => format!("- {written}\n+ {now}"),
        None => "one is longer".to_owned(),
    }
}

#[test]
fn a_reader_that_leaves_ends_the_output_quietly() {
    for args in [
        &["schema"][..],
        &["--help"],
        &["config", "-c", "routes.yaml"],
        &["routes", "-c", "routes.yaml"],
        &["routes", "-c", "routes.yaml", "--explain", "http://a.shop.test/"],
        &["check", "--json", "-c", "routes.yaml"],
    ] {
        let mut child = selvedge(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_closed_stderr_is_no_panic() {
    let mut child = selvedge(&["check", "-c", "keys.yaml"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

#[test]
fn an_address_in_use_is_an_error_with_the_listeners_name() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = run(&["run", "--upstream", "127.0.0.1:1", "--listen", &address]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = format!("selvedge: listener \"public\" on {address}: Address already in use");
    assert!(said.starts_with(&expected), "{said}");
}

const SCRIPTED: &str = "
filters: { edited: { script: f.rhai, secrets: { s: { file: secret } } }, same: { script: same.rhai } }
routes: [{ name: all, match: {}, respond: {}, filters: [edited, same] }]
";

fn changed(site: &Site) -> serde_json::Value {
    let answer = site.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).expect("JSON")
}

#[test]
fn a_reload_names_what_changed_behind_the_text() {
    let folder = Folder::new();
    folder.write("f.rhai", "import \"lib\" as lib; fn on_request(req) { lib::f(); () }");
    folder.write("lib.rhai", "fn f() { 1 }");
    folder.write("same.rhai", "fn on_request(req) { () }");
    folder.write("secret", "one");
    let site = Site::start_in(folder, format!("{PLAIN}{SCRIPTED}"));
    let nothing = changed(&site);
    assert_eq!(nothing["filters"]["changed"], serde_json::json!([]), "{nothing}");
    let edits = [
        ("f.rhai", "import \"lib\" as lib; fn on_request(req) { lib::f(); 2; () }"),
        ("lib.rhai", "fn f() { 2 }"),
        ("secret", "two"),
    ];
    for (file, text) in edits {
        site.folder.write(file, text);
        let now = changed(&site);
        assert_eq!(now["filters"]["changed"], serde_json::json!(["edited"]), "{file}: {now}");
    }
    site.configure(format!("{PLAIN}limits: {{ target: 1KiB }}\n{SCRIPTED}"));
    let now = changed(&site);
    assert_eq!(now["settings"]["changed"], serde_json::json!(["limits"]), "{now}");
    assert_eq!(now["filters"]["changed"], serde_json::json!([]), "{now}");
}

const GATE: &str =
    "fn on_request(req) {\n    if req.path == \"/no\" { return response(403); }\n}\n";
const GATE_TEST: &str = "fn test_no_is_refused() {
    assert_eq(request(\"gate.rhai\", #{ path: \"/no\" }).response.status, 403);
}
";

#[test]
fn required_tests_keep_a_filter_that_fails_them_from_serving() {
    let folder = Folder::new();
    folder.write("gate.rhai", GATE);
    folder.write("gate_test.rhai", GATE_TEST);
    let required = "filters: { gate: { script: gate.rhai, tests: required } }
routes: [{ name: all, match: { path: '/{rest*}' }, respond: { body: hi }, filters: [gate] }]";
    let site = Site::start_in(folder, format!("{PLAIN}{required}"));
    assert_eq!(site.reload().status, 200);
    let refused = |file: &str, text: &str, words: &[&str]| {
        site.folder.write(file, text);
        let answer = site.reload();
        let said = answer.text();
        assert_ne!(answer.status, 200, "{said}");
        for word in words {
            assert!(said.contains(word), "{word} is not in {said}");
        }
    };
    let broken = GATE.replace("403", "404");
    refused("gate.rhai", &broken, &["test_no_is_refused fails", "expected 403, got 404"]);
    // The one that passed still serves, and serves again once it is back.
    site.folder.write("gate.rhai", GATE);
    assert_eq!(site.reload().status, 200);
    refused("gate_test.rhai", "fn test_nothing() { }", &["no test here runs"]);
    refused("gate_test.rhai", "fn test_a() { loop { } }", &["test_a fails", "operations limit"]);
    refused("gate_test.rhai", "fn helper() { }", &["no function begins with test_"]);
    std::fs::remove_file(site.folder.path("gate_test.rhai")).expect("it is there");
    let said = site.reload().text();
    assert!(said.contains("gate_test.rhai: tests are required"), "{said}");
}

#[test]
fn a_new_filter_passes_its_tests_and_is_never_written_over() {
    let folder = Folder::new();
    let scripts = folder.path("deep/scripts").display().to_string();
    let new = || run(&["new", "filter", "greet-them", "--folder", &scripts]);
    let output = new();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = run(&["test", &scripts, "--coverage-min", "100"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("2 passed, 0 failed"), "{said}");
    let script = folder.path("deep/scripts/greet-them.rhai");
    std::fs::remove_file(folder.path("deep/scripts/greet-them_test.rhai")).expect("it is there");
    std::fs::write(&script, "mine").expect("writable");
    assert_eq!(new().status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&script).expect("it is there"), "mine");
    // The other way round: the test is there, and no half is left.
    std::fs::rename(&script, folder.path("deep/scripts/greet-them_test.rhai")).expect("renamed");
    assert_eq!(new().status.code(), Some(1));
    assert!(!script.exists(), "a half was left");
}

#[test]
fn the_api_is_printed_and_written_for_editors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read(root.join("docs/reference/filter-api.md")).expect("the reference");
    assert!(run(&["api"]).stdout == page, "selvedge api is the reference");
    let folder = Folder::new();
    let definitions = folder.path("definitions").display().to_string();
    let output = run(&["api", "--definitions", &definitions]);
    assert!(output.status.success(), "{output:?}");
    for name in ["__selvedge__.d.rhai", "__builtin__.d.rhai", "Response.d.rhai", "json.d.rhai"] {
        assert!(folder.path("definitions").join(name).is_file(), "{name}");
    }
}

#[test]
fn results_for_ci_hold_every_test_and_its_failure() {
    let folder = Folder::new();
    let results = folder.path("results.xml").display().to_string();
    let output = run(&["test", "author", "--junit", &results]);
    assert_eq!(output.status.code(), Some(1));
    let xml = std::fs::read_to_string(results).expect("the results");
    for part in [
        "<testsuite name=\"author/gate_test.rhai\" tests=\"8\" failures=\"0\"",
        "<testcase classname=\"author/gate_test.rhai\" name=\"test_a_limit_is_a_fault\"",
        "<failure message=\"expected 401, got 200\">author/wrong/plain_test.rhai:4:5",
        "<testcase classname=\"author/wrong/syntax_test.rhai\" name=\"the file\"",
        "Function not found: assert_equal (i64, i64)",
    ] {
        assert!(xml.contains(part), "{part} is not in {xml}");
    }
}

#[test]
fn a_hundred_tests_take_less_than_a_second() {
    let folder = Folder::new();
    folder.write("gate.rhai", GATE);
    let tests: String =
        (0..100).map(|n| GATE_TEST.replace("test_no", &format!("test_{n}"))).collect();
    let file = folder.write("gate_test.rhai", &tests).display().to_string();
    let began = std::time::Instant::now();
    let output = run(&["test", &file]);
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("100 passed, 0 failed"), "{said}");
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}

#[test]
fn tests_are_bounded_in_memory() {
    let folder = Folder::new();
    let text = "fn test_a() { let a = [\"x\"]; loop { a.push(a[a.len() - 1] + a[a.len() - 1]); } }";
    let file = folder.write("a_test.rhai", text).display().to_string();
    let output = run(&["test", &file]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.code() == Some(1) && said.contains("the test met the memory limit"),
        "{said}"
    );
}

#[test]
fn watched_tests_run_again_after_a_change() {
    let folder = Folder::new();
    folder.write("gate.rhai", GATE);
    let file = folder.write("gate_test.rhai", GATE_TEST).display().to_string();
    let mut child = selvedge(&["test", &file, "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut until = |text: &str| {
        let found = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        assert!(found.is_some(), "it ended before it said {text:?}");
    };
    until("1 passed, 0 failed");
    until("watching");
    folder.write("gate.rhai", GATE.replace("403", "500"));
    until("expected 403, got 500");
    until("0 passed, 1 failed");
    let _ = child.kill();
    let _ = child.wait();
}

/// A process, and the lines of its log.
struct Serving(Child, BufReader<std::process::ChildStderr>);

impl Serving {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
        let stderr = child.stderr.take().expect("piped");
        let mut serving = Self(child, BufReader::new(stderr));
        serving.log_until(": ready");
        serving
    }

    /// Reads up to the line that holds `text`.
    fn log_until(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let read = self.1.read_line(&mut line).expect("the log is text");
            assert_ne!(read, 0, "it ended before it said {text:?}");
        }
        line
    }

    fn hang_up(&self) {
        let id = self.0.id().to_string();
        let status = Command::new("kill").args(["-HUP", &id]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -HUP");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_arguments_name_is_read_again_by_a_reload() {
    let folder = Folder::new();
    let script = folder.write("f.rhai", "fn on_request(req) { () }").display().to_string();
    let authority = Authority::new(&folder, "authority");
    authority.sign("site", &["site.test"]);
    let path = |name: &str| folder.path(name).display().to_string();
    let (cert, key) = (path("site.crt"), path("site.key"));
    let mut serving = Serving::start(
        selvedge(&["run", "--upstream", "127.0.0.1:1", "--listen", "127.0.0.1:0"]).args([
            "--filter",
            &script,
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
        ]),
    );
    authority.sign("site", &["site.test", "www.site.test"]);
    serving.hang_up();
    let line = serving.log_until("reloaded");
    let value: serde_json::Value =
        serde_json::from_str(&line[line.find('{').expect("JSON")..]).expect("JSON");
    assert_eq!(value["listeners"]["changed"], serde_json::json!(["public"]), "{line}");
    assert_eq!(value["filters"]["changed"], serde_json::json!([]), "{line}");
    folder.write("f.rhai", "fn on_request(");
    serving.hang_up();
    let line = serving.log_until("reload refused");
    assert!(line.contains("f.rhai:1:") && line.contains("filters.filter1"), "{line}");
}
