//! What a test says about a request and about its filter, as the runtime's own types.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use rhai::{Array, Dynamic, Map};

use super::state::grants_of;
use super::{Told, told};
use crate::config::body::{BodyAccess, BodyMode};
use crate::config::filters::{Fetch, Filter, FilterLimits, Lowering, OnFault, Origin, Secret};
use crate::script::api::convert::{scalar_text, to_json};
use crate::script::api::{seconds, set_body};
use crate::script::exchange::{CertInfo, Exchange, MessageBody, RequestDraft, TlsInfo};
use crate::state::{Location, Place};

const REQUEST: &[&str] = &[
    "method",
    "url",
    "scheme",
    "host",
    "path",
    "version",
    "headers",
    "body",
    "cookies",
    "ip",
    "port",
    "geo",
    "tls",
    "id",
    "route",
    "params",
    "upstream",
    "upstreams",
    "response",
    "fetches",
    "aborted",
];
const SETTINGS: &[&str] = &[
    "config",
    "secrets",
    "fetch",
    "body",
    "limits",
    "on_fault",
    "kv",
    "rate_limits",
    "counters",
    "locks",
    "dicts",
    "ipsets",
];

pub fn exchange_of(given: &Map) -> Told<Exchange> {
    known(given, "a request", REQUEST)?;
    let mut exchange = Exchange::for_test();
    let request = Arc::make_mut(&mut exchange.request);
    target(request, given)?;
    if let Some(version) = text(given, "version") {
        request.version = match version.as_str() {
            "HTTP/1.0" => http::Version::HTTP_10,
            "HTTP/1.1" => http::Version::HTTP_11,
            "HTTP/2.0" => http::Version::HTTP_2,
            _ => return Err(told("version: HTTP/1.0, HTTP/1.1 or HTTP/2.0")),
        };
    }
    client(request, given)?;
    for (key, field) in [("id", &mut request.id), ("route", &mut request.route)] {
        if let Some(text) = text(given, key) {
            *field = text;
        }
    }
    request.upstream = text(given, "upstream");
    let params = map_in(given, "params")?;
    request.params = params.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    headers(request, given)?;
    Ok(exchange)
}

/// The body that the client sends; a map or a list is JSON, and says so.
pub fn body_of(given: &Map, request: &mut RequestDraft) -> Told<Bytes> {
    let Some(body) = given.get("body") else { return Ok(Bytes::new()) };
    let mut told = MessageBody::Untouched;
    set_body(&mut request.headers, &mut told, body)?;
    match told {
        MessageBody::Replaced(bytes) | MessageBody::Held(bytes) => Ok(bytes),
        MessageBody::Untouched => Ok(Bytes::new()),
    }
}

/// Upstreams by name, and whether each has a healthy endpoint.
pub fn upstreams_of(given: &Map) -> Told<Option<BTreeMap<String, bool>>> {
    if !given.contains_key("upstreams") {
        return Ok(None);
    }
    let one = |(name, healthy): (rhai::Identifier, Dynamic)| {
        let healthy = healthy.as_bool();
        let healthy = healthy.map_err(|_| told("upstreams: names, each true or false"))?;
        Ok((name.to_string(), healthy))
    };
    map_in(given, "upstreams")?.into_iter().map(one).collect::<Told<_>>().map(Some)
}

/// Whether the client leaves before it has the response.
pub fn aborted(given: &Map) -> Told<bool> {
    let Some(value) = given.get("aborted") else { return Ok(false) };
    value.as_bool().map_err(|_| not("aborted", &value.to_string(), "true or false"))
}

/// Where the client is.
pub fn place_of(given: &Map) -> Told<Place> {
    let geo = map_in(given, "geo")?;
    known(&geo, "geo", &["country", "region", "city", "continent", "lat", "lon", "tz", "asn"])?;
    let angle = |key: &str| -> Told<Option<f64>> {
        let Some(value) = geo.get(key) else { return Ok(None) };
        let number = value.as_float().or_else(|_| value.as_int().map(|int| int as f64));
        number.map(Some).map_err(|_| not(key, &value.to_string(), "a number"))
    };
    let location = Location {
        country: text(&geo, "country"),
        region: text(&geo, "region"),
        city: text(&geo, "city"),
        continent: text(&geo, "continent"),
        lat: angle("lat")?,
        lon: angle("lon")?,
        tz: text(&geo, "tz"),
    };
    Ok(Place { location, asn: geo.get("asn").map(|asn| whole("asn", asn)).transpose()? })
}

