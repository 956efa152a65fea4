//! `state`: what filters keep between requests, and lists that they look things up in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::filters::Filter;
use super::problem::{Problems, nearest};
use super::read::{At, Named, check_name, choice, section};
use super::values::Bytes;

#[derive(Debug, Clone, Default)]
pub struct State {
    pub store: Option<Store>,
    pub namespaces: Vec<Arc<Namespace>>,
    pub rate_limits: Vec<Arc<RateLimit>>,
    pub counters: BTreeSet<String>,
    pub locks: BTreeSet<String>,
    pub dicts: Vec<Dict>,
    pub ipsets: Vec<IpSet>,
    /// Files that know where addresses are; the first counts most.
    pub geo: Vec<At<PathBuf>>,
}

/// The embedded store.
#[derive(Debug, Clone)]
pub struct Store {
    pub path: At<PathBuf>,
    /// Bytes.
    pub cache: usize,
}

/// A part of the store with a bound of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub name: String,
    /// Bytes of all entries together.
    pub size: u64,
    /// Bytes of one value.
    pub max_value: usize,
    /// For entries that are put without one.
    pub ttl: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    pub name: String,
    pub limit: u32,
    pub per: Duration,
    pub algorithm: Algorithm,
    /// Keys remembered at once.
    pub keys: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// At most `limit` in any stretch of `per`.
    SlidingWindow,
    /// `limit` each `per` in the long run, and up to `burst` at once.
    TokenBucket { burst: u32 },
}

/// Values by key, from a file.
#[derive(Debug, Clone)]
pub struct Dict {
    pub name: String,
    pub file: At<PathBuf>,
}

/// Networks, from a file, from the configuration, or both.
#[derive(Debug, Clone)]
pub struct IpSet {
    pub name: String,
    pub file: Option<At<PathBuf>>,
    pub networks: Vec<IpNet>,
}

/// What one filter may use of all this. Nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    pub kv: BTreeMap<String, (Arc<Namespace>, Access)>,
    pub rate_limits: BTreeMap<String, Arc<RateLimit>>,
    pub counters: BTreeSet<String>,
    pub locks: BTreeSet<String>,
    pub dicts: BTreeSet<String>,
    pub ipsets: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

choice!(Access { "read" => Access::Read, "read_write" => Access::ReadWrite });

section! {
    /// What filters keep between requests, and lists that they look things up in.
    pub struct RawState as "state" {
        /// Where `kv` keeps its data; needed by namespaces.
        store: Option<RawStore>,
        /// Namespaces of the store, for `kv(name)`.
        kv: Named<RawNamespace> = "{}",
        /// For `rate_limit(name, key)`.
        rate_limits: Named<RawRateLimit> = "{}",
        /// Names for `counter(name)`.
        counters: Vec<At<String>> = "[]",
        /// Names for `lock(name)`.
        locks: Vec<At<String>> = "[]",
        /// Values by key, for `dict(name)`.
        dicts: Named<RawDict> = "{}",
        /// Sets of networks, for `ipset(name)`.
        ipsets: Named<RawIpSet> = "{}",
        /// Files that know where addresses are, for `req.client.geo`: databases of MaxMind
        /// (`.mmdb`), and `.csv` of networks. What the first knows of an address, it knows best.
        geo: Vec<At<PathBuf>> = "[]",
    }
}

section! {
    /// The embedded store: one file, of one process. It survives reloads, restarts and crashes.
    pub struct RawStore as "store" {
        /// The file. It is made if it is not there; its folder is not. Changes at a restart only.
        path: At<PathBuf>,
        /// Memory for parts of the file that were read before. Changes at a restart only.
        cache: At<Bytes> = "64MiB",
    }
}

section! {
    /// A part of the store with a bound of its own.
    pub struct RawNamespace as "namespace" {
        /// Keys and values together, and 64 bytes for each entry. A put beyond it fails.
        size: At<Bytes> = "64MiB",
        /// The largest value, at most 1MiB.
        max_value: At<Bytes> = "256KiB",
        /// How long an entry lives that was put without a ttl; left out, for ever.
        ttl: Option<Duration>,
    }
}

