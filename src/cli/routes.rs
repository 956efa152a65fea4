//! `selvedge routes`: the routes of a configuration, or what each of them says to a request.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::print::{answer, fail, report};
use crate::config::routes::{Action, AmbiguousPath, Match, Route};
use crate::config::traffic::Part;
use crate::config::{self, Config};
use crate::routing::path::{Normalised, normalise};
use crate::routing::{Found, Reason, RequestView, Router};

#[derive(Debug, Args)]
pub struct Routes {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Explain which route takes this URL or path, and why the others do not
    #[arg(long, value_name = "URL")]
    explain: Option<String>,
    /// A header of the explained request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "explain")]
    headers: Vec<String>,
    /// The method of the explained request
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET", requires = "explain")]
    method: String,
}

impl Routes {
    pub fn run(self) -> ExitCode {
        let config = match config::load(&self.config) {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        let Some(url) = &self.explain else {
            return answer(&config.routes.iter().map(|r| line(r, &config)).collect::<String>());
        };
        match Asked::new(url, &self.method, &self.headers)
            .and_then(|asked| explain(&asked, &config))
        {
            Ok(Explained { text, served: true }) => answer(&text),
            Ok(Explained { text, served: false }) => {
                let _printed = answer(&text);
                ExitCode::FAILURE
            }
            Err(message) => fail(message),
        }
    }
}

/// The request to explain.
struct Asked {
    host: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
}

impl Asked {
    /// `url` may be a path; then a `Host` header, if any, says the host. As in curl, that header
    /// also goes before the URL's host.
    fn new(url: &str, method: &str, lines: &[String]) -> Result<Self, String> {
        let wrong = || format!("{url:?} is neither http://host/path nor /path");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        if !(is_web || uri.authority().is_none() && url.starts_with('/')) {
            return Err(wrong());
        }
        let method: Method = method.parse().map_err(|_| format!("\"{method}\" is no method"))?;
        let headers = headers(lines)?;
        let given = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        Ok(Self {
            host: given.or(uri.host()).unwrap_or_default().to_owned(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            method,
            headers,
        })
    }
}

fn headers(given: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in given {
        let wrong = || format!("\"{line}\" is not a header: write \"Name: value\"");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
    }
    Ok(headers)
}

/// A line for each route and, where no route serves the request, one that says what is answered.
struct Explained {
    text: String,
    served: bool,
}

fn explain(asked: &Asked, config: &Config) -> Result<Explained, String> {
    let Normalised { path, ambiguous } = match normalise(&asked.path) {
        Ok(normal) => normal,
        Err(bad) => return Ok(Explained { text: format!("400: {bad}\n"), served: false }),
    };
    let routes = &config.routes;
    let router = Router::build(routes).map_err(|conflicts| {
        conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    })?;
    let view = RequestView {
        host: &asked.host,
        path: &path,
        method: &asked.method,
        headers: &asked.headers,
        query: asked.query.as_deref(),
    };
    let mut text = String::new();
    for (route, (_, reason)) in routes.iter().zip(router.explain(&view)) {
        text.push_str(&format!("{}: {}\n", route.name, in_words(reason, route, config)));
    }
    let closing = match router.find(&view) {
        Found::NotFound if asked.host.is_empty() => {
            Some("404: no route takes it (without a host; give a URL, or -H 'Host: ...')".into())
        }
        Found::NotFound => Some("404: no route takes it".into()),
        Found::MethodNotAllowed { allow } => {
            Some(format!("405: no route takes {}; Allow: {allow}", asked.method))
        }
        Found::Route { index, .. } => ambiguous
            .filter(|_| routes[index].ambiguous_path == AmbiguousPath::Reject)
            .map(|what| format!("400: {} refuses {what} in a path", routes[index].name)),
    };
    text.extend(closing.iter().map(|line| format!("{line}\n")));
    Ok(Explained { text, served: closing.is_none() })
}

fn in_words(reason: Reason, route: &Route, config: &Config) -> String {
    let matches = &route.matches;
    match reason {
        Reason::Taken => format!("takes it: {}", action(route, config)),
        Reason::Outranked { by } => {
            let winner = &config.routes[by];
            format!("fits, but {} goes first: {}", winner.name, rank(&winner.matches, matches))
        }
        Reason::Host => format!("is for the host {}", matches.host),
        Reason::Path => format!("is for the path {}", matches.path),
        Reason::Condition(condition) => format!("wants that {condition}"),
        Reason::Method => format!("is for {}", methods(route)),
    }
}

/// Why `first` goes before `second`, by the order that `routing` states.
fn rank(first: &Match, second: &Match) -> &'static str {
    if first.host != second.host {
        "its host is more specific"
    } else if first.path != second.path {
        "its path is more specific"
    } else if first.conditions != second.conditions {
        "its conditions are more specific"
    } else {
        "it names its methods"
    }
}

fn line(route: &Route, config: &Config) -> String {
    let (name, host, path) = (&route.name, &route.matches.host, &route.matches.path);
    format!("{name}: {} {host}{path} -> {}\n", methods(route), action(route, config))
}

fn methods(route: &Route) -> String {
    match route.matches.methods.as_slice() {
        [] => "any".to_owned(),
        methods => methods.iter().map(Method::as_str).collect::<Vec<_>>().join(","),
    }
}

fn action(route: &Route, config: &Config) -> String {
    let action = match &route.action {
        Action::Upstream(index) => format!("upstream {}", config.upstreams[*index].name),
        Action::Split(split) => {
            let part =
                |part: &Part| format!("{} {}", config.upstreams[part.upstream].name, part.weight);
            format!("split {}", split.parts.iter().map(part).collect::<Vec<_>>().join(", "))
        }
        Action::Redirect { status, to } => format!("redirect {} {to}", status.as_u16()),
        Action::Respond { status, .. } => format!("respond {}", status.as_u16()),
        Action::Aggregate(of) => {
            let parts: Vec<&str> = of.parts.iter().map(|part| &*part.name).collect();
            format!("aggregate {}", parts.join(", "))
        }
    };
    let filters = route.filters.iter().map(|index| &*config.filters[*index].name);
    match filters.collect::<Vec<_>>().as_slice() {
        [] => action,
        filters => format!("{action} through {}", filters.join(",")),
    }
}
