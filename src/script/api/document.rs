//! A JSON document as the callback of `res.map_json` sees it: a handle, edited in place.

use std::any::TypeId;

use rhai::{Array, Dynamic};

use super::convert::to_json;
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::script::callback::Callback;
use crate::script::fiber;
use crate::transform::{Document, OnJson, Value, Verdict};

/// An object, an array, or a number too big for the script.
#[derive(Clone)]
pub struct Json(Value);

pub fn area(table: &mut Table) {
    table.area("Json");
    members(table);
    whole(table);
    table.global.set_iter(TypeId::of::<Json>(), |value| {
        let items = value.try_cast::<Json>().and_then(|json| json.0.items().ok());
        Box::new(items.unwrap_or_default().into_iter().map(shown))
    });
}

fn members(table: &mut Table) {
    table
        .index_get(
            "doc[name]",
            "A member, or `()`; also `doc.name`. Objects and arrays are handles, whose edits are \
             edits of the document.",
            |doc: &mut Json, name: &str| found(doc.0.get(name)),
        )
        .example(r#"res.map_json(|doc| { doc.user.name = "x"; doc["n"] = doc.n + 1; }); true"#)
        .index_set(|doc: &mut Json, name: &str, value: Dynamic| -> Outcome<()> {
            if is_already(&value, || doc.0.get(name)) {
                return Ok(());
            }
            doc.0.set(name, &text_of(&value)?).map_err(invalid)
        })
        .index_get("doc[index]", "An item of an array, or `()`.", |doc: &mut Json, index: i64| {
            found(doc.0.item(index))
        })
        .example("res.map_json(|doc| { doc.list[0] = 1; doc.list[-1].seen = true; }); true")
        .index_set(|doc: &mut Json, index: i64, value: Dynamic| -> Outcome<()> {
            if is_already(&value, || doc.0.item(index)) {
                return Ok(());
            }
            doc.0.set_item(index, &text_of(&value)?).map_err(invalid)
        })
        .function("doc.remove(name)", "Removes a member or an item; whether it was there.", {
            |doc: &mut Json, name: &str| doc.0.remove(name).map_err(invalid)
        })
        .overload("doc.remove(index)", |doc: &mut Json, index: i64| {
            doc.0.remove_item(index).map_err(invalid)
        })
        .example(r#"res.map_json(|doc| { for item in doc.items { item.remove("cost"); } }); true"#)
        .function(
            "doc.push(value)",
            "Adds an item to an array.",
            |doc: &mut Json, value: Dynamic| doc.0.push(&text_of(&value)?).map_err(invalid),
        )
        .example("res.map_json(|doc| { doc.list.push(#{ a: 1 }); }); true");
}

fn whole(table: &mut Table) {
    table
        .function("doc.contains(name)", "Whether an object has it.", |doc: &mut Json, name: &str| {
            doc.0.get(name).map(|value| value.is_some()).map_err(invalid)
        })
        .example(r#"res.map_json(|doc| { if !doc.contains("v") { doc.v = 1; } }); true"#)
        .function("doc.keys()", "An object's names, in their order.", |doc: &mut Json| {
            let keys = doc.0.keys().map_err(invalid)?;
            Outcome::Ok(keys.into_iter().map(Dynamic::from).collect::<Array>())
        })
        .example(r#"res.map_json(|doc| { for k in doc.keys() { if k.starts_with("_") { doc.remove(k); } } }); true"#)
        .get("doc.len", "Members of an object, or items of an array.", |doc: &mut Json| {
            let items = doc.0.items().map_err(invalid)?;
            Outcome::Ok(i64::try_from(items.len()).unwrap_or(i64::MAX))
        })
        .example("res.map_json(|doc| { doc.count = doc.items.len; }); true")
        .function("doc.to_value()", "A copy as plain data.", |doc: &mut Json| {
            super::json::parse(&doc.0.to_string())
        })
        .example("res.map_json(|doc| { let copy = doc.to_value(); copy.a = 1; copy }); true")
        .function("doc.to_string()", "Its text.", |doc: &mut Json| doc.0.to_string())
        .example(r#"res.map_json(|doc| { doc.digest = hash::sha256(doc.to_string()); }); true"#);
}

fn found(value: Result<Option<Value>, String>) -> Outcome<Dynamic> {
    value.map(|value| value.map_or(Dynamic::UNIT, shown)).map_err(invalid)
}

/// As the script sees a value: plain, or as a handle.
fn shown(value: Value) -> Dynamic {
    match value.kind() {
        Document::Null => Dynamic::UNIT,
        Document::Bool(value) => value.into(),
        Document::Int(value) => value.into(),
        Document::Float(value) => value.into(),
        Document::Text(text) => text.into(),
        Document::Big | Document::Array | Document::Object => Dynamic::from(Json(value)),
    }
}

/// Rhai writes a handle back after each use of it.
fn is_already(value: &Dynamic, at: impl FnOnce() -> Result<Option<Value>, String>) -> bool {
    let Some(given) = value.read_lock::<Json>() else { return false };
    at().ok().flatten().is_some_and(|there| there.is(&given.0))
}

/// A value as text: of this or another document, or plain.
fn text_of(value: &Dynamic) -> Outcome<String> {
    let text = match value.read_lock::<Json>() {
        Some(json) => json.0.to_string(),
        None => to_json(value)?.to_string(),
    };
    fiber::charge(text.len());
    if text.len() > fiber::room() {
        return Err(fail("limit", "no memory is left"));
    }
    Ok(text)
}

pub fn on_json(callback: Callback) -> OnJson {
    Box::new(move |parsed| {
        let document = match parsed {
            Ok(document) => document,
            Err(why) => {
                callback
                    .warn(&format!("map_json: the body is no JSON, and passes as it is: {why}"))?;
                return Ok(Verdict::Keep);
            }
        };
        let before = document.clone();
        // A document that is a single scalar is shown plain, so that it can be replaced.
        let returned = callback.run([shown(document)])?;
        let new = match returned.read_lock::<Json>() {
            Some(json) => Some(json.0.to_string()),
            None if returned.is_unit() => None,
            None => Some(text_of(&returned)?),
        };
        Ok(Verdict::Replace(new.unwrap_or_else(|| before.to_string())))
    })
}
