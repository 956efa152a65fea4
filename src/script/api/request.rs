//! `req`: the request's draft.

use http::Method;
use rhai::Dynamic;

use super::client::ClientHandle;
use super::cookies::Cookies;
use super::ctx::CtxHandle;
use super::device;
use super::objects::{Headers, Request, check_line, set_host};
use super::query::{Query, set_query};
use super::table::Table;
use super::{Outcome, invalid};
use crate::script::exchange::RequestDraft;

pub fn area(table: &mut Table) {
    table.area("Request");
    reading(table);
    parts(table);
    setting(table);
    super::negotiate::area(table);
}

fn reading(table: &mut Table) {
    table
        .get("req.method", "The method; can be set.", |r: &mut Request| {
            r.0.read(|d| d.method.to_string())
        })
        .example(r#"req.method == "GET""#)
        .get("req.scheme", "`http` or `https`.", |r: &mut Request| r.0.read(|d| d.scheme.clone()))
        .example(r#"req.scheme == "http""#)
        .get(
            "req.host",
            "The host as the client sent it, with its port if it has one; can be set, which sets the \
             Host header too.", |r: &mut Request| {
            r.0.read(|d| d.host.clone())
        })
        .example(r#"req.host = "b.test"; req.headers["host"] == "b.test""#)
        .get("req.path", "The path as sent, still encoded; can be set.", |r: &mut Request| {
            r.0.read(|d| d.path.clone())
        })
        .example(r#"req.path = "/new"; req.path.starts_with("/n")"#)
        .get("req.url", "The whole URL.", |r: &mut Request| r.0.read(url))
        .example(r#"req.url == "http://shop.test/item/7?a=1&b=2""#)
        .get("req.version", "`HTTP/1.1` or `HTTP/2.0`.", |r: &mut Request| {
            r.0.read(|d| format!("{:?}", d.version))
        })
        .example(r#"req.version == "HTTP/1.1""#)
        .get("req.id", "The request's id, as in the logs.", |r: &mut Request| {
            r.0.read(|d| d.id.clone())
        })
        .example(r#"req.id != """#)
        .get("req.route", "The route's name.", |r: &mut Request| r.0.read(|d| d.route.clone()))
        .example(r#"req.route == "test""#)
        .get("req.upstream", "The upstream's name or `()`; can be set.", |r: &mut Request| {
            r.0.read(|d| d.upstream.clone()).map_or(Dynamic::UNIT, Into::into)
        })
        .example(r#"req.upstream == () && { req.upstream = "blue"; true }"#)
        .get(
            "req.cache_key",
            "Takes the place of what the route counts of query, headers, cookies and device; can be \
             set in on_request.",
            |r: &mut Request| {
                r.0.read(|d| d.cache_key.clone()).map_or(Dynamic::UNIT, Into::into)
            },
        )
        .example(r#"req.cache_key == () && { req.cache_key = "plan=free"; true }"#)
        .get("req.ua", "The User-Agent, or an empty string.", |r: &mut Request| {
            r.0.read(|d| header(d, "user-agent").unwrap_or_default())
        })
        .example(r#"req.ua.starts_with("curl/")"#)
        .get(
            "req.device",
            "`mobile`, `tablet`, `desktop` or `bot`, by words in the User-Agent. A request without \
             one is a bot's.",
            |r: &mut Request| {
                r.0.read(|d| device::class(&header(d, "user-agent").unwrap_or_default()))
            },
        )
        .example(r#"req.device == "bot""#);
}

fn parts(table: &mut Table) {
    table
        .get("req.headers", "The headers.", |r: &mut Request| Headers::Request(r.clone()))
        .example(r#"req.headers["Accept"] == "text/html""#)
        .get("req.query", "The query's parameters; can be set as text.", |r: &mut Request| {
            Query::Request(r.clone())
        })
        .example(r#"req.query["a"] == "1""#)
        .get("req.cookies", "The cookies.", |r: &mut Request| Cookies(r.clone()))
        .example(r#"req.cookies["sid"] == "abc""#)
        .get("req.client", "Who sent it.", |r: &mut Request| {
            r.0.read(|d| ClientHandle(std::sync::Arc::new(d.client.clone())))
        })
        .example(r#"req.client.ip == "127.0.0.1""#)
        .get("req.ctx", "Data kept for this request's later hooks.", |r: &mut Request| {
            r.0.read(|d| CtxHandle(d.ctx.clone()))
        })
        .example(r#"req.ctx.user = "ann"; req.ctx.user == "ann""#)
        .get("req.params", "The parts that the route's path captured.", |r: &mut Request| {
            r.0.read(|d| {
                let part = |(k, v): &(String, String)| (k.as_str().into(), v.as_str().into());
                d.params.iter().map(part).collect::<rhai::Map>()
            })
        })
        .example(r#"req.params.id == "7""#);
}

fn setting(table: &mut Table) {
    table
        .set("req.method", |r: &mut Request, method: &str| -> Outcome<()> {
            let parsed = Method::from_bytes(method.as_bytes());
            let method = parsed.map_err(|_| invalid(format!("\"{method}\" is not a method")))?;
            r.0.write(|d| d.method = method);
            Ok(())
        })
        .set("req.host", |r: &mut Request, host: &str| r.0.write(|d| set_host(d, host)))
        .set("req.query", |r: &mut Request, query: &str| {
            r.0.write(|d| set_query(&mut d.query, query))
        })
        .set("req.path", set_path)
        .set("req.upstream", |r: &mut Request, name: &str| {
            r.0.write(|d| d.upstream = Some(name.to_owned()));
        })
        .set("req.cache_key", |r: &mut Request, key: &str| -> Outcome<()> {
            check_line("a cache key", key.len())?;
            r.0.write(|d| d.cache_key = Some(key.to_owned()));
            Ok(())
        });
}

fn set_path(request: &mut Request, path: &str) -> Outcome<()> {
    check_path(path)?;
    request.0.write(|d| d.path = path.to_owned());
    Ok(())
}

pub fn check_path(path: &str) -> Outcome<()> {
    check_line("a path", path.len())?;
    let plain = path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#');
    if path.starts_with('/') && plain {
        return Ok(());
    }
    Err(invalid(format!("\"{path}\" is not an encoded path")))
}

fn url(draft: &RequestDraft) -> String {
    let query = draft.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}://{}{}{query}", draft.scheme, draft.host, draft.path)
}

pub fn header(draft: &RequestDraft, name: &str) -> Option<String> {
    draft.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
