//! `fetch`: subrequests, checked against the filter's grants before the host is asked.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use rhai::{Array, Dynamic, Map, NativeCallContext};

use super::convert::{bytes_of, to_json};
use super::objects::{Response, headers_of};
use super::redirects;
use super::state::{State, wait};
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::config::filters::{Fetch, Origin};
use crate::script::exchange::{From as Made, MessageBody, ResponseDraft};
use crate::script::host::{BoxFuture, FetchError, FetchErrorKind, FetchRequest, FetchResponse};

pub type Fetched = Result<FetchResponse, FetchError>;
pub type Running = BoxFuture<'static, Fetched>;

/// Fetches in one `fetch_all`.
const MOST_AT_ONCE: usize = 64;

pub fn area(table: &mut Table) {
    table.area("Fetch");
    table
        .function(
            "fetch(url, options)",
            "Fetches and waits. Options: method, headers, body, json, form, timeout (seconds), \
             redirect (`manual`, or `follow` within the grant). `fetch.max` counts all hooks of one request.",
            |c: NativeCallContext, url: &str, options: Map| fetch(&c, url, &options),
        )
        .overload("fetch(url)", |c: NativeCallContext, url: &str| fetch(&c, url, &Map::new()))
        .example(r#"fetch("http://api/who", #{ method: "POST", json: #{ a: 1 } }).status == 200"#)
        .function(
            "fetch_all(requests)",
            "Fetches at the same time; each is a URL or a map with `url`. A failure is a map with `.error`.",
            |c: NativeCallContext, requests: Array| fetch_all(&c, requests),
        )
        .example(
            r#"let all = fetch_all(["http://api/a", #{ url: "http://api/b", method: "HEAD" }]);
  all[0].ok && all[1].ok"#,
        );
    super::pending::area(table);
}

fn fetch(context: &NativeCallContext, url: &str, options: &Map) -> Outcome<Response> {
    let running = begin(context, url, options)?;
    wait(running)?.map(response).map_err(|error| raised(&error))
}

pub fn raised(error: &FetchError) -> super::Raised {
    fail(error.kind.name(), error.message.clone())
}

pub fn response(fetched: FetchResponse) -> Response {
    Response::new(ResponseDraft {
        status: fetched.status,
        headers: fetched.headers,
        body: MessageBody::Replaced(fetched.body),
        from: Made::Origin,
        transforms: Vec::new(),
        cache: None,
    })
}

/// Checks the grants, then asks the host.
pub fn begin(context: &NativeCallContext, url: &str, options: &Map) -> Outcome<Running> {
    let state = State::of(context)?;
    state.host()?;
    let request = request_of(&state.facts().fetch, url, options)?;
    let follows = follows(options)?;
    let first = start(&state, request.clone()).map_err(|error| raised(&error))?;
    if !follows {
        return Ok(first);
    }
    let timeout = request.timeout;
    Ok(within(
        timeout,
        Box::pin(async move { redirects::follow(state, request, first.await).await }),
    ))
}

fn follows(options: &Map) -> Outcome<bool> {
    match options.get("redirect").map(ToString::to_string).as_deref() {
        None | Some("manual") => Ok(false),
        Some("follow") => Ok(true),
        Some(_) => Err(invalid("redirect is follow or manual")),
    }
}

/// Counts a granted fetch, and starts it.
pub fn start(state: &State, request: FetchRequest) -> Result<Running, FetchError> {
    let error = |kind, message| FetchError { kind, message };
    let Ok(host) = state.host() else {
        return Err(error(FetchErrorKind::Unavailable, "no run is going on".into()));
    };
    if !state.take_fetch() {
        let most = state.facts().fetch.max;
        let message = format!("this filter may start {most} fetches for one request");
        return Err(error(FetchErrorKind::Limit, message));
    }
    Ok(within(request.timeout, host.fetch(request)))
}

fn within(timeout: Duration, running: Running) -> Running {
    Box::pin(async move {
        tokio::time::timeout(timeout, running).await.unwrap_or_else(|_| {
            let message = format!("no response within {timeout:?}");
            Err(FetchError { kind: FetchErrorKind::Timeout, message })
        })
    })
}

fn request_of(grant: &Fetch, url: &str, options: &Map) -> Outcome<FetchRequest> {
    let url = granted(grant, url)?;
    let mut request = FetchRequest {
        method: Method::GET,
        url,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        timeout: grant.timeout,
        max_body: grant.max_body,
    };
    let mut bodies = 0;
    for (name, value) in options {
        match name.as_str() {
            "method" => {
                let method = Method::from_bytes(value.to_string().as_bytes());
                request.method = method.map_err(|_| invalid("not a method"))?;
            }
            "headers" => {
                let given = headers_of(value)?;
                if given.contains_key(http::header::HOST) {
                    return Err(invalid("the host of a fetch is the one in its URL"));
                }
                request.headers.extend(given);
            }
            "timeout" => request.timeout = grant.timeout.min(seconds(value)?),
            "body" | "json" | "form" => {
                bodies += 1;
                set_body(&mut request, name, value)?;
            }
            "url" | "redirect" => {}
            _ => return Err(invalid(format!("fetch has no option {name}"))),
        }
    }
    if bodies > 1 {
        return Err(invalid("a fetch has one of body, json, form"));
    }
    Ok(request)
}

fn set_body(request: &mut FetchRequest, kind: &str, value: &Dynamic) -> Outcome<()> {
    let (bytes, content_type) = match kind {
        "json" => (to_json(value)?.to_string().into_bytes(), Some("application/json")),
        "form" => {
            let map = value.read_lock::<Map>().ok_or_else(|| invalid("form is a map"))?;
            let mut form = form_urlencoded::Serializer::new(String::new());
            for (name, value) in map.iter() {
                form.append_pair(name, &super::convert::scalar_text(value)?);
            }
            (form.finish().into_bytes(), Some("application/x-www-form-urlencoded"))
        }
        _ => (bytes_of(value)?, None),
    };
    request.body = bytes.into();
    if let Some(content_type) = content_type {
        let value = http::HeaderValue::from_static(content_type);
        request.headers.entry(http::header::CONTENT_TYPE).or_insert(value);
    }
    Ok(())
}

/// Seconds as an integer or a float, bounded to a day.
pub fn seconds(value: &Dynamic) -> Outcome<Duration> {
    let seconds = value.as_float().or_else(|_| value.as_int().map(|int| int as f64));
    let seconds = seconds.map_err(|_| invalid("seconds are a number"))?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err(invalid("seconds are 0 to 86400"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

pub fn granted(grant: &Fetch, url: &str) -> Outcome<Uri> {
    let bad = || invalid(format!("\"{url}\" is not an absolute http or https URL"));
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let origin = origin_of(&uri).ok_or_else(bad)?;
    if grant.allow.contains(&origin) {
        return Ok(uri);
    }
    Err(fail("denied", format!("{origin} is not in this filter's fetch.allow")))
}

fn origin_of(uri: &Uri) -> Option<Origin> {
    let tls = match uri.scheme_str()? {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Some(Origin { tls, host: authority.host().to_ascii_lowercase(), port })
}

fn fetch_all(context: &NativeCallContext, requests: Array) -> Outcome<Array> {
    if requests.len() > MOST_AT_ONCE {
        return Err(fail("limit", format!("at most {MOST_AT_ONCE} fetches at once")));
    }
    let start = |request: &Dynamic| {
        if let Some(options) = request.read_lock::<Map>() {
            let url = options.get("url").map(ToString::to_string);
            let url = url.ok_or_else(|| invalid("a fetch needs a url"))?;
            return begin(context, &url, &options);
        }
        begin(context, &request.to_string(), &Map::new())
    };
    let mut slots = Vec::with_capacity(requests.len());
    for request in &requests {
        slots.push(match start(request) {
            Ok(running) => Slot::Running(running),
            Err(error) => Slot::Refused(error),
        });
    }
    let slots = wait(AllDone(slots))?;
    Ok(slots.into_iter().map(entry).collect())
}

fn entry(slot: Slot) -> Dynamic {
    let error = match slot {
        Slot::Done(Ok(fetched)) => return Dynamic::from(response(fetched)),
        Slot::Done(Err(error)) => raised(&error),
        Slot::Refused(error) => error,
        Slot::Running(_) => fail("unavailable", "cancelled"),
    };
    let error = match *error {
        rhai::EvalAltResult::ErrorRuntime(value, _) => value,
        other => other.to_string().into(),
    };
    Map::from_iter([("error".into(), error), ("ok".into(), false.into())]).into()
}

enum Slot {
    Running(Running),
    Done(Fetched),
    Refused(super::Raised),
}

impl Slot {
    /// True when nothing runs any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if let Self::Running(running) = self {
            match running.as_mut().poll(cx) {
                Poll::Ready(fetched) => *self = Self::Done(fetched),
                Poll::Pending => return false,
            }
        }
        true
    }
}

struct AllDone(Vec<Slot>);

impl Future for AllDone {
    type Output = Vec<Slot>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<Slot>> {
        let mut all = true;
        for slot in &mut self.0 {
            all &= slot.poll(cx);
        }
        if all { Poll::Ready(std::mem::take(&mut self.0)) } else { Poll::Pending }
    }
}