section! {
    /// How often something may happen for one key, on this node.
    pub struct RawRateLimit as "rate limit" {
        /// How many are allowed.
        limit: At<u32>,
        /// In which time, 1ms to 1d.
        per: At<Duration>,
        /// `sliding_window`: at most `limit` in any stretch of `per`. `token_bucket`: `limit` each
        /// `per` in the long run, and up to `burst` at once.
        algorithm: RawAlgorithm = "sliding_window",
        /// For `token_bucket`: how many at once; left out, `limit`.
        burst: Option<At<u32>>,
        /// Keys remembered at once; those not seen for longest are forgotten first.
        keys: At<u32> = "100000",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawAlgorithm {
    SlidingWindow,
    TokenBucket,
}

choice!(RawAlgorithm {
    "sliding_window" => RawAlgorithm::SlidingWindow,
    "token_bucket" => RawAlgorithm::TokenBucket,
});

section! {
    /// Values by key, read at the start and at each reload.
    pub struct RawDict as "dict" {
        /// `.csv`: lines of `key,value`. `.json`: one object.
        file: At<PathBuf>,
    }
}

section! {
    /// Networks, from a file, from here, or both; read at the start and at each reload.
    pub struct RawIpSet as "ipset" {
        /// An address or a network on each line, `#` begins a comment; `.json`: a list of texts.
        file: Option<At<PathBuf>>,
        /// Addresses and networks.
        networks: Vec<IpNet> = "[]",
    }
}

/// As large as a script's strings.
const LARGEST_VALUE: u64 = 1 << 20;
const LARGEST_SIZE: u64 = 1 << 40;
const SMALLEST_CACHE: u64 = 1 << 20;
const LARGEST_CACHE: u64 = 64 << 30;
const DAY: Duration = Duration::from_secs(86_400);
/// A key takes about 100 bytes, and with the sliding window up to 1 KiB.
const MOST_KEYS: u32 = 10_000_000;
/// The limiter's shards have two places at least.
const FEWEST_KEYS: u32 = 128;
const MOST_LIMIT: u32 = 1_000_000_000;

pub fn resolve(raw: RawState, problems: &mut Problems) -> State {
    if let (None, Some((name, _))) = (&raw.store, raw.kv.0.first()) {
        let hint = "add state.store: { path: state.redb }";
        name.problem(problems, "a namespace needs a store", Some(hint.into()));
    }
    State {
        store: raw.store.map(|store| Store {
            cache: bounded(&store.cache, SMALLEST_CACHE..=LARGEST_CACHE, "1MiB to 64GiB", problems),
            path: store.path,
        }),
        namespaces: raw.kv.0.into_iter().map(|n| Arc::new(namespace(n, problems))).collect(),
        rate_limits: raw
            .rate_limits
            .0
            .into_iter()
            .map(|(name, raw)| Arc::new(rate_limit(name.value, &raw, problems)))
            .collect(),
        counters: names(raw.counters, problems),
        locks: names(raw.locks, problems),
        dicts: raw.dicts.0.into_iter().map(|(name, d)| dict(name.value, d, problems)).collect(),
        ipsets: raw.ipsets.0.into_iter().map(|(name, set)| ip_set(name, set, problems)).collect(),
        geo: geo(raw.geo, problems),
    }
}

/// A store that nothing uses is a mistake.
pub fn check_store(state: &State, filters: &[Filter], problems: &mut Problems) {
    let once = || filters.iter().flat_map(|filter| &filter.schedule).any(|entry| entry.once);
    if let (Some(store), true) = (&state.store, state.namespaces.is_empty() && !once()) {
        let message = "the store has no effect without a namespace";
        store.path.problem(problems, message, Some("add one under state.kv".into()));
    }
}

fn bounded(
    size: &At<Bytes>,
    range: std::ops::RangeInclusive<u64>,
    shown: &str,
    problems: &mut Problems,
) -> usize {
    if !range.contains(&size.value.0) {
        size.problem(problems, format!("must be between {}", shown.replace(" to ", " and ")), None);
    }
    usize::try_from(size.value.0).unwrap_or(usize::MAX)
}

fn namespace((name, raw): (At<String>, RawNamespace), problems: &mut Problems) -> Namespace {
    let size = bounded(&raw.size, 1024..=LARGEST_SIZE, "1KiB to 1024GiB", problems);
    Namespace {
        name: name.value,
        size: size as u64,
        max_value: bounded(&raw.max_value, 1..=LARGEST_VALUE, "1 to 1MiB", problems),
        ttl: raw.ttl,
    }
}

fn rate_limit(name: String, raw: &RawRateLimit, problems: &mut Problems) -> RateLimit {
    if !(1..=MOST_LIMIT).contains(&raw.limit.value) {
        raw.limit.problem(problems, format!("must be between 1 and {MOST_LIMIT}"), None);
    }
    if !(Duration::from_millis(1)..=DAY).contains(&raw.per.value) {
        raw.per.problem(problems, "must be between 1ms and 1d", None);
    }
    if !(FEWEST_KEYS..=MOST_KEYS).contains(&raw.keys.value) {
        let range = format!("must be between {FEWEST_KEYS} and {MOST_KEYS}");
        raw.keys.problem(problems, range, None);
    }
    let algorithm = match (raw.algorithm, &raw.burst) {
        (RawAlgorithm::TokenBucket, None) => Algorithm::TokenBucket { burst: raw.limit.value },
        (RawAlgorithm::TokenBucket, Some(burst)) => {
            if !(1..=MOST_LIMIT).contains(&burst.value) {
                burst.problem(problems, format!("must be between 1 and {MOST_LIMIT}"), None);
            }
            Algorithm::TokenBucket { burst: burst.value }
        }
        (RawAlgorithm::SlidingWindow, burst) => {
            if let Some(burst) = burst {
                let hint = Some("add algorithm: token_bucket".into());
                burst.problem(problems, "burst has no effect on a sliding window", hint);
            }
            Algorithm::SlidingWindow
        }
    };
    let (limit, per) = (raw.limit.value, raw.per.value);
    RateLimit { name, limit, per, algorithm, keys: raw.keys.value as usize }
}

fn names(raw: Vec<At<String>>, problems: &mut Problems) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for name in raw {
        if let Err(message) = check_name(&name.value) {
            name.problem(problems, message, None);
        } else if names.contains(&name.value) {
            name.problem(problems, format!("\"{}\" is here twice", name.value), None);
        }
        names.insert(name.value);
    }
    names
}

fn dict(name: String, raw: RawDict, problems: &mut Problems) -> Dict {
    let extension = raw.file.value.extension().and_then(|extension| extension.to_str());
    if !matches!(extension, Some("csv" | "json")) {
        raw.file.problem(problems, "a dict's file ends in .csv or .json", None);
    }
    Dict { name, file: raw.file }
}

fn ip_set(name: At<String>, raw: RawIpSet, problems: &mut Problems) -> IpSet {
    if raw.file.is_none() && raw.networks.is_empty() {
        name.problem(problems, "an ipset needs a file or networks", None);
    }
    IpSet { name: name.value, file: raw.file, networks: raw.networks }
}

fn geo(files: Vec<At<PathBuf>>, problems: &mut Problems) -> Vec<At<PathBuf>> {
    for (index, file) in files.iter().enumerate() {
        let extension = file.value.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("mmdb" | "csv")) {
            file.problem(problems, "a geo file ends in .mmdb or .csv", None);
        }
        if files[..index].iter().any(|before| before.value == file.value) {
            file.problem(problems, "this file is here twice", None);
        }
    }
    files
}

