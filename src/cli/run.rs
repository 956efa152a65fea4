//! `selvedge run`: serve a configuration file, or what a few arguments say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_yaml::{Mapping, Value};

use super::print::{fail, report};
use crate::config::{Config, Input};
use crate::server::{self, Dev, Source, StartError};
use crate::telemetry::log::{DEFAULT_FILTER, LogFormat, init};

const USAGE: &str = "selvedge run [OPTIONS] -c <FILE>
       selvedge run [OPTIONS] --upstream <HOST:PORT>...";

#[derive(Debug, Args)]
#[command(override_usage = USAGE)]
#[command(group(ArgGroup::new("what").required(true).args(["config", "upstream"])))]
pub struct Run {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["upstream", "listen", "filter", "tls_cert"])]
    config: Option<PathBuf>,
    /// An origin to forward to; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    upstream: Vec<String>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    listen: String,
    /// A filter script; may be given several times, outermost first
    #[arg(long, value_name = "FILE")]
    filter: Vec<PathBuf>,
    /// Certificate chain, PEM; terminates TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    #[command(flatten)]
    process: Process,
}

/// How the process runs, whatever it serves.
#[derive(Debug, Args, Clone)]
pub struct Process {
    /// Worker threads; by default one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub threads: Option<u16>,
    /// Log lines as JSON
    #[arg(long)]
    pub log_json: bool,
}

/// More than any machine has cores; each takes a stack and an allocator's arena.
const MAX_THREADS: i64 = 1024;

impl Run {
    pub fn run(self) -> ExitCode {
        let input = match &self.config {
            Some(file) => Input::File(file.clone()),
            None => match serde_yaml::to_string(&self.as_yaml()) {
                Ok(text) => Input::Arguments(text),
                Err(error) => return fail(error),
            },
        };
        match input.load() {
            Ok(config) => serve(input, config, &self.process, None, announce),
            Err(problems) => report(&problems),
        }
    }

    /// The arguments as the configuration that one would have written.
    fn as_yaml(&self) -> Value {
        let names: Vec<String> = (1..=self.filter.len()).map(|i| format!("filter{i}")).collect();
        let filters = names.iter().zip(&self.filter).map(|(name, script)| {
            (name.as_str(), map([("script", script.display().to_string().into())]))
        });
        let endpoints =
            self.upstream.iter().map(|address| map([("address", address.as_str().into())]));
        let upstream = map([("endpoints", Value::Sequence(endpoints.collect()))]);
        let mut listener = vec![("address", self.listen.as_str().into())];
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let pair = map([
                ("cert", cert.display().to_string().into()),
                ("key", key.display().to_string().into()),
            ]);
            listener.push(("tls", map([("certificates", Value::Sequence(vec![pair]))])));
        }
        let route = map([
            ("name", "all".into()),
            ("match", map([])),
            ("upstream", "origin".into()),
            (
                "filters",
                names.iter().map(|name| Value::from(name.as_str())).collect::<Vec<_>>().into(),
            ),
        ]);
        map([
            ("listeners", map([("public", map(listener))])),
            ("upstreams", map([("origin", upstream)])),
            ("filters", map(filters)),
            ("routes", Value::Sequence(vec![route])),
        ])
    }
}

fn map<'k>(entries: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    let entries = entries.into_iter().map(|(key, value)| (key.into(), value));
    Value::Mapping(entries.collect::<Mapping>())
}

/// Serves until the process is told to end.
pub fn serve(
    input: Input,
    config: Config,
    process: &Process,
    dev: Option<Dev>,
    announce: impl Fn(&[(String, SocketAddr)]) + Send + Sync + 'static,
) -> ExitCode {
    let format = if process.log_json { LogFormat::Json } else { LogFormat::Plain };
    let filter = std::env::var("SELVEDGE_LOG").unwrap_or_else(|_| DEFAULT_FILTER.to_owned());
    if let Err(error) = init(format, &filter) {
        return fail(format!("SELVEDGE_LOG: {error}"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = process.threads.map_or(cores, usize::from);
    match server::run(Source { input, config, threads, dev }, announce) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Problems(problems)) => report(&problems),
        Err(error) => fail(chain(&error)),
    }
}

/// Log lines that say where each listener is.
pub fn announce(addresses: &[(String, SocketAddr)]) {
    for (name, address) in addresses {
        log::info!("listening: {name} on {address}");
    }
    log::info!("ready");
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}
