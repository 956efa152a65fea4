//! From a socket in the accept queue to a connection that may speak HTTP: caps, PROXY header, TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use pingora_core::apps::HttpServerApp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::LazyConfigAcceptor;

use super::http::serve;
use super::limits::Rejection;
use super::proxy_protocol::{self, Header};
use super::registry::{Permit, Registry};
use super::state::Arrival;
use super::stream::{Conn, Transport};
use crate::tls::{TlsInfo, TlsTable};

/// A pause when descriptors or memory ran out: the queue keeps.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// How long an accept queue must stay empty to count as served.
const QUEUE_EMPTY: Duration = Duration::from_millis(5);
/// What a client reads that a cap turned away, on plaintext.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
    Connection: close\r\nRetry-After: 1\r\n\r\n";

/// What a reload may change of a listener that stays.
#[derive(Debug)]
pub(super) struct Settings {
    pub name: Arc<str>,
    pub tls: Option<TlsTable>,
    pub proxy_protocol: Vec<IpNet>,
    pub h2c: bool,
}

/// One listening socket at work.
pub(super) struct Acceptor<A> {
    pub app: Arc<A>,
    pub registry: Arc<Registry>,
    pub socket: TcpListener,
    pub settings: Arc<ArcSwap<Settings>>,
    pub stop: watch::Receiver<bool>,
    pub drain: watch::Receiver<bool>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Acceptor<A> {
    /// Accepts until told to stop, then what the queue still holds, then closes the socket.
    pub async fn run(mut self) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = self.stop.wait_for(|stop| *stop) => break,
            };
            self.take(accepted).await;
        }
        while let Ok(accepted) = tokio::time::timeout(QUEUE_EMPTY, self.socket.accept()).await {
            self.take(accepted).await;
        }
    }

    async fn take(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((tcp, peer)) => self.spawn(tcp, peer),
            Err(e) => match e.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    log::warn!("accept: {e}");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                // The client went away while it waited.
                _ => log::debug!("accept: {e}"),
            },
        }
    }

    fn spawn(&self, tcp: TcpStream, peer: SocketAddr) {
        self.registry.counters.accepted.fetch_add(1, Relaxed);
        let settings = self.settings.load_full();
        let trusted = settings.proxy_protocol.iter().any(|net| net.contains(&peer.ip()));
        // Behind a PROXY sender the client is known only after its header.
        let permit = self.registry.admit().and_then(|mut permit| {
            if !trusted {
                permit.claim(peer.ip())?;
            }
            Ok(permit)
        });
        let permit = match permit {
            Ok(permit) => permit,
            Err(why) => return turn_away(&self.registry, &tcp, &settings, why),
        };
        let (app, registry, drain) = (self.app.clone(), self.registry.clone(), self.drain.clone());
        tokio::spawn(async move {
            let mut newcomer = Newcomer { registry, settings, permit, peer, trusted };
            if let Some(conn) = newcomer.handshake(tcp).await {
                let limits = newcomer.registry.limits.load_full();
                let h2c = newcomer.settings.h2c;
                // Boxed, so that a handshake's task is not as large as a request's.
                Box::pin(serve(&app, conn, drain, h2c, &limits)).await;
            }
        });
    }
}

fn turn_away(registry: &Registry, tcp: &TcpStream, settings: &Settings, why: Rejection) {
    registry.counters.count_rejected(why);
    if settings.tls.is_none() {
        // A courtesy that may fail.
        let _ = tcp.try_write(TOO_MANY);
    }
}

/// A connection that is not let in yet.
struct Newcomer {
    registry: Arc<Registry>,
    settings: Arc<Settings>,
    permit: Permit,
    peer: SocketAddr,
    trusted: bool,
}

/// Why a newcomer was turned away, with the detail for the log.
type Refusal = (Rejection, String);

impl Newcomer {
    async fn handshake(&mut self, tcp: TcpStream) -> Option<Conn> {
        let limit = self.registry.limits.load().handshake;
        let peer = self.peer;
        let result = match tokio::time::timeout(limit, Box::pin(self.greet(tcp))).await {
            Ok(result) => result,
            Err(_) => Err((Rejection::HandshakeTimeout, format!("not done after {limit:?}"))),
        };
        match result {
            Ok(conn) => Some(conn),
            Err((why, detail)) => {
                self.registry.counters.count_rejected(why);
                log::debug!("{peer}: {}: {detail}", why.label());
                None
            }
        }
    }

    async fn greet(&mut self, mut tcp: TcpStream) -> Result<Conn, Refusal> {
        let started = Instant::now();
        let io = |e: io::Error| (Rejection::Handshake, e.to_string());
        tcp.set_nodelay(true).map_err(io)?;
        let (mut client, mut local) = (self.peer, tcp.local_addr().map_err(io)?);
        if self.trusted {
            let header = proxy_protocol::read(&mut tcp).await;
            match header.map_err(|e| (Rejection::ProxyHeader, e.to_string()))? {
                Header::Proxied { client: c, local: l } => (client, local) = (c, l),
                Header::Own => {}
            }
            if let Err(why) = self.permit.claim(client.ip()) {
                return Err((why, client.to_string()));
            }
        }
        let (transport, tls) = match &self.settings.tls {
            None => (Transport::Plain(tcp), None),
            Some(table) => {
                let (transport, tls) = accept_tls(tcp, table).await.map_err(io)?;
                (transport, Some(tls))
            }
        };
        let took = tls.is_some().then(|| started.elapsed());
        let listener = self.settings.name.clone();
        let arrival = Arrival { peer: self.peer, client, local, listener, tls };
        Ok(Conn::new(transport, self.registry.register(arrival), took))
    }
}

async fn accept_tls(tcp: TcpStream, table: &TlsTable) -> io::Result<(Transport, TlsInfo)> {
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
    let config = table.choose(hello.client_hello().server_name());
    let stream = hello.into_stream(config).await?;
    let info = TlsInfo::of(stream.get_ref().1);
    Ok((Transport::Tls(Box::new(stream)), info))
}
