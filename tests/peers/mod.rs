//! What tests of the built binary share beside `support`: a site, real programs as peers, origins
//! for large bodies. `tests/peers/setup` installs the programs.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::{Client, Response, exchange};
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;

/// How long a condition may take to come true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Listeners and services of most tests, all on ports of their own.
pub const PLAIN: &str = r#"
listeners: { public: { address: "127.0.0.1:0" } }
admin: { address: "127.0.0.1:0" }
metrics: { address: "127.0.0.1:0" }
"#;

/// A folder with a configuration, and the proxy that serves it.
pub struct Site {
    pub folder: Folder,
    pub proxy: Proxy,
}

impl Site {
    pub fn start(config: impl Display) -> Self {
        Self::start_in(Folder::new(), config)
    }

    pub fn start_in(folder: Folder, config: impl Display) -> Self {
        let file = folder.write("selvedge.yaml", config);
        let proxy = Proxy::start(&file, &HashMap::new()).expect("the proxy starts");
        Self { folder, proxy }
    }

    pub fn configure(&self, config: impl Display) {
        self.folder.write("selvedge.yaml", config);
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        self.proxy.address(name).expect("a listener")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address("public"))
    }

    /// `GET path` on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        get(self.address("public"), path)
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address("public")).expect("the listener accepts")
    }

    pub fn reload(&self) -> Response {
        self.admin("POST /reload", "Content-Length: 0\r\n")
    }

    /// Asks the admin address, as a program on this machine does.
    pub fn admin(&self, line: &str, headers: &str) -> Response {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        exchange(self.address("admin"), request.as_bytes()).expect("the admin address answers")
    }

    /// A reload that must be taken.
    pub fn reloaded(&self, config: impl Display) {
        self.configure(config);
        let answer = self.reload();
        assert_eq!(answer.status, 200, "reload: {}", answer.text());
    }

    /// The value of a series of `/metrics`, named with its labels.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let page = get(self.address("metrics"), "/metrics").text();
        let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(is_value))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn upstreams(&self) -> serde_json::Value {
        let text = self.admin("GET /upstreams", "").text();
        serde_json::from_str(&text).expect("JSON")
    }

    /// Waits for a line in the output.
    pub fn logged(&self, text: &str) {
        until(&format!("the log says {text:?}"), || self.proxy.log().contains(text));
    }

    /// Lines of the output that hold `text`.
    pub fn count_logged(&self, text: &str) -> usize {
        self.proxy.log().lines().filter(|line| line.contains(text)).count()
    }
}

fn is_value(rest: &str) -> bool {
    rest.starts_with(' ')
}

/// Files of one test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl Display) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text.to_string()).expect("the folder can be written to");
        path
    }
}

pub fn get(address: SocketAddr, path: &str) -> Response {
    exchange(address, request(path).as_bytes()).unwrap_or_else(|e| panic!("GET {path}: {e}"))
}

pub fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n")
}

/// Polls until `is_so`.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An origin from answers written as in case files.
pub fn origin(answers: &str) -> Origin {
    let answers: Vec<Answer> = serde_yaml::from_str(answers).expect("answers");
    Origin::start(answers)
}

/// One upstream `o` that every path leads to.
pub fn all_to(origin: SocketAddr) -> String {
    format!(
        "upstreams: {{ o: {{ endpoints: [{{ address: \"{origin}\" }}] }} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o, max_body: 1GiB }}]\n"
    )
}

/// An origin that does with each connection as told.
pub fn raw_origin(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = std::sync::Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads up to the empty line that ends a head; what came of the body, too.
pub fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    while !read.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(n @ 1..) => read.extend_from_slice(&piece[..n]),
            _ => break,
        }
    }
    read
}

/// A program's end and all it said.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    pub fn all(&self) -> String {
        format!("code {}\n{}\n{}", self.code, self.out, self.err)
    }
}

pub fn run(program: &str, args: &[&str]) -> Ran {
    run_with(program, args, b"")
}

/// Runs a program with `input` as its standard input.
pub fn run_with(program: &str, args: &[&str], input: &[u8]) -> Ran {
    let mut child = spawn(Command::new(program).args(args));
    let mut stdin = child.stdin.take().expect("piped");
    // Fails where the program ends without reading.
    let _ = stdin.write_all(input);
    drop(stdin);
    Ran::of(child.wait_with_output().expect("waits"))
}

fn spawn(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| {
        panic!("{}: {error}; run tests/peers/setup", command.get_program().display())
    })
}

/// curl, silent but for errors, within a minute.
pub fn curl(args: &[&str]) -> Ran {
    let mut all = vec!["-sS", "--max-time", "60"];
    all.extend_from_slice(args);
    run("curl", &all)
}

/// A program that setup put below `target/tools`.
pub fn tool(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name);
    assert!(path.exists(), "{} is missing; run tests/peers/setup", path.display());
    path.display().to_string()
}

