//! Responses: the origin's, fetched ones, and a filter's own.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use rhai::{Dynamic, Map};

use super::convert::to_json;
use super::cookies::set_cookie;
use super::objects::{Headers, Response, headers_of, set_body, status_of};
use super::table::Table;
use super::{Outcome, invalid};
use crate::script::exchange::{ErrorInfo, ResponseDraft};

pub fn area(table: &mut Table) {
    table.area("Response");
    constructors(table);
    properties(table);
    table.area("Error");
    table
        .get("err.kind", "What went wrong, as a word.", |e: &mut ErrorInfo| e.kind.clone())
        .example(r#"err.kind == "connect""#)
        .get("err.status", "The status that the client would get.", |e: &mut ErrorInfo| {
            i64::from(e.status)
        })
        .example("err.status == 502")
        .get("err.message", "What went wrong, for the log.", |e: &mut ErrorInfo| e.message.clone())
        .example(r#"err.message != """#);
}

fn constructors(table: &mut Table) {
    table
        .function("response(status, headers, body)", "A new response.", |s, h: Map, b: Dynamic| {
            made(s, Some(h), b)
        })
        .example(r#"response(403, #{ "x-why": "no" }, "no").status == 403"#)
        .overload("response(status)", |s: i64| made(s, None, Dynamic::UNIT))
        .overload("response(status, body)", |s: i64, body: &str| made(s, None, body.into()))
        .overload("response(status, body)", |s: i64, body: rhai::Blob| {
            made(s, None, Dynamic::from_blob(body))
        })
        .overload("response(status, headers)", |s: i64, h: Map| made(s, Some(h), Dynamic::UNIT))
        .function("Response::text(text)", "200 with plain text.", |text: &str| {
            typed("text/plain; charset=utf-8", text)
        })
        .example(r#"Response::text("hi").headers["content-type"] == "text/plain; charset=utf-8""#)
        .function("Response::html(text)", "200 with HTML.", |text: &str| {
            typed("text/html; charset=utf-8", text)
        })
        .example(r#"Response::html("<p>hi</p>").is_html()"#)
        .function("Response::json(value)", "200 with a value as JSON.", json)
        .example(r#"Response::json(#{ a: 1 }).text() == `{"a":1}`"#)
        .function("Response::redirect(url)", "302 to a URL.", |url: &str| redirect(url, 302))
        .example(r#"Response::redirect("/login").status == 302 && Response::redirect("/new", 301).status == 301"#)
        .overload("Response::redirect(url, status)", redirect)
        .function("Response::empty()", "204.", || {
            Response::new(ResponseDraft::new(StatusCode::NO_CONTENT, Bytes::new()))
        })
        .example("Response::empty().status == 204");
}

fn made(status: i64, headers: Option<Map>, body: Dynamic) -> Outcome<Response> {
    let mut draft = ResponseDraft::new(status_of(status)?, Bytes::new());
    if let Some(headers) = headers {
        draft.headers = headers_of(&headers.into())?;
    }
    set_body(&mut draft.headers, &mut draft.body, &body)?;
    Ok(Response::new(draft))
}

fn typed(content_type: &'static str, text: &str) -> Response {
    let mut draft = ResponseDraft::new(StatusCode::OK, text.as_bytes().to_vec());
    draft.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Response::new(draft)
}

fn json(value: Dynamic) -> Outcome<Response> {
    Ok(typed("application/json", &to_json(&value)?.to_string()))
}

fn redirect(url: &str, status: i64) -> Outcome<Response> {
    let status = status_of(status)?;
    if !status.is_redirection() {
        return Err(invalid("a redirect's status is 3xx"));
    }
    let location = HeaderValue::from_str(url);
    let location = location.map_err(|_| invalid("a redirect's URL has no such characters"))?;
    let mut draft = ResponseDraft::new(status, Bytes::new());
    draft.headers.insert(header::LOCATION, location);
    Ok(Response::new(draft))
}

fn properties(table: &mut Table) {
    table
        .get("res.status", "The status; can be set.", |r: &mut Response| {
            r.0.read(|d| i64::from(d.status.as_u16()))
        })
        .example("res.status = 404; res.status == 404")
        .set("res.status", |r: &mut Response, status: i64| -> Outcome<()> {
            let status = status_of(status)?;
            r.0.write(|d| d.status = status);
            Ok(())
        })
        .get("res.headers", "The headers.", |r: &mut Response| Headers::Response(r.clone()))
        .example(r#"res.headers["x-a"] = "1"; res.headers["X-A"] == "1""#)
        .get("res.from", "Who made it: `origin`, `filter`, `proxy` or `cache`.", |r: &mut Response| {
            r.0.read(|d| d.from.name())
        })
        .example(r#"res.from == "origin""#)
        .get("res.ok", "Whether the status is 2xx.", |r: &mut Response| {
            r.0.read(|d| d.status.is_success())
        })
        .example("res.ok && !response(404).ok")
        .function("res.is_html()", "By its content type.", |r: &mut Response| is_type(r, "html"))
        .example("res.is_html()")
        .function("res.is_json()", "By its content type.", |r: &mut Response| is_type(r, "json"))
        .example("Response::json([]).is_json()")
        .function(
            "res.set_cookie(name, value, options)",
            "Adds a cookie. Options: path, domain, max_age, secure, http_only, same_site; what is \
             not given is not written.",
            |r: &mut Response, n: &str, v: &str, o: Map| set_cookie(r, n, v, &o),
        )
        .example(r#"res.set_cookie("a", "1", #{ max_age: 60, path: "/" }); res.headers["set-cookie"] == "a=1; Path=/; Max-Age=60""#)
        .overload("res.set_cookie(name, value)", |r: &mut Response, n: &str, v: &str| {
            set_cookie(r, n, v, &Map::new())
        });
}

fn is_type(response: &mut Response, wanted: &str) -> bool {
    response.0.read(|draft| {
        let value = draft.headers.get(header::CONTENT_TYPE);
        let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        kind.rsplit(['/', '+']).next() == Some(wanted) || kind == format!("application/x{wanted}")
    })
}
