//! The router against tables, and against a plain list of routes that is searched from the top.

use std::cmp::Reverse;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use super::{Conflict, Found, Reason, RequestView, Router};
use crate::config::pattern::{HostPattern, PathPattern, Segment, canonical_host};
use crate::config::routes::{Action, AmbiguousPath, Condition, ConditionOn, Match, Route, Test};

/// A route from `"GET,POST shop.test/api/{id}"`; `*` stands for any methods. Conditions are like
/// `header:x=1`, `query:x` (present), `cookie:!x` (absent).
fn route(line: &str, conditions: &[&str]) -> Route {
    let (methods, url) = line.split_once(' ').expect("methods and pattern");
    let slash = url.find('/').expect("a path");
    let methods = methods.split(',').filter(|m| *m != "*").map(|m| m.parse().expect("a method"));
    Route {
        name: line.into(),
        matches: Match {
            host: HostPattern::parse(&url[..slash]).expect("a host"),
            path: PathPattern::parse(&url[slash..]).expect("a path"),
            methods: methods.collect(),
            conditions: conditions.iter().map(|text| condition(text)).collect(),
        },
        filters: Vec::new(),
        traffic: Default::default(),
        action: Action::Respond { status: StatusCode::OK, body: "".into(), headers: Vec::new() },
        rewrite: None,
        ambiguous_path: AmbiguousPath::Reject,
        timeout: None,
        cache: None,
        max_body: 0,
    }
}

fn condition(text: &str) -> Condition {
    let (kind, test) = text.split_once(':').expect("a kind");
    let (name, test) = match (test.strip_prefix('!'), test.split_once('=')) {
        (Some(name), _) => (name, Test::Absent),
        (None, Some((name, value))) => (name, Test::Equals(value.into())),
        (None, None) => (test, Test::Present),
    };
    let on = match kind {
        "header" => ConditionOn::Header(name.into()),
        "query" => ConditionOn::Query(name.into()),
        _ => ConditionOn::Cookie(name.into()),
    };
    Condition { on, test }
}

