//! What tests say must hold.

use rhai::{Blob, Dynamic, Engine, Map};
use serde_json::Value;

use super::diff::diff;
use super::{Told, told};
use crate::script::api::convert::to_json;

/// Characters of two values that still fit into one line.
const ONE_LINE: usize = 60;

pub fn register(engine: &mut Engine) {
    engine
        .register_fn("assert", |holds: bool| assert(holds, ""))
        .register_fn("assert", assert)
        .register_fn("assert_eq", |got: Dynamic, expected: Dynamic| equal(&got, &expected, ""))
        .register_fn("assert_eq", |got: Dynamic, expected: Dynamic, why: &str| {
            equal(&got, &expected, why)
        })
        .register_fn("assert_ne", |got: Dynamic, other: Dynamic| different(&got, &other))
        .register_fn("assert_contains", |whole: Dynamic, part: Dynamic| contains(&whole, &part))
        .register_fn("assert_matches", matches)
        .register_fn("fail", |message: &str| -> Told<()> { Err(told(message)) });
}

fn assert(holds: bool, message: &str) -> Told<()> {
    match (holds, message) {
        (true, _) => Ok(()),
        (false, "") => Err(told("assertion failed")),
        (false, message) => Err(told(format!("assertion failed: {message}"))),
    }
}

fn equal(got: &Dynamic, expected: &Dynamic, why: &str) -> Told<()> {
    let (left, right) = (plain(expected)?, plain(got)?);
    if left == right {
        return Ok(());
    }
    let why = if why.is_empty() { String::new() } else { format!("{why}: ") };
    let (expected, got) = (short(&left), short(&right));
    if expected.len().max(got.len()) <= ONE_LINE {
        return Err(told(format!("{why}expected {expected}, got {got}")));
    }
    let changes = diff(&long(&left), &long(&right));
    Err(told(format!("{why}not equal (- expected, + got)\n{changes}")))
}

fn different(got: &Dynamic, other: &Dynamic) -> Told<()> {
    let (got, other) = (plain(got)?, plain(other)?);
    match got == other {
        true => Err(told(format!("expected anything but {}", short(&other)))),
        false => Ok(()),
    }
}

/// A text in a text, a value in a list, a name in a map.
fn contains(whole: &Dynamic, part: &Dynamic) -> Told<()> {
    let (outer, inner) = (plain(whole)?, plain(part)?);
    let found = match (&outer, &inner) {
        (Value::String(text), Value::String(part)) => text.contains(part),
        (Value::Array(items), item) => items.contains(item),
        (Value::Object(map), Value::String(name)) => map.contains_key(name),
        _ => return Err(told("assert_contains takes a text, a list or a map, then a part of it")),
    };
    match found {
        true => Ok(()),
        false => Err(told(format!("expected {} in\n{}", short(&inner), long(&outer)))),
    }
}

fn matches(text: &str, pattern: &str) -> Told<()> {
    let regex = regex::Regex::new(pattern).map_err(|error| told(error.to_string()))?;
    match regex.is_match(text) {
        true => Ok(()),
        false => Err(told(format!("expected text like {pattern}, got {text:?}"))),
    }
}

/// As data that can be compared and shown; bytes are their hexadecimal form.
fn plain(value: &Dynamic) -> Told<Value> {
    if let Some(bytes) = value.read_lock::<Blob>() {
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        return to_json(&Map::from([("bytes".into(), hex.into())]).into());
    }
    to_json(value)
}

fn short(value: &Value) -> String {
    if value.is_null() { "()".to_owned() } else { value.to_string() }
}

/// A text as its lines, anything else as indented JSON.
fn long(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => format!("{value:#}"),
    }
}
