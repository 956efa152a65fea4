//! CPU time of a reload beside nginx's, with few and with many routes, interleaved in one run:
//! `cargo bench --bench reload [-- ROUNDS]`.
//!
//! Each route has its own path; every tenth in Selvedge has a filter of its own, which nginx has
//! not. A reload of nginx is its master's work and the start of the new worker.

mod peers;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use peers::{Target, cpu, free_port, median, on_core, start_nginx, up};

const COUNTS: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let rounds = args.first().and_then(|arg| arg.parse().ok()).unwrap_or(7);
    println!("{:>8} {:>14} {:>14} {:>8}", "routes", "nginx, ms", "selvedge, ms", "ratio");
    for count in COUNTS {
        let folder = std::env::temp_dir().join(format!("selvedge-reload-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (nginx, (selvedge, admin)) = (nginx(&folder, count), selvedge(&folder, count));
        let figures: Vec<(f64, f64)> = (0..rounds)
            .map(|round| {
                (reload_nginx(&nginx), reload_selvedge(&selvedge, admin, &folder, count, round))
            })
            .collect();
        let middle = |f: fn(&(f64, f64)) -> f64| median(&figures.iter().map(f).collect::<Vec<_>>());
        let (theirs, ours) = (middle(|f| f.0) * 1e3, middle(|f| f.1) * 1e3);
        println!("{count:>8} {theirs:>14.1} {ours:>14.1} {:>7.2}x", middle(|f| f.1 / f.0));
        drop((nginx, selvedge));
        let _ = std::fs::remove_dir_all(&folder);
    }
}

fn nginx(folder: &Path, count: usize) -> Target {
    let port = free_port();
    let locations: String = (0..count)
        .map(|i| format!("location /svc{i}/v1/ {{ proxy_pass http://127.0.0.1:9; }}\n"))
        .collect();
    let http = format!("server {{ listen 127.0.0.1:{port}; {locations} }}");
    start_nginx(folder, "nginx", port, "0", &http, "")
}

/// CPU seconds from the signal until the new worker stands and the old one has gone.
fn reload_nginx(nginx: &Target) -> f64 {
    let master = nginx.process.id();
    let workers = || {
        let file = format!("/proc/{master}/task/{master}/children");
        std::fs::read_to_string(file).expect("alive").trim().to_owned()
    };
    let (before, old) = (cpu(master), workers());
    let old_worker = cpu(old.parse().expect("one worker"));
    assert!(Command::new("kill").args(["-HUP", &master.to_string()]).status().is_ok());
    wait("nginx's new worker", || {
        let now = workers();
        now != old && !now.contains(' ')
    });
    cpu(master) - (before - old_worker)
}

fn selvedge(folder: &Path, count: usize) -> (Target, u16) {
    let (port, admin) = (free_port(), free_port());
    for i in (0..count).step_by(10) {
        let script = format!(
            "fn on_request(req) {{ req.headers[\"X-Service\"] = \"{i}\"; if req.path.ends_with(\"/no\") {{ return response(404); }} }}"
        );
        std::fs::write(folder.join(format!("f{i}.rhai")), script).expect("a file");
    }
    let file = folder.join("selvedge.yaml");
    let head = format!(
        "listeners: {{ public: {{ address: \"127.0.0.1:{port}\" }} }}\nadmin: {{ address: \"127.0.0.1:{admin}\" }}\n"
    );
    std::fs::write(folder.join("head"), head).expect("a file");
    configure(&file, count, 0);
    let process = on_core("0", env!("CARGO_BIN_EXE_selvedge"))
        .args(["run", "--threads", "1", "-c"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn();
    (up(Target { name: "selvedge", port, process: process.expect("selvedge starts") }), admin)
}

/// Each round has a text of its own, as an edit would.
fn configure(file: &Path, count: usize, round: usize) {
    let head = std::fs::read_to_string(file.with_file_name("head")).expect("written at the start");
    let mut text = format!(
        "{head}upstreams: {{ o: {{ endpoints: [{{ address: \"127.0.0.1:9\", weight: {} }}] }} }}\nfilters:\n",
        round + 1
    );
    for i in (0..count).step_by(10) {
        text += &format!("  f{i}: {{ script: f{i}.rhai }}\n");
    }
    text += "routes:\n";
    for i in 0..count {
        let filters = if i % 10 == 0 { format!("[f{i}]") } else { "[]".into() };
        text += &format!(
            "  - {{ name: r{i}, match: {{ path: \"/svc{i}/v1/{{rest*}}\" }}, filters: {filters}, upstream: o }}\n"
        );
    }
    std::fs::write(file, text).expect("a file");
}

fn reload_selvedge(
    selvedge: &Target,
    admin: u16,
    folder: &Path,
    count: usize,
    round: usize,
) -> f64 {
    configure(&folder.join("selvedge.yaml"), count, round + 1);
    let before = cpu(selvedge.process.id());
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).expect("the admin address");
    let head = "POST /reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    cpu(selvedge.process.id()) - before
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::yield_now();
    }
}
