//! `headers`: names without case, several values, bytes that pass untouched.

use http::{HeaderName, HeaderValue};
use rhai::{Array, Dynamic, ImmutableString, Map};

use super::objects::{
    Headers, Request, header_name, header_value, set_header, set_host, settable_name,
};
use super::table::Table;
use super::{Outcome, invalid};

pub fn area(table: &mut Table) {
    table.area("Headers");
    table
        .index_get(
            "headers[name]",
            "The first value or `()`; set to a string, number, bytes, array or `()`. A request's \
             `host` is `req.host`. Framing (`content-length`, `transfer-encoding`, `connection`, `te`, \
             `upgrade` and the like) cannot be set.",
            get,
        )
        .index_set(set)
        .example(r#"req.headers["X-A"] = ["1", "2"]; req.headers["x-a"] == "1" && req.headers["X-Z"] == ()"#)
        .function(
            "headers.get_bytes(name)",
            "The first value as bytes, or `()`: for values that are not UTF-8.",
            get_bytes,
        )
        .example(r#"req.headers.get_bytes("accept").as_string() == req.headers["accept"]"#)
        .function("headers.get_all(name)", "All values.", get_all)
        .example(r#"req.headers["x-a"] = ["1", "2"]; req.headers.get_all("x-a") == ["1", "2"]"#)
        .function("headers.append(name, value)", "Adds a value.", append)
        .example(r#"req.headers.append("x-a", 7); req.headers["x-a"] == "7""#)
        .function("headers.remove(name)", "Removes all values.", |h: &mut Headers, name: &str| {
            set(h, name, Dynamic::UNIT)
        })
        .example(r#"req.headers.remove("accept"); req.headers["accept"] == ()"#)
        .function("headers.contains(name)", "Whether there is a value.", contains)
        .example(r#"req.headers.contains("accept")"#)
        .function("headers.names()", "The names, in lower case.", |h: &mut Headers| -> Array {
            h.read(|headers| headers.keys().map(|name| name.as_str().into()).collect())
        })
        .example(r#""accept" in req.headers.names()"#)
        .function("headers.to_map()", "A copy as a map; edits of it change nothing.", to_map)
        .example(r#"req.headers.to_map()["accept"] == req.headers["accept"]"#)
        .function("headers.add_vary(name)", "Adds a name to Vary, once.", add_vary)
        .example(r#"res.headers.add_vary("accept"); res.headers["vary"] == "accept""#);
}

fn text(value: &HeaderValue) -> Dynamic {
    String::from_utf8_lossy(value.as_bytes()).as_ref().into()
}

/// A request's Host, which HTTP/2 need not have as a header.
fn host_of<'a>(headers: &'a Headers, name: &HeaderName) -> Option<&'a Request> {
    match headers {
        Headers::Request(request) if name == http::header::HOST => Some(request),
        Headers::Request(_) | Headers::Response(_) => None,
    }
}

fn set(headers: &mut Headers, name: &str, value: Dynamic) -> Outcome<()> {
    if let Some(request) = host_of(headers, &header_name(name)?) {
        let host = value.read_lock::<ImmutableString>();
        let host = host.ok_or_else(|| invalid("a request has one host, which is a string"))?;
        return request.0.write(|draft| set_host(draft, &host));
    }
    headers.write(|headers| set_header(headers, name, &value))
}

fn get_bytes(headers: &mut Headers, name: &str) -> Outcome<Dynamic> {
    let name = header_name(name)?;
    let blob = |value: &HeaderValue| Dynamic::from_blob(value.as_bytes().to_vec());
    Ok(headers.read(|headers| headers.get(name).map_or(Dynamic::UNIT, blob)))
}

fn get(headers: &mut Headers, name: &str) -> Outcome<Dynamic> {
    let name = header_name(name)?;
    if let Some(request) = host_of(headers, &name) {
        return Ok(request.0.read(|draft| draft.host.clone()).into());
    }
    Ok(headers.read(|headers| headers.get(name).map_or(Dynamic::UNIT, text)))
}

fn get_all(headers: &mut Headers, name: &str) -> Outcome<Array> {
    let name = header_name(name)?;
    Ok(headers.read(|headers| headers.get_all(name).iter().map(text).collect()))
}

fn append(headers: &mut Headers, name: &str, value: Dynamic) -> Outcome<()> {
    let name = settable_name(name)?;
    if host_of(headers, &name).is_some() {
        return Err(invalid("a request has one host; set it instead"));
    }
    let value = header_value(&name, &value)?;
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
    let value = header_value(&http::header::VARY, &name.into())?;
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
