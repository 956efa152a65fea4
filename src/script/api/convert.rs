//! Script values to plain data and back, with a bound on depth.

use rhai::{Array, Dynamic, Map};
use serde_json::{Number, Value};

use super::{Outcome, fail, invalid};
use crate::script::fiber;

/// Deeper values would be dropped, compared and printed by deep recursion.
pub const DEPTH: usize = 32;

pub fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(int) => int.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(from_json).collect::<Array>().into(),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| (name.as_str().into(), from_json(value));
            fields.iter().map(field).collect::<Map>().into()
        }
    }
}

/// Bytes of one document, by a rough count.
const DOCUMENT: usize = 4 << 20;

pub fn to_json(value: &Dynamic) -> Outcome<Value> {
    to_json_within(value, DOCUMENT)
}

/// Plain data of at most so many bytes; one text may stand in many places of a value.
pub fn to_json_within(value: &Dynamic, most: usize) -> Outcome<Value> {
    let mut budget = Budget { left: most.min(fiber::room()), most };
    let value = budget.json_of(value, DEPTH)?;
    fiber::charge(most - budget.left.min(most));
    Ok(value)
}

struct Budget {
    left: usize,
    most: usize,
}

impl Budget {
    /// Counts a value's text, and the place of the value itself.
    fn take(&mut self, bytes: usize) -> Outcome<()> {
        let most = self.most;
        let left = self.left.checked_sub(bytes + size_of::<Value>());
        self.left = left.ok_or_else(|| fail("limit", format!("more data than {most} bytes")))?;
        Ok(())
    }

    fn json_of(&mut self, value: &Dynamic, depth: usize) -> Outcome<Value> {
        if depth == 0 {
            return Err(invalid(format!("the value is nested more than {DEPTH} deep")));
        }
        if let Some(text) = value.read_lock::<rhai::ImmutableString>() {
            self.take(text.len())?;
            return Ok(Value::String(text.to_string()));
        }
        self.take(0)?;
        if let Some(items) = value.read_lock::<Array>() {
            return items.iter().map(|item| self.json_of(item, depth - 1)).collect();
        }
        if let Some(map) = value.read_lock::<Map>() {
            let mut fields = serde_json::Map::new();
            for (name, value) in map.iter() {
                self.take(name.len())?;
                fields.insert(name.to_string(), self.json_of(value, depth - 1)?);
            }
            return Ok(Value::Object(fields));
        }
        scalar_json(value)
    }
}

fn scalar_json(value: &Dynamic) -> Outcome<Value> {
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(value) = value.as_bool() {
        return Ok(Value::Bool(value));
    }
    if let Ok(value) = value.as_int() {
        return Ok(value.into());
    }
    if let Ok(value) = value.as_float() {
        let number = Number::from_f64(value);
        return number.map(Value::Number).ok_or_else(|| invalid("JSON has no NaN or infinity"));
    }
    if let Ok(value) = value.as_char() {
        return Ok(Value::String(value.to_string()));
    }
    Err(invalid(format!("{} is not plain data", value.type_name())))
}

/// The type of the first value in there that is a handle, whose edits all of its copies see.
pub fn handle_in(value: &Dynamic) -> Option<&'static str> {
    handle_within(value, DEPTH)
}

fn handle_within(value: &Dynamic, depth: usize) -> Option<&'static str> {
    if depth == 0 {
        return Some("value that is nested too deep");
    }
    if let Some(items) = value.read_lock::<Array>() {
        return items.iter().find_map(|item| handle_within(item, depth - 1));
    }
    if let Some(map) = value.read_lock::<Map>() {
        return map.values().find_map(|item| handle_within(item, depth - 1));
    }
    HANDLES.iter().find(|(is, _)| is(value)).map(|(_, name)| *name)
}

type Is = fn(&Dynamic) -> bool;

/// What a script can make while it is loaded and can edit later.
const HANDLES: [(Is, &str); 5] = [
    (Dynamic::is::<super::objects::Response>, "Response"),
    (Dynamic::is::<super::objects::Headers>, "Headers"),
    (Dynamic::is::<super::body::Body>, "Body"),
    (Dynamic::is::<super::url::Url>, "Url"),
    (Dynamic::is::<super::query::Query>, "Query"),
];

/// Refuses what the run's memory does not hold, before it is made.
fn room_for(bytes: usize) -> Outcome<()> {
    fiber::charge(bytes);
    if bytes <= fiber::room() { Ok(()) } else { Err(fail("limit", "no memory is left")) }
}

/// Bytes of a string, a blob or a body.
pub fn bytes_of(value: &Dynamic) -> Outcome<Vec<u8>> {
    if let Some(text) = value.read_lock::<rhai::ImmutableString>() {
        room_for(text.len())?;
        return Ok(text.as_bytes().to_vec());
    }
    if let Some(blob) = value.read_lock::<rhai::Blob>() {
        room_for(blob.len())?;
        return Ok(blob.clone());
    }
    if let Some(bytes) = value.read_lock::<super::octets::Octets>() {
        room_for(bytes.0.len())?;
        return Ok(bytes.0.to_vec());
    }
    if let Some(body) = value.read_lock::<super::body::Body>() {
        let bytes = body.bytes()?;
        room_for(bytes.len())?;
        return Ok(bytes.to_vec());
    }
    Err(invalid(format!("a string or bytes are needed, not {}", value.type_name())))
}

/// A header's or a query parameter's value: string, integer, float, bool, char.
pub fn scalar_text(value: &Dynamic) -> Outcome<String> {
    if let Some(text) = value.read_lock::<rhai::ImmutableString>() {
        room_for(text.len())?;
        return Ok(text.to_string());
    }
    if value.is_int() || value.is_float() || value.is_bool() || value.is_char() {
        return Ok(value.to_string());
    }
    Err(invalid(format!("a string or a number is needed, not {}", value.type_name())))
}
