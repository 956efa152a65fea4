//! URLs: in parts that can be set, and percent-encoding.

use std::sync::Arc;

use http::Uri;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rhai::Dynamic;

use super::query::{Query, set_query};
use super::table::Table;
use super::{Outcome, fail, invalid};

/// RFC 3986's unreserved characters stay.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Clone)]
struct Parts {
    scheme: String,
    host: String,
    port: Option<u16>,
    path: String,
    query: Option<String>,
}

/// A handle: copies are the same URL.
#[derive(Clone)]
pub struct Url(Arc<Mutex<Parts>>);

impl Url {
    fn parse(text: &str) -> Outcome<Self> {
        let bad = || fail("parse", format!("\"{text}\" is not an absolute http or https URL"));
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"));
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(bad)?;
        Ok(Self(Arc::new(Mutex::new(Parts {
            scheme: scheme.ok_or_else(bad)?.to_owned(),
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
        }))))
    }

    pub fn query(&self) -> Option<String> {
        self.0.lock().query.clone()
    }

    pub fn set_query(&self, query: Option<String>) {
        self.0.lock().query = query;
    }

    fn text(&self) -> String {
        let Parts { scheme, host, port, path, query } = &*self.0.lock();
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let query = query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

pub fn area(table: &mut Table) {
    table.area("URL");
    parts(table);
    encoding(table);
}

fn parts(table: &mut Table) {
    table
        .function("url(text)", "A URL in parts that can be set.", Url::parse)
        .example(r#"let u = url(req.url); u.path = "/b"; u.query["q"] = 1; `${u}` == "http://shop.test/b?a=1&b=2&q=1""#)
        .get("url.scheme", "`http` or `https`; can be set.", |u: &mut Url| u.0.lock().scheme.clone())
        .set("url.scheme", |u: &mut Url, scheme: &str| match scheme {
            "http" | "https" => {
                scheme.clone_into(&mut u.0.lock().scheme);
                Ok(())
            }
            _ => Err(invalid("a scheme is http or https")),
        })
        .example(r#"let u = url("http://a/"); u.scheme = "https"; u.to_string() == "https://a/""#)
        .get("url.host", "Without the port; can be set.", |u: &mut Url| u.0.lock().host.clone())
        .set("url.host", set_host)
        .example(r#"let u = url("http://a:81/"); u.host = "b"; u.host == "b" && u.port == 81"#)
        .get("url.port", "The port if one is written, else `()`; can be set.", |u: &mut Url| {
            u.0.lock().port.map_or(Dynamic::UNIT, |port| i64::from(port).into())
        })
        .set("url.port", |u: &mut Url, port: i64| -> Outcome<()> {
            let port = u16::try_from(port).ok().filter(|port| *port > 0);
            u.0.lock().port = Some(port.ok_or_else(|| invalid("a port is 1 to 65535"))?);
            Ok(())
        })
        .set("url.port", |u: &mut Url, (): ()| u.0.lock().port = None)
        .example(r#"let u = url("http://a/"); u.port = 8080; u.to_string() == "http://a:8080/""#)
        .get("url.path", "Still encoded; can be set.", |u: &mut Url| u.0.lock().path.clone())
        .set("url.path", |u: &mut Url, path: &str| -> Outcome<()> {
            super::request::check_path(path)?;
            path.clone_into(&mut u.0.lock().path);
            Ok(())
        })
        .example(r#"url("http://a").path == "/""#)
        .get("url.query", "Its parameters; can be set as text.", |u: &mut Url| {
            Query::Url(u.clone())
        })
        .set("url.query", |u: &mut Url, query: &str| set_query(&mut u.0.lock().query, query))
        .set("url.query", |u: &mut Url, (): ()| u.0.lock().query = None)
        .example(r#"let u = url("http://a/?x=1"); u.query = "y=2"; u.query["y"] == "2""#)
        .function("url.to_string()", "The whole URL.", |u: &mut Url| u.text())
        .example(r#"`${url("http://A/b?c")}` == "http://a/b?c""#);
}

fn set_host(url: &mut Url, host: &str) -> Outcome<()> {
    let authority: Option<http::uri::Authority> = host.parse().ok();
    // A port, or a name before an at sign, would make it differ.
    let host = authority.filter(|authority| authority.host() == host);
    let host = host.ok_or_else(|| invalid("this is not a host alone"))?;
    url.0.lock().host = host.as_str().to_ascii_lowercase();
    Ok(())
}

fn encoding(table: &mut Table) {
    table
        .function("url::encode(text)", "For one part of a URL.", |text: &str| {
            utf8_percent_encode(text, ENCODED).to_string()
        })
        .example(r#"url::encode("a b/c") == "a%20b%2Fc""#)
        .function("url::decode(text)", "The reverse.", |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|_| fail("parse", "not UTF-8"))
        })
        .example(r#"url::decode("a%20b") == "a b""#);
}
