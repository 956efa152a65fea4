//! `selvedge test`: runs the `test_*` functions of a `*_test.rhai` against the filters beside it.
//!
//! The filters run on the same engine, fibers and limits as in production; only their host is a
//! fake that answers fetches from what the test says.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rhai::{Array, CallFnOptions, Dynamic, Engine, EvalAltResult, Map, Position, Scope};

use super::api::convert::to_json;
use super::compile::{Script, compile};
use super::exchange::{Exchange, From, ResponseBody, ResponseDraft};
use super::fault::text_of;
use super::harness_state;
use super::hooks::Hook;
use super::host::{FakeHost, FetchError, FetchErrorKind, FetchResponse};
use super::meter::Limits;
use super::run::{Outcome, Run, run};
use crate::config::filters::{Fetch, Filter, FilterLimits, OnFault, Origin, Secret};

type Told<T> = Result<T, Box<EvalAltResult>>;

/// One test function and what came of it.
#[derive(Debug)]
pub struct Tested {
    pub name: String,
    /// `file:line:column: what` of a failure.
    pub failure: Option<String>,
}

/// Runs every test of `file`. An error says why the file itself cannot be used.
///
/// Must be called outside of any async runtime: each hook is driven by `runtime`.
pub fn test_file(
    file: &Path,
    runtime: &Arc<tokio::runtime::Runtime>,
) -> Result<Vec<Tested>, String> {
    let mut engine = engine(file, runtime);
    let ast = engine.compile_file(file.to_owned()).map_err(|error| failure(file, &error))?;
    let mut scope = Scope::new();
    engine.run_ast_with_scope(&mut scope, &ast).map_err(|error| failure(file, &error))?;
    // As in filters, functions see the file's constants by their bare names.
    let constants: HashMap<String, Dynamic> =
        scope.iter().map(|(name, _, value)| (name.to_owned(), value)).collect();
    #[allow(deprecated, reason = "Rhai marks it volatile; the version is pinned")]
    engine.on_var(move |name, _, _| Ok(constants.get(name).cloned()));
    let names = ast.iter_functions().filter(|f| f.name.starts_with("test_") && f.params.is_empty());
    let mut names: Vec<String> = names.map(|f| f.name.to_owned()).collect();
    names.sort();
    let run_one = |name: String| {
        let options = CallFnOptions::new().eval_ast(false);
        let ran: Told<Dynamic> =
            engine.call_fn_with_options(options, &mut Scope::new(), &ast, &name, ());
        Tested { failure: ran.err().map(|error| failure(file, &error)), name }
    };
    Ok(names.into_iter().map(run_one).collect())
}

fn failure(file: &Path, error: &EvalAltResult) -> String {
    let mut at = error;
    while let EvalAltResult::ErrorInFunctionCall(_, _, inner, _) = at {
        at = inner;
    }
    let position = at.position();
    let (line, column) = (position.line().unwrap_or(0), position.position().unwrap_or(0));
    format!("{}:{line}:{column}: {}", file.display(), text_of(at))
}

/// An engine with `request`, `assert` and `assert_eq` for tests that an author runs on purpose.
fn engine(file: &Path, runtime: &Arc<tokio::runtime::Runtime>) -> Engine {
    let mut engine = Engine::new();
    engine.set_max_operations(100_000_000);
    engine.set_max_expr_depths(128, 128);
    let folder = file.parent().unwrap_or(Path::new("")).to_owned();
    let (bench, default) = (Bench { folder, runtime: Arc::clone(runtime) }, Map::new());
    let with_settings = bench.clone();
    engine.register_fn("request", move |script: &str, given: Map| {
        bench.request(script, &given, &default)
    });
    engine.register_fn("request", move |script: &str, given: Map, settings: Map| {
        with_settings.request(script, &given, &settings)
    });
    harness_state::register(&mut engine);
    engine.register_fn("assert", |holds: bool, message: &str| -> Told<()> {
        if holds { Ok(()) } else { Err(told(format!("assertion failed: {message}"))) }
    });
    engine.register_fn("assert_eq", |left: Dynamic, right: Dynamic| -> Told<()> {
        let (left, right) = (to_json(&left)?, to_json(&right)?);
        match left == right {
            true => Ok(()),
            false => Err(told(format!("expected {right}, found {left}"))),
        }
    });
    engine
}

fn told(message: String) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(message.into(), Position::NONE))
}