/// Method and URL; `scheme`, `host` and `path` say parts of it.
fn target(request: &mut RequestDraft, given: &Map) -> Told<()> {
    if let Some(method) = text(given, "method") {
        request.method = method.parse().map_err(|_| not("method", &method, "a method"))?;
    }
    if given.contains_key("tls") {
        request.scheme = "https".to_owned();
    }
    if let Some(url) = text(given, "url") {
        let uri: Uri = url.parse().map_err(|_| not("url", &url, "a URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(not("url", &url, "a URL with scheme and host"));
        };
        (request.scheme, request.host) = (scheme.to_owned(), authority.to_string());
        request.path = uri.path().to_owned();
        request.query = uri.query().map(str::to_owned);
    }
    if let Some(path) = text(given, "path") {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (path, None),
        };
        if !path.starts_with('/') {
            return Err(not("path", &path, "a path: it begins with /"));
        }
        (request.path, request.query) = (path, query);
    }
    if let Some(host) = text(given, "host") {
        request.host = host;
    }
    match text(given, "scheme") {
        Some(scheme) if scheme == "http" || scheme == "https" => request.scheme = scheme,
        Some(scheme) => return Err(not("scheme", &scheme, "http or https")),
        None => {}
    }
    Ok(())
}

fn headers(request: &mut RequestDraft, given: &Map) -> Told<()> {
    request.headers = given.get("headers").map_or_else(|| Ok(HeaderMap::new()), headers_of)?;
    let cookies = map_in(given, "cookies")?;
    if !cookies.is_empty() {
        let pairs: Vec<String> = cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let line = pairs.join("; ");
        let value = HeaderValue::from_str(&line).map_err(|_| not("cookies", &line, "a header"))?;
        request.headers.insert(header::COOKIE, value);
    }
    if !request.headers.contains_key(header::HOST) {
        let host = HeaderValue::from_str(&request.host);
        let host = host.map_err(|_| not("host", &request.host, "a host"))?;
        request.headers.insert(header::HOST, host);
    }
    Ok(())
}

fn client(request: &mut RequestDraft, given: &Map) -> Told<()> {
    if let Some(ip) = text(given, "ip") {
        request.client.ip = ip.parse().map_err(|_| not("ip", &ip, "an address"))?;
    }
    if let Some(port) = text(given, "port") {
        request.client.port = port.parse().map_err(|_| not("port", &port, "a port"))?;
    }
    if given.contains_key("tls") {
        let tls = map_in(given, "tls")?;
        known(&tls, "tls", &["version", "cipher", "sni", "alpn", "cert"])?;
        let or = |key: &str, default: &str| text(&tls, key).unwrap_or_else(|| default.to_owned());
        request.client.tls = Some(TlsInfo {
            version: or("version", "TLSv1.3"),
            cipher: or("cipher", "TLS13_AES_128_GCM_SHA256"),
            sni: text(&tls, "sni").or_else(|| Some(request.host.clone())),
            alpn: text(&tls, "alpn"),
            cert: tls.contains_key("cert").then(|| cert(&map_in(&tls, "cert")?)).transpose()?,
        });
    }
    Ok(())
}

fn cert(map: &Map) -> Told<CertInfo> {
    known(map, "cert", &["cn", "san", "issuer", "serial", "fingerprint"])?;
    let field = |key: &str| text(map, key).unwrap_or_default();
    Ok(CertInfo {
        cn: field("cn"),
        san: array_in(map, "san")?.iter().map(ToString::to_string).collect(),
        issuer: field("issuer"),
        serial: field("serial"),
        fingerprint: field("fingerprint"),
    })
}

/// A filter without any grant.
pub fn plain_filter(script: &Path) -> Filter {
    Filter {
        name: script.file_stem().unwrap_or_default().to_string_lossy().into(),
        script: script.to_owned(),
        config: serde_json::Value::Null,
        secrets: BTreeMap::new(),
        fetch: Fetch {
            allow: Vec::new(),
            max: 8,
            timeout: Duration::from_secs(5),
            max_body: 1 << 20,
        },
        body: BodyAccess::NONE,
        state: Default::default(),
        schedule: Vec::new(),
        limits: FilterLimits::default(),
        on_fault: OnFault::Closed,
        breaker: None,
        tests: Default::default(),
        // `selvedge test` has refused a variable that says something else.
        lowering: Lowering::usual().unwrap_or_default(),
    }
}

/// The filter's configuration, in the words of the configuration file.
pub fn filter_of(script: &Path, settings: &Map) -> Told<Filter> {
    known(settings, "a filter's settings", SETTINGS)?;
    let mut filter = plain_filter(script);
    if let Some(config) = settings.get("config") {
        filter.config = to_json(config)?;
    }
    for (name, value) in map_in(settings, "secrets")? {
        filter.secrets.insert(name.to_string(), Secret::new(value.to_string().into_bytes()));
    }
    if let Some(fetch) = settings.get("fetch") {
        grant(&mut filter.fetch, fetch)?;
    }
    if let Some(body) = settings.get("body") {
        see(&mut filter.body, body)?;
    }
    filter.state = grants_of(settings)?;
    limit(&mut filter.limits, &map_in(settings, "limits")?)?;
    filter.on_fault = match text(settings, "on_fault").as_deref() {
        None | Some("closed") => OnFault::Closed,
        Some("open") => OnFault::Open,
        Some(other) => return Err(not("on_fault", other, "closed or open")),
    };
    Ok(filter)
}

