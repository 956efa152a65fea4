//! `req.body` and `res.body`: handles, so that an edit is one of the message.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use rhai::{Dynamic, Map, NativeCallContext};

use super::convert::bytes_of;
use super::objects::{Request, Response, set_body};
use super::state::State;
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::config::body::Access;
use crate::script::exchange::MessageBody;
use crate::script::fiber;

/// Of a request or of a response.
#[derive(Clone)]
pub enum Body {
    Request(Request),
    Response(Response),
}

pub fn area(table: &mut Table) {
    table.area("Body");
    handles(table);
    reading(table);
    setting(table);
}

fn handles(table: &mut Table) {
    table
        .get(
            "req.body",
            "The request's body, with `body: { request: buffer }` in the filter's configuration; \
             can be set to text, bytes, or a value as JSON.",
            |r: &mut Request| Body::Request(r.clone()),
        )
        .set("req.body", |c: NativeCallContext, r: &mut Request, value: Dynamic| {
            set(&c, &Body::Request(r.clone()), &value)
        })
        .example(r#"req.body = #{ a: 1 }; req.body.text() == `{"a":1}`"#)
        .get(
            "res.body",
            "The body; can be set to text, bytes, or a value as JSON. An origin's is read with \
             `body: { response: buffer }` only.",
            |r: &mut Response| Body::Response(r.clone()),
        )
        .set("res.body", |c: NativeCallContext, r: &mut Response, value: Dynamic| {
            set(&c, &Body::Response(r.clone()), &value)
        })
        .example(r#"res.body = #{ a: 1 }; res.body.text() == `{"a":1}`"#);
}

fn reading(table: &mut Table) {
    table
        .function("body.text()", "As text; what is not UTF-8 becomes U+FFFD.", text)
        .overload("res.text()", |c: NativeCallContext, r: &mut Response| text(c, &mut of(r)))
        .example(r#"Response::text("a").body.text() == "a""#)
        .function("body.bytes()", "As bytes; a request's are exactly those that came.", blob)
        .overload("res.bytes()", |c: NativeCallContext, r: &mut Response| blob(c, &mut of(r)))
        .example(r#"Response::text("a").body.bytes().len == 1"#)
        .function("body.json()", "Parsed as JSON.", json)
        .overload("res.json()", |c: NativeCallContext, r: &mut Response| json(c, &mut of(r)))
        .example("Response::json(#{ a: [1] }).body.json().a == [1]")
        .function(
            "body.form()",
            "The fields of an HTML form (`application/x-www-form-urlencoded`), the first of each name.",
            form,
        )
        .example(
            r#"req.headers["content-type"] = "application/x-www-form-urlencoded";
  req.body = "a=1&b=x+y&a=2"; req.body.form() == #{ a: "1", b: "x y" }"#,
        )
        .get("body.len", "Its bytes, or `()` of a body that streams past.", len)
        .example(r#"res.body.len == () && Response::text("abc").body.len == 3"#);
}

fn setting(table: &mut Table) {
    table
        .function("body.set_text(text)", "Replaces it.", set_text)
        .overload("res.set_text(text)", |c: NativeCallContext, r: &mut Response, t: &str| {
            set_text(c, &mut of(r), t)
        })
        .example(r#"res.body.set_text("a"); res.body.text() == "a""#)
        .function("body.set_json(value)", "Replaces it, and sets the type.", set_json)
        .overload("res.set_json(value)", |c: NativeCallContext, r: &mut Response, v: Dynamic| {
            set_json(c, &mut of(r), v)
        })
        .example(r#"res.body.set_json([1]); res.body.text() == "[1]" && res.is_json()"#)
        .function("body.set_bytes(bytes)", "Replaces it.", set_bytes)
        .overload("res.set_bytes(bytes)", |c: NativeCallContext, r: &mut Response, v: Dynamic| {
            set_bytes(c, &mut of(r), v)
        })
        .example(r#"res.body.set_bytes(blob(3, 65)); res.body.text() == "AAA""#);
}

fn of(response: &Response) -> Body {
    Body::Response(response.clone())
}

impl Body {
    fn read<R>(&self, read: impl FnOnce(&HeaderMap, &MessageBody) -> R) -> R {
        match self {
            Self::Request(request) => request.0.read(|draft| read(&draft.headers, &draft.body)),
            Self::Response(response) => response.0.read(|draft| read(&draft.headers, &draft.body)),
        }
    }

    fn write<R>(&self, write: impl FnOnce(&mut HeaderMap, &mut MessageBody) -> R) -> R {
        match self {
            Self::Request(request) => {
                request.0.write(|draft| write(&mut draft.headers, &mut draft.body))
            }
            Self::Response(response) => {
                response.0.write(|draft| write(&mut draft.headers, &mut draft.body))
            }
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Request(one), Self::Request(other)) => one.0.is(&other.0),
            (Self::Response(one), Self::Response(other)) => one.0.is(&other.0),
            _ => false,
        }
    }

    /// The body, as far as the filter may have it.
    fn seen(&self, context: &NativeCallContext) -> Outcome<Bytes> {
        let body = self.read(|_, body| body.clone());
        match body {
            MessageBody::Replaced(bytes) => Ok(bytes),
            MessageBody::Held(bytes) => self.granted(context).map(|()| bytes),
            MessageBody::Untouched => {
                self.granted(context)?;
                Err(fail("unavailable", "this body streams past and cannot be read"))
            }
        }
    }

    /// Refuses what the configuration does not grant, and names the key to set.
    fn granted(&self, context: &NativeCallContext) -> Outcome<()> {
        let state = State::of(context)?;
        let (key, access) = match self {
            Self::Request(_) => ("request", state.facts().body.request),
            Self::Response(_) => ("response", state.facts().body.response),
        };
        match access {
            Access::Buffer => Ok(()),
            Access::None => Err(fail("denied", not_granted(key))),
        }
    }

    /// A request's own body is swallowed where another is set, which is a grant too.
    fn settable(&self, context: &NativeCallContext) -> Outcome<()> {
        match self {
            Self::Request(_) => self.granted(context),
            Self::Response(_) => Ok(()),
        }
    }
}

/// What to do about a body that is not granted.
pub fn not_granted(key: &str) -> String {
    format!("this filter sees no {key} bodies: set body: {{ {key}: buffer }} in its configuration")
}

/// Headers that say something of the bytes of a body, which is another now.
const ABOUT_BYTES: [HeaderName; 7] = [
    header::CONTENT_ENCODING,
    header::ETAG,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
];

fn forget_bytes(headers: &mut HeaderMap) {
    for name in &ABOUT_BYTES {
        headers.remove(name);
    }
}

fn set(context: &NativeCallContext, body: &Body, value: &Dynamic) -> Outcome<()> {
    let given = value.read_lock::<Body>().map(|given| given.clone());
    // Rhai writes a handle back after each use of it.
    if given.as_ref().is_some_and(|given| given.is(body)) {
        return Ok(());
    }
    body.settable(context)?;
    let taken = match &given {
        None => None,
        Some(Body::Response(from)) if from.0.read(|d| d.body == MessageBody::Untouched) => {
            Some(MessageBody::Untouched)
        }
        Some(given) => Some(MessageBody::Replaced(given.seen(context)?)),
    };
    body.write(|headers, body| {
        forget_bytes(headers);
        match taken {
            None => set_body(headers, body, value),
            Some(taken) => {
                *body = taken;
                Ok(())
            }
        }
    })
}

/// The bytes without their coding.
fn decoded(context: &NativeCallContext, body: &Body) -> Outcome<Bytes> {
    let bytes = body.seen(context)?;
    match body.read(|headers, body| coding(headers).filter(|_| is_as_it_came(body))) {
        None => Ok(bytes),
        Some(coding) => Err(fail("unavailable", format!("this body is encoded as {coding}"))),
    }
}

fn is_as_it_came(body: &MessageBody) -> bool {
    matches!(body, MessageBody::Held(bytes) if !bytes.is_empty())
}

fn coding(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_ENCODING)?;
    let text = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
    (!text.is_empty() && text != "identity").then_some(text)
}

fn text(context: NativeCallContext, body: &mut Body) -> Outcome<String> {
    let bytes = decoded(&context, body)?;
    fiber::charge(bytes.len());
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn blob(context: NativeCallContext, body: &mut Body) -> Outcome<Dynamic> {
    let bytes = match body {
        Body::Request(_) => body.seen(&context)?,
        Body::Response(_) => decoded(&context, body)?,
    };
    fiber::charge(bytes.len());
    Ok(Dynamic::from_blob(bytes.to_vec()))
}

fn json(context: NativeCallContext, body: &mut Body) -> Outcome<Dynamic> {
    let bytes = decoded(&context, body)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| fail("parse", "this body is not UTF-8"))?;
    super::json::parse(text)
}

fn form(context: NativeCallContext, body: &mut Body) -> Outcome<Map> {
    let is_form = body.read(|headers, _| {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if !is_form {
        return Err(invalid("this body is not of type application/x-www-form-urlencoded"));
    }
    let bytes = decoded(&context, body)?;
    fiber::charge(bytes.len());
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(&bytes) {
        if fields.len() == FIELDS {
            return Err(fail("limit", format!("a form has at most {FIELDS} fields")));
        }
        fields.entry(name.as_ref().into()).or_insert_with(|| value.as_ref().into());
    }
    Ok(fields)
}

/// Names in one form.
const FIELDS: usize = 1_000;

fn len(body: &mut Body) -> Dynamic {
    body.read(|_, body| match body {
        MessageBody::Held(bytes) | MessageBody::Replaced(bytes) => {
            i64::try_from(bytes.len()).unwrap_or(i64::MAX).into()
        }
        MessageBody::Untouched => Dynamic::UNIT,
    })
}

fn set_text(context: NativeCallContext, body: &mut Body, text: &str) -> Outcome<()> {
    set(&context, body, &text.into())
}

fn set_json(context: NativeCallContext, body: &mut Body, value: Dynamic) -> Outcome<()> {
    let text = super::convert::to_json(&value)?.to_string();
    set(&context, body, &text.into())?;
    body.write(|headers, _| {
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
    });
    Ok(())
}

fn set_bytes(context: NativeCallContext, body: &mut Body, value: Dynamic) -> Outcome<()> {
    let bytes = Dynamic::from_blob(bytes_of(&value)?);
    set(&context, body, &bytes)
}