/// What a filter's section says of its grants.
pub struct RawGrants {
    pub kv: Named<Access>,
    pub rate_limits: Vec<At<String>>,
    pub counters: Vec<At<String>>,
    pub locks: Vec<At<String>>,
    pub dicts: Vec<At<String>>,
    pub ipsets: Vec<At<String>>,
}

pub fn resolve_grants(raw: RawGrants, state: &State, problems: &mut Problems) -> Grants {
    let mut grants = Grants::default();
    for (name, access) in raw.kv.0 {
        let found = state.namespaces.iter().find(|namespace| namespace.name == name.value);
        match found {
            Some(namespace) => {
                grants.kv.insert(name.value, (Arc::clone(namespace), access));
            }
            None => {
                let names = state.namespaces.iter().map(|namespace| namespace.name.as_str());
                unknown(&name, "kv", names, problems);
            }
        }
    }
    for name in raw.rate_limits {
        match state.rate_limits.iter().find(|limit| limit.name == name.value) {
            Some(limit) => {
                grants.rate_limits.insert(name.value, Arc::clone(limit));
            }
            None => {
                let names = state.rate_limits.iter().map(|limit| limit.name.as_str());
                unknown(&name, "rate_limits", names, problems);
            }
        }
    }
    let texts = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
    let dicts: Vec<_> = state.dicts.iter().map(|dict| dict.name.clone()).collect();
    let ipsets: Vec<_> = state.ipsets.iter().map(|set| set.name.clone()).collect();
    grants.counters = granted(raw.counters, "counters", &texts(&state.counters), problems);
    grants.locks = granted(raw.locks, "locks", &texts(&state.locks), problems);
    grants.dicts = granted(raw.dicts, "dicts", &dicts, problems);
    grants.ipsets = granted(raw.ipsets, "ipsets", &ipsets, problems);
    grants
}

fn granted(
    raw: Vec<At<String>>,
    section: &str,
    declared: &[String],
    problems: &mut Problems,
) -> BTreeSet<String> {
    for name in raw.iter().filter(|name| !declared.contains(&name.value)) {
        unknown(name, section, declared.iter().map(String::as_str), problems);
    }
    raw.into_iter().map(|name| name.value).collect()
}

fn unknown<'a>(
    name: &At<String>,
    section: &str,
    declared: impl Iterator<Item = &'a str>,
    problems: &mut Problems,
) {
    let message = format!("state.{section} has no \"{}\"", name.value);
    name.problem(problems, message, nearest(&name.value, declared));
}
