//! The built binary, serving a configuration on ports of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Until a server says that it is ready, on a busy machine.
const START: Duration = Duration::from_secs(20);

pub struct Proxy {
    child: Child,
    pub addresses: HashMap<String, SocketAddr>,
    /// Everything on stdout and stderr so far.
    pub output: Arc<Mutex<String>>,
}

impl Proxy {
    /// Starts `selvedge run -c file` and waits until it is ready.
    pub fn start(file: &Path, env: &HashMap<String, String>) -> Result<Self, String> {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_selvedge")), file, env)
    }

    /// The same by a command that takes the arguments of the binary.
    pub fn start_by(
        mut command: Command,
        file: &Path,
        env: &HashMap<String, String>,
    ) -> Result<Self, String> {
        let mut child = command
            .args(["run", "--threads", "2", "-c"])
            .arg(file)
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("the binary does not start: {e}"))?;
        let output = Arc::new(Mutex::new(String::new()));
        let (tell, lines) = channel();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        follow(out.expect("piped"), Arc::clone(&output), tell.clone());
        follow(err.expect("piped"), Arc::clone(&output), tell);
        let mut proxy = Self { child, addresses: HashMap::new(), output };
        proxy.wait_ready(&lines)?;
        Ok(proxy)
    }

    fn wait_ready(&mut self, lines: &Receiver<String>) -> Result<(), String> {
        let deadline = Instant::now() + START;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once("listening: ") {
                        let (name, address) = rest.split_once(" on ").ok_or("odd line")?;
                        let address = address.trim().parse().map_err(|e| format!("{line}: {e}"))?;
                        self.addresses.insert(name.to_owned(), address);
                    } else if line.trim_end().ends_with(": ready") {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("not ready in time:\n{}", self.log()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("ended before it was ready:\n{}", self.log()));
                }
            }
        }
    }

    pub fn address(&self, name: &str) -> Result<SocketAddr, String> {
        self.addresses.get(name).copied().ok_or_else(|| format!("no listener named {name}"))
    }

    pub fn log(&self) -> String {
        self.output.lock().expect("no panic while held").clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self, within: Duration) -> Result<i32, String> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Ok(status.code().unwrap_or(-1));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("still running after {within:?}:\n{}", self.log()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(
    stream: impl std::io::Read + Send + 'static,
    output: Arc<Mutex<String>>,
    tell: std::sync::mpsc::Sender<String>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut all = output.lock().expect("no panic while held");
            all.push_str(&line);
            all.push('\n');
            drop(all);
            let _ = tell.send(line);
        }
    });
}
