//! What grows with routes, filters, connections and waiting scripts: CPU per request and memory.
//! `cargo bench --bench scale [-- routes|filters|idle|waiting|fan-out]`.
//!
//! Two threads in the proxy; memory is what the process has resident. The kernel's own memory for
//! sockets is not in it. Counts end below 10,000 or 20,000 where the usual limit of open files
//! does.

mod peers;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use peers::{Target, cpu, free_port, on_core, requests, start_nginx, up};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

const IDLE: [usize; 3] = [1, 1_000, 19_000];
const WAITING: usize = 9_000;
const CLIENTS: usize = 1_000;
const LOAD: Duration = Duration::from_secs(10);
/// How often each client asks: together they stay below what two cores can do.
const PACE: Duration = Duration::from_secs(1);
/// How long each of the two origins of the fan-out takes.
const DELAY: Duration = Duration::from_millis(50);

struct Bench {
    folder: tempfile::TempDir,
    origin: Target,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let location = "location / { return 200 ok; }";
    let http = format!("server {{ listen 127.0.0.1:{port} backlog=1024; {location} }}");
    let origin = start_nginx(folder.path(), "origin", port, "1", &http, "");
    let bench = Bench { folder, origin };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    if wanted("routes") {
        bench.routes();
    }
    if wanted("filters") {
        bench.filters();
    }
    if wanted("idle") {
        runtime.block_on(bench.idle());
    }
    if wanted("waiting") {
        runtime.block_on(bench.waiting());
    }
    if wanted("fan-out") {
        runtime.block_on(bench.fan_out());
    }
}

