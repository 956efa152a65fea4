//! Configuration: YAML text in, a typed `Config` that cannot be invalid out, or every problem at once.

pub mod aggregate;
pub mod body;
pub mod cache;
pub mod cron;
pub mod env;
pub mod filters;
pub mod listeners;
pub mod pattern;
pub mod problem;
pub mod read;
pub mod reference;
pub mod routes;
pub mod schedule;
pub mod service;
pub mod state;
pub mod traffic;
pub mod upstreams;
pub mod values;
pub mod yaml;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use self::body::BodyAccess;
use self::cache::Cache;
use self::filters::{Filter, RawFilter};
use self::listeners::{Listener, RawListener};
use self::problem::{Pos, Problem, Problems};
use self::read::{At, Named, Read, Reader, section};
use self::routes::{RawRoute, Route};
use self::service::{AccessLog, Limits, Service};
use self::state::{RawState, State};
use self::upstreams::{RawUpstream, Upstream};

section! {
    /// The whole file.
    pub struct RawConfig as "configuration" {
        /// Where clients connect, by name.
        listeners: At<Named<RawListener>>,
        /// Groups of origins, by name.
        upstreams: Named<RawUpstream> = "{}",
        /// Scripts, by name.
        filters: Named<RawFilter> = "{}",
        /// What filters keep between requests, and lists that they look things up in.
        state: RawState = "{}",
        /// Which request goes where.
        routes: At<Vec<RawRoute>>,
        /// The store of all routes that have a cache.
        cache: Cache = "{}",
        /// Proxies whose `X-Forwarded-For` is believed, right to left.
        trusted_proxies: Vec<IpNet> = "[]",
        /// Health, readiness, reload and state, for operators.
        admin: Option<Service>,
        /// Prometheus metrics under `/metrics`.
        metrics: Option<Service>,
        /// Lines about requests.
        access_log: AccessLog = "{}",
        /// What clients may take.
        limits: Limits = "{}",
    }
}

/// What the program runs on.
#[derive(Debug)]
pub struct Config {
    pub listeners: Vec<Listener>,
    pub upstreams: Vec<Upstream>,
    pub filters: Vec<Filter>,
    pub state: State,
    pub routes: Vec<Route>,
    pub cache: Cache,
    pub trusted_proxies: Vec<IpNet>,
    pub admin: Option<Service>,
    pub metrics: Option<Service>,
    pub access_log: AccessLog,
    pub limits: Limits,
    /// What was typed, with defaults, for people to look at.
    pub effective: serde_yaml::Value,
    /// Where filters and routes stand in the file, for problems found while they are built.
    pub places: Places,
}

/// Positions by index into `Config::filters`, `Config::routes`, `Config::listeners`.
#[derive(Debug, Default)]
pub struct Places {
    pub filters: Vec<Pos>,
    pub routes: Vec<Pos>,
    pub listeners: Vec<Pos>,
    pub upstreams: Vec<Pos>,
}

/// Bytes of a configuration file: ten thousand routes take a twentieth of it.
const MAX_FILE: u64 = 32 << 20;

impl Places {
    /// As many places, none of them known.
    fn forgotten(&self) -> Self {
        let none = |places: &[Pos]| vec![Pos::default(); places.len()];
        Self {
            filters: none(&self.filters),
            routes: none(&self.routes),
            listeners: none(&self.listeners),
            upstreams: none(&self.upstreams),
        }
    }
}

/// Where a configuration comes from, at the start and at each reload.
#[derive(Debug, Clone)]
pub enum Input {
    File(PathBuf),
    /// What the arguments of a command say, written as YAML.
    Arguments(String),
}

impl Input {
    /// Names the input in problems; relative paths start from its folder.
    pub fn file(&self) -> &Path {
        match self {
            Self::File(file) => file,
            Self::Arguments(_) => Path::new("(arguments)"),
        }
    }

    pub fn load(&self) -> Result<Config, Vec<Problem>> {
        match self {
            Self::File(file) => load(file),
            // Who gave arguments does not know the text that was made of them.
            Self::Arguments(text) => parse(text, self.file())
                .map(|config| Config { places: config.places.forgotten(), ..config })
                .map_err(|problems| {
                    let placeless = |problem| Problem { line: 0, column: 0, ..problem };
                    problems.into_iter().map(placeless).collect()
                }),
        }
    }
}

/// Reads and resolves a configuration file.
pub fn load(file: &Path) -> Result<Config, Vec<Problem>> {
    let text = read_text(file).map_err(|(at, message)| {
        let mut problems = Problems::new(file);
        problems.add(at, "", message, None);
        problems.into_sorted()
    })?;
    parse(&text, file)
}

pub(in crate::config) fn read_text(file: &Path) -> Result<String, (Pos, String)> {
    let whole = Pos::default();
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| (whole, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err((whole, format!("larger than {} MiB", MAX_FILE >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        let before = valid.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = String::from_utf8_lossy(before).chars().count() + 1;
        (Pos { line, column }, "not a text in UTF-8".to_owned())
    })
}

/// The same for text that is in hand; `file` names it in problems and anchors relative paths.
pub fn parse(text: &str, file: &Path) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::new(file);
    let config = read_raw(text, &mut problems).map(|raw| resolve(raw, &mut problems));
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => {
            if problems.is_empty() {
                problems.add(Pos::default(), "", "the configuration is empty", None);
            }
            Err(problems.into_sorted())
        }
    }
}

fn read_raw(text: &str, problems: &mut Problems) -> Option<RawConfig> {
    let mut root = yaml::parse(text, problems)?;
    let cx = &mut Reader::new(problems);
    env::expand(&mut root, &|name| std::env::var(name).ok(), cx);
    RawConfig::read(&root, cx)
}

fn resolve(raw: RawConfig, problems: &mut Problems) -> Config {
    let effective = raw.show();
    let places = Places {
        filters: raw.filters.0.iter().map(|(name, _)| name.at).collect(),
        routes: raw.routes.value.iter().map(|route| route.name.at).collect(),
        listeners: raw.listeners.value.0.iter().map(|(name, _)| name.at).collect(),
        upstreams: raw.upstreams.0.iter().map(|(name, _)| name.at).collect(),
    };
    if raw.listeners.value.0.is_empty() {
        raw.listeners.problem(problems, "at least one listener is needed", None);
    }
    if raw.routes.value.is_empty() {
        raw.routes.problem(problems, "at least one route is needed", None);
    }
    raw.cache.check(problems);
    raw.limits.check(problems);
    raw.access_log.check(problems);
    let listeners = listeners::resolve(raw.listeners.value, problems);
    let services = [("admin", raw.admin.as_ref()), ("metrics", raw.metrics.as_ref())];
    service::check_addresses(&services, &listeners, problems);
    let upstreams = upstreams::resolve(raw.upstreams, problems);
    let state = state::resolve(raw.state, problems);
    let filters = filters::resolve(raw.filters, &upstreams, &state, problems);
    for filter in filters.iter().filter(|filter| filter.body != BodyAccess::NONE) {
        body::check_total(filter.body.limit, &raw.limits.held_bodies, &filter.name, problems);
    }
    state::check_store(&state, &filters, problems);
    let routes = routes::resolve(raw.routes.value, &upstreams, &filters, problems);
    Config {
        listeners,
        upstreams,
        filters,
        state,
        routes,
        cache: raw.cache,
        trusted_proxies: raw.trusted_proxies,
        admin: raw.admin,
        metrics: raw.metrics,
        access_log: raw.access_log,
        limits: raw.limits,
        effective,
        places,
    }
}

#[cfg(test)]
mod tests;