/// A list of origins, or a map as in the configuration.
fn grant(fetch: &mut Fetch, given: &Dynamic) -> Told<()> {
    let allow = match given.read_lock::<Map>() {
        None => list(given, "fetch")?,
        Some(map) => {
            known(&map, "fetch", &["allow", "max", "timeout", "max_body"])?;
            if let Some(max) = map.get("max") {
                fetch.max = whole("max", max)?;
            }
            if let Some(timeout) = map.get("timeout") {
                fetch.timeout = seconds(timeout)?;
            }
            if let Some(bytes) = map.get("max_body") {
                fetch.max_body = whole("max_body", bytes)?;
            }
            array_in(&map, "allow")?
        }
    };
    for origin in allow {
        let text = origin.to_string();
        let parsed = Origin::parse(&text);
        fetch.allow.push(parsed.ok_or_else(|| not("fetch", &text, "an origin"))?);
    }
    Ok(())
}

/// A map as in the configuration.
fn see(access: &mut BodyAccess, given: &Dynamic) -> Told<()> {
    let map = given.read_lock::<Map>().map(|map| map.clone());
    let map = map.ok_or_else(|| not("body", &given.to_string(), "a map"))?;
    known(&map, "body", &["request", "response", "limit"])?;
    for (key, place) in [("request", &mut access.request), ("response", &mut access.response)] {
        *place = match text(&map, key).as_deref() {
            None | Some("none") => BodyMode::None,
            Some("buffer") => BodyMode::Buffer,
            Some(other) => return Err(not(key, other, "none or buffer")),
        };
    }
    if let Some(bytes) = map.get("limit") {
        access.limit = whole("limit", bytes)?;
    }
    Ok(())
}

fn limit(limits: &mut FilterLimits, given: &Map) -> Told<()> {
    known(given, "limits", &["operations", "memory", "wall"])?;
    if let Some(operations) = given.get("operations") {
        limits.operations = whole("operations", operations)?;
    }
    if let Some(bytes) = given.get("memory") {
        limits.memory = whole("memory", bytes)?;
    }
    if let Some(wall) = given.get("wall") {
        limits.wall = seconds(wall)?;
    }
    Ok(())
}

fn whole<T: TryFrom<i64>>(key: &str, value: &Dynamic) -> Told<T> {
    let int = value.as_int().ok().and_then(|int| T::try_from(int).ok());
    int.ok_or_else(|| not(key, &value.to_string(), "a number from 0"))
}

/// A map of headers; a list is several lines of one name.
pub fn headers_of(given: &Dynamic) -> Told<HeaderMap> {
    let map = given.read_lock::<Map>().ok_or_else(|| told("headers: a map"))?;
    let mut headers = HeaderMap::new();
    for (name, value) in map.iter() {
        let wrong = || told(format!("headers: \"{name}: {value}\" is not a header"));
        let parsed: HeaderName = name.parse().map_err(|_| wrong())?;
        let values = value.read_lock::<Array>().map_or_else(|| vec![value.clone()], |l| l.clone());
        for value in values {
            let text = scalar_text(&value).map_err(|_| wrong())?;
            headers.append(parsed.clone(), HeaderValue::from_str(&text).map_err(|_| wrong())?);
        }
    }
    Ok(headers)
}

pub fn not(key: &str, given: &str, what: &str) -> Box<rhai::EvalAltResult> {
    told(format!("{key}: \"{given}\" is not {what}"))
}

pub fn known(map: &Map, what: &str, keys: &[&str]) -> Told<()> {
    let Some(key) = map.keys().find(|key| !keys.contains(&key.as_str())) else { return Ok(()) };
    let near = crate::script::lint::nearest(key, keys.iter().copied());
    let near = near.map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
    Err(told(format!("{what} has no \"{key}\"{near}; it has {}", keys.join(", "))))
}

pub fn text(map: &Map, key: &str) -> Option<String> {
    map.get(key).filter(|value| !value.is_unit()).map(ToString::to_string)
}

pub fn map_in(map: &Map, key: &str) -> Told<Map> {
    match map.get(key) {
        None => Ok(Map::new()),
        Some(value) => {
            let found = value.read_lock::<Map>().map(|map| map.clone());
            found.ok_or_else(|| not(key, &value.to_string(), "a map"))
        }
    }
}

pub fn array_in(map: &Map, key: &str) -> Told<Array> {
    map.get(key).map_or_else(|| Ok(Array::new()), |value| list(value, key))
}

fn list(value: &Dynamic, key: &str) -> Told<Array> {
    let found = value.read_lock::<Array>().map(|list| list.clone());
    found.ok_or_else(|| not(key, &value.to_string(), "a list"))
}
