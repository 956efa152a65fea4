//! `filters`: scripts and what each may reach. Nothing is granted by default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::body::{self, BodyAccess, RawBodyAccess};
use super::problem::{Problems, nearest};
use super::read::{At, Named, choice, section};
use super::schedule::{self, RawSchedule, Schedule};
use super::state::{self, Access, Grants, RawGrants, State};
use super::upstreams::{Breaker, RawBreaker, Upstream, resolve_breaker};
use super::values::{Bytes, Free};

#[derive(Debug, Clone)]
pub struct Filter {
    pub name: Arc<str>,
    pub script: PathBuf,
    /// The free-form `config:` section, read by the script as `config`.
    pub config: serde_json::Value,
    pub secrets: BTreeMap<String, Secret>,
    pub fetch: Fetch,
    pub body: BodyAccess,
    pub state: Grants,
    pub schedule: Vec<Schedule>,
    pub limits: FilterLimits,
    pub on_fault: OnFault,
    pub breaker: Option<Breaker>,
    pub tests: Tests,
    pub lowering: Lowering,
}

/// A secret's bytes. It prints as `***` everywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What `fetch` may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// `http://upstream`, `https://host:port`: origins, exactly.
    pub allow: Vec<Origin>,
    /// Fetches per request of the client.
    pub max: u32,
    pub timeout: Duration,
    /// Bytes of one response body.
    pub max_body: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// `http://host`, `https://host:port`; nothing beside scheme, host and port.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: http::Uri = text.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || uri.path() != "/" || uri.query().is_some() {
            return None;
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host: authority.host().to_ascii_lowercase(), port })
    }
}

impl std::fmt::Display for Origin {
    /// As in a URL, without the port that the scheme implies.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tls, host, port } = self;
        match (tls, port) {
            (false, 80) => write!(f, "http://{host}"),
            (true, 443) => write!(f, "https://{host}"),
            (false, _) => write!(f, "http://{host}:{port}"),
            (true, _) => write!(f, "https://{host}:{port}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterLimits {
    pub cpu: Duration,
    pub body_cpu: Duration,
    pub wall: Duration,
    pub memory: usize,
    pub operations: u64,
    /// Bytes that all runs together may leave behind.
    pub leaked: u64,
}

impl Default for FilterLimits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_millis(50),
            body_cpu: Duration::from_secs(10),
            wall: Duration::from_secs(10),
            memory: 16 << 20,
            operations: 10_000_000,
            leaked: 64 << 20,
        }
    }
}

/// What a fault of the script means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFault {
    /// 500, nothing told.
    Closed,
    /// The unedited request goes on.
    Open,
    /// The version that served before the last change runs instead; without one, as `Closed`.
    Previous,
}

/// Whether a filter serves without tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tests {
    #[default]
    Optional,
    /// `check`, a start and a reload run them, and refuse what fails.
    Required,
}

/// Who runs a script's functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lowering {
    /// Closures made of them at load.
    #[default]
    On,
    /// Rhai's evaluator.
    Off,
    /// Rhai's evaluator, and then the closures on a copy, to compare.
    Verify,
}

impl Lowering {
    /// For all filters that do not say.
    pub const VARIABLE: &str = "SELVEDGE_LOWERING";

    /// What a filter does that does not say: as the environment says, or the default.
    pub fn usual() -> Result<Self, String> {
        let Some(value) = std::env::var_os(Self::VARIABLE) else { return Ok(Self::default()) };
        match value.to_str() {
            Some("on") => Ok(Self::On),
            Some("off") => Ok(Self::Off),
            Some("verify") => Ok(Self::Verify),
            _ => {
                let (name, value) = (Self::VARIABLE, value.to_string_lossy());
                Err(format!(
                    "the environment variable {name} is on, off or verify, not \"{value}\""
                ))
            }
        }
    }
}

