//! How well endpoints are chosen: ten of them, one ten times slower, under a steady rate of
//! requests. Beside nginx and HAProxy, in one run: `cargo bench --bench balance_quality`.
//!
//! Requests come at their times whether or not those before are answered, and count from then on,
//! so a slow endpoint cannot hide by slowing the load down.

#![allow(clippy::disallowed_methods, reason = "a benchmark has threads of its own")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod peers;

use peers::{Target, free_port, start_nginx, up};

const ENDPOINTS: usize = 10;
const FAST: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(50);
/// What an endpoint works on at once; more of them wait.
const AT_ONCE: usize = 2;
/// Requests a second: 64 for each endpoint by turns, where the slow one can do 40.
const RATE: u32 = 640;
const CLIENTS: u32 = 64;
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(12);

const OURS: [&str; 4] = ["round_robin", "random", "least_request", "peak_ewma"];

fn main() {
    let origins: Vec<Origin> =
        (0..ENDPOINTS).map(|i| Origin::start(if i == 0 { SLOW } else { FAST })).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let (_ours, ports) = start_selvedge(folder.path(), &origins);
    let others = start_others(folder.path(), &origins);
    println!("{:24} {:>9} {:>9} {:>11} {:>8}", "", "p50", "p99", "slow's share", "failed");
    let ours = OURS.iter().zip(ports).map(|(name, port)| (format!("selvedge {name}"), port));
    let theirs = others.iter().map(|target| (target.name.to_owned(), target.port));
    for (name, port) in ours.chain(theirs) {
        report(&name, port, &origins);
    }
}

fn report(name: &str, port: u16, origins: &[Origin]) {
    load(port, WARM_UP);
    origins.iter().for_each(|origin| origin.served.store(0, Relaxed));
    let (mut times, failed) = load(port, MEASURED);
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let served: Vec<usize> = origins.iter().map(|origin| origin.served.load(Relaxed)).collect();
    let share = 100.0 * served[0] as f64 / served.iter().sum::<usize>().max(1) as f64;
    println!("{name:24} {:>6.1} ms {:>6.1} ms {share:>10.1}% {failed:>8}", at(0.5), at(0.99));
}

/// Times from when each request was due, and how many failed.
fn load(port: u16, time: Duration) -> (Vec<Duration>, usize) {
    let (all, failed) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let start = Instant::now() + Duration::from_millis(50);
    let step = Duration::from_secs(1) / RATE;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (all, failed) = (&all, &failed);
            scope.spawn(move || {
                let mut times = Vec::new();
                let mut connection = None;
                let mut due = start + step * client;
                while due < start + time {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    match exchange(&mut connection, port) {
                        Ok(()) => times.push(due.elapsed()),
                        Err(_) => {
                            failed.fetch_add(1, Relaxed);
                            connection = None;
                        }
                    }
                    due += step * CLIENTS;
                }
                all.lock().expect("no panic while held").extend(times);
            });
        }
    });
    (all.into_inner().expect("no panic while held"), failed.into_inner())
}

fn exchange(connection: &mut Option<BufReader<TcpStream>>, port: u16) -> std::io::Result<()> {
    if connection.is_none() {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        *connection = Some(BufReader::new(stream));
    }
    let Some(reader) = connection else { return Ok(()) };
    reader.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n")?;
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line)?;
    if !line.contains(" 200 ") {
        return Err(std::io::Error::other(line));
    }
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line)?;
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    reader.read_exact(&mut vec![0; length])
}

struct Origin {
    port: u16,
    served: Arc<AtomicUsize>,
}

impl Origin {
    /// Works on [`AT_ONCE`] requests, each for `time`.
    fn start(time: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        let places: Arc<Vec<Mutex<()>>> = Arc::new((0..AT_ONCE).map(|_| Mutex::new(())).collect());
        std::thread::spawn(move || {
            for (index, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (count, places) = (Arc::clone(&count), Arc::clone(&places));
                std::thread::spawn(move || {
                    let _ = serve(stream, time, &count, &places[index % AT_ONCE]);
                });
            }
        });
        Self { port, served }
    }
}

fn serve(
    stream: TcpStream,
    time: Duration,
    count: &AtomicUsize,
    place: &Mutex<()>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        let working = place.lock().expect("no panic while held");
        std::thread::sleep(time);
        drop(working);
        count.fetch_add(1, Relaxed);
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    }
}

/// A process for each algorithm.
fn start_selvedge(folder: &Path, origins: &[Origin]) -> (Vec<Running>, Vec<u16>) {
    let endpoints: Vec<String> = origins
        .iter()
        .map(|origin| format!("{{ address: \"127.0.0.1:{}\" }}", origin.port))
        .collect();
    let start = |name: &&str| {
        let port = free_port();
        let text = format!(
            "listeners: {{ l: {{ address: \"127.0.0.1:{port}\" }} }}\naccess_log: {{ format: off }}\n\
             upstreams: {{ u: {{ endpoints: [{}], balance: {name} }} }}\n\
             routes: [{{ name: all, match: {{}}, upstream: u }}]\n",
            endpoints.join(", ")
        );
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        let process =
            command.args(["run", "-c"]).arg(file).stdin(Stdio::null()).stderr(Stdio::null());
        let process = process.spawn().expect("selvedge starts");
        let target = up(Target { name: "selvedge", port, process });
        (Running(target), port)
    };
    OURS.iter().map(start).unzip()
}

/// Ends its process when dropped.
struct Running(#[expect(dead_code, reason = "held")] Target);

fn start_others(folder: &Path, origins: &[Origin]) -> Vec<Target> {
    let servers = |line: fn(u16) -> String| {
        origins.iter().map(|origin| line(origin.port)).collect::<String>()
    };
    let nginx = |name: &'static str, method: &str| {
        let port = free_port();
        let list = servers(|port| format!("server 127.0.0.1:{port}; "));
        let http = format!(
            "upstream u {{ {method} {list} keepalive 64; }}
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}"
        );
        start_nginx(folder, name, port, "0", &http, "")
    };
    let port = free_port();
    let list = servers(|port| format!("  server s{port} 127.0.0.1:{port}\n"));
    let text = format!(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n\
         frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n\
         backend b\n  balance leastconn\n{list}"
    );
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, text).expect("a file");
    let mut command = Command::new("haproxy");
    let process: Child = command.arg("-f").arg(file).stdin(Stdio::null()).spawn().expect("haproxy");
    vec![
        nginx("nginx round robin", ""),
        nginx("nginx least_conn", "least_conn;"),
        up(Target { name: "haproxy leastconn", port, process }),
    ]
}
