//! The listeners of the process: bound together, then added, changed and removed one by one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::apps::HttpServerApp;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use super::accept::{Acceptor, Settings};
use super::limits::{ConnCounters, ConnLimits, Cut};
use super::refusal::Witness;
use super::registry::{Registry, sweeper};
use crate::config::listeners::Listener;
use crate::tls::{TlsError, TlsTable};

/// Connections the kernel keeps for us to accept.
const BACKLOG: i32 = 4096;
/// How long connections that were cut may take to be over, with their lines in the access log.
const CUT_TO_CLOSED: Duration = Duration::from_secs(1);
/// How often a drain looks whether it is over.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// In a drain, how long an idle HTTP/2 client may leave GOAWAY and PING unanswered: a request may
/// be on the way, or the end of a response.
const GOAWAY_ANSWER: Duration = Duration::from_secs(1);

/// A listener that could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("listener \"{listener}\" on {address}: {cause}")]
pub struct BindError {
    pub listener: Arc<str>,
    pub address: SocketAddr,
    #[source]
    pub cause: BindCause,
}

#[derive(Debug, thiserror::Error)]
pub enum BindCause {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A socket that listens, which nobody accepts from yet.
#[derive(Debug)]
pub struct Bound {
    asked: SocketAddr,
    settings: Settings,
    socket: std::net::TcpListener,
}

impl Bound {
    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }
}

/// Opens all sockets and reads all certificates, or nothing. Sockets that a former process hands
/// down (re-exec) will be looked up here, by address, before a new one is opened.
pub fn bind(listeners: &[Listener]) -> Result<Vec<Bound>, BindError> {
    listeners.iter().map(bind_one).collect()
}

fn bind_one(listener: &Listener) -> Result<Bound, BindError> {
    let settings = settings(listener)?;
    let socket = open(listener.address).map_err(|e| failed(listener, e))?;
    Ok(Bound { asked: listener.address, settings, socket })
}

fn settings(listener: &Listener) -> Result<Settings, BindError> {
    let tls = listener.tls.as_ref().map(TlsTable::load).transpose();
    Ok(Settings {
        name: listener.name.clone(),
        tls: tls.map_err(|e| failed(listener, e))?,
        proxy_protocol: listener.proxy_protocol.clone(),
        h2c: listener.h2c,
    })
}

