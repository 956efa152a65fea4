//! `kv(namespace)`: entries of the store, as far as the filter's configuration grants them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rhai::{Array, Dynamic, Map, NativeCallContext};

use super::convert::{bytes_of, scalar_text, to_json};
use super::state::{State, wait};
use super::table::Table;
use super::{Outcome, Raised, fail, invalid};
use crate::config::state::{Access, Namespace};
use crate::script::fiber;
use crate::state::{Page, Put, Store, StoreError, When};

/// Keys in one list, unless the script wants fewer.
const PAGE: usize = 1000;
/// Seconds of a ttl: ten years.
const LONGEST_TTL: f64 = 10.0 * 365.0 * 86_400.0;

/// A namespace that the filter may use.
#[derive(Clone)]
pub struct Kv {
    namespace: Arc<Namespace>,
    access: Access,
}

/// Methods that a grant of `read` does not cover.
pub const WRITES: [&str; 4] = ["put", "put_if_absent", "put_if_equal", "delete"];

pub fn area(table: &mut Table) {
    table.area("Kv");
    table
        .function(
            "kv(namespace)",
            "A namespace of the store, granted by the filter's `kv`. What was put survives reloads, \
             restarts and crashes.",
            kv,
        )
        .example(r#"let users = kv("users"); users.put("ann", "1"); users.get("ann") == "1""#);
    reading(table);
    writing(table);
}

fn reading(table: &mut Table) {
    table
        .function(
            "kv.get(key)",
            "The text of an entry, or `()`.",
            |c: NativeCallContext, kv: &mut Kv, key: &str| -> Outcome<Dynamic> {
                let found = get(&c, kv, key)?;
                found.map_or(Ok(Dynamic::UNIT), |bytes| text(&bytes).map(Dynamic::from))
            },
        )
        .example(r#"kv("users").get("nobody") == ()"#)
        .function(
            "kv.get_json(key)",
            "The value of an entry that is JSON, or `()`.",
            |c: NativeCallContext, kv: &mut Kv, key: &str| -> Outcome<Dynamic> {
                let found = get(&c, kv, key)?;
                found.map_or(Ok(Dynamic::UNIT), |bytes| super::json::parse(&text(&bytes)?))
            },
        )
        .example(r#"kv("users").put("ann", #{ role: "admin" }); kv("users").get_json("ann").role == "admin""#)
        .function(
            "kv.get_bytes(key)",
            "The bytes of an entry, or `()`.",
            |c: NativeCallContext, kv: &mut Kv, key: &str| -> Outcome<Dynamic> {
                let found = get(&c, kv, key)?;
                Ok(found.map_or(Dynamic::UNIT, |bytes| Dynamic::from_blob(bytes.to_vec())))
            },
        )
        .example(r#"kv("users").put("raw", blob(2, 255)); kv("users").get_bytes("raw").len == 2"#)
        .function(
            "kv.list(prefix, options)",
            "Keys that begin so, in order, at most 1000. Options: after (a key), limit.",
            list,
        )
        .overload("kv.list(prefix)", |c: NativeCallContext, kv: &mut Kv, prefix: &str| {
            list(c, kv, prefix, Map::new())
        })
        .example(r#"kv("users").put("a:1", ""); kv("users").put("a:2", ""); kv("users").list("a:", #{ after: "a:1" }) == ["a:2"]"#);
}

fn writing(table: &mut Table) {
    table
        .function(
            "kv.put(key, value, options)",
            "Puts text, bytes, a number, or a map or an array as JSON; it is on disk when this \
             returns. Options: ttl (seconds).",
            |c: NativeCallContext, kv: &mut Kv, key: &str, value: Dynamic, options: Map| {
                put(&c, kv, key, &value, &options, When::Always).map(|_| ())
            },
        )
        .overload(
            "kv.put(key, value)",
            |c: NativeCallContext, kv: &mut Kv, key: &str, value: Dynamic| {
                put(&c, kv, key, &value, &Map::new(), When::Always).map(|_| ())
            },
        )
        .example(r#"kv("users").put("ann", "1", #{ ttl: 60 }); kv("users").get("ann") == "1""#)
        .function(
            "kv.put_if_absent(key, value, options)",
            "Puts it if the key has no entry, and tells whether it did. Of several at once, one wins.",
            |c: NativeCallContext, kv: &mut Kv, key: &str, value: Dynamic, options: Map| {
                put(&c, kv, key, &value, &options, When::Absent)
            },
        )
        .overload(
            "kv.put_if_absent(key, value)",
            |c: NativeCallContext, kv: &mut Kv, key: &str, value: Dynamic| {
                put(&c, kv, key, &value, &Map::new(), When::Absent)
            },
        )
        .example(r#"kv("users").put_if_absent("new", "1") && !kv("users").put_if_absent("new", "2")"#)
        .function(
            "kv.put_if_equal(key, expected, value, options)",
            "Puts it if the entry is as expected, and tells whether it did.",
            put_if_equal,
        )
        .overload(
            "kv.put_if_equal(key, expected, value)",
            |c: NativeCallContext, kv: &mut Kv, key: &str, expected: Dynamic, value: Dynamic| {
                put_if_equal(c, kv, key, expected, value, Map::new())
            },
        )
        .example(r#"kv("users").put("n", 1); kv("users").put_if_equal("n", 1, 2) && !kv("users").put_if_equal("n", 1, 3)"#)
        .function("kv.delete(key)", "Whether there was one.", delete)
        .example(r#"kv("users").put("old", "1"); kv("users").delete("old") && !kv("users").delete("old")"#);
}

fn kv(context: NativeCallContext, name: &str) -> Outcome<Kv> {
    let state = State::of(&context)?;
    let granted = state.facts().state.kv.get(name);
    let granted = granted.map(|(namespace, access)| {
        let (namespace, access) = (Arc::clone(namespace), *access);
        Kv { namespace, access }
    });
    granted.ok_or_else(|| fail("denied", format!("this filter may not use the namespace {name}")))
}

impl Kv {
    fn writable(&self) -> Outcome<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::Read => {
                let name = &self.namespace.name;
                Err(fail("denied", format!("this filter may only read the namespace {name}")))
            }
        }
    }
}

fn store(context: &NativeCallContext) -> Outcome<Arc<dyn Store>> {
    let state = State::of(context)?;
    let store = state.host()?.state().store.clone();
    store.ok_or_else(|| fail("unavailable", "there is no store"))
}

fn raised(error: StoreError) -> Raised {
    fail(error.kind(), error.to_string())
}

fn get(context: &NativeCallContext, kv: &Kv, key: &str) -> Outcome<Option<Bytes>> {
    let found = wait(store(context)?.get(&kv.namespace, key.to_owned()))?.map_err(raised)?;
    fiber::charge(found.as_ref().map_or(0, Bytes::len));
    Ok(found)
}

fn text(bytes: &Bytes) -> Outcome<String> {
    let text = String::from_utf8(bytes.to_vec());
    text.map_err(|_| invalid("this entry is not text: use get_bytes"))
}

fn list(context: NativeCallContext, kv: &mut Kv, prefix: &str, options: Map) -> Outcome<Array> {
    let mut page = Page { prefix: prefix.to_owned(), after: None, limit: PAGE };
    for (name, value) in &options {
        match name.as_str() {
            "after" if value.is_unit() => {}
            "after" => page.after = Some(scalar_text(value)?),
            "limit" => {
                let limit = value.as_int().ok().and_then(|limit| usize::try_from(limit).ok());
                let limit = limit.filter(|limit| (1..=PAGE).contains(limit));
                page.limit = limit.ok_or_else(|| invalid(format!("limit is 1 to {PAGE}")))?;
            }
            _ => return Err(invalid(format!("list has no option {name}"))),
        }
    }
    let keys = wait(store(&context)?.list(&kv.namespace, page))?.map_err(raised)?;
    fiber::charge(keys.iter().map(String::len).sum());
    Ok(keys.into_iter().map(Dynamic::from).collect())
}

fn put(
    context: &NativeCallContext,
    kv: &Kv,
    key: &str,
    value: &Dynamic,
    options: &Map,
    when: When,
) -> Outcome<bool> {
    kv.writable()?;
    let mut ttl = None;
    for (name, value) in options {
        match name.as_str() {
            "ttl" => ttl = Some(ttl_of(value)?),
            _ => return Err(invalid(format!("put has no option {name}"))),
        }
    }
    let put = Put { key: key.to_owned(), value: bytes_to_keep(value)?, ttl, when };
    wait(store(context)?.put(&kv.namespace, put))?.map_err(raised)
}

fn put_if_equal(
    context: NativeCallContext,
    kv: &mut Kv,
    key: &str,
    expected: Dynamic,
    value: Dynamic,
    options: Map,
) -> Outcome<bool> {
    let when = When::Equal(bytes_to_keep(&expected)?);
    put(&context, kv, key, &value, &options, when)
}

fn delete(context: NativeCallContext, kv: &mut Kv, key: &str) -> Outcome<bool> {
    kv.writable()?;
    wait(store(&context)?.delete(&kv.namespace, key.to_owned()))?.map_err(raised)
}

fn bytes_to_keep(value: &Dynamic) -> Outcome<Bytes> {
    if value.is_map() || value.is_array() {
        return Ok(to_json(value)?.to_string().into());
    }
    if value.is_unit() {
        return Err(invalid("() cannot be put: use delete"));
    }
    let bytes = if value.is_blob() { bytes_of(value)? } else { scalar_text(value)?.into_bytes() };
    Ok(bytes.into())
}

fn ttl_of(value: &Dynamic) -> Outcome<Duration> {
    let seconds = value.as_float().or_else(|_| value.as_int().map(|int| int as f64));
    let seconds = seconds.map_err(|_| invalid("ttl is a number of seconds"))?;
    if !(0.001..=LONGEST_TTL).contains(&seconds) {
        return Err(invalid("ttl is 0.001 seconds to ten years"));
    }
    Ok(Duration::from_secs_f64(seconds))
}
