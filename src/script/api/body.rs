//! `req.body` and `res.body`: handles, so that an edit is one of the message.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use rhai::{Dynamic, Map, NativeCallContext};

use super::convert::bytes_of;
use super::objects::{Request, Response, set_body};
use super::octets::{Octets, text_of};
use super::state::State;
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::config::body::BodyMode;
use crate::script::exchange::MessageBody;
use crate::script::fiber;

/// A message's body, and whether the filter sees one that came from outside.
#[derive(Clone)]
pub struct Body {
    message: Message,
    access: BodyMode,
    /// Bytes of a body without its coding.
    limit: usize,
}

#[derive(Clone)]
enum Message {
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
            of_request,
        )
        .set("req.body", |c: NativeCallContext, r: &mut Request, value: Dynamic| {
            set(&of_request(c, r)?, &value)
        })
        .example(r#"req.body = #{ a: 1 }; req.body.text() == `{"a":1}`"#)
        .get(
            "res.body",
            "The body; can be set to text, bytes, or a value as JSON. An origin's is read with \
             `body: { response: buffer }` only.",
            of_response,
        )
        .set("res.body", |c: NativeCallContext, r: &mut Response, value: Dynamic| {
            set(&of_response(c, r)?, &value)
        })
        .example(r#"res.body = #{ a: 1 }; res.body.text() == `{"a":1}`"#);
}

fn reading(table: &mut Table) {
    table
        .function("body.text()", "As text; what is not UTF-8 becomes U+FFFD.", text)
        .overload("res.text()", |c: NativeCallContext, r: &mut Response| {
            text(&mut of_response(c, r)?)
        })
        .example(r#"Response::text("a").body.text() == "a""#)
        .function(
            "body.bytes()",
            "As bytes; a request's are exactly those that came.",
            |b: &mut Body| b.bytes().map(Octets),
        )
        .overload("res.bytes()", |c: NativeCallContext, r: &mut Response| {
            of_response(c, r)?.bytes().map(Octets)
        })
        .example(r#"hmac::sha256(secret("key"), Response::text("a").body.bytes()).len == 64"#)
        .function("body.json()", "Parsed as JSON.", json)
        .overload("res.json()", |c: NativeCallContext, r: &mut Response| {
            json(&mut of_response(c, r)?)
        })
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
        .function("body.set_text(text)", "Replaces it.", |b: &mut Body, t: &str| set_text(b, t))
        .overload("res.set_text(text)", |c: NativeCallContext, r: &mut Response, t: &str| {
            set_text(&of_response(c, r)?, t)
        })
        .example(r#"res.body.set_text("a"); res.body.text() == "a""#)
        .function("body.set_json(value)", "Replaces it, and sets the type.", |b: &mut Body, v| {
            set_json(b, v)
        })
        .overload("res.set_json(value)", |c: NativeCallContext, r: &mut Response, v: Dynamic| {
            set_json(&of_response(c, r)?, v)
        })
        .example(r#"res.body.set_json([1]); res.body.text() == "[1]" && res.is_json()"#)
        .function("body.set_bytes(bytes)", "Replaces it.", |b: &mut Body, v| set_bytes(b, v))
        .overload("res.set_bytes(bytes)", |c: NativeCallContext, r: &mut Response, v: Dynamic| {
            set_bytes(&of_response(c, r)?, v)
        })
        .example(r#"res.body.set_bytes(blob(3, 65)); res.body.text() == "AAA""#);
}

fn of_request(context: NativeCallContext, request: &mut Request) -> Outcome<Body> {
    let access = State::of(&context)?.facts().body;
    let message = Message::Request(request.clone());
    Ok(Body { message, access: access.request, limit: access.limit })
}

fn of_response(context: NativeCallContext, response: &mut Response) -> Outcome<Body> {
    let access = State::of(&context)?.facts().body;
    let message = Message::Response(response.clone());
    Ok(Body { message, access: access.response, limit: access.limit })
}

impl Body {
    fn read<R>(&self, read: impl FnOnce(&HeaderMap, &MessageBody) -> R) -> R {
        match &self.message {
            Message::Request(of) => of.0.read(|draft| read(&draft.headers, &draft.body)),
            Message::Response(of) => of.0.read(|draft| read(&draft.headers, &draft.body)),
        }
    }

    fn write<R>(&self, write: impl FnOnce(&mut HeaderMap, &mut MessageBody) -> R) -> R {
        match &self.message {
            Message::Request(of) => of.0.write(|draft| write(&mut draft.headers, &mut draft.body)),
            Message::Response(of) => of.0.write(|draft| write(&mut draft.headers, &mut draft.body)),
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (&self.message, &other.message) {
            (Message::Request(one), Message::Request(other)) => one.0.is(&other.0),
            (Message::Response(one), Message::Response(other)) => one.0.is(&other.0),
            _ => false,
        }
    }

    /// The body as it came, as far as the filter may have it.
    fn seen(&self) -> Outcome<Bytes> {
        let body = self.read(|_, body| body.clone());
        match body {
            MessageBody::Replaced(bytes) => Ok(bytes),
            MessageBody::Held(bytes) => self.granted().map(|()| bytes),
            MessageBody::Untouched => {
                self.granted()?;
                Err(fail("unavailable", "this body streams past and cannot be read"))
            }
        }
    }

    /// Without its coding.
    fn decoded(&self) -> Outcome<Bytes> {
        let bytes = self.seen()?;
        let as_it_came = |body: &MessageBody| matches!(body, MessageBody::Held(_));
        match self.read(|headers, body| coding(headers).filter(|_| as_it_came(body))) {
            Some(coding) if !bytes.is_empty() => unpacked(&coding, &bytes, self.limit),
            _ => Ok(bytes),
        }
    }

    /// A request's as they came, which is what signatures are over; a response's without coding.
    pub fn bytes(&self) -> Outcome<Bytes> {
        match &self.message {
            Message::Request(_) => self.seen(),
            Message::Response(_) => self.decoded(),
        }
    }

    /// Refuses what the configuration does not grant, and names the key to set.
    fn granted(&self) -> Outcome<()> {
        let key = match &self.message {
            Message::Request(_) => "request",
            Message::Response(_) => "response",
        };
        match self.access {
            BodyMode::Buffer => Ok(()),
            BodyMode::None => Err(fail(
                "denied",
                format!(
                    "this filter sees no {key} bodies: set body: {{ {key}: buffer }} in its \
                     configuration"
                ),
            )),
        }
    }

    /// A request's own body is swallowed where another is set, which is a grant too.
    fn settable(&self) -> Outcome<()> {
        match &self.message {
            Message::Request(_) => self.granted(),
            Message::Response(_) => Ok(()),
        }
    }
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

fn set(body: &Body, value: &Dynamic) -> Outcome<()> {
    let given = value.read_lock::<Body>().map(|given| given.clone());
    // Rhai writes a handle back after each use of it.
    if given.as_ref().is_some_and(|given| given.is(body)) {
        return Ok(());
    }
    body.settable()?;
    let streams = |given: &Body| matches!(&given.message, Message::Response(of) if of.0.read(|d| d.body == MessageBody::Untouched));
    let taken = match &given {
        None => None,
        Some(given) if streams(given) && matches!(body.message, Message::Response(_)) => {
            Some(MessageBody::Untouched)
        }
        Some(given) => Some(MessageBody::Replaced(given.decoded()?)),
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

/// Up to the limit, however small the packed body was.
fn unpacked(coding: &str, packed: &[u8], limit: usize) -> Outcome<Bytes> {
    if coding != "gzip" && coding != "x-gzip" {
        return Err(fail("unavailable", format!("this body is encoded as {coding}")));
    }
    let most = limit.min(fiber::room());
    let (mut decoder, mut body) = (MultiGzDecoder::new(packed).take(most as u64 + 1), Vec::new());
    decoder.read_to_end(&mut body).map_err(|error| fail("parse", format!("gzip: {error}")))?;
    if body.len() > most {
        return Err(fail("too_large", format!("this body has more than {most} bytes unpacked")));
    }
    fiber::charge(body.len());
    Ok(body.into())
}

fn coding(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_ENCODING)?;
    let text = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
    (!text.is_empty() && text != "identity").then_some(text)
}

fn text(body: &mut Body) -> Outcome<String> {
    text_of(&body.decoded()?)
}

fn json(body: &mut Body) -> Outcome<Dynamic> {
    let bytes = body.decoded()?;
    let text = std::str::from_utf8(&bytes).map_err(|_| fail("parse", "this body is not UTF-8"))?;
    super::json::parse(text)
}

fn form(body: &mut Body) -> Outcome<Map> {
    let is_form = body.read(|headers, _| {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if !is_form {
        return Err(invalid("this body is not of type application/x-www-form-urlencoded"));
    }
    let bytes = body.decoded()?;
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

fn set_text(body: &Body, text: &str) -> Outcome<()> {
    set(body, &text.into())
}

fn set_json(body: &Body, value: Dynamic) -> Outcome<()> {
    let text = super::convert::to_json(&value)?.to_string();
    set(body, &Dynamic::from_blob(text.into_bytes()))?;
    body.write(|headers, _| {
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
    });
    Ok(())
}

fn set_bytes(body: &Body, value: Dynamic) -> Outcome<()> {
    set(body, &Dynamic::from_blob(bytes_of(&value)?))
}
