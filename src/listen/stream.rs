//! The stream that Pingora reads and writes: a socket, plain or TLS, with its `ConnState`.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::intake::{End, Intake};
use super::limits::{Cut, Refusal};
use super::linger::Afterlife;
use super::registry::Registered;
use super::state::{ConnState, Phase};

/// Head and small bodies of HTTP/1 are gathered up to this many bytes, so that they leave in one
/// write.
const GATHER: usize = 4096;
/// One read while a connection is parked or its protocol unknown.
const PEEK: usize = 1024;
/// What every HTTP/2 connection starts with.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The socket under a connection.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.get_ref().0,
        }
    }

    fn pinned(&mut self) -> Pin<&mut (dyn Duplex + '_)> {
        match self {
            Transport::Plain(tcp) => Pin::new(tcp as &mut dyn Duplex),
            Transport::Tls(tls) => Pin::new(tls.as_mut() as &mut dyn Duplex),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// One connection as Pingora's `Stream`.
#[derive(Debug)]
pub(super) struct Conn {
    transport: Transport,
    registered: Registered,
    /// Read already, not yet taken by Pingora.
    ahead: Vec<u8>,
    /// Written by Pingora, not yet sent; HTTP/1 only.
    gathered: Vec<u8>,
    intake: Intake,
    /// Our own answer was sent; what Pingora writes goes nowhere.
    refused: bool,
    /// The client has closed its side.
    ended: bool,
    afterlife: Afterlife,
    ssl: Option<Arc<SslDigest>>,
    socket: Arc<SocketDigest>,
    proxy: Arc<ProxyDigest>,
    established: SystemTime,
    handshake: Option<Duration>,
}

impl Conn {
    pub fn new(transport: Transport, registered: Registered, handshake: Option<Duration>) -> Conn {
        let state = &registered.state;
        let socket = SocketDigest::from_raw_fd(transport.tcp().as_raw_fd());
        // Fresh cells: setting them cannot fail.
        let _ = socket.peer_addr.set(Some(PingoraAddr::Inet(state.client)));
        let _ = socket.local_addr.set(Some(PingoraAddr::Inet(state.local)));
        let ssl = state
            .tls
            .as_ref()
            .map(|tls| Arc::new(SslDigest::new(tls.cipher, tls.version, None, None, Vec::new())));
        let proxy = ProxyDigest::new(no_response(), Some(Box::new(state.clone())));
        Conn {
            transport,
            ahead: Vec::new(),
            gathered: Vec::new(),
            intake: Intake::default(),
            refused: false,
            ended: false,
            afterlife: Afterlife::default(),
            ssl,
            socket: Arc::new(socket),
            proxy: Arc::new(proxy),
            established: SystemTime::now(),
            handshake,
            registered,
        }
    }

    pub fn state(&self) -> &Arc<ConnState> {
        &self.registered.state
    }

    /// Where the socket is left if the client may still be sending when this is dropped.
    pub fn afterlife(&self) -> Afterlife {
        self.afterlife.clone()
    }

    /// Whether Pingora, which gave the stream back, has bytes of a next request.
    pub fn end_of_request(&self) -> End {
        self.intake.end(self.state().body())
    }

    /// Waits for the client with nothing allocated. False: it closed.
    pub async fn wait_readable(&mut self) -> io::Result<bool> {
        if !self.ahead.is_empty() {
            return Ok(true);
        }
        self.gathered = Vec::new();
        self.intake = Intake::default();
        if let Transport::Plain(tcp) = &self.transport {
            let state = &self.registered.state;
            std::future::poll_fn(|cx| {
                if state.wait_read(cx) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                tcp.poll_read_ready(cx)
            })
            .await?;
            return Ok(true);
        }
        self.read_ahead().await
    }

    /// Whether the client starts with the HTTP/2 preface. Reads on only while what came is a
    /// beginning of it, so a short HTTP/1 request is not held up. `None`: it closed.
    pub async fn starts_h2(&mut self) -> io::Result<Option<bool>> {
        loop {
            let seen = self.ahead.len().min(H2_PREFACE.len());
            if self.ahead[..seen] != H2_PREFACE[..seen] {
                return Ok(Some(false));
            }
            if seen == H2_PREFACE.len() {
                self.state().speaks_h2();
                return Ok(Some(true));
            }
            if !self.read_ahead().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for the first or further bytes, and keeps them. False: it closed.
    pub async fn read_ahead(&mut self) -> io::Result<bool> {
        let mut buffer = [0; PEEK];
        let mut piece = ReadBuf::new(&mut buffer);
        std::future::poll_fn(|cx| self.poll_socket(cx, &mut piece)).await?;
        let came = piece.filled();
        if !came.is_empty() {
            self.state().bytes_came();
        }
        self.ahead.extend_from_slice(came);
        Ok(!came.is_empty())
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        let room = buf.remaining();
        let result = self.transport.pinned().poll_read(cx, buf);
        if result.is_pending() && self.state().wait_read(cx) {
            self.check_cut(cx)?;
        }
        ready!(result)?;
        self.ended |= room > 0 && buf.remaining() == room;
        Poll::Ready(Ok(()))
    }

    /// Fails once the connection is cut; a slow HTTP/1 head is told so first.
    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(why) = self.state().killed() else { return Ok(()) };
        if why == Cut::Head && !self.state().is_h2() && self.state().phase() == Phase::Head {
            self.refuse(Refusal::HeadTimeout);
            // As good as it gets: the client may not read.
            let _ = self.send_gathered(cx);
            let _ = self.transport.pinned().poll_flush(cx);
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Gathers our own answer to a request that the application will not see.
    fn refuse(&mut self, why: Refusal) {
        self.gathered = self.registered.refuse(why);
        self.refused = true;
        self.state().enter(Phase::Active);
    }

    /// Takes note of what Pingora is given.
    fn note_input(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.state().phase() {
            _ if bytes.is_empty() => {}
            _ if self.state().is_h2() || self.refused => {}
            Phase::Tunnel => self.state().is_tunnel(),
            Phase::Active => self.intake.body(bytes),
            Phase::Idle | Phase::Head => {
                self.state().bytes_came();
                self.intake.head(bytes);
                if self.intake.head_bytes() > self.registered.head_limit() {
                    self.refuse(Refusal::HeadTooLarge);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(())
    }

    /// An answer before any request began is Pingora's own, to a head that it cannot read.
    fn note_output(&mut self) {
        match self.state().phase() {
            Phase::Idle | Phase::Head => {
                let long = self.intake.too_many_lines();
                self.refuse(if long { Refusal::HeadTooLarge } else { Refusal::Malformed });
            }
            Phase::Active => {}
            Phase::Tunnel => self.state().is_tunnel(),
        }
    }

    /// Whether the client may be sending what nobody will read.
    fn leaves_unread(&self) -> bool {
        let over = self.state().is_h2() || self.state().phase() == Phase::Tunnel;
        let gone = self.ended || self.state().killed().is_some();
        !over && !gone && (self.refused || self.end_of_request() == End::Elsewhere)
    }

    fn send_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let result = loop {
            let rest = &self.gathered[sent..];
            if rest.is_empty() {
                break Poll::Ready(Ok(()));
            }
            match self.transport.pinned().poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(e)) => break Poll::Ready(Err(e)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.gathered.drain(..sent);
        if sent > 0 {
            self.state().write_moves();
        }
        self.or_cut(cx, result)
    }

    /// Registers for a cut where a write has to wait, and notes since when it does.
    fn or_cut<T>(&self, cx: &Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.state().write_moves();
            return result;
        }
        self.state().write_waits();
        match self.state().wait_write(cx) {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Poll::Pending,
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.state().is_h2() {
            return;
        }
        // A last answer before a close; nobody is left to hear of a failure.
        let cx = &mut Context::from_waker(Waker::noop());
        let _ = self.send_gathered(cx);
        let _ = self.transport.pinned().poll_flush(cx);
        if self.leaves_unread() {
            let _ = self.transport.pinned().poll_shutdown(cx);
            self.afterlife.keep(self.transport.tcp());
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.ahead.is_empty() {
            ready!(this.poll_socket(cx, buf))?;
        } else {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..count]);
            this.ahead.drain(..count);
            if this.ahead.is_empty() {
                this.ahead = Vec::new();
            }
        }
        Poll::Ready(this.note_input(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_cut(cx)?;
        if this.state().is_h2() {
            let result = this.transport.pinned().poll_write(cx, bytes);
            return this.or_cut(cx, result);
        }
        this.note_output();
        if this.refused {
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.gathered.len() + bytes.len() > GATHER {
            ready!(this.send_gathered(cx))?;
        }
        if bytes.len() >= GATHER {
            let result = this.transport.pinned().poll_write(cx, bytes);
            return this.or_cut(cx, result);
        }
        this.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.state().is_h2() {
            let this = self.get_mut();
            this.check_cut(cx)?;
            let result = this.transport.pinned().poll_write_vectored(cx, slices);
            return this.or_cut(cx, result);
        }
        match slices.iter().find(|slice| !slice.is_empty()) {
            Some(slice) => self.poll_write(cx, slice),
            None => Poll::Ready(Ok(0)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send_gathered(cx))?;
        let result = this.transport.pinned().poll_flush(cx);
        this.or_cut(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send_gathered(cx))?;
        let result = this.transport.pinned().poll_shutdown(cx);
        this.or_cut(cx, result)
    }
}

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        // The connection is over either way.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.transport.tcp().as_raw_fd()
    }
}

impl Ssl for Conn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    /// Also for HTTP/2 with prior knowledge: Pingora then neither peeks nor waits for a preface.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.state().is_h2().then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest {
            established_ts: self.established,
            establishment_duration: self.handshake,
            ..TimingDigest::default()
        })]
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.proxy.clone())
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for Conn {}

/// `ProxyDigest` wants the answer of a CONNECT proxy; there is none.
fn no_response() -> Box<pingora::http::ResponseHeader> {
    let (parts, ()) = http::Response::new(()).into_parts();
    Box::new(parts.into())
}