fn failed(listener: &Listener, cause: impl Into<BindCause>) -> BindError {
    let (listener, address) = (listener.name.clone(), listener.address);
    BindError { listener, address, cause: cause.into() }
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Listeners by name and real address, as a reload opened and closed them.
#[derive(Debug, Default)]
pub struct Applied {
    pub opened: Vec<(Arc<str>, SocketAddr)>,
    pub closed: Vec<(Arc<str>, SocketAddr)>,
}

/// Everything a reload needs of listeners, checked and bound; dropping it changes nothing.
#[derive(Debug)]
pub struct Change {
    kept: Vec<(SocketAddr, Settings)>,
    added: Vec<Bound>,
}

struct Live {
    asked: SocketAddr,
    local: SocketAddr,
    settings: Arc<ArcSwap<Settings>>,
    stop: watch::Sender<bool>,
    drain: watch::Sender<bool>,
}

/// All listeners that serve `A`.
pub struct ListenerSet<A> {
    app: Arc<A>,
    registry: Arc<Registry>,
    live: Mutex<Vec<Live>>,
}

impl<A: HttpServerApp + Send + Sync + 'static> ListenerSet<A> {
    pub fn new(app: Arc<A>, limits: ConnLimits) -> ListenerSet<A> {
        ListenerSet { app, registry: Arc::new(Registry::new(limits)), live: Mutex::default() }
    }

    /// Names who is told of refused requests; the first one counts.
    pub fn set_witness(&self, witness: Box<dyn Witness>) {
        let _ = self.registry.witness.set(witness);
    }

    /// Starts to serve, on the current tokio runtime. To be called once; later `add`.
    pub fn start(&self, bound: Vec<Bound>) -> io::Result<()> {
        tokio::spawn(sweeper(Arc::downgrade(&self.registry)));
        bound.into_iter().try_for_each(|bound| self.add(bound).map(drop))
    }

    /// Serves one more socket. Returns its real address, also where port 0 was asked for.
    pub fn add(&self, bound: Bound) -> io::Result<SocketAddr> {
        let local = bound.socket.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let (drain, drained) = watch::channel(false);
        let settings = Arc::new(ArcSwap::from_pointee(bound.settings));
        let acceptor = Acceptor {
            app: self.app.clone(),
            registry: self.registry.clone(),
            socket: TcpListener::from_std(bound.socket)?,
            settings: settings.clone(),
            stop: stopped,
            drain: drained,
        };
        tokio::spawn(acceptor.run());
        self.live.lock().push(Live { asked: bound.asked, local, settings, stop, drain });
        Ok(local)
    }

    /// Closes one listener; its connections end after their current request.
    pub fn remove(&self, name: &str) -> bool {
        !self.retain(|live| &*live.settings.load().name != name).is_empty()
    }

    /// Checks a new configuration without touching what runs. A listener whose address is served
    /// already keeps its socket.
    pub fn prepare(&self, listeners: &[Listener]) -> Result<Change, BindError> {
        let mut change = Change { kept: Vec::new(), added: Vec::new() };
        for listener in listeners {
            if self.serves(listener) {
                change.kept.push((listener.address, settings(listener)?));
            } else {
                change.added.push(bind_one(listener)?);
            }
        }
        Ok(change)
    }

    /// Makes a prepared configuration the one that is served.
    pub fn apply(&self, change: Change) -> io::Result<Applied> {
        let stays = |live: &Live| {
            let name = live.settings.load().name.clone();
            change.kept.iter().any(|(address, s)| matches(live, *address, &name, &s.name))
        };
        let mut applied = Applied { closed: self.retain(stays), ..Applied::default() };
        for (address, settings) in change.kept {
            let live = self.live.lock();
            let found = live
                .iter()
                .find(|live| matches(live, address, &live.settings.load().name, &settings.name));
            if let Some(live) = found {
                live.settings.store(Arc::new(settings));
            }
        }
        for bound in change.added {
            let name = bound.settings.name.clone();
            applied.opened.push((name, self.add(bound)?));
        }
        Ok(applied)
    }

    fn serves(&self, listener: &Listener) -> bool {
        let live = self.live.lock();
        live.iter()
            .any(|live| matches(live, listener.address, &live.settings.load().name, &listener.name))
    }

    /// Closes every listener that does not stay; returns those.
    fn retain(&self, stays: impl Fn(&Live) -> bool) -> Vec<(Arc<str>, SocketAddr)> {
        let mut closed = Vec::new();
        self.live.lock().retain(|live| {
            let stays = stays(live);
            if !stays {
                live.stop.send_replace(true);
                live.drain.send_replace(true);
                closed.push((live.settings.load().name.clone(), live.local));
            }
            stays
        });
        closed
    }

    /// The real address of a listener.
    pub fn local_addr(&self, name: &str) -> Option<SocketAddr> {
        let live = self.live.lock();
        live.iter().find(|live| &*live.settings.load().name == name).map(|live| live.local)
    }

    pub fn counters(&self) -> &Arc<ConnCounters> {
        &self.registry.counters
    }

    /// Replaces the limits; open connections are held to them, too.
    pub fn set_limits(&self, limits: ConnLimits) {
        self.registry.limits.store(Arc::new(limits));
    }

    /// Open connections.
    pub fn open(&self) -> u64 {
        self.counters().open.load(Relaxed)
    }

    /// Requests being served.
    pub fn in_flight(&self) -> u64 {
        self.counters().in_flight.load(Relaxed)
    }

    /// Serves what stands in the accept queues, then closes the sockets.
    pub fn stop_accepting(&self) {
        for live in self.live.lock().iter() {
            live.stop.send_replace(true);
        }
    }

    /// Idle connections close at once, busy ones after their response; HTTP/2 gets GOAWAY.
    pub fn drain(&self) {
        for live in self.live.lock().iter() {
            live.drain.send_replace(true);
        }
    }

    /// Waits until no connection is open, at most until `deadline`; then cuts the rest. Returns
    /// how many were cut.
    pub async fn drained(&self, deadline: Instant) -> u64 {
        let silent = Instant::now() + GOAWAY_ANSWER;
        while self.accepting() || self.open() > 0 {
            if Instant::now() >= silent {
                self.registry.cut_idle(GOAWAY_ANSWER, Cut::Drain);
            }
            if Instant::now() >= deadline {
                let left = self.open();
                self.registry.cut_all(Cut::Drain);
                let closed = Instant::now() + CUT_TO_CLOSED;
                while self.open() > 0 && Instant::now() < closed {
                    tokio::time::sleep(DRAIN_POLL).await;
                }
                return left;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
        0
    }

    /// Whether an acceptor that was told to stop still serves its queue.
    fn accepting(&self) -> bool {
        self.live.lock().iter().any(|live| *live.stop.borrow() && !live.stop.is_closed())
    }
}

/// Whether a running listener is the one meant: port 0 is another socket for each name.
fn matches(live: &Live, address: SocketAddr, name: &str, wanted: &str) -> bool {
    live.asked == address && (address.port() != 0 || name == wanted)
}
