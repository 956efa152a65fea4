//! `req`: the request's draft.

use http::Method;
use rhai::{Array, Dynamic};

use super::client::ClientHandle;
use super::cookies::Cookies;
use super::ctx::CtxHandle;
use super::objects::{Headers, Request};
use super::query::Query;
use super::table::Table;
use super::{Outcome, invalid};

/// RFC 6750's scheme, compared without case.
const BEARER: &str = "bearer ";

pub fn area(table: &mut Table) {
    table.area("Request");
    reading(table);
    parts(table);
    setting(table);
}

fn reading(table: &mut Table) {
    table
        .get("req.method", "The method; can be set.", |r: &mut Request| {
            r.0.read(|d| d.method.to_string())
        })
        .get("req.scheme", "`http` or `https`.", |r: &mut Request| r.0.read(|d| d.scheme.clone()))
        .get("req.host", "The host, without a port; can be set.", |r: &mut Request| {
            r.0.read(|d| d.host.clone())
        })
        .get("req.path", "The path as sent, still encoded; can be set.", |r: &mut Request| {
            r.0.read(|d| d.path.clone())
        })
        .get("req.url", "The whole URL.", |r: &mut Request| r.0.read(url))
        .get("req.version", "`HTTP/1.1` or `HTTP/2.0`.", |r: &mut Request| {
            r.0.read(|d| format!("{:?}", d.version))
        })
        .get("req.id", "The request's id, as in the logs.", |r: &mut Request| {
            r.0.read(|d| d.id.clone())
        })
        .get("req.route", "The route's name.", |r: &mut Request| r.0.read(|d| d.route.clone()))
        .get("req.upstream", "The upstream's name or `()`; can be set.", |r: &mut Request| {
            r.0.read(|d| d.upstream.clone()).map_or(Dynamic::UNIT, Into::into)
        })
        .get("req.ua", "The User-Agent, or an empty string.", |r: &mut Request| {
            r.0.read(|d| header(d, "user-agent").unwrap_or_default())
        })
        .function(
            "req.bearer()",
            "The token of `Authorization: Bearer ..`, or `()`.",
            |r: &mut Request| r.0.read(bearer).map_or(Dynamic::UNIT, Into::into),
        )
        .function(
            "req.accepts(types)",
            "The first of the types that Accept names, or `()`.",
            accepts,
        );
}

fn parts(table: &mut Table) {
    table
        .get("req.headers", "The headers.", |r: &mut Request| Headers::Request(r.clone()))
        .get("req.query", "The query's parameters.", |r: &mut Request| Query(r.clone()))
        .get("req.cookies", "The cookies.", |r: &mut Request| Cookies(r.clone()))
        .get("req.client", "Who sent it.", |r: &mut Request| {
            r.0.read(|d| ClientHandle(std::sync::Arc::new(d.client.clone())))
        })
        .get("req.ctx", "Data kept for this request's later hooks.", |r: &mut Request| {
            r.0.read(|d| CtxHandle(d.ctx.clone()))
        })
        .get("req.params", "The parts that the route's path captured.", |r: &mut Request| {
            r.0.read(|d| {
                let part = |(k, v): &(String, String)| (k.as_str().into(), v.as_str().into());
                d.params.iter().map(part).collect::<rhai::Map>()
            })
        });
}

fn setting(table: &mut Table) {
    table
        .set("method", |r: &mut Request, method: &str| -> Outcome<()> {
            let parsed = Method::from_bytes(method.as_bytes());
            let method = parsed.map_err(|_| invalid(format!("\"{method}\" is not a method")))?;
            r.0.write(|d| d.method = method);
            Ok(())
        })
        .set("host", |r: &mut Request, host: &str| -> Outcome<()> {
            let bad = || invalid(format!("\"{host}\" is not a host"));
            let authority: http::uri::Authority = host.parse().map_err(|_| bad())?;
            if authority.as_str().contains('@') {
                return Err(bad());
            }
            r.0.write(|d| d.host = host.to_owned());
            Ok(())
        })
        .set("path", set_path)
        .set("upstream", |r: &mut Request, name: &str| {
            r.0.write(|d| d.upstream = Some(name.to_owned()));
        });
}

fn set_path(request: &mut Request, path: &str) -> Outcome<()> {
    let plain = path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#');
    if !path.starts_with('/') || !plain {
        return Err(invalid(format!("\"{path}\" is not an encoded path")));
    }
    request.0.write(|d| d.path = path.to_owned());
    Ok(())
}

fn url(draft: &crate::script::exchange::RequestDraft) -> String {
    let query = draft.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}://{}{}{query}", draft.scheme, draft.host, draft.path)
}

fn header(draft: &crate::script::exchange::RequestDraft, name: &str) -> Option<String> {
    draft.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn bearer(draft: &crate::script::exchange::RequestDraft) -> Option<String> {
    let value = header(draft, "authorization")?;
    let scheme = value.get(..BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then(|| value[BEARER.len()..].trim().to_owned())
}

fn accepts(request: &mut Request, types: Array) -> Dynamic {
    let accept = request.0.read(|d| header(d, "accept")).unwrap_or_else(|| "*/*".into());
    let ranges: Vec<&str> =
        accept.split(',').map(|r| r.split(';').next().unwrap_or_default().trim()).collect();
    let wanted = |kind: &Dynamic| {
        let kind = kind.to_string();
        let main = kind.split('/').next().unwrap_or_default();
        ranges.iter().any(|range| {
            *range == "*/*" || range.eq_ignore_ascii_case(&kind) || *range == format!("{main}/*")
        })
    };
    types.iter().find(|kind| wanted(kind)).cloned().unwrap_or(Dynamic::UNIT)
}
