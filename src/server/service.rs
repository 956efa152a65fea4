//! Our listeners as a Pingora service: proxy, admin and metrics, each a set of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora_core::apps::HttpServerOptions;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::files::Files;
use super::reload::Fixed;
use crate::admin::{Face, Operators, Reload};
use crate::config::listeners::Listener;
use crate::config::service::{Limits, Service as ServiceAddress};
use crate::config::{Config, Input};
use crate::listen::{BindError, Bound, ConnLimits, ConnState, ListenerSet, Refusal, Witness, bind};
use crate::proxy::{Gateway, schedule};
use crate::snapshot::Shared;
use crate::telemetry::access_log::Entry;
use crate::upstream::watch;

/// In place of what could not be read.
const UNREAD: &str = "-";

/// Sockets of all three kinds, bound before anything else is reported ready.
pub struct Bindings {
    pub proxy: Vec<Bound>,
    pub admin: Vec<Bound>,
    pub metrics: Vec<Bound>,
}

impl Bindings {
    pub fn open(config: &Config) -> Result<Self, BindError> {
        Ok(Self {
            proxy: bind(&config.listeners)?,
            admin: bind(&operators("admin", config.admin.as_ref()))?,
            metrics: bind(&operators("metrics", config.metrics.as_ref()))?,
        })
    }
}

fn operators(name: &str, service: Option<&ServiceAddress>) -> Vec<Listener> {
    let listener = |service: &ServiceAddress| Listener {
        name: name.into(),
        address: service.address.value.0,
        tls: None,
        proxy_protocol: Vec::new(),
        h2c: false,
    };
    service.map(listener).into_iter().collect()
}

/// The proxy as an application of Pingora.
pub struct Proxy(Arc<HttpProxy<Gateway>>);

impl Proxy {
    pub fn new(conf: &Arc<ServerConf>, shared: &Arc<Shared>) -> Self {
        let mut proxy = http_proxy(conf, Gateway::new(Arc::clone(shared)));
        let mut options = HttpServerOptions::default();
        // It reaches our hooks, which refuse it like everything else that has no route.
        options.allow_connect_method_proxying = true;
        proxy.server_options = Some(options);
        Self(Arc::new(proxy))
    }
}

/// All that listens, and what a reload needs to change it.
pub struct Listeners {
    pub shared: Arc<Shared>,
    pub input: Input,
    pub fixed: Fixed,
    pub proxy: ListenerSet<HttpProxy<Gateway>>,
    /// Filled once the service runs.
    pub runtime: OnceCell<Handle>,
    /// The schedules of the snapshot that serves.
    pub schedules: Mutex<JoinSet<()>>,
    /// One reload at a time. What the last one found behind the configuration's names.
    pub reloading: Mutex<Files>,
}

impl Listeners {
    pub fn new(
        proxy: Proxy,
        shared: &Arc<Shared>,
        input: Input,
        fixed: Fixed,
        files: Files,
    ) -> Self {
        let limits = conn_limits(&shared.snapshot.load().limits);
        let proxy = ListenerSet::new(proxy.0, limits);
        proxy.set_witness(Box::new(RefusalLog(Arc::clone(shared))));
        shared.connections.get_or_init(|| Arc::clone(proxy.counters()));
        Self {
            shared: Arc::clone(shared),
            input,
            fixed,
            proxy,
            runtime: OnceCell::new(),
            schedules: Mutex::default(),
            reloading: Mutex::new(files),
        }
    }

    /// Starts what goes on beside requests in the snapshot that serves; that of the one before ends.
    pub fn start_watches(&self, runtime: &Handle) {
        let snapshot = self.shared.snapshot.load();
        let tasks = snapshot.upstreams.values();
        let tasks =
            tasks.map(|upstream| watch::spawn(&upstream.pool, &self.shared.client, runtime));
        *self.shared.watches.lock() = tasks.collect();
    }

    /// Starts the schedules of the snapshot that serves; those of the one before end.
    pub fn start_schedules(&self, runtime: &Handle) {
        *self.schedules.lock() = schedule::start(&self.shared, runtime);
    }

    /// Gives upstreams whose endpoints are discovered a moment for that: a start should answer no
    /// request with 503 for want of them. The sockets are bound, so clients wait meanwhile.
    async fn find_endpoints(&self) {
        let snapshot = self.shared.snapshot.load_full();
        let looked = async {
            for upstream in snapshot.upstreams.values() {
                upstream.pool.looked().await;
            }
        };
        if tokio::time::timeout(DISCOVERY, looked).await.is_err() {
            log::warn!("not all endpoints were discovered in {DISCOVERY:?}: serving without them");
        }
    }

