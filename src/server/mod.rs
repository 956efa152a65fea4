//! The running program: one Pingora server with our listeners as its only service, signals, drain.

mod files;
mod reload;
mod service;
mod signals;

use std::net::SocketAddr;
use std::sync::Arc;

use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};

use crate::admin::Reload;
use crate::config::problem::Problem;
use crate::config::service::{AccessLog as AccessLogConfig, AccessLogFormat};
use crate::config::upstreams::MAX_RETRIES;
use crate::config::{Config, Input};
use crate::listen::BindError;
use crate::snapshot::{Shared, Show, Snapshot};
use crate::state::{OpenError, State};
use crate::telemetry::access_log::Format;
use crate::telemetry::access_log::{AccessLog, AccessLogError, Target};
use crate::telemetry::metrics::Metrics;

use self::service::{Bindings, Listeners, Proxy};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{} problems in the configuration", .0.len())]
    Problems(Vec<Problem>),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    #[error("cache: {0}")]
    Cache(#[from] crate::cache::store::OpenError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("metrics: {0}")]
    Metrics(String),
}

/// Where a configuration came from, and its value.
pub struct Source {
    pub input: Input,
    pub config: Config,
    pub threads: usize,
    /// For `selvedge dev`.
    pub dev: Option<Dev>,
}

/// What an author at work gets beside the service.
pub struct Dev {
    pub show: Show,
    /// Runs on a thread of its own and reloads when it sees fit.
    pub watch: Box<dyn FnOnce(Arc<dyn Reload>) + Send>,
}

/// Serves until a signal ends it and what is in flight is done. `announce` is called once, with
/// each listener's name and real address, when all of them serve.
pub fn run(
    source: Source,
    announce: impl Fn(&[(String, SocketAddr)]) + Send + Sync + 'static,
) -> Result<(), StartError> {
    let Source { input, config, threads, dev } = source;
    let bindings = Bindings::open(&config)?;
    let metrics = Arc::new(Metrics::new().map_err(|e| StartError::Metrics(e.to_string()))?);
    let (show, watch) = dev.map_or((None, None), |dev| (Some(dev.show), Some(dev.watch)));
    let access_log = open_access_log(&config.access_log, &metrics, show.is_some())?;
    let fixed = reload::Fixed::of(&config);
    let files = files::Files::of(&config);
    let snapshot =
        Snapshot::build(config, input.file(), &metrics, None).map_err(StartError::Problems)?;
    let state = State::open(&snapshot.state, &metrics)?;
    metrics.reloaded(true);
    let shared = Arc::new(Shared::new(snapshot, metrics, state, access_log, show));
    shared.prepare_cache(&shared.snapshot.load())?;

    let mut server = Server::new_with_opt_and_conf(None, server_conf(threads));
    server.bootstrap();
    let proxy = Proxy::new(&server.configuration, &shared);
    let listeners = Arc::new(Listeners::new(proxy, &shared, input, fixed, files));
    server.add_service(service::Service::new(Arc::clone(&listeners), bindings, Arc::new(announce)));
    let signals = signals::Signals::new(Arc::clone(&listeners));
    if let Some(watch) = watch {
        std::thread::spawn(move || watch(listeners));
    }
    server.run(RunArgs { shutdown_signal: Box::new(signals) });
    shared.state.close();
    if let Some(log) = &*shared.access_log.load() {
        log.flush();
    }
    Ok(())
}

/// The access log as configured; `None` where it is off, and in place of stdout where an author
/// reads something better there.
fn open_access_log(
    config: &AccessLogConfig,
    metrics: &Metrics,
    dev: bool,
) -> Result<Option<AccessLog>, AccessLogError> {
    if dev && config.path.is_none() {
        return Ok(None);
    }
    let format = match config.format {
        AccessLogFormat::Off => return Ok(None),
        AccessLogFormat::Json => Format::Json,
        AccessLogFormat::Common => Format::Common,
    };
    let target = config.path.as_ref().map(|path| path.value.clone());
    let target = target.map_or(Target::Stdout, Target::File);
    AccessLog::start(target, format, metrics.access_log_dropped()).map(Some)
}

/// Pingora's own settings, of which only these matter here: the drain is ours, so its waits are 0.
fn server_conf(threads: usize) -> ServerConf {
    ServerConf {
        threads,
        work_stealing: true,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        // Each attempt may first meet a kept connection that is dead, and a fallback begins anew.
        max_retries: 4 * (1 + MAX_RETRIES as usize),
        upstream_keepalive_pool_size: 512,
        ..ServerConf::default()
    }
}
