//! `req.query`: parameters, where untouched ones keep their encoding byte for byte.

use percent_encoding::percent_decode_str;
use rhai::{Array, Dynamic, Map};

use super::convert::scalar_text;
use super::objects::{Request, check_line};
use super::table::Table;
use super::url::Url;
use super::{Outcome, invalid};

/// Of a request, or of a URL that a script has parsed.
#[derive(Clone)]
pub enum Query {
    Request(Request),
    Url(Url),
}

impl Query {
    fn read(&self) -> String {
        let text = match self {
            Self::Request(request) => request.0.read(|draft| draft.query.clone()),
            Self::Url(url) => url.query(),
        };
        text.unwrap_or_default()
    }

    fn write(&self, query: Option<String>) {
        match self {
            Self::Request(request) => request.0.write(|draft| draft.query = query),
            Self::Url(url) => url.set_query(query),
        }
    }
}

/// A whole query, still encoded; an empty one is none.
pub fn set_query(place: &mut Option<String>, query: &str) -> Outcome<()> {
    let query = query.strip_prefix('?').unwrap_or(query);
    check_line("a query", query.len())?;
    if !query.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(invalid(format!("\"{query}\" is not an encoded query")));
    }
    *place = (!query.is_empty()).then(|| query.to_owned());
    Ok(())
}

pub fn area(table: &mut Table) {
    table.area("Query");
    table
        .index_get(
            "query[name]",
            "The first value, decoded, or `()`; set to a string, number, array or `()`.",
            get,
        )
        .example(r#"req.query["a"] = [1, 2]; req.query["a"] == "1" && req.query["z"] == ()"#)
        .index_set(set)
        .function("query.get_all(name)", "All values.", |q: &mut Query, name: &str| -> Array {
            pairs(q).into_iter().filter(|(k, _)| k == name).map(|(_, v)| v.into()).collect()
        })
        .example(r#"req.query.get_all("a") == ["1"]"#)
        .function("query.append(name, value)", "Adds a parameter.", append)
        .example(r#"req.query.append("a", "x y"); req.query.to_string() == "a=1&b=2&a=x+y""#)
        .function("query.remove(name)", "Removes a parameter.", |q: &mut Query, name: &str| {
            edit(q, |parts| parts.retain(|part| decoded(part).0 != name))
        })
        .example(r#"req.query.remove("a"); req.query.to_string() == "b=2""#)
        .function(
            "query.retain(names)",
            "Keeps only these parameters.",
            |q: &mut Query, names: Array| {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                edit(q, |parts| parts.retain(|part| names.contains(&decoded(part).0)))
            },
        )
        .example(r#"req.query.retain(["b"]); req.query.to_string() == "b=2""#)
        .function(
            "query.sort()",
            "Sorts by name; equal names keep their order.",
            |q: &mut Query| edit(q, |parts| parts.sort_by_key(|part| decoded(part).0)),
        )
        .example(
            r#"req.query.append("a", 0); req.query.sort(); req.query.to_string() == "a=1&a=0&b=2""#,
        )
        .function(
            "query.contains(name)",
            "Whether there is such a parameter.",
            |q: &mut Query, name: &str| pairs(q).iter().any(|(k, _)| k == name),
        )
        .example(r#"req.query.contains("a")"#)
        .function("query.names()", "The names.", |q: &mut Query| -> Array {
            pairs(q).into_iter().map(|(name, _)| name.into()).collect()
        })
        .example(r#"req.query.names() == ["a", "b"]"#)
        .function(
            "query.to_map()",
            "A copy as a map; the first value counts.",
            |q: &mut Query| -> Map {
                pairs(q).into_iter().rev().map(|(k, v)| (k.into(), v.into())).collect()
            },
        )
        .example(r#"req.query.to_map() == #{ a: "1", b: "2" }"#)
        .function("query.to_string()", "As it will be sent.", |q: &mut Query| q.read())
        .example(r#"req.query.to_string() == "a=1&b=2""#);
}

fn decoded(part: &str) -> (String, String) {
    let decode =
        |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    (decode(name), decode(value))
}

fn pairs(query: &Query) -> Vec<(String, String)> {
    query.read().split('&').filter(|part| !part.is_empty()).map(decoded).collect()
}

fn edit(query: &Query, edit: impl FnOnce(&mut Vec<String>)) -> Outcome<()> {
    let text = query.read();
    let parts = text.split('&').filter(|part| !part.is_empty());
    let mut parts: Vec<String> = parts.map(str::to_owned).collect();
    edit(&mut parts);
    let text = parts.join("&");
    check_line("a query", text.len())?;
    query.write((!parts.is_empty()).then_some(text));
    Ok(())
}

fn encoded(name: &str, value: &Dynamic) -> Outcome<String> {
    let mut text = form_urlencoded::Serializer::new(String::new());
    text.append_pair(name, &scalar_text(value)?);
    Ok(text.finish())
}

fn get(query: &mut Query, name: &str) -> Dynamic {
    let found = pairs(query).into_iter().find(|(k, _)| k == name);
    found.map_or(Dynamic::UNIT, |(_, value)| value.into())
}

fn append(query: &mut Query, name: &str, value: Dynamic) -> Outcome<()> {
    let part = encoded(name, &value)?;
    edit(query, |parts| parts.push(part))
}

/// In the place of the first one of this name.
fn set(query: &mut Query, name: &str, value: Dynamic) -> Outcome<()> {
    let new = match value.read_lock::<Array>() {
        Some(items) => items.iter().map(|item| encoded(name, item)).collect::<Outcome<Vec<_>>>()?,
        None if value.is_unit() => Vec::new(),
        None => vec![encoded(name, &value)?],
    };
    edit(query, |parts| {
        let at = parts.iter().position(|part| decoded(part).0 == name).unwrap_or(parts.len());
        parts.retain(|part| decoded(part).0 != name);
        let at = at.min(parts.len());
        parts.splice(at..at, new);
    })
}
