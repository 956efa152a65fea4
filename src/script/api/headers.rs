//! `headers`: names without case, several values, bytes that pass untouched.

use http::HeaderValue;
use rhai::{Array, Dynamic, Map};

use super::Outcome;
use super::objects::{Headers, header_name, header_value, set_header, settable_name};
use super::table::Table;

pub fn area(table: &mut Table) {
    table.area("Headers");
    table
        .index_get(
            "headers[name]",
            "The first value or `()`; set to a string, number, array or `()`.",
            get,
        )
        .index_set(|h: &mut Headers, name: &str, value: Dynamic| {
            h.write(|headers| set_header(headers, name, &value))
        })
        .function("headers.get_all(name)", "All values.", get_all)
        .function("headers.append(name, value)", "Adds a value.", append)
        .function("headers.remove(name)", "Removes all values.", |h: &mut Headers, name: &str| {
            let name = settable_name(name)?;
            h.write(|headers| headers.remove(name));
            Ok::<_, super::Raised>(())
        })
        .function("headers.contains(name)", "Whether there is a value.", contains)
        .function("headers.names()", "The names, in lower case.", |h: &mut Headers| -> Array {
            h.read(|headers| headers.keys().map(|name| name.as_str().into()).collect())
        })
        .function("headers.to_map()", "A copy as a map; edits of it change nothing.", to_map)
        .function("headers.add_vary(name)", "Adds a name to Vary, once.", add_vary);
}

fn text(value: &HeaderValue) -> Dynamic {
    String::from_utf8_lossy(value.as_bytes()).into_owned().into()
}

fn get(headers: &mut Headers, name: &str) -> Outcome<Dynamic> {
    let name = header_name(name)?;
    Ok(headers.read(|headers| headers.get(name).map_or(Dynamic::UNIT, text)))
}

fn get_all(headers: &mut Headers, name: &str) -> Outcome<Array> {
    let name = header_name(name)?;
    Ok(headers.read(|headers| headers.get_all(name).iter().map(text).collect()))
}

fn append(headers: &mut Headers, name: &str, value: Dynamic) -> Outcome<()> {
    let (name, value) = (settable_name(name)?, header_value(&value)?);
    let added = headers.write(|headers| headers.try_append(name, value).is_ok());
    if added { Ok(()) } else { Err(super::fail("limit", "too many headers")) }
}

fn contains(headers: &mut Headers, name: &str) -> Outcome<bool> {
    let name = header_name(name)?;
    Ok(headers.read(|headers| headers.contains_key(name)))
}

fn to_map(headers: &mut Headers) -> Map {
    headers.read(|headers| {
        let entry = |name: &http::HeaderName| {
            let values = headers.get_all(name).iter().map(|v| text(v).to_string());
            (name.as_str().into(), values.collect::<Vec<_>>().join(", ").into())
        };
        headers.keys().map(entry).collect()
    })
}

fn add_vary(headers: &mut Headers, name: &str) -> Outcome<()> {
    let added = header_name(name)?;
    let value = header_value(&name.into())?;
    headers.write(|headers| {
        let values = headers.get_all(http::header::VARY).iter();
        let known = values.filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').any(|part| part.trim().eq_ignore_ascii_case(added.as_str()))
        });
        if !known {
            headers.append(http::header::VARY, value);
        }
    });
    Ok(())
}
