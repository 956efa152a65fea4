//! Opening a connection where more is wanted than a socket: a limit on how many there are, and a
//! PROXY header (HAProxy's specification, versions 1 and 2) before everything else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as AnyAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::Tracing;
use pingora_core::{Error, ErrorType, OrErr, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use super::attempt::{Limit, Standing, take};
use super::endpoint::Endpoint;
use super::pool::Pool;
use crate::config::upstreams::{Caps, ProxyProtocol};

/// The kind of error when no further connection may be opened.
pub const CONNECTIONS_FULL: ErrorType = ErrorType::Custom("ConnectionLimit");

/// A client and the address of ours that it came to, for a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Introduction {
    pub client: SocketAddr,
    pub local: SocketAddr,
}

/// Opens one connection for a request.
pub(super) struct Dial {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    client: Option<Introduction>,
    /// Health checks are neither limited nor counted.
    counted: bool,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dial").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Dial {
    pub(super) fn new(
        pool: &Arc<Pool>,
        endpoint: &Arc<Endpoint>,
        client: Option<Introduction>,
        counted: bool,
    ) -> Self {
        Self { pool: Arc::clone(pool), endpoint: Arc::clone(endpoint), client, counted }
    }

    async fn open(&self, address: &AnyAddr) -> Result<Stream> {
        let header = self.pool.config().proxy_protocol.map(|version| header(version, self.client));
        let header = header.unwrap_or_default();
        match address {
            AnyAddr::Inet(address) => {
                let mut stream = TcpStream::connect(address).await.map_err(connect_error)?;
                stream.write_all(&header).await.or_err(ErrorType::ConnectError, "PROXY header")?;
                Ok(stream.into())
            }
            AnyAddr::Unix(address) => {
                let path = address.as_pathname().ok_or_else(|| {
                    Error::explain(ErrorType::ConnectError, "a socket without a path")
                })?;
                let mut stream = UnixStream::connect(path).await.map_err(connect_error)?;
                stream.write_all(&header).await.or_err(ErrorType::ConnectError, "PROXY header")?;
                Ok(stream.into())
            }
        }
    }
}

/// As Pingora names them.
fn connect_error(error: std::io::Error) -> Box<Error> {
    let kind = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        std::io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting", error)
}

#[async_trait]
impl Connect for Dial {
    async fn connect(&self, address: &AnyAddr) -> Result<Stream> {
        let place = self.counted.then(|| Place::take(&self.pool, &self.endpoint)).transpose();
        let place = place.map_err(|limit| {
            self.pool.metrics().refused(limit.label());
            Error::explain(CONNECTIONS_FULL, format!("the limit of {limit} is reached"))
        })?;
        let stream = self.open(address).await?;
        // The connection's own tracer takes one as soon as it stands.
        drop(place);
        Ok(stream)
    }
}

/// A connection counted while it is being opened.
struct Place<'a>(&'a Standing, &'a Endpoint);

impl<'a> Place<'a> {
    fn take(pool: &'a Pool, endpoint: &'a Endpoint) -> std::result::Result<Self, Limit> {
        let (caps, standing): (&Caps, _) = (&pool.config().caps, pool.standing());
        if !take(&standing.connections, caps.connections) {
            return Err(Limit::Connections);
        }
        if !take(&endpoint.connections, caps.endpoint_connections) {
            standing.connections.fetch_sub(1, Relaxed);
            return Err(Limit::EndpointConnections);
        }
        Ok(Self(standing, endpoint))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Self(standing, endpoint) = self;
        standing.connections.fetch_sub(1, Relaxed);
        endpoint.connections.fetch_sub(1, Relaxed);
    }
}

/// Counts a connection from when it stands until it closes, which may be after a reload.
#[derive(Clone)]
pub(super) struct Connected {
    standing: Arc<Standing>,
    endpoint: Arc<Endpoint>,
}

impl Connected {
    pub(super) fn new(pool: &Arc<Pool>, endpoint: &Arc<Endpoint>) -> Self {
        Self { standing: Arc::clone(pool.standing()), endpoint: Arc::clone(endpoint) }
    }
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connected({})", self.endpoint.address())
    }
}

impl Tracing for Connected {
    fn on_connected(&self) {
        self.standing.connections.fetch_add(1, Relaxed);
        self.endpoint.connections.fetch_add(1, Relaxed);
    }

    fn on_disconnected(&self) {
        self.standing.connections.fetch_sub(1, Relaxed);
        self.endpoint.connections.fetch_sub(1, Relaxed);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

/// Twelve bytes that no other protocol begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_LOCAL: u8 = 0x20;
const VERSION_PROXY: u8 = 0x21;

/// The header for `client`; without one, as with health checks, it says that we speak for ourselves.
fn header(version: ProxyProtocol, client: Option<Introduction>) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => header_v1(client).into_bytes(),
        ProxyProtocol::V2 => header_v2(client),
    }
}

fn header_v1(client: Option<Introduction>) -> String {
    match client {
        Some(Introduction { client, local }) if client.is_ipv4() == local.is_ipv4() => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (client.ip(), local.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port())
        }
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    }
}

fn header_v2(client: Option<Introduction>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let (family, addresses) = match client {
        Some(Introduction { client: SocketAddr::V4(from), local: SocketAddr::V4(to) }) => {
            (0x11, [from.ip().octets(), to.ip().octets()].concat())
        }
        Some(Introduction { client: SocketAddr::V6(from), local: SocketAddr::V6(to) }) => {
            (0x21, [from.ip().octets(), to.ip().octets()].concat())
        }
        _ => {
            header.extend([VERSION_LOCAL, 0, 0, 0]);
            return header;
        }
    };
    let ports = client.map(|it| [it.client.port(), it.local.port()]).unwrap_or_default();
    header.extend([VERSION_PROXY, family, 0, addresses.len() as u8 + 4]);
    header.extend(addresses);
    header.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(client: &str, local: &str) -> Option<Introduction> {
        let parse = |text: &str| text.parse().expect("an address");
        Some(Introduction { client: parse(client), local: parse(local) })
    }

    #[test]
    fn version_1_is_a_line() {
        let four = introduction("192.0.2.1:4000", "192.0.2.9:80");
        assert_eq!(header_v1(four), "PROXY TCP4 192.0.2.1 192.0.2.9 4000 80\r\n");
        let six = introduction("[2001:db8::1]:4000", "[2001:db8::9]:80");
        assert_eq!(header_v1(six), "PROXY TCP6 2001:db8::1 2001:db8::9 4000 80\r\n");
        assert_eq!(header_v1(None), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_has_lengths_and_ports_in_network_order() {
        let four = header_v2(introduction("192.0.2.1:4000", "192.0.2.9:80"));
        assert_eq!(&four[..12], SIGNATURE);
        assert_eq!(&four[12..], [0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 9, 15, 160, 0, 80]);
        let six = header_v2(introduction("[::1]:1", "[::1]:2"));
        assert_eq!((&six[12..16], six.len()), (&[0x21, 0x21, 0, 36][..], 16 + 36));
        assert_eq!(header_v2(None)[12..], [0x20, 0, 0, 0]);
    }
}