section! {
    /// A script and what it may reach. Nothing is granted by default.
    pub struct RawFilter as "filter" {
        /// The Rhai file, relative to this configuration.
        script: PathBuf,
        /// Free-form data that the script reads as `config`.
        config: Option<Free>,
        /// Secrets by the name that the script uses.
        secrets: Named<RawSecret> = "{}",
        /// What the script may fetch.
        fetch: RawFetch = "{}",
        /// Which bodies it sees.
        body: RawBodyAccess = "{}",
        /// Namespaces of `state.kv` that the script may use: `read` or `read_write`.
        kv: Named<Access> = "{}",
        /// Names of `state.rate_limits` that the script may count with.
        rate_limits: Vec<At<String>> = "[]",
        /// Names of `state.counters` that the script may read and change.
        counters: Vec<At<String>> = "[]",
        /// Names of `state.locks` that the script may take.
        locks: Vec<At<String>> = "[]",
        /// Names of `state.dicts` that the script may read.
        dicts: Vec<At<String>> = "[]",
        /// Names of `state.ipsets` that the script may ask.
        ipsets: Vec<At<String>> = "[]",
        /// When `on_schedule` runs.
        schedule: Vec<RawSchedule> = "[]",
        /// What one run of a hook may use.
        limits: RawFilterLimits = "{}",
        /// What a fault means: `closed` answers 500, `open` goes on with the unedited request,
        /// `previous` runs the hook of the version before the last change of the script instead,
        /// and is `closed` where there is none.
        on_fault: OnFault = "closed",
        /// Takes the filter out while too many of its runs fault (`failures`, of at least
        /// `min_requests` runs in the `window`): `on_fault` says what happens without it.
        breaker: Option<RawBreaker>,
        /// `required`: the tests beside the script (`auth_test.rhai` for `auth.rhai`) must be
        /// there and pass, else the configuration is refused.
        tests: Tests = "optional",
        /// `on`: functions run as closures made of them at load. `off`: Rhai's evaluator runs
        /// them. `verify`: Rhai's evaluator runs them, and the closures run after it on a copy;
        /// a difference is logged and counted. Left out, it is what the environment variable
        /// `SELVEDGE_LOWERING` says, and `on` without it.
        lowering: Option<Lowering>,
    }
}

section! {
    /// Where a secret comes from; exactly one key.
    pub struct RawSecret as "secret" {
        /// A file; one final line break is not part of the secret.
        file: Option<At<PathBuf>>,
        /// An environment variable.
        env: Option<At<String>>,
    }
}

section! {
    /// What `fetch` may reach.
    pub struct RawFetch as "fetch" {
        /// Origins, exactly: `http://<upstream>` or `https://host[:port]`. A
        /// name in the DNS must be at a public address; make a private service an upstream.
        allow: Vec<At<String>> = "[]",
        /// Fetches that this filter may start for one request, in all of its hooks together.
        max: u32 = "8",
        /// The longest time for one fetch.
        timeout: Duration = "5s",
        /// The largest response body.
        max_body: Bytes = "1MiB",
    }
}

section! {
    /// What one run of a hook may use.
    pub struct RawFilterLimits as "filter limits" {
        /// CPU time; also of the callbacks of transforms on each 64 KiB of a body.
        cpu: Duration = "50ms",
        /// CPU time of the callbacks of transforms on one body as a whole.
        body_cpu: Duration = "10s",
        /// Time in all, waiting included.
        wall: Duration = "10s",
        /// Memory.
        memory: At<Bytes> = "16MiB",
        /// Steps of the script engine.
        operations: At<u64> = "10000000",
        /// What all runs together may leave behind in values that hold each other, which are never
        /// freed. Beyond it the filter is out until the next reload.
        leaked: Bytes = "64MiB",
    }
}

choice!(OnFault {
    "closed" => OnFault::Closed,
    "open" => OnFault::Open,
    "previous" => OnFault::Previous,
});
choice!(Lowering {
    "on" => Lowering::On,
    "off" => Lowering::Off,
    "verify" => Lowering::Verify,
});
choice!(Tests { "optional" => Tests::Optional, "required" => Tests::Required });