/// Where filters are found, and what drives them.
#[derive(Clone)]
struct Bench {
    folder: PathBuf,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl Bench {
    /// One request through one filter: `on_request`, then, unless it answered, the origin's
    /// response through `on_response`.
    fn request(&self, script: &str, given: &Map, settings: &Map) -> Told<Map> {
        let filter = filter_of(self.folder.join(script), settings)?;
        let script = compile(&filter, &harness_state::lists(settings)?).map_err(|diagnostics| {
            told(diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        let (script, host) = (Arc::new(script), Arc::new(host_of(given)?));
        let limits = Limits::from(&filter.limits);
        let exchange = exchange_of(given)?;
        let (mut exchange, answer) = self.hook(&script, Hook::Request, exchange, &host, limits)?;
        let forwarded = answer.is_none();
        exchange.response = Some(match answer {
            Some(answer) => Arc::new(answer),
            None => {
                exchange.response = Some(Arc::new(response_of(given)?));
                let (after, replaced) =
                    self.hook(&script, Hook::Response, exchange.clone(), &host, limits)?;
                exchange = after;
                let replaced = replaced.map(Arc::new).or(exchange.response.take());
                replaced.unwrap_or_else(|| Arc::new(empty(StatusCode::OK)))
            }
        });
        Ok(outcome(&exchange, forwarded))
    }

    fn hook(
        &self,
        script: &Arc<Script>,
        hook: Hook,
        exchange: Exchange,
        host: &Arc<FakeHost>,
        limits: Limits,
    ) -> Told<(Exchange, Option<ResponseDraft>)> {
        let Run { exchange, outcome, .. } =
            self.runtime.block_on(run(script, hook, exchange, host.clone(), limits));
        match outcome {
            Outcome::Continue => Ok((exchange, None)),
            Outcome::Answer(answer) => Ok((exchange, Some(answer))),
            Outcome::Fault(fault) => Err(told(fault.to_string())),
        }
    }
}

/// The filter's configuration: `settings` may hold `config`, `secrets` and `fetch`.
fn filter_of(script: PathBuf, settings: &Map) -> Told<Filter> {
    let keys = [&["config", "secrets", "fetch"][..], &harness_state::SETTINGS[..]].concat();
    known(settings, "a filter's settings", &keys)?;
    let config = settings.get("config").map(to_json).transpose()?;
    let mut secrets = std::collections::BTreeMap::new();
    for (name, value) in map_in(settings, "secrets") {
        secrets.insert(name.to_string(), Secret::new(value.to_string().into_bytes()));
    }
    let mut allow = Vec::new();
    for origin in array_in(settings, "fetch") {
        allow.push(origin_of(&origin.to_string())?);
    }
    Ok(Filter {
        name: script.file_stem().unwrap_or_default().to_string_lossy().into(),
        script,
        config: config.unwrap_or(serde_json::Value::Null),
        secrets,
        fetch: Fetch {
            allow,
            max: 8,
            timeout: std::time::Duration::from_secs(5),
            max_body: 1 << 20,
        },
        state: harness_state::grants(settings)?,
        limits: FilterLimits::default(),
        on_fault: OnFault::Closed,
    })
}

fn origin_of(text: &str) -> Told<Origin> {
    Origin::parse(text).ok_or_else(|| told(format!("fetch: \"{text}\" is not an origin")))
}

fn exchange_of(given: &Map) -> Told<Exchange> {
    let keys = ["method", "path", "host", "headers", "ip", "response", "fetches", "state"];
    known(given, "a request", &keys)?;
    let mut exchange = Exchange::for_test();
    let request = Arc::make_mut(&mut exchange.request);
    if let Some(method) = text_in(given, "method") {
        request.method =
            method.parse().map_err(|_| told(format!("\"{method}\" is not a method")))?;
    }
    if let Some(path) = text_in(given, "path") {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (path, None),
        };
        (request.path, request.query) = (path, query);
    }
    if let Some(host) = text_in(given, "host") {
        request.host = host;
    }
    if let Some(ip) = text_in(given, "ip") {
        request.client.ip = ip.parse().map_err(|_| told(format!("\"{ip}\" is not an address")))?;
    }
    request.headers = headers_of(&map_in(given, "headers"))?;
    Ok(exchange)
}

/// The origin's response: `response: #{ status, headers, body }`, 200 without a body by default.
fn response_of(given: &Map) -> Told<ResponseDraft> {
    let response = map_in(given, "response");
    known(&response, "a response", &["status", "headers", "body"])?;
    let status = response.get("status").map_or(Ok(200), |s| s.as_int().map_err(|_| s.to_string()));
    let status = status.ok().and_then(|s| u16::try_from(s).ok()).unwrap_or(0);
    let status = StatusCode::from_u16(status).map_err(|_| told("status: no status code".into()))?;
    let mut draft = empty(status);
    draft.headers = headers_of(&map_in(&response, "headers"))?;
    if let Some(body) = text_in(&response, "body") {
        draft.body = ResponseBody::Replaced(body.into());
    }
    draft.from = From::Origin;
    Ok(draft)
}

fn empty(status: StatusCode) -> ResponseDraft {
    ResponseDraft::new(status, "")
}

/// Answers to fetches, in their order: `#{ status, headers, body }` or `#{ error: kind }`.
fn host_of(given: &Map) -> Told<FakeHost> {
    let state = given.get("state").map(harness_state::of).transpose()?;
    let host = FakeHost { state: state.unwrap_or_default(), ..FakeHost::default() };
    for fetch in array_in(given, "fetches") {
        let fetch =
            fetch.try_cast::<Map>().ok_or_else(|| told("fetches: a list of maps".into()))?;
        let answer = match text_in(&fetch, "error") {
            Some(kind) => Err(fetch_error(&kind)?),
            None => {
                let draft = response_of(&Map::from([("response".into(), fetch.into())]))?;
                let body = body_of(&draft);
                Ok(FetchResponse { status: draft.status, headers: draft.headers, body })
            }
        };
        host.answers.lock().push_back(answer);
    }
    Ok(host)
}

fn fetch_error(kind: &str) -> Told<FetchError> {
    let found = FetchErrorKind::ALL.into_iter().find(|known| known.name() == kind);
    let kind = found.ok_or_else(|| told(format!("error: \"{kind}\" is not a kind of error")))?;
    Ok(FetchError { kind, message: format!("{} (as the test says)", kind.name()) })
}

fn body_of(draft: &ResponseDraft) -> Bytes {
    match &draft.body {
        ResponseBody::Replaced(body) => body.clone(),
        ResponseBody::Untouched => Bytes::new(),
    }
}

/// What the test looks at.
fn outcome(exchange: &Exchange, forwarded: bool) -> Map {
    let request = &exchange.request;
    let seen = Map::from([
        ("method".into(), request.method.to_string().into()),
        ("path".into(), request.path.as_str().into()),
        ("query".into(), request.query.as_deref().map_or(Dynamic::UNIT, Into::into)),
        ("host".into(), request.host.as_str().into()),
        ("headers".into(), shown(&request.headers).into()),
        ("upstream".into(), request.upstream.as_deref().map_or(Dynamic::UNIT, Into::into)),
    ]);
    let response = exchange.response.as_ref().map_or(Dynamic::UNIT, |response| {
        Map::from([
            ("status".into(), i64::from(response.status.as_u16()).into()),
            ("headers".into(), shown(&response.headers).into()),
            ("body".into(), String::from_utf8_lossy(&body_of(response)).into_owned().into()),
        ])
        .into()
    });
    Map::from([
        ("forwarded".into(), forwarded.into()),
        ("request".into(), seen.into()),
        ("response".into(), response),
    ])
}

fn shown(headers: &HeaderMap) -> Map {
    let lines = |name: &HeaderName| {
        let values = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()));
        values.collect::<Vec<_>>().join(", ")
    };
    headers.keys().map(|name| (name.as_str().into(), lines(name).into())).collect()
}

fn headers_of(map: &Map) -> Told<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in map {
        let wrong = || told(format!("\"{name}: {value}\" is not a header"));
        let parsed: HeaderName = name.parse().map_err(|_| wrong())?;
        headers.append(parsed, HeaderValue::from_str(&value.to_string()).map_err(|_| wrong())?);
    }
    Ok(headers)
}

fn known(map: &Map, what: &str, keys: &[&str]) -> Told<()> {
    match map.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(told(format!("{what} has no \"{key}\"; it has {}", keys.join(", ")))),
        None => Ok(()),
    }
}

fn text_in(map: &Map, key: &str) -> Option<String> {
    map.get(key).map(ToString::to_string)
}

fn map_in(map: &Map, key: &str) -> Map {
    map.get(key).and_then(|value| value.clone().try_cast()).unwrap_or_default()
}

fn array_in(map: &Map, key: &str) -> Array {
    map.get(key).and_then(|value| value.clone().try_cast()).unwrap_or_default()
}
