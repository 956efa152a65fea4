//! Script values to plain data and back, with a bound on depth.

use rhai::{Array, Dynamic, Map};
use serde_json::{Number, Value};

use super::{Outcome, invalid};

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

pub fn to_json(value: &Dynamic) -> Outcome<Value> {
    to_json_at(value, DEPTH)
}

fn to_json_at(value: &Dynamic, depth: usize) -> Outcome<Value> {
    if depth == 0 {
        return Err(invalid(format!("the value is nested more than {DEPTH} deep")));
    }
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
    if let Some(text) = value.read_lock::<rhai::ImmutableString>() {
        return Ok(Value::String(text.to_string()));
    }
    if let Ok(value) = value.as_char() {
        return Ok(Value::String(value.to_string()));
    }
    if let Some(items) = value.read_lock::<Array>() {
        return items.iter().map(|item| to_json_at(item, depth - 1)).collect();
    }
    if let Some(map) = value.read_lock::<Map>() {
        let field = |(name, value): (&rhai::Identifier, &Dynamic)| {
            Ok((name.to_string(), to_json_at(value, depth - 1)?))
        };
        return map
            .iter()
            .map(field)
            .collect::<Outcome<serde_json::Map<_, _>>>()
            .map(Value::Object);
    }
    Err(invalid(format!("{} is not plain data", value.type_name())))
}

/// Bytes of a string or a blob.
pub fn bytes_of(value: &Dynamic) -> Outcome<Vec<u8>> {
    if let Some(text) = value.read_lock::<rhai::ImmutableString>() {
        return Ok(text.as_bytes().to_vec());
    }
    if let Some(blob) = value.read_lock::<rhai::Blob>() {
        return Ok(blob.clone());
    }
    Err(invalid(format!("a string or bytes are needed, not {}", value.type_name())))
}

/// A header's or a query parameter's value: string, integer, float, bool, char.
pub fn scalar_text(value: &Dynamic) -> Outcome<String> {
    if let Some(text) = value.read_lock::<rhai::ImmutableString>() {
        return Ok(text.to_string());
    }
    if value.is_int() || value.is_float() || value.is_bool() || value.is_char() {
        return Ok(value.to_string());
    }
    Err(invalid(format!("a string or a number is needed, not {}", value.type_name())))
}
