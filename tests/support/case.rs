//! A case: configuration, filters and origins, then steps with what is expected on both sides.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::client::{Client, Response};
use super::expect::{self, Pairs, fits};
use super::origin::{Answer, Origin};
use super::proxy::Proxy;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What is shown, in a sentence.
    pub story: String,
    /// Files beside the configuration: scripts, secrets, lists.
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    env: HashMap<String, String>,
    /// Origins by name; `{{name}}` in the configuration and the scripts is the address.
    #[serde(default)]
    origins: BTreeMap<String, Vec<Answer>>,
    /// Without `listeners`, one named `public` on a port of its own is added.
    config: String,
    /// Instead of serving: `check` must say each of these, as `file:line:column` and text.
    #[serde(default)]
    problems: Vec<String>,
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    note: String,
    /// `GET /path`; headers, then a body.
    send: Option<String>,
    #[serde(default)]
    headers: Pairs,
    body: Option<String>,
    /// Exactly these bytes instead.
    raw: Option<String>,
    #[serde(default = "public")]
    to: String,
    #[serde(default)]
    expect: Expect,
    /// What the origins saw, by name; an origin that is not named must have seen nothing.
    #[serde(default)]
    origin: BTreeMap<String, SeenExpect>,
    /// Text, or /pattern/, that the output must hold within two seconds.
    #[serde(default)]
    log: Vec<String>,
    #[serde(default)]
    log_absent: Vec<String>,
    #[serde(default = "once")]
    times: usize,
    /// Origins killed before this step, with all their connections: their ports refuse.
    #[serde(default)]
    kill: Vec<String>,
    /// Origins started again before this step, on the ports they had.
    #[serde(default)]
    revive: Vec<String>,
    /// Repeat the step for up to five seconds, until the answer is as expected. What the origins
    /// see meanwhile is not looked at.
    #[serde(default)]
    eventually: bool,
}

/// For a step that takes effect at some time.
const EVENTUALLY: Duration = Duration::from_secs(5);

fn public() -> String {
    "public".to_owned()
}

fn once() -> usize {
    1
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    status: Option<u16>,
    /// As in the status line: `HTTP/1.1`.
    version: Option<String>,
    /// The statuses of the 1xx responses before it; left out, any.
    informational: Option<Vec<u16>>,
    #[serde(default)]
    headers: Pairs,
    #[serde(default)]
    absent: Vec<String>,
    body: Option<String>,
    /// The connection closes, with or without a response.
    #[serde(default)]
    closed: bool,
    /// The body breaks off, and the client can tell.
    #[serde(default)]
    truncated: bool,
    within_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenExpect {
    #[serde(default = "once")]
    count: usize,
    method: Option<String>,
    target: Option<String>,
    #[serde(default)]
    headers: Pairs,
    #[serde(default)]
    absent: Vec<String>,
    body: Option<String>,
}

impl Case {
    pub fn load(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
        serde_yaml::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))
    }

    pub fn run(self) -> Result<(), String> {
        let origins: BTreeMap<&str, Origin> = self
            .origins
            .iter()
            .map(|(name, answers)| (name.as_str(), Origin::start(answers.clone())))
            .collect();
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let fill = |text: &str| {
            let root = concat!(env!("CARGO_MANIFEST_DIR"));
            origins.iter().fold(text.replace("{{root}}", root), |text, (name, origin)| {
                text.replace(&format!("{{{{{name}}}}}"), &origin.address.to_string())
            })
        };
        let config = folder.path().join("selvedge.yaml");
        for (name, text) in &self.files {
            let path = folder.path().join(name);
            std::fs::write(path, fill(text)).map_err(|e| e.to_string())?;
        }
        let listeners = "listeners: { public: { address: \"127.0.0.1:0\" } }\n";
        let given = self.config.starts_with("listeners:") || self.config.contains("\nlisteners:");
        let text = if given { self.config.clone() } else { format!("{}{listeners}", self.config) };
        std::fs::write(&config, fill(&text)).map_err(|e| e.to_string())?;
        if !self.problems.is_empty() {
            return self.check(&config);
        }
        let proxy = Proxy::start(&config, &self.env)?;
        for (index, mut step) in self.steps.into_iter().enumerate() {
            step.send = step.send.map(|send| fill(&send));
            step.prepare(&origins)?;
            for _ in 0..step.times {
                step.run(&proxy, &origins).map_err(|error| {
                    format!(
                        "step {}: {} {error}\n--- output\n{}",
                        index + 1,
                        step.note,
                        proxy.log()
                    )
                })?;
            }
        }
        Ok(())
    }

    fn check(&self, config: &Path) -> Result<(), String> {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_selvedge"))
            .args(["check", "-c"])
            .arg(config)
            .envs(&self.env)
            .output()
            .map_err(|e| e.to_string())?;
        let folder = config.parent().unwrap_or(Path::new("")).display().to_string() + "/";
        let said = String::from_utf8_lossy(&output.stderr).replace(&folder, "");
        if output.status.code() != Some(1) {
            return Err(format!("check ended with {:?}: {said}", output.status.code()));
        }
        for problem in &self.problems {
            if !said.contains(problem.as_str()) {
                return Err(format!("check did not say {problem:?}, but:\n{said}"));
            }
        }
        let (count, _) =
            said.lines().last().unwrap_or_default().split_once(' ').unwrap_or_default();
        if count != self.problems.len().to_string() {
            return Err(format!("expected {} problems:\n{said}", self.problems.len()));
        }
        Ok(())
    }
}