impl Bench {
    fn start(&self, rest: &str) -> Target {
        let port = free_port();
        let text = format!(
            "listeners: {{ public: {{ address: \"127.0.0.1:{port}\" }} }}
access_log: {{ format: \"off\" }}
limits: {{ requests_per_connection: 4000000000, connections_per_address: 20000 }}
{rest}"
        );
        let file = self.folder.path().join("scale.yaml");
        std::fs::write(&file, text).expect("a file");
        let process = on_core("0,1", env!("CARGO_BIN_EXE_selvedge"))
            .args(["run", "--threads", "2", "-c"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn();
        let process = process.expect("selvedge starts");
        let proxy = up(Target { name: "selvedge", port, process });
        first_answer(port);
        proxy
    }

    fn upstream(&self) -> String {
        upstream("o", self.origin.port)
    }

    fn routes(&self) {
        println!("{:>10} {:>16} {:>14}", "routes", "CPU us/request", "memory, MiB");
        for count in [10, 1_000, 100_000] {
            let mut text = self.upstream() + "routes:\n";
            for i in 0..count {
                let matches = format!("{{ path: \"/svc{i}/{{rest*}}\" }}");
                let _ = writeln!(text, "  - {{ name: r{i}, match: {matches}, upstream: o }}");
            }
            let proxy = self.start(&text);
            self.line(&proxy, count, &format!("/svc{}/x", count - 1));
        }
    }

    fn filters(&self) {
        println!("{:>10} {:>16} {:>14}", "filters", "CPU us/request", "memory, MiB");
        let w6 =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/w6.rhai"));
        let w6 = w6.expect("the filter");
        for count in [1, 100, 10_000] {
            let mut text = self.upstream() + "filters:\n";
            for i in 0..count {
                let script = format!("{w6}\nfn number() {{ {i} }}\n");
                std::fs::write(self.folder.path().join(format!("f{i}.rhai")), script)
                    .expect("a file");
                let _ = writeln!(text, "  f{i}: {{ script: f{i}.rhai }}");
            }
            text += "routes:\n";
            for i in 0..count {
                let matches = format!("{{ path: \"/svc{i}/{{rest*}}\" }}");
                let _ = writeln!(
                    text,
                    "  - {{ name: r{i}, match: {matches}, filters: [f{i}], upstream: o }}"
                );
            }
            let proxy = self.start(&text);
            self.line(&proxy, count, &format!("/svc{}/x", count - 1));
        }
    }

    fn line(&self, proxy: &Target, count: usize, path: &str) {
        let micros = per_request(proxy, path);
        println!("{count:>10} {micros:>16.1} {:>14.0}", resident(proxy) / 1024.0);
    }

    async fn idle(&self) {
        println!("{:>10} {:>16} {:>14}", "idle conns", "CPU us/request", "KiB each");
        let proxy =
            self.start(&(self.upstream() + "routes: [{ name: all, match: {}, upstream: o }]"));
        per_request(&proxy, "/x");
        let base = resident(&proxy);
        for count in IDLE {
            let mut open = Vec::with_capacity(count);
            for i in 0..count {
                let mut stream = connect(proxy.port, i).await;
                stream.write_all(HEAD.as_bytes()).await.expect("sent");
                read_head(&mut stream).await;
                open.push(stream);
            }
            let each = (resident(&proxy) - base) / count as f64;
            println!("{count:>10} {:>16.1} {each:>14.1}", per_request(&proxy, "/x"));
        }
    }

    async fn waiting(&self) {
        println!("{:>10} {:>16} {:>14}", "waiting", "what waits", "KiB each");
        for (what, filters) in [("a proxied request", "[]"), ("and a filter in fetch", "[waits]")] {
            let slow = origin(Duration::from_secs(600)).await;
            std::fs::write(
                self.folder.path().join("waits.rhai"),
                "fn on_request(req) { return fetch(\"http://slow/\", #{ timeout: 9 }); }",
            )
            .expect("a file");
            let rest = upstream("slow", slow.port)
                + "filters: { waits: { script: waits.rhai, fetch: { allow: [\"http://slow\"], timeout: 300s }, limits: { wall: 300s } } }\n"
                + &format!(
                    "routes: [{{ name: all, match: {{}}, filters: {filters}, upstream: slow }}]"
                );
            let proxy = self.start(&rest);
            let base = resident(&proxy);
            let mut open = Vec::with_capacity(WAITING);
            for i in 0..WAITING {
                let mut stream = connect(proxy.port, i).await;
                stream.write_all(HEAD.as_bytes()).await.expect("sent");
                open.push(stream);
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
            let each = (resident(&proxy) - base) / WAITING as f64;
            println!("{WAITING:>10} {what:>21} {each:>9.1}");
        }
    }

    /// Three filters on a route, one of which asks two slow origins at once; many clients.
    async fn fan_out(&self) {
        let (first, second) = (origin(DELAY).await, origin(DELAY).await);
        let files = [
            ("marks.rhai", "fn on_request(req) { req.headers[\"X-Marked\"] = \"1\"; }"),
            (
                "merges.rhai",
                "fn on_request(req) { let got = fetch_all([\"http://a/x\", \"http://b/y\"]); response(200, got[0].body.text() + got[1].body.text()) }",
            ),
            ("stamps.rhai", "fn on_response(res, req) { res.headers[\"X-Stamp\"] = req.id; }"),
        ];
        for (name, text) in files {
            std::fs::write(self.folder.path().join(name), text).expect("a file");
        }
        let upstreams = format!(
            "upstreams:\n  a: {{ endpoints: [{{ address: \"127.0.0.1:{}\" }}] }}\n  b: {{ endpoints: [{{ address: \"127.0.0.1:{}\" }}] }}\n",
            first.port, second.port
        );
        let rest = upstreams
            + "filters:\n  marks: { script: marks.rhai }\n  merges: { script: merges.rhai, fetch: { allow: [\"http://a\", \"http://b\"] } }\n  stamps: { script: stamps.rhai }\n"
            + "routes: [{ name: all, match: {}, filters: [stamps, marks, merges], upstream: a }]";
        let proxy = self.start(&rest);
        let until = Instant::now() + LOAD;
        let mut clients = JoinSet::new();
        for i in 0..CLIENTS {
            let port = proxy.port;
            clients.spawn(async move {
                let mut stream = connect(port, i).await;
                let mut times = Vec::new();
                let mut ticks = tokio::time::interval(PACE);
                tokio::time::sleep(PACE * i as u32 / CLIENTS as u32).await;
                ticks.reset_immediately();
                while Instant::now() < until {
                    ticks.tick().await;
                    let began = Instant::now();
                    stream.write_all(HEAD.as_bytes()).await.expect("sent");
                    read_head(&mut stream).await;
                    times.push(began.elapsed());
                }
                times
            });
        }
        tokio::time::sleep(LOAD / 3).await;
        let (threads, memory) = (threads(&proxy), resident(&proxy) / 1024.0);
        tokio::time::sleep(LOAD / 2).await;
        let (threads_after, memory_after) = (self::threads(&proxy), resident(&proxy) / 1024.0);
        let mut times = clients.join_all().await.concat();
        times.sort_unstable();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "fan-out: {CLIENTS} clients, three filters, two fetches of {} ms",
            DELAY.as_millis()
        );
        println!("  {} requests in {} s", times.len(), LOAD.as_secs());
        println!("  p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms", at(0.5), at(0.99), at(1.0));
        println!("  threads {threads}, later {threads_after}");
        println!("  memory {memory:.0} MiB, later {memory_after:.0} MiB");
    }
}

const HEAD: &str = "GET /x HTTP/1.1\r\nHost: bench.test\r\n\r\n";

fn upstream(name: &str, port: u16) -> String {
    format!(
        "upstreams: {{ {name}: {{ endpoints: [{{ address: \"127.0.0.1:{port}\" }}], timeouts: {{ first_byte: 300s, total: 300s }} }} }}\n"
    )
}

/// An origin that answers each request after a while; closes all when it is dropped.
struct Slow {
    port: u16,
    _tasks: JoinSet<()>,
}

async fn origin(delay: Duration) -> Slow {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = [0; 2048];
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    tokio::time::sleep(delay).await;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Slow { port, _tasks: tasks }
}

/// From several addresses, since one has too few ports.
async fn connect(port: u16, index: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let address = format!("127.0.0.{}:0", 2 + index / 4_000);
    socket.bind(address.parse().expect("an address")).expect("binds");
    socket.connect(([127, 0, 0, 1], port).into()).await.expect("connects")
}

/// It listens before all of a large configuration is loaded.
fn first_answer(port: u16) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
    stream.write_all(b"OPTIONS * HTTP/1.1\r\nHost: bench.test\r\n\r\n").expect("sent");
    let mut first = [0];
    stream.read_exact(&mut first).expect("an answer");
}

/// Reads until a small answer is complete.
async fn read_head(stream: &mut TcpStream) {
    let mut got = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let n = stream.read(&mut buffer).await.expect("an answer");
        assert!(n > 0, "closed after {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..n]);
        if let Some(end) = got.windows(4).position(|w| w == b"\r\n\r\n") {
            assert!(got.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&got));
            if got.len() > end + 4 {
                return;
            }
        }
    }
}

fn per_request(proxy: &Target, path: &str) -> f64 {
    requests(proxy.port, path, 1, &[]);
    let before = cpu(proxy.process.id());
    let count = requests(proxy.port, path, 3, &[]);
    (cpu(proxy.process.id()) - before) * 1e6 / count
}

/// KiB.
fn resident(proxy: &Target) -> f64 {
    status(proxy, "VmRSS:")
}

fn threads(proxy: &Target) -> f64 {
    status(proxy, "Threads:")
}

fn status(proxy: &Target, key: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", proxy.process.id()));
    let text = text.expect("alive");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a known key");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}
