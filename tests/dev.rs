//! `selvedge dev`, as an author sees it: requests on stdout, reloads by themselves, error pages
//! that show the line.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use peers::{Authority, Folder, request};
use support::client::{Response, exchange};

const CONFIG: &str = "
listeners:
  public: { address: '127.0.0.1:0' }
filters:
  gate: { script: gate.rhai, secrets: { s: { file: secret } }, limits: { memory: 4MiB } }
routes:
  - { name: all, match: { path: '/{rest*}' }, respond: { body: hi }, filters: [gate] }
";
const GATE: &str = "import \"lib\" as lib;

fn on_request(req) {
    if req.path == \"/oops\" {
        throw \"<oops> \" + lib::word();
    }
}

fn on_log(req, res) { log::info(\"seen\"); }
";

/// A running `selvedge` and what it says.
struct Serving {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Serving {
    fn start(command: &str, folder: &Folder) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_selvedge"))
            .args([command, "-c", "c.yaml"])
            .current_dir(folder.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let line = log.find(|line| line.as_ref().is_ok_and(|l| l.contains("listening: public on")));
        let line = line.expect("it listens").expect("text");
        let address = line.rsplit(' ').next().and_then(|text| text.parse().ok()).expect("address");
        log.find(|line| line.as_ref().is_ok_and(|l| l.contains(": ready"))).expect("ready").ok();
        // Nobody else reads it, and a full pipe would stop the program.
        std::thread::spawn(move || log.for_each(drop));
        let stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, stdout, address }
    }

    /// Reads up to the line that holds `text`.
    fn until(&mut self, text: &str) -> String {
        let found = self.stdout.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        found.unwrap_or_else(|| panic!("it ended before it said {text:?}")).expect("text")
    }

    fn get(&self, path: &str, headers: &str) -> Response {
        let head = request(path).replacen("\r\n\r\n", &format!("\r\n{headers}\r\n"), 1);
        exchange(self.address, head.as_bytes()).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("c.yaml", CONFIG);
    folder.write("gate.rhai", GATE);
    folder.write("lib.rhai", "fn word() { \"one\" }");
    folder.write("secret", "s3cret");
    folder
}

#[test]
fn a_request_is_shown_with_its_hooks_and_their_cost() {
    let folder = folder();
    let mut dev = Serving::start("dev", &folder);
    assert_eq!(dev.get("/a?b=1", "").status, 200);
    let line = dev.until("/a?b=1");
    assert!(line.starts_with("GET ") && line.ends_with("/a?b=1 -> 200"), "{line}");
    let line = dev.until("route all");
    assert!(line.contains("first byte ") && line.contains("in all "), "{line}");
    let line = dev.until("gate on_request: continue, cpu ");
    assert!(line.contains(" operations, memory ") && line.contains(" of 4MiB"), "{line}");
    dev.until("gate on_log: continue");
}

#[test]
fn a_fault_is_shown_to_its_author_and_to_nobody_else() {
    let folder = folder();
    let mut dev = Serving::start("dev", &folder);
    let page = dev.get("/oops", "accept: text/html\r\n").text();
    assert!(page.contains("gate.rhai:5:9 in on_request: &lt;oops> one"), "{page}");
    assert!(page.contains("5 |         throw \"&lt;oops> \" + lib::word();".trim()), "{page}");
    let json: serde_json::Value = serde_json::from_str(&dev.get("/oops", "").text()).expect("JSON");
    assert_eq!(json["fault"]["line"], 5, "{json}");
    assert_eq!(json["fault"]["message"], "<oops> one", "{json}");
    dev.until("gate on_request: fault");
    dev.until("gate.rhai:5:9: <oops> one");
    dev.until("5 |         throw");
    for passed_on in ["x-forwarded-for: 203.0.113.9\r\n", "via: 1.1 tunnel\r\n"] {
        let page = dev.get("/oops", passed_on).text();
        assert!(!page.contains("oops") && !page.contains("gate"), "{passed_on}: {page}");
    }
    let run = Serving::start("run", &folder);
    for accept in ["accept: text/html\r\n", ""] {
        let page = run.get("/oops", accept).text();
        assert!(!page.contains("oops") && !page.contains("gate"), "run shows it: {page}");
    }
}

#[test]
fn every_file_that_changes_is_served_by_itself() {
    let folder = folder();
    let mut dev = Serving::start("dev", &folder);
    folder.write("lib.rhai", "fn word() { \"another\" }");
    dev.until("changed: ");
    peers::until("the import is new", || dev.get("/oops", "").text().contains("<oops> another"));
    folder.write("gate.rhai", "fn on_request(req) {\n    let = 1;\n}");
    dev.until("gate.rhai:2 | let = 1;");
    dev.until("the last good version goes on serving");
    assert!(dev.get("/oops", "").text().contains("<oops> another"));
    // The import went out of use only for as long as the script was broken.
    folder.write("gate.rhai", GATE);
    dev.until("changed: ");
    folder.write("lib.rhai", "fn word() { \"third\" }");
    dev.until("lib.rhai");
    peers::until("the import is new", || dev.get("/oops", "").text().contains("<oops> third"));
    folder.write("secret", "new");
    assert!(dev.until("changed: ").contains("secret"));
    folder.write("c.yaml", CONFIG.replace("body: hi", "body: hello"));
    dev.until("changed: c.yaml");
    peers::until("the configuration is new", || dev.get("/", "").text() == "hello");
}

#[test]
fn certificates_are_watched() {
    let folder = folder();
    let authority = Authority::new(&folder, "authority");
    authority.sign("site", &["site.test"]);
    let tls = "{ certificates: [{ cert: site.crt, key: site.key }] }";
    let listener = format!("secure: {{ address: '127.0.0.1:0', tls: {tls} }}\n  public:");
    folder.write("c.yaml", CONFIG.replacen("public:", &listener, 1));
    let mut dev = Serving::start("dev", &folder);
    authority.sign("site", &["site.test", "www.site.test"]);
    assert!(dev.until("changed: ").contains("site.crt"));
}
