//! Commands that look at a configuration or at the running server: `config`, `routes`, `reload`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::config;
use crate::config::routes::{Action, Route};
use crate::routing::path::normalise;
use crate::routing::{RequestView, Router};

/// `selvedge config`.
#[derive(Debug, Args)]
pub struct Effective {
    /// The configuration file
    #[arg(short, long)]
    config: PathBuf,
}

impl Effective {
    pub fn run(self) -> ExitCode {
        match config::load(&self.config) {
            Ok(config) => match serde_yaml::to_string(&config.effective) {
                Ok(yaml) => {
                    print!("{yaml}");
                    ExitCode::SUCCESS
                }
                Err(error) => super::fail(error),
            },
            Err(problems) => super::report(&problems),
        }
    }
}

/// `selvedge routes`.
#[derive(Debug, Args)]
pub struct Routes {
    /// The configuration file
    #[arg(short, long)]
    config: PathBuf,
    /// Explain which route takes this URL, and why the others do not
    #[arg(long, value_name = "URL")]
    explain: Option<String>,
    /// A header of the explained request
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The method of the explained request
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
}

impl Routes {
    pub fn run(self) -> ExitCode {
        let config = match config::load(&self.config) {
            Ok(config) => config,
            Err(problems) => return super::report(&problems),
        };
        match &self.explain {
            None => {
                config.routes.iter().for_each(|route| println!("{}", line(route, &config)));
                ExitCode::SUCCESS
            }
            Some(url) => match self.explained(url, &config.routes) {
                Ok(()) => ExitCode::SUCCESS,
                Err(message) => super::fail(message),
            },
        }
    }

    fn explained(&self, url: &str, routes: &[Route]) -> Result<(), String> {
        let uri: Uri = url.parse().map_err(|e| format!("\"{url}\" is not a URL: {e}"))?;
        let host = uri.host().ok_or_else(|| format!("\"{url}\" has no host: write http://…"))?;
        let method: Method =
            self.method.parse().map_err(|_| format!("\"{}\" is not a method", self.method))?;
        let path = normalise(uri.path()).map_err(|e| format!("\"{url}\": {e}"))?;
        let router = Router::build(routes).map_err(|conflicts| {
            conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        })?;
        let headers = headers(&self.headers)?;
        let view = RequestView {
            host,
            path: &path.path,
            method: &method,
            headers: &headers,
            query: uri.query(),
        };
        if let Some(what) = path.ambiguous {
            println!("note: the path holds {what}; routes refuse it unless ambiguous_path is keep");
        }
        for (index, reason) in router.explain(&view) {
            let name = routes.get(index).map_or("?", |route| &*route.name);
            println!("{name}: {reason}");
        }
        Ok(())
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

fn line(route: &Route, config: &config::Config) -> String {
    let methods = match route.matches.methods.as_slice() {
        [] => "any".to_owned(),
        methods => methods.iter().map(Method::as_str).collect::<Vec<_>>().join(","),
    };
    let action = match &route.action {
        Action::Upstream(index) => {
            format!("upstream {}", config.upstreams.get(*index).map_or("?", |u| &*u.name))
        }
        Action::Redirect { status, to } => format!("redirect {} {to}", status.as_u16()),
        Action::Respond { status, .. } => format!("respond {}", status.as_u16()),
    };
    let filters = route.filters.iter().filter_map(|i| config.filters.get(*i)).map(|f| &*f.name);
    let filters = filters.collect::<Vec<_>>().join(",");
    let filters = if filters.is_empty() { filters } else { format!(" through {filters}") };
    let (name, host, path) = (&route.name, &route.matches.host, &route.matches.path);
    format!("{name}: {methods} {host}{path} -> {action}{filters}")
}

/// `selvedge reload`.
#[derive(Debug, Args)]
pub struct ReloadCommand {
    /// The admin address of the running server
    #[arg(long, default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
}

const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

impl ReloadCommand {
    pub fn run(self) -> ExitCode {
        match self.ask() {
            Ok((true, body)) => {
                print!("{body}");
                ExitCode::SUCCESS
            }
            Ok((false, body)) => super::fail(format!("reload refused\n{body}")),
            Err(error) => super::fail(format!("{}: {error}", self.admin)),
        }
    }

    fn ask(&self) -> std::io::Result<(bool, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(RELOAD_TIMEOUT))?;
        write!(
            stream,
            "POST /reload HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.admin
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        Ok((head.starts_with("HTTP/1.1 200"), body.to_owned()))
    }
}