pub fn resolve(
    raw: Named<RawFilter>,
    upstreams: &[Upstream],
    declared: &State,
    problems: &mut Problems,
) -> Vec<Filter> {
    let resolve_one = |(name, raw): (At<String>, RawFilter)| Filter {
        lowering: raw.lowering.unwrap_or_else(|| {
            Lowering::usual().unwrap_or_else(|message| {
                name.problem(problems, message, None);
                Lowering::default()
            })
        }),
        name: name.value.as_str().into(),
        script: raw.script,
        config: raw.config.map_or(serde_json::Value::Null, |free| free.value),
        secrets: resolve_secrets(raw.secrets, problems),
        fetch: Fetch {
            allow: raw
                .fetch
                .allow
                .iter()
                .filter_map(|o| resolve_origin(o, upstreams, problems))
                .collect(),
            max: raw.fetch.max,
            timeout: raw.fetch.timeout,
            max_body: usize::try_from(raw.fetch.max_body.0).unwrap_or(usize::MAX),
        },
        body: body::resolve(raw.body, problems),
        state: state::resolve_grants(
            RawGrants {
                kv: raw.kv,
                rate_limits: raw.rate_limits,
                counters: raw.counters,
                locks: raw.locks,
                dicts: raw.dicts,
                ipsets: raw.ipsets,
            },
            declared,
            problems,
        ),
        schedule: schedule::resolve(raw.schedule, declared, problems),
        limits: resolve_limits(raw.limits, problems),
        on_fault: raw.on_fault,
        breaker: raw.breaker.map(|raw| resolve_breaker(raw, problems)),
        tests: raw.tests,
    };
    raw.0.into_iter().map(resolve_one).collect()
}

fn resolve_limits(raw: RawFilterLimits, problems: &mut Problems) -> FilterLimits {
    const LEAST_MEMORY: u64 = 64 << 10;
    if !(LEAST_MEMORY..=1 << 30).contains(&raw.memory.value.0) {
        raw.memory.problem(problems, "a filter's memory is 64KiB to 1GiB", None);
    }
    if raw.operations.value == 0 {
        raw.operations.problem(problems, "a filter needs some operations to run", None);
    }
    FilterLimits {
        cpu: raw.cpu,
        body_cpu: raw.body_cpu,
        wall: raw.wall,
        memory: usize::try_from(raw.memory.value.0).unwrap_or(usize::MAX),
        operations: raw.operations.value,
        leaked: raw.leaked.0,
    }
}

fn resolve_secrets(raw: Named<RawSecret>, problems: &mut Problems) -> BTreeMap<String, Secret> {
    let mut secrets = BTreeMap::new();
    for (name, raw) in raw.0 {
        if let Some(secret) = resolve_secret(&name, raw, problems) {
            secrets.insert(name.value, secret);
        }
    }
    secrets
}

/// The secret that is configured at `place`.
pub(super) fn resolve_secret<T>(
    place: &At<T>,
    raw: RawSecret,
    problems: &mut Problems,
) -> Option<Secret> {
    let bytes = match (raw.file, raw.env) {
        (Some(file), None) => std::fs::read(&file.value).map(without_line_break).map_err(|e| {
            file.problem(problems, format!("{}: {e}", file.value.display()), None);
        }),
        (None, Some(env)) => std::env::var(&env.value).map(String::into_bytes).map_err(|_| {
            let message = format!("the environment variable {} is not set", env.value);
            env.problem(problems, message, None);
        }),
        _ => {
            place.problem(problems, "a secret needs exactly one of file, env", None);
            Err(())
        }
    };
    match bytes {
        Ok(bytes) if bytes.is_empty() => {
            place.problem(problems, "this secret is empty", None);
            None
        }
        Ok(bytes) => Some(Secret::new(bytes)),
        Err(()) => None,
    }
}

fn without_line_break(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    bytes
}

/// `http://name` and nothing more.
fn is_bare(origin: &str) -> bool {
    let name = origin.strip_prefix("http://");
    name.is_some_and(|name| !name.trim_end_matches('/').contains(':'))
}

fn resolve_origin(
    raw: &At<String>,
    upstreams: &[Upstream],
    problems: &mut Problems,
) -> Option<Origin> {
    let Some(origin) = Origin::parse(&raw.value) else {
        let message = format!("\"{}\" is not an origin", raw.value);
        let hint = "write http://host, https://host or http://host:port, without a path";
        raw.problem(problems, message, Some(hint.into()));
        return None;
    };
    if upstreams.iter().any(|upstream| *upstream.name == *origin.host) && !is_bare(&raw.value) {
        let message =
            format!("\"{}\" is an upstream, which says itself how to be reached", origin.host);
        raw.problem(problems, message, Some(format!("write http://{}", origin.host)));
    }
    // A name without a dot is no public host: it is meant to be an upstream.
    let local = !origin.host.contains(['.', ':']) && origin.host != "localhost";
    let names = || upstreams.iter().map(|upstream| &*upstream.name);
    if local && !names().any(|name| name == origin.host) {
        let message = format!("there is no upstream named \"{}\"", origin.host);
        raw.problem(problems, message, nearest(&origin.host, names()));
    }
    Some(origin)
}