    /// Takes in lists whose file changes, for as long as the program serves.
    fn watch_lists(&self, runtime: &Handle) {
        let shared = Arc::clone(&self.shared);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(LISTS_EVERY).await;
                let snapshot = shared.snapshot.load_full();
                let refreshed = tokio::task::spawn_blocking(move || snapshot.lists.refresh());
                if let Err(error) = refreshed.await {
                    log::error!("lists could not be read anew: {error}");
                }
            }
        });
    }
}

/// How long a start waits for the first answers of name servers.
const DISCOVERY: Duration = Duration::from_secs(3);

/// How late a changed list may be noticed.
const LISTS_EVERY: Duration = Duration::from_secs(2);

/// What connections may take, from the configuration.
pub fn conn_limits(limits: &Limits) -> ConnLimits {
    ConnLimits {
        connections: limits.connections.value as usize,
        per_address: limits.connections_per_address.value,
        handshake: limits.handshake_timeout,
        head: limits.head_timeout,
        head_bytes: limits.head.value.0 as usize,
        keep_alive: limits.keep_alive,
        stall: limits.stall_timeout,
        tunnel: limits.tunnel_timeout,
        requests_per_connection: limits.requests_per_connection.value,
    }
}

/// A line in the access log for each request that no hook saw.
struct RefusalLog(Arc<Shared>);

impl Witness for RefusalLog {
    fn refused(&self, connection: &ConnState, why: Refusal, request_id: &str) {
        let Some(log) = &*self.0.access_log.load() else { return };
        log.write(Entry {
            time: SystemTime::now(),
            request_id: request_id.into(),
            client: Some(connection.client.ip().to_canonical()),
            method: UNREAD.into(),
            path: UNREAD.into(),
            status: why.status().as_u16(),
            error: Some(why.label()),
            ..Entry::default()
        });
    }
}

/// Is told, once, where each listener really listens.
pub type Announce = Arc<dyn Fn(&[(String, SocketAddr)]) + Send + Sync>;

/// The one service that Pingora runs for us.
pub struct Service {
    listeners: Arc<Listeners>,
    bindings: Option<Bindings>,
    announce: Announce,
}

impl Service {
    pub fn new(listeners: Arc<Listeners>, bindings: Bindings, announce: Announce) -> Self {
        Self { listeners, bindings: Some(bindings), announce }
    }

    /// Starts all three sets; what keeps them alive is returned.
    fn start(&mut self) -> std::io::Result<Vec<ListenerSet<Operators>>> {
        let Some(bindings) = self.bindings.take() else { return Ok(Vec::new()) };
        let listeners = &self.listeners;
        let runtime = listeners.runtime.get_or_init(Handle::current);
        let names: Vec<String> = names(&bindings.proxy);
        listeners.proxy.start(bindings.proxy)?;
        let mut announced: Vec<(String, SocketAddr)> = names
            .into_iter()
            .filter_map(|name| listeners.proxy.local_addr(&name).map(|address| (name, address)))
            .collect();
        let mut sets = Vec::new();
        for (face, name, bound) in
            [(Face::Admin, "admin", bindings.admin), (Face::Metrics, "metrics", bindings.metrics)]
        {
            let reload: Arc<dyn Reload> = Arc::clone(listeners) as Arc<dyn Reload>;
            let app = Operators { face, shared: Arc::clone(&listeners.shared), reload };
            let set = ListenerSet::new(Arc::new(app), ConnLimits::default());
            set.start(bound)?;
            let address = set.local_addr(name);
            if let (Face::Admin, Some(address)) = (face, address.filter(|a| !a.ip().is_loopback()))
            {
                log::warn!("the admin address {address} is not loopback, and it has no login");
            }
            announced.extend(address.map(|address| (name.to_owned(), address)));
            sets.push(set);
        }
        listeners.start_schedules(runtime);
        listeners.watch_lists(runtime);
        listeners.shared.ready.store(true, Relaxed);
        (self.announce)(&announced);
        Ok(sets)
    }
}

fn names(bound: &[Bound]) -> Vec<String> {
    bound.iter().map(|bound| bound.name().to_owned()).collect()
}

#[async_trait]
impl pingora::services::Service for Service {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        self.listeners.start_watches(&Handle::current());
        self.listeners.find_endpoints().await;
        let sets = match self.start() {
            Ok(sets) => sets,
            Err(error) => {
                log::error!("the listeners cannot be started: {error}");
                std::process::exit(1);
            }
        };
        while !*shutdown.borrow() && shutdown.changed().await.is_ok() {}
        drop(sets);
    }

    fn name(&self) -> &str {
        "selvedge"
    }
}