impl Step {
    fn prepare(&self, origins: &BTreeMap<&str, Origin>) -> Result<(), String> {
        let named = |name: &String| {
            origins.get(name.as_str()).ok_or_else(|| format!("no origin named {name}"))
        };
        for name in &self.kill {
            named(name)?.kill();
        }
        for name in &self.revive {
            named(name)?.revive();
        }
        Ok(())
    }

    fn run(&self, proxy: &Proxy, origins: &BTreeMap<&str, Origin>) -> Result<(), String> {
        if !self.eventually {
            self.exchange(proxy)?;
            self.judge_origins(origins)?;
            return self.judge_log(proxy);
        }
        let deadline = Instant::now() + EVENTUALLY;
        while let Err(error) = self.exchange(proxy) {
            if Instant::now() > deadline {
                return Err(format!("not within {EVENTUALLY:?}: {error}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for origin in origins.values() {
            origin.take();
        }
        self.judge_log(proxy)
    }

    fn exchange(&self, proxy: &Proxy) -> Result<(), String> {
        let began = Instant::now();
        let mut client = Client::connect(proxy.address(&self.to)?)?;
        client.send(&self.bytes())?;
        let head_only = self.bytes().starts_with(b"HEAD ");
        let response = client.receive(head_only);
        let took = began.elapsed();
        match response {
            Ok(response) => self.judge(&response)?,
            Err(_) if self.expect.closed && self.expect.status.is_none() => {}
            Err(error) => return Err(error),
        }
        if self.expect.closed && !client.closed() {
            return Err("the connection should close".to_owned());
        }
        if let Some(limit) = self.expect.within_ms.filter(|ms| took > Duration::from_millis(*ms)) {
            return Err(format!("took {took:?}, expected at most {limit} ms"));
        }
        Ok(())
    }

    fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone().into_bytes();
        }
        let send = self.send.as_deref().unwrap_or("GET /");
        let mut text = format!("{send} HTTP/1.1\r\n");
        let given = |name: &str| self.headers.0.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !given("host") {
            text.push_str("Host: shop.test\r\n");
        }
        for (name, value) in &self.headers.0 {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = self.body.as_deref().unwrap_or_default();
        if self.body.is_some() && !given("content-length") && !given("transfer-encoding") {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        text.into_bytes()
    }

    fn judge(&self, response: &Response) -> Result<(), String> {
        let expect = &self.expect;
        if expect.status.is_some_and(|status| status != response.status) {
            return Err(format!("expected {:?}, found {response:?}", expect.status));
        }
        if expect.version.as_ref().is_some_and(|version| *version != response.version) {
            return Err(format!("expected {:?}, found {response:?}", expect.version));
        }
        if expect.informational.as_ref().is_some_and(|all| *all != response.informational) {
            return Err(format!("expected {:?}, found {response:?}", expect.informational));
        }
        expect::headers(&expect.headers, &expect.absent, &response.headers)?;
        if let Some(body) =
            expect.body.as_deref().filter(|b| !fits(b, &response.text()).unwrap_or(false))
        {
            return Err(format!("body: expected {body}, found {}", response.text()));
        }
        if expect.truncated == response.complete {
            return Err(format!("complete: {}, which was not expected", response.complete));
        }
        Ok(())
    }

    fn judge_origins(&self, origins: &BTreeMap<&str, Origin>) -> Result<(), String> {
        for (name, origin) in origins {
            let seen = origin.take();
            let Some(expected) = self.origin.get(*name) else {
                if self.origin.contains_key("any") || seen.is_empty() {
                    continue;
                }
                return Err(format!("origin {name} should have seen nothing, saw {seen:?}"));
            };
            if seen.len() != expected.count {
                return Err(format!("origin {name}: expected {}, saw {seen:?}", expected.count));
            }
            for seen in &seen {
                expected.judge(seen).map_err(|error| format!("origin {name}: {error}"))?;
            }
        }
        Ok(())
    }

    fn judge_log(&self, proxy: &Proxy) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(2);
        for text in &self.log {
            while !found(text, &proxy.log())? {
                if Instant::now() > deadline {
                    return Err(format!("not in the output: {text}"));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        for text in &self.log_absent {
            if found(text, &proxy.log())? {
                return Err(format!("in the output: {text}"));
            }
        }
        Ok(())
    }
}

fn found(text: &str, log: &str) -> Result<bool, String> {
    if text.starts_with('/') { fits(text, log) } else { Ok(log.contains(text)) }
}

impl SeenExpect {
    fn judge(&self, seen: &super::origin::Seen) -> Result<(), String> {
        let body = String::from_utf8_lossy(&seen.body);
        let pairs = [
            ("method", &self.method, &*seen.method),
            ("target", &self.target, &*seen.target),
            ("body", &self.body, &*body),
        ];
        for (what, expected, have) in pairs {
            if let Some(expected) = expected.as_deref().filter(|e| !fits(e, have).unwrap_or(false))
            {
                return Err(format!("{what}: expected {expected}, saw {have}"));
            }
        }
        expect::headers(&self.headers, &self.absent, &seen.headers)
    }
}
