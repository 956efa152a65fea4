//! Programs that a benchmark starts, and what they use of the CPU.

#![allow(dead_code, reason = "each benchmark uses a part")]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Target {
    pub name: &'static str,
    pub port: u16,
    pub process: Child,
}

impl Drop for Target {
    fn drop(&mut self) {
        // nginx's master ends its worker when it is told to, not when it is killed.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

pub fn on_core(core: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core, program]).stdin(Stdio::null());
    command
}

pub fn start_nginx(
    folder: &Path,
    name: &'static str,
    port: u16,
    core: &str,
    http: &str,
    head: &str,
) -> Target {
    let run = folder.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {run}/{name}-{kind};"))
        .collect();
    let text = format!(
        "{head} worker_processes 1; daemon off; user root; pid {run}/{name}.pid; error_log {run}/{name}.log crit;
         events {{ worker_connections 4096; }}
         http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 300s; {temp} {http} }}"
    );
    let file = folder.join(format!("{name}.conf"));
    std::fs::write(&file, text).expect("a file");
    let process = on_core(core, "nginx").arg("-c").arg(&file).spawn().expect("nginx starts");
    up(Target { name, port, process })
}

pub fn up(target: Target) -> Target {
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", target.port)).is_err() {
        std::thread::yield_now();
        assert!(Instant::now() < deadline, "{} is not up", target.name);
    }
    target
}

const CONNECTIONS: &str = "32";

/// Loads a target from core 1, and tells how many requests it answered, each with success.
pub fn requests(port: u16, path: &str, seconds: u64, headers: &[&str]) -> f64 {
    let mut wrk = on_core("1", "wrk");
    wrk.args(["-t1", "-c", CONNECTIONS, "-d", &format!("{seconds}s")]);
    for header in headers {
        wrk.args(["-H", header]);
    }
    let url = format!("http://127.0.0.1:{port}{path}");
    let output = wrk.arg(url).output().expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("Non-2xx"), "{text}");
    let count = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// CPU seconds of a process and its children, from `/proc`.
pub fn cpu(pid: u32) -> f64 {
    let mut total = 0.0;
    let mut pids = vec![pid];
    while let Some(pid) = pids.pop() {
        // Run time in nanoseconds, finer than the ticks of `stat`, summed over the threads.
        for entry in std::fs::read_dir(format!("/proc/{pid}/task")).expect("alive").flatten() {
            let text = std::fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
            let nanos = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
            total += nanos.unwrap_or(0.0) / 1e9;
            let children = std::fs::read_to_string(entry.path().join("children"));
            let children = children.unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    total
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
