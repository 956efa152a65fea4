//! `res.body`: the body as a handle, so that an edit is one of the response.

use bytes::Bytes;
use http::{HeaderValue, header};
use rhai::Dynamic;

use super::convert::{bytes_of, to_json};
use super::objects::{Response, set_body};
use super::table::Table;
use super::{Outcome, Raised, fail};
use crate::script::exchange::ResponseBody;

#[derive(Clone)]
pub struct Body(Response);

pub fn area(table: &mut Table) {
    table.area("Body");
    reading(table);
    setting(table);
}

fn reading(table: &mut Table) {
    table
        .get(
            "res.body",
            "The body; can be set to text, bytes, or a value as JSON.",
            |r: &mut Response| Body(r.clone()),
        )
        .set("res.body", set)
        .example(r#"res.body = #{ a: 1 }; res.body.text() == `{"a":1}`"#)
        .function("body.text()", "As text; not of a body that streams through.", |b: &mut Body| {
            text(&b.0)
        })
        .overload("res.text()", |r: &mut Response| text(r))
        .example(r#"Response::text("a").body.text() == "a""#)
        .function("body.bytes()", "As bytes.", |b: &mut Body| blob(&b.0))
        .overload("res.bytes()", |r: &mut Response| blob(r))
        .example(r#"Response::text("a").body.bytes().len == 1"#)
        .function("body.json()", "Parsed as JSON.", |b: &mut Body| json(&b.0))
        .overload("res.json()", |r: &mut Response| json(r))
        .example("Response::json(#{ a: [1] }).body.json().a == [1]")
        .get("body.len", "Bytes, or `()` of a body that streams through.", |b: &mut Body| {
            b.0.0.read(|draft| match &draft.body {
                ResponseBody::Replaced(bytes) => {
                    i64::try_from(bytes.len()).unwrap_or(i64::MAX).into()
                }
                ResponseBody::Untouched => Dynamic::UNIT,
            })
        })
        .example(r#"res.body.len == () && Response::text("abc").body.len == 3"#);
}

fn setting(table: &mut Table) {
    table
        .function("body.set_text(text)", "Replaces it.", |b: &mut Body, t: &str| set_text(&b.0, t))
        .overload("res.set_text(text)", |r: &mut Response, t: &str| set_text(r, t))
        .example(r#"res.body.set_text("a"); res.body.text() == "a""#)
        .function("body.set_json(value)", "Replaces it, and sets the type.", |b: &mut Body, v| {
            set_json(&b.0, v)
        })
        .overload("res.set_json(value)", |r: &mut Response, v: Dynamic| set_json(r, v))
        .example(r#"res.body.set_json([1]); res.body.text() == "[1]" && res.is_json()"#)
        .function("body.set_bytes(bytes)", "Replaces it.", |b: &mut Body, v: Dynamic| {
            set_bytes(&b.0, v)
        })
        .overload("res.set_bytes(bytes)", |r: &mut Response, v: Dynamic| set_bytes(r, v))
        .example(r#"res.body.set_bytes(blob(3, 65)); res.body.text() == "AAA""#);
}

fn set(response: &mut Response, value: Dynamic) -> Outcome<()> {
    if let Some(body) = value.read_lock::<Body>() {
        // Rhai writes a handle back after each use of it: most often it is the same body.
        let given = body.0.0.read(|draft| draft.body.clone());
        if response.0.read(|draft| draft.body != given) {
            response.0.write(|draft| draft.body = given);
        }
        return Ok(());
    }
    response.0.write(|draft| set_body(draft, &value))
}

fn bytes(response: &Response) -> Outcome<Bytes> {
    response.0.read(|draft| match &draft.body {
        ResponseBody::Replaced(bytes) => Ok(bytes.clone()),
        ResponseBody::Untouched => {
            Err(fail("unavailable", "this body streams through and cannot be read"))
        }
    })
}

fn text(response: &Response) -> Outcome<String> {
    Ok(String::from_utf8_lossy(&bytes(response)?).into_owned())
}

fn blob(response: &Response) -> Outcome<Dynamic> {
    Ok(Dynamic::from_blob(bytes(response)?.to_vec()))
}

fn json(response: &Response) -> Outcome<Dynamic> {
    super::json::parse(&String::from_utf8_lossy(&bytes(response)?))
}

fn set_text(response: &Response, text: &str) -> Outcome<()> {
    response.0.write(|draft| set_body(draft, &text.into()))
}

fn set_json(response: &Response, value: Dynamic) -> Outcome<()> {
    let text = to_json(&value)?.to_string();
    response.0.write(|draft| {
        let json = HeaderValue::from_static("application/json");
        draft.headers.insert(header::CONTENT_TYPE, json);
        draft.body = ResponseBody::Replaced(text.into());
    });
    Ok(())
}

fn set_bytes(response: &Response, value: Dynamic) -> Outcome<()> {
    let bytes = bytes_of(&value)?;
    response.0.write(|draft| draft.body = ResponseBody::Replaced(bytes.into()));
    Ok::<_, Raised>(())
}
