//! `rate_limit`, `counter` and `lock`: what requests of this node share without a disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use rhai::{Dynamic, Map, NativeCallContext};

use super::convert::scalar_text;
use super::fetch::seconds;
use super::state::{State, wait};
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::state::{Held, LockError};

/// How long a script waits for a lock unless it says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// A counter that the filter may use.
#[derive(Clone)]
pub struct Counter(Arc<AtomicI64>);

/// A lock that is held; free when the last copy is gone, at the hook's end at the latest.
#[derive(Clone)]
pub struct Lock(Arc<Mutex<Option<Held>>>);

pub fn area(table: &mut Table) {
    table.area("Limits and counters");
    table
        .function(
            "rate_limit(name, key)",
            "Counts one request of the key by a limit of the configuration, if it allows it: a map \
             with `allowed`, `remaining`, `limit`, and `retry_after` in whole seconds.",
            rate_limit,
        )
        .example(r#"let r = rate_limit("few", "a"); r.allowed && r.remaining == 1 && r.limit == 2 && r.retry_after == 0"#)
        .function(
            "counter(name)",
            "A counter of this node, that survives reloads but no restart.",
            counter,
        )
        .example(r#"counter("visits").get() == 0"#)
        .function("counter.add(n)", "Adds, and gives the new value.", add)
        .example(r#"counter("visits").add(2) == 2"#)
        .function("counter.get()", "The value.", |c: &mut Counter| c.0.load(Relaxed))
        .example(r#"let c = counter("visits"); c.add(1); c.get() == 1"#)
        .function("counter.set(n)", "Sets it.", |c: &mut Counter, n: i64| c.0.store(n, Relaxed))
        .example(r#"let c = counter("visits"); c.set(7); c.get() == 7"#);
    locks(table);
}

fn locks(table: &mut Table) {
    table
        .function(
            "lock(name, key, options)",
            "Waits until no other request of this node holds it, and holds it until `release` or the \
             end of the hook. With a key, keys are apart. Options: wait (seconds, 5 by default), \
             after which it throws `timeout`.",
            |c: NativeCallContext, name: &str, key: Dynamic, options: Map| {
                lock(&c, name, Some(&key), &options)
            },
        )
        .overload("lock(name, key)", |c: NativeCallContext, name: &str, key: Dynamic| {
            lock(&c, name, Some(&key), &Map::new())
        })
        .overload("lock(name, options)", |c: NativeCallContext, name: &str, options: Map| {
            lock(&c, name, None, &options)
        })
        .overload("lock(name)", |c: NativeCallContext, name: &str| {
            lock(&c, name, None, &Map::new())
        })
        .example(r#"let held = lock("room", "ann"); held.release(); true"#)
        .function("held.release()", "Lets the next one in.", |held: &mut Lock| {
            // Dropped outside of the handle's own lock.
            let held = held.0.lock().take();
            drop(held);
        })
        .example(r#"lock("room").release(); lock("room", #{ wait: 0.1 }).release(); true"#);
}

fn rate_limit(context: NativeCallContext, name: &str, key: Dynamic) -> Outcome<Map> {
    let state = State::of(&context)?;
    let Some(limit) = state.facts().state.rate_limits.get(name) else {
        return Err(fail("denied", format!("this filter may not use the rate limit {name}")));
    };
    let key = scalar_text(&key)?;
    let decision = state.host()?.state().limiters.take(limit, &key);
    // Rounded up, so that who waits so long is not early.
    let retry_after = decision.retry_after.as_nanos().div_ceil(1_000_000_000);
    Ok(Map::from_iter([
        ("allowed".into(), decision.allowed.into()),
        ("limit".into(), i64::from(limit.limit).into()),
        ("remaining".into(), i64::from(decision.remaining).into()),
        ("retry_after".into(), i64::try_from(retry_after).unwrap_or(i64::MAX).into()),
    ]))
}

fn counter(context: NativeCallContext, name: &str) -> Outcome<Counter> {
    let state = State::of(&context)?;
    if !state.facts().state.counters.contains(name) {
        return Err(fail("denied", format!("this filter may not use the counter {name}")));
    }
    Ok(Counter(state.host()?.state().counters.get(name)))
}

fn add(counter: &mut Counter, by: i64) -> Outcome<i64> {
    let added = counter.0.fetch_update(Relaxed, Relaxed, |value| value.checked_add(by));
    added.map(|before| before + by).map_err(|_| invalid("the counter would overflow"))
}

fn lock(
    context: &NativeCallContext,
    name: &str,
    key: Option<&Dynamic>,
    options: &Map,
) -> Outcome<Lock> {
    let state = State::of(context)?;
    if !state.facts().state.locks.contains(name) {
        return Err(fail("denied", format!("this filter may not take the lock {name}")));
    }
    let mut patience = PATIENCE;
    for (option, value) in options {
        match option.as_str() {
            "wait" => patience = seconds(value)?,
            _ => return Err(invalid(format!("lock has no option {option}"))),
        }
    }
    // No name has a line break, so no two of these are one.
    let key = key.map(scalar_text).transpose()?;
    let whole = key.map_or_else(|| name.to_owned(), |key| format!("{name}\n{key}"));
    let held = wait(state.host()?.state().locks.take(whole, patience))?;
    let held = held.map_err(|error| match error {
        LockError::Timeout(_) => fail("timeout", format!("{name}: {error}")),
        LockError::TooMany => fail("limit", error.to_string()),
    })?;
    Ok(Lock(Arc::new(Mutex::new(Some(held)))))
}