/// A request from `"GET shop.test/api?x=1"`, with headers like `"x: 1"`.
fn ask<T>(line: &str, headers: &[&str], answer: impl FnOnce(&RequestView<'_>) -> T) -> T {
    let (method, url) = line.split_once(' ').expect("a method");
    let (url, query) = url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
    let slash = url.find('/').expect("a path");
    let mut map = HeaderMap::new();
    for header in headers {
        let (name, value) = header.split_once(": ").expect("a header");
        let name: http::HeaderName = name.parse().expect("a name");
        map.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    let method: Method = method.parse().expect("a method");
    answer(&RequestView {
        host: &url[..slash],
        path: &url[slash..],
        method: &method,
        headers: &map,
        query,
    })
}

/// What is found, in words: `0 id=7`, `405 GET, POST`, `404`.
fn found(router: &Router, line: &str, headers: &[&str]) -> String {
    ask(line, headers, |request| match router.find(request) {
        Found::Route { index, params } => {
            let params = params.iter(request.path).map(|(name, value)| format!(" {name}={value}"));
            format!("{index}{}", params.collect::<String>())
        }
        Found::MethodNotAllowed { allow } => format!("405 {allow}"),
        Found::NotFound => "404".into(),
    })
}

fn router(lines: &[&str]) -> Router {
    let routes: Vec<Route> = lines.iter().map(|line| route(line, &[])).collect();
    Router::build(&routes).expect("no conflicts")
}

#[test]
fn hosts_go_from_exact_to_any() {
    let router = router(&[
        "* */{r*}",
        "* *.test/{r*}",
        "* *.shop.test/{r*}",
        "* a.shop.test/only",
        "* shop.test/{r*}",
    ]);
    for (line, answer) in [
        ("GET a.shop.test/only", "3"),
        ("GET A.SHOP.test.:8080/only", "3"),
        ("GET a.shop.test/x", "2 r=x"),
        ("GET c.b.shop.test/", "2 r="),
        ("GET shop.test/x", "4 r=x"),
        ("GET b.test/x", "1 r=x"),
        ("GET test/x", "0 r=x"),
        ("GET .test/x", "0 r=x"),
        ("GET /x", "0 r=x"),
    ] {
        assert_eq!(found(&router, line, &[]), answer, "{line}");
    }
}

#[test]
fn paths_go_from_text_to_rest() {
    let router = router(&[
        "* */api",
        "* */api/{rest*}",
        "* */api/{id}",
        "* */api/{id}/items",
        "* */api/me/{x}/y",
        "* */files/{name}/{rest*}",
    ]);
    for (line, answer) in [
        ("GET h/api", "0"),
        ("GET h/apix", "404"),
        ("GET h/ap", "404"),
        ("GET h/api/", "1 rest="),
        ("GET h/api/7", "2 id=7"),
        ("GET h/api/7/items", "3 id=7"),
        ("GET h/api/7/items/", "1 rest=7/items/"),
        // The branch `me` leads only to `{x}/y`, so the search comes back to `{id}`.
        ("GET h/api/me/items", "3 id=me"),
        ("GET h/api/me", "2 id=me"),
        ("GET h/api/me/1/y", "4 x=1"),
        ("GET h/files/a", "5 name=a rest="),
        ("GET h/files/a/b/c", "5 name=a rest=b/c"),
        ("GET h/files/", "404"),
        ("GET h/", "404"),
    ] {
        assert_eq!(found(&router, line, &[]), answer, "{line}");
    }
}

#[test]
fn a_wrong_method_falls_on_and_ends_in_405() {
    let router = router(&["GET,PUT */a", "POST */{x}", "* */b", "GET */b", "DELETE h/a"]);
    for (line, answer) in [
        ("GET h/a", "0"),
        ("POST h/a", "1 x=a"),
        ("DELETE h/a", "4"),
        ("DELETE g/a", "405 GET, POST, PUT"),
        ("PATCH h/a", "405 DELETE, GET, POST, PUT"),
        ("GET h/b", "3"),
        ("POST h/b", "2"),
        ("GET h/a/b", "404"),
    ] {
        assert_eq!(found(&router, line, &[]), answer, "{line}");
    }
}

#[test]
fn more_conditions_go_first() {
    let routes = [
        route("* */a", &[]),
        route("* */a", &["header:X-A"]),
        route("* */a", &["header:x-a=1"]),
        route("* */a", &["query:v=2", "cookie:c"]),
        route("* */{x}", &["cookie:c=1", "header:!x-a", "query:q=a b"]),
    ];
    let router = Router::build(&routes).expect("no conflicts");
    for (line, headers, answer) in [
        ("GET h/a", vec![], "0"),
        ("GET h/a", vec!["x-a: 2"], "1"),
        ("GET h/a", vec!["x-a: 2", "x-a: 1"], "2"),
        ("GET h/a?v=2", vec!["x-a: 1", "cookie: b=1; c=2"], "3"),
        ("GET h/a?v=1", vec!["cookie: c=2"], "0"),
        ("GET h/b?q=a%20b", vec!["cookie: d=3", "cookie: c=1"], "4 x=b"),
        ("GET h/b?q=a+b", vec!["cookie: c=1", "x-a: 1"], "404"),
    ] {
        assert_eq!(found(&router, line, &headers), answer, "{line} {headers:?}");
    }
}

fn conflicts(routes: &[Route]) -> Vec<String> {
    Router::build(routes)
        .map(|_| Vec::new())
        .unwrap_or_else(|all| all.iter().map(Conflict::to_string).collect())
}

#[test]
fn ties_are_conflicts() {
    for (first, second, tie) in [
        (route("* */a", &[]), route("* */a", &[]), true),
        (route("* */{a}/{r*}", &[]), route("* */{b}/{s*}", &[]), true),
        (route("GET,PUT */a", &[]), route("PUT */a", &[]), true),
        (
            route("* */a", &["header:X=1", "query:y"]),
            route("* */a", &["query:y", "header:x=1"]),
            true,
        ),
        (route("* */a", &["header:x=1", "header:x"]), route("* */a", &["header:x=1"]), true),
        (route("GET */a", &[]), route("* */a", &[]), false),
        (route("GET */a", &[]), route("PUT */a", &[]), false),
        (route("* */a", &[]), route("* */a/", &[]), false),
        (route("* */a", &["header:x"]), route("* */a", &["header:x=1"]), false),
        (route("* */a", &[]), route("* h/a", &[]), false),
        (route("* h/a", &[]), route("* *.h/a", &[]), false),
    ] {
        let names = format!("{} | {}", first.name, second.name);
        assert_eq!(!conflicts(&[first, second]).is_empty(), tie, "{names}");
    }
    let all = conflicts(&[route("GET,PUT,POST h/a/{x}", &[]), route("PUT,GET h/a/{y}", &[])]);
    assert_eq!(
        all,
        [
            "routes `GET,PUT,POST h/a/{x}` and `PUT,GET h/a/{y}` both take PUT, GET of h/a/{y} under the same conditions: \
          add a condition to one, or remove it"
        ]
    );
}

#[test]
fn contradictions_are_conflicts() {
    let all =
        conflicts(&[route("* */a", &["query:x=1", "query:!x"]), route("* */b", &["header:a b"])]);
    assert_eq!(
        all,
        [
            "route `* */a` can never be reached: query parameter `x` is to be both there and absent",
            "route `* */b` can never be reached: `a b` is no name that a header can have",
        ]
    );
}

#[test]
fn every_route_is_explained() {
    let routes = [
        route("* h/{r*}", &[]),
        route("GET h/a", &[]),
        route("PUT h/a", &[]),
        route("* h/a", &["header:x=1"]),
        route("* h/b", &[]),
        route("* g/a", &[]),
    ];
    let router = Router::build(&routes).expect("no conflicts");
    let reasons = ask("GET h:80/a", &[], |request| router.explain(request));
    let expected = [
        Reason::Outranked { by: 1 },
        Reason::Taken,
        Reason::Method,
        Reason::Condition("header `x` equals `1`".into()),
        Reason::Path,
        Reason::Host,
    ];
    assert_eq!(reasons, expected.into_iter().enumerate().collect::<Vec<_>>());
}

/// The documented order, written down a second time.
fn rank(route: &Route) -> impl Ord + use<> {
    let host = match &route.matches.host {
        HostPattern::Exact(_) => (0, Reverse(0)),
        HostPattern::Wildcard(suffix) => (1, Reverse(suffix.len())),
        HostPattern::Any => (2, Reverse(0)),
    };
    let kind = |segment: &Segment| match segment {
        Segment::Static(_) => 0,
        Segment::Param(_) => 1,
        Segment::Rest(_) => 2,
    };
    let path: Vec<i32> = route.matches.path.segments().iter().map(kind).collect();
    let conditions = &route.matches.conditions;
    let equals = conditions.iter().filter(|c| matches!(c.test, Test::Equals(_))).count();
    (host, path, Reverse((conditions.len(), equals)), route.matches.methods.is_empty())
}

/// Headers only, each at most once.
fn holds(condition: &Condition, request: &RequestView<'_>) -> bool {
    let ConditionOn::Header(name) = &condition.on else {
        return false;
    };
    let value = request.headers.get(name).and_then(|value| value.to_str().ok());
    match &condition.test {
        Test::Present => value.is_some(),
        Test::Absent => value.is_none(),
        Test::Equals(wanted) => value == Some(wanted),
    }
}

fn reference(routes: &[Route], request: &RequestView<'_>) -> String {
    let host = canonical_host(request.host);
    let fits = |route: &&(usize, &Route)| {
        let matches = &route.1.matches;
        matches.host.matches(&host)
            && matches.path.matches(request.path)
            && matches.conditions.iter().all(|c| holds(c, request))
    };
    let numbered: Vec<(usize, &Route)> = routes.iter().enumerate().collect();
    let fitting: Vec<&(usize, &Route)> = numbered.iter().filter(fits).collect();
    let by_method = |(_, route): &&&(usize, &Route)| {
        route.matches.methods.is_empty() || route.matches.methods.contains(request.method)
    };
    match fitting.iter().filter(by_method).min_by_key(|(index, route)| (rank(route), *index)) {
        Some((index, _)) => index.to_string(),
        None if fitting.is_empty() => "404".into(),
        None => {
            let mut allow: Vec<&str> = fitting
                .iter()
                .flat_map(|(_, r)| r.matches.methods.iter().map(Method::as_str))
                .collect();
            allow.sort_unstable();
            allow.dedup();
            format!("405 {}", allow.join(", "))
        }
    }
}

fn any_route() -> impl Strategy<Value = Route> {
    let methods = prop_oneof![Just("*"), Just("GET"), Just("PUT"), Just("GET,PUT")];
    let host = prop_oneof![Just("*"), Just("h"), Just("a.h"), Just("*.h"), Just("*.a.h")];
    let path = ("(/(a|b|\\{p\\})){0,4}", prop_oneof![Just(""), Just("/"), Just("/{r*}")]).prop_map(
        |(front, end)| {
            // Each parameter gets a name of its own.
            let front: String = front
                .split("{p}")
                .enumerate()
                .map(|(at, part)| if at == 0 { part.into() } else { format!("{{p{at}}}{part}") })
                .collect();
            if front.is_empty() && end.is_empty() { "/".to_owned() } else { front + end }
        },
    );
    let test = prop_oneof![Just(""), Just("header:x"), Just("header:!x"), Just("header:x=1")];
    let other = prop_oneof![3 => Just(""), 1 => Just("header:y=1"), 1 => Just("header:!y")];
    (methods, host, path, test, other).prop_map(|(methods, host, path, test, other)| {
        let conditions: Vec<&str> = [test, other].into_iter().filter(|c| !c.is_empty()).collect();
        route(&format!("{methods} {host}{path}"), &conditions)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_tree_finds_what_a_list_finds(
        routes in prop::collection::vec(any_route(), 0..40),
        requests in prop::collection::vec(("(GET|PUT|POST) (h|a\\.h|b\\.a\\.h:80|A\\.H\\.|g)(/(a|b|c|)){1,5}", "[012]", "[01]"), 1..30),
    ) {
        // Drop what ties with an earlier route, as an operator would.
        let mut kept: Vec<Route> = Vec::new();
        for route in routes {
            kept.push(route);
            if Router::build(&kept).is_err() {
                kept.pop();
            }
        }
        let router = Router::build(&kept).expect("ties are gone");
        for (line, x, y) in &requests {
            let headers = [("x", x), ("y", y)].into_iter().filter(|(_, value)| *value != "0");
            let headers: Vec<String> = headers.map(|(name, value)| format!("{name}: {value}")).collect();
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let expected = ask(line, &headers, |request| reference(&kept, request));
            let actual = found(&router, line, &headers);
            let actual = if actual.starts_with("405") { &actual } else { actual.split(' ').next().unwrap_or_default() };
            prop_assert_eq!(actual, expected, "{} {:?} {:#?}", line, headers, kept.iter().map(|r| &r.name).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_pattern_fits_the_paths_made_from_it(
        segments in prop::collection::vec(("[a-z0-9._~-]{0,3}x", any::<bool>()), 1..8),
        rest in proptest::option::of("([a-z/]{0,6})"),
    ) {
        let (mut pattern, mut path) = (String::new(), String::new());
        for (at, (text, is_param)) in segments.iter().enumerate() {
            pattern += &if *is_param { format!("/{{p{at}}}") } else { format!("/{text}") };
            path += &format!("/{text}");
        }
        if let Some(rest) = &rest {
            pattern += "/{rest*}";
            path += &format!("/{rest}");
        }
        let parsed = PathPattern::parse(&pattern).expect("well-formed");
        prop_assert_eq!(parsed.to_string(), pattern.clone());
        prop_assert!(parsed.matches(&path));
        let table = router(&[&format!("* *{pattern}")]);
        ask(&format!("GET h{path}"), &[], |request| {
            let Found::Route { index: 0, params } = table.find(request) else { panic!("not found") };
            for (at, (text, is_param)) in segments.iter().enumerate() {
                assert_eq!(params.get(request.path, &format!("p{at}")), is_param.then_some(text.as_str()));
            }
            assert_eq!(params.get(request.path, "rest"), rest.as_deref());
        });
    }
}
