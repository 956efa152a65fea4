//! The client behind the scripts' `fetch` and the health checks: whole exchanges, within a time.
//!
//! It keeps its own connections, apart from those of proxied requests. Dropping a request's
//! future ends the exchange. Whether a script may connect somewhere is for [`super::egress`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, StatusCode};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType};

use super::attempt::Refusal;
use super::balance::Ask;
use super::dial::CONNECTIONS_FULL;
use super::endpoint::Endpoint;
use super::exchange;
use super::outlier::Outcome;
use super::pool::Pool;
use crate::config::upstreams::Address;

/// How long an unused connection to an address is kept; a pool's have the pool's.
const KEEP_ADDRESS: Duration = Duration::from_secs(60);

/// What is read of a health check's body, so that its connection can be used again.
const MAX_PROBE_BODY: usize = 64 * 1024;

/// Where a request goes.
#[derive(Clone)]
pub enum Target {
    Pool(Arc<Pool>),
    /// Only endpoints in these regions.
    Fenced {
        pool: Arc<Pool>,
        fence: Arc<[Arc<str>]>,
    },
    /// An address that was judged already; with a name, TLS is spoken and the name checked.
    Address {
        address: SocketAddr,
        tls: Option<String>,
    },
}

/// A request with all of its body. Headers about the connection or the framing are ours.
#[derive(Debug, Clone)]
pub struct ClientRequest {
    pub method: Method,
    pub path_and_query: String,
    pub headers: HeaderMap,
    /// `Host`, or `:authority`.
    pub host: String,
    pub body: Bytes,
    /// For everything, from the choice of the endpoint to the end of the body.
    pub timeout: Duration,
    /// Bytes of the response's body.
    pub max_body: usize,
}

/// A response with all of its body.
#[derive(Debug, Clone)]
pub struct ClientResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("cannot connect to {address}")]
    Connect { address: Address, source: Box<Error> },
    #[error("no complete response in time")]
    Timeout,
    #[error("the response's body is larger than {max} bytes")]
    TooLarge { max: usize },
    #[error("the request cannot be sent: {0}")]
    Invalid(String),
    #[error("the response cannot be understood: {0}")]
    Protocol(String),
    #[error("the exchange broke off")]
    Broken(#[source] Box<Error>),
}

impl From<Box<Error>> for ClientError {
    fn from(error: Box<Error>) -> Self {
        match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => Self::Timeout,
            ErrorType::InvalidHTTPHeader => Self::Protocol(error.to_string()),
            _ => Self::Broken(error),
        }
    }
}

impl ClientError {
    /// What it says of an endpoint, if anything.
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Connect { source, .. } if *source.etype() == CONNECTIONS_FULL => None,
            Self::Connect { .. } => Some(Outcome::NotConnected),
            Self::Timeout => Some(Outcome::TimedOut),
            Self::Broken(_) | Self::Protocol(_) => Some(Outcome::Broken),
            Self::Refused(_) | Self::TooLarge { .. } | Self::Invalid(_) => None,
        }
    }
}

/// A client with its kept connections; one serves the whole process.
pub struct Client {
    connector: Connector,
}

impl Client {
    /// Reads the system's authorities; `keep` is how many unused connections are kept.
    pub fn new(keep: usize) -> Self {
        Self { connector: Connector::new(Some(ConnectorOptions::new(keep))) }
    }

    /// The response to `request`, or why there is none within its timeout.
    pub async fn request(
        &self,
        target: Target,
        mut request: ClientRequest,
    ) -> Result<ClientResponse, ClientError> {
        if let Target::Pool(pool) | Target::Fenced { pool, .. } = &target {
            request.host = pool.config().host.clone().unwrap_or(request.host);
        }
        let exchange = async {
            match target {
                Target::Pool(pool) => self.ask_pool(&pool, &[], &request).await,
                Target::Fenced { pool, fence } => self.ask_pool(&pool, &fence, &request).await,
                Target::Address { address, tls } => {
                    let peer = peer_of(address, tls, &request)?;
                    self.ask(&peer, (&address.into(), None), &request).await
                }
            }
        };
        let ended = tokio::time::timeout(request.timeout, exchange).await;
        ended.unwrap_or(Err(ClientError::Timeout))
    }

    /// What `endpoint` answers a health check with; of its body no more than a part.
    pub(super) async fn probe(
        &self,
        pool: &Arc<Pool>,
        endpoint: &Arc<Endpoint>,
        request: &ClientRequest,
    ) -> Result<ClientResponse, ClientError> {
        let peer = pool.probe_peer(endpoint).map_err(ClientError::Invalid)?;
        let to = (endpoint.address(), Some(&**pool));
        let (mut session, _) = self.connect(&peer, to).await?;
        exchange::send(&mut session, &peer, request).await?;
        let (status, headers) = exchange::receive_head(&mut session, &peer).await?;
        let body = exchange::receive_body(&mut session, &peer, MAX_PROBE_BODY).await;
        // Over HTTP/1.1 each check connects anew, since taking connections is what may be broken.
        if body.is_ok() && session.as_http2().is_some() {
            self.connector.release_http_session(session, &peer, peer.idle_timeout()).await;
        }
        Ok(ClientResponse { status, headers, body: body.unwrap_or_default() })
    }

