//! What filters under test keep: grants and lists from a test's settings, and `state()`, by which
//! a test reads and sets what its requests share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rhai::{Dynamic, Engine, Map};

use super::bench::Bench;
use super::given::{array_in, known, map_in};
use super::{Told, told};
use crate::config::state::{Access, Algorithm, Grants, Namespace, RateLimit};
use crate::config::values::parse_duration;
use crate::script::api::convert::to_json;
use crate::state::{Dict, Geo, IpSet, Lists, Live, Memory, Put, State, Store, When};

/// `state()`: what the requests of a test keep.
#[derive(Clone)]
struct Kept {
    state: Arc<State>,
    store: Arc<Memory>,
}

pub fn register(engine: &mut Engine, bench: &Arc<Bench>) {
    let bench = Arc::clone(bench);
    engine
        .register_type_with_name::<Kept>("State")
        .register_fn("state", move || {
            let (state, store) = bench.stage().kept();
            Kept { state, store }
        })
        .register_fn("put", |kept: &mut Kept, namespace: &str, key: &str, value: Dynamic| {
            put(&kept.store, namespace, key, &value)
        })
        .register_fn("get", |kept: &mut Kept, namespace: &str, key: &str| {
            get(&kept.store, namespace, key)
        })
        .register_fn("fail", |kept: &mut Kept, failing: bool| kept.store.fail(failing))
        .register_fn("counter", |kept: &mut Kept, name: &str| {
            kept.state.counters.get(name).load(std::sync::atomic::Ordering::Relaxed)
        });
}

/// As large as a configuration's by default.
fn namespace(name: &str) -> Arc<Namespace> {
    Arc::new(Namespace { name: name.to_owned(), size: 64 << 20, max_value: 256 << 10, ttl: None })
}

/// The future of a store in memory, which never waits.
fn now<T>(mut answer: crate::state::BoxFuture<'static, T>) -> Told<T> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match answer.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(value) => Ok(value),
        std::task::Poll::Pending => Err(told("the store of a test waits")),
    }
}

fn put(store: &Memory, of: &str, key: &str, value: &Dynamic) -> Told<()> {
    let text = match value.is_map() || value.is_array() {
        true => to_json(value)?.to_string(),
        false => value.to_string(),
    };
    let put = Put { key: key.to_owned(), value: text.into(), ttl: None, when: When::Always };
    now(store.put(&namespace(of), put))?.map_err(|error| told(error.to_string()))?;
    Ok(())
}

fn get(store: &Memory, of: &str, key: &str) -> Told<Dynamic> {
    let found = now(store.get(&namespace(of), key.to_owned()))?;
    let found = found.map_err(|error| told(error.to_string()))?;
    Ok(found.map_or(Dynamic::UNIT, |value| String::from_utf8_lossy(&value).into_owned().into()))
}

/// `kv: #{ flags: "read" }`, `rate_limits: #{ api: #{ limit: 10, per: "1s" } }`, and lists of names.
pub fn grants_of(settings: &Map) -> Told<Grants> {
    let mut kv = BTreeMap::new();
    for (name, access) in map_in(settings, "kv")? {
        let access = match access.to_string().as_str() {
            "read" => Access::Read,
            "read_write" => Access::ReadWrite,
            other => return Err(told(format!("kv.{name}: read or read_write, not {other}"))),
        };
        kv.insert(name.to_string(), (namespace(&name), access));
    }
    let mut rate_limits = BTreeMap::new();
    for (name, limit) in map_in(settings, "rate_limits")? {
        rate_limits.insert(name.to_string(), Arc::new(rate_limit(&name, &limit)?));
    }
    let keys = |name: &str| -> Told<BTreeSet<String>> {
        Ok(map_in(settings, name)?.keys().map(ToString::to_string).collect())
    };
    Ok(Grants {
        kv,
        rate_limits,
        counters: names_in(settings, "counters")?,
        locks: names_in(settings, "locks")?,
        dicts: keys("dicts")?,
        ipsets: keys("ipsets")?,
    })
}

fn rate_limit(name: &str, given: &Dynamic) -> Told<RateLimit> {
    let wrong = |what: &str| told(format!("rate_limits.{name}: {what}"));
    let map = given.read_lock::<Map>().ok_or_else(|| wrong("a map with limit and per"))?;
    known(&map, &format!("the rate limit {name}"), &["limit", "per", "burst"])?;
    let count = |key: &str| -> Told<Option<u32>> {
        let Some(value) = map.get(key) else { return Ok(None) };
        let count = value.as_int().ok().and_then(|count| u32::try_from(count).ok());
        count.filter(|count| *count > 0).map(Some).ok_or_else(|| wrong(&format!("{key}: a count")))
    };
    let per = map.get("per").map(ToString::to_string).unwrap_or_default();
    Ok(RateLimit {
        name: name.to_owned(),
        limit: count("limit")?.ok_or_else(|| wrong("it needs a limit"))?,
        per: parse_duration(&per)
            .ok()
            .filter(|per| *per >= Duration::from_millis(1))
            .ok_or_else(|| wrong("per: a time such as \"2s\""))?,
        // As in a configuration, only a bucket has a burst.
        algorithm: count("burst")?
            .map_or(Algorithm::SlidingWindow, |burst| Algorithm::TokenBucket { burst }),
        keys: 100_000,
    })
}

/// `dicts: #{ codes: #{ a: "1" } }`, `ipsets: #{ office: ["10.0.0.0/8"] }`.
pub fn lists_of(settings: &Map) -> Told<Lists> {
    // Where a client is, each request says.
    let places = Arc::new(Live::fixed(Geo::default()));
    let mut lists = Lists { geo: vec![places], ..Lists::default() };
    for (name, entries) in map_in(settings, "dicts")? {
        let dict = Dict::from_json(&to_json(&entries)?.to_string());
        let dict = dict.map_err(|_| told(format!("dicts.{name}: a map of values by key")))?;
        lists.dicts.insert(name.to_string(), Arc::new(Live::fixed(dict)));
    }
    for (name, networks) in map_in(settings, "ipsets")? {
        let networks = IpSet::parse_json(&to_json(&networks)?.to_string());
        let networks = networks.map_err(|bad| told(format!("ipsets.{name}: {}", bad.message)))?;
        lists.ipsets.insert(name.to_string(), Arc::new(Live::fixed(IpSet::new(&networks))));
    }
    Ok(lists)
}

fn names_in(settings: &Map, key: &str) -> Told<BTreeSet<String>> {
    Ok(array_in(settings, key)?.iter().map(ToString::to_string).collect())
}