/// A Python program of this folder that is told what to do line by line.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start(script: &str, args: &[&str]) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
        let mut command = Command::new(tool("venv/bin/python"));
        let mut child = spawn(command.arg(path).args(args).stderr(Stdio::inherit()));
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    /// The next line of its output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the peer's output");
        line.trim_end().to_owned()
    }

    /// Says a line and returns the answer's.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").expect("the peer reads");
        self.line()
    }

    /// The address that a server's first line names.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.line();
        line.parse().unwrap_or_else(|_| panic!("the peer said {line:?} instead of its address"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority in a folder, and the certificates it signs: `NAME.crt`, `NAME.key`.
pub struct Authority<'f> {
    folder: &'f Folder,
    name: &'f str,
}

impl<'f> Authority<'f> {
    pub fn new(folder: &'f Folder, name: &'f str) -> Self {
        folder.write("req.cnf", "[req]\ndistinguished_name = dn\n[dn]\n");
        let authority = Self { folder, name };
        authority.openssl(name, &["-addext", "basicConstraints=critical,CA:TRUE"]);
        authority
    }

    pub fn file(&self) -> String {
        self.path(&format!("{}.crt", self.name))
    }

    /// A certificate with these names.
    pub fn sign(&self, common: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let names = format!("subjectAltName={}", names.join(","));
        let (cert, key) = (self.file(), self.path(&format!("{}.key", self.name)));
        self.openssl(common, &["-CA", &cert, "-CAkey", &key, "-addext", &names]);
    }

    /// One that is signed by itself alone.
    pub fn self_signed(&self, common: &str, name: &str) {
        self.openssl(common, &["-addext", &format!("subjectAltName=DNS:{name}")]);
    }

    /// One whose time is over.
    pub fn sign_expired(&self, common: &str, name: &str) {
        let (csr, cert) = (self.path("request"), self.path(&format!("{common}.crt")));
        let (ca, ca_key) = (self.file(), self.path(&format!("{}.key", self.name)));
        let names = self.folder.write("names", format!("subjectAltName=DNS:{name}"));
        self.sign(common, &[name]);
        let key = self.path(&format!("{common}.key"));
        let subject = format!("/CN={common}");
        let config = self.path("req.cnf");
        let ask = ["req", "-new", "-config", &config, "-key", &key, "-subj", &subject];
        let ran = run("openssl", &[&ask[..], &["-out", &csr]].concat());
        assert_eq!(ran.code, 0, "openssl req: {}", ran.all());
        let names = names.display().to_string();
        let sign = ["x509", "-req", "-days", "-1", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key];
        let more = ["-CAcreateserial", "-extfile", &names, "-out", &cert];
        let ran = run("openssl", &[&sign[..], &more].concat());
        assert_eq!(ran.code, 0, "openssl x509: {}", ran.all());
    }

    fn path(&self, name: &str) -> String {
        self.folder.path(name).display().to_string()
    }

    fn openssl(&self, common: &str, more: &[&str]) {
        let (config, subject) = (self.path("req.cnf"), format!("/CN={common}"));
        let (cert, key) =
            (self.path(&format!("{common}.crt")), self.path(&format!("{common}.key")));
        let mut args = vec!["req", "-x509", "-config", &config, "-days", "2", "-nodes"];
        args.extend(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &subject]);
        args.extend(["-out", &cert, "-keyout", &key]);
        args.extend_from_slice(more);
        let ran = run("openssl", &args);
        assert_eq!(ran.code, 0, "openssl {args:?}: {}", ran.all());
    }
}

/// Resident memory of a process: now, and the most since the last `forget_peak`.
pub fn memory(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|n| n.parse::<u64>().ok()).unwrap_or_else(|| panic!("{key} in {status}"))
    };
    (kib("VmRSS:") << 10, kib("VmHWM:") << 10)
}

pub fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("our own process");
}

/// A port that nobody listens on just now.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

/// Requests in parallel until dropped or stopped; each must succeed.
pub struct Load {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    done: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    /// `threads` clients that each keep a connection alive and make a new one every 10 requests.
    pub fn start(
        address: SocketAddr,
        threads: usize,
        judge: impl Fn(&Response) -> Result<(), String> + Send + Sync + Clone + 'static,
    ) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let done = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let run = || {
            let (stop, done, judge) = (stop.clone(), done.clone(), judge.clone());
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(Relaxed) && failed.len() < 5 {
                    let outcome = Client::connect(address).and_then(|mut client| {
                        for _ in 0..10 {
                            client.send(request("/load").as_bytes())?;
                            let response = client.receive(false)?;
                            judge(&response)?;
                            done.fetch_add(1, Relaxed);
                            if response.values("connection").contains(&"close") {
                                break;
                            }
                        }
                        Ok(())
                    });
                    failed.extend(outcome.err());
                }
                failed
            })
        };
        Self { threads: (0..threads).map(|_| run()).collect(), stop, done }
    }

    pub fn done(&self) -> usize {
        self.done.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Waits for this many more requests.
    pub fn more(&self, count: usize) {
        let goal = self.done() + count;
        until(&format!("{count} more requests"), || self.done() >= goal || self.failed());
    }

    fn failed(&self) -> bool {
        self.threads.iter().any(std::thread::JoinHandle::is_finished)
    }

    /// Ends it; the failures of all threads.
    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    }
}