    /// Tries further endpoints as long as none could be connected to.
    async fn ask_pool(
        &self,
        pool: &Arc<Pool>,
        fence: &[Arc<str>],
        request: &ClientRequest,
    ) -> Result<ClientResponse, ClientError> {
        let mut tried = Vec::new();
        let mut failed = None;
        for _ in 0..=pool.config().retries {
            let key = request.path_and_query.as_bytes();
            let mut attempt = match pool.begin(&Ask { key, skip: &tried, fence, prefer: None }) {
                Ok(attempt) => attempt,
                Err(refusal) => return Err(failed.unwrap_or(ClientError::Refused(refusal))),
            };
            // Its own time limit bounds its wait: it is none of those that are pending for long.
            attempt.connected();
            let endpoint = Arc::clone(attempt.endpoint());
            let peer = pool.peer(&endpoint, None).map_err(ClientError::Invalid)?;
            let ended = self.ask(&peer, (endpoint.address(), Some(pool)), request).await;
            match &ended {
                Ok(response) => attempt.answered(response.status),
                Err(error) => {
                    if let Some(outcome) = error.outcome() {
                        attempt.failed(outcome);
                    }
                }
            }
            match ended {
                Err(error @ ClientError::Connect { .. }) => failed = Some(error),
                ended => return ended,
            }
            tried.push(endpoint);
        }
        Err(failed.unwrap_or(ClientError::Refused(Refusal::NoEndpoint)))
    }

    /// One exchange; a second one if a kept connection turned out to be closed.
    async fn ask(
        &self,
        peer: &HttpPeer,
        to: (&Address, Option<&Pool>),
        request: &ClientRequest,
    ) -> Result<ClientResponse, ClientError> {
        loop {
            let (mut session, reused) = self.connect(peer, to).await?;
            let head = match Box::pin(exchange::send(&mut session, peer, request)).await {
                Ok(()) => exchange::receive_head(&mut session, peer).await,
                Err(error) => Err(error),
            };
            match head {
                Err(ClientError::Broken(_)) if reused && request.method.is_idempotent() => {}
                Err(error) => return Err(error),
                Ok((status, headers)) => {
                    let head = (status, headers);
                    return Box::pin(self.finish(session, peer, request, head)).await;
                }
            }
        }
    }

    async fn finish(
        &self,
        mut session: HttpSession,
        peer: &HttpPeer,
        request: &ClientRequest,
        (status, headers): (StatusCode, HeaderMap),
    ) -> Result<ClientResponse, ClientError> {
        let max = request.max_body;
        if request.method != Method::HEAD && declared(&headers) > max as u64 {
            session.shutdown().await;
            return Err(ClientError::TooLarge { max });
        }
        let body = exchange::receive_body(&mut session, peer, max).await?;
        self.connector.release_http_session(session, peer, peer.idle_timeout()).await;
        Ok(ClientResponse { status, headers, body })
    }

    async fn connect(
        &self,
        peer: &HttpPeer,
        (address, pool): (&Address, Option<&Pool>),
    ) -> Result<(HttpSession, bool), ClientError> {
        // Boxed, so that a request that waits for its answer does not hold the room for this.
        let session = Box::pin(self.connector.get_http_session(peer)).await;
        let (session, reused) =
            session.map_err(|source| ClientError::Connect { address: address.clone(), source })?;
        if let Some(pool) = pool {
            pool.trusts(session.digest())
                .map_err(|source| ClientError::Connect { address: address.clone(), source })?;
        }
        // Where the handshake does not agree on HTTP/2, Pingora goes on with HTTP/1.1.
        if peer.options.alpn.get_min_http_version() == 2 && session.as_http2().is_none() {
            return Err(ClientError::Protocol("the origin did not agree on HTTP/2".into()));
        }
        Ok((session, reused))
    }
}

fn declared(headers: &HeaderMap) -> u64 {
    let value = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn peer_of(
    address: SocketAddr,
    tls: Option<String>,
    request: &ClientRequest,
) -> Result<HttpPeer, ClientError> {
    if tls.as_deref() == Some("") {
        // Pingora would take it as a wish not to verify.
        return Err(ClientError::Invalid("TLS needs a name to check".into()));
    }
    let mut peer = HttpPeer::new(address, tls.is_some(), tls.unwrap_or_default());
    let options = &mut peer.options;
    options.alpn = if peer.scheme == pingora_core::upstreams::peer::Scheme::HTTPS {
        ALPN::H2H1
    } else {
        ALPN::H1
    };
    options.connection_timeout = Some(request.timeout);
    options.total_connection_timeout = Some(request.timeout);
    options.read_timeout = Some(request.timeout);
    options.write_timeout = Some(request.timeout);
    options.idle_timeout = Some(KEEP_ADDRESS);
    super::peer::share_connection(options);
    Ok(peer)
}
