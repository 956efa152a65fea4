//! A connection's requests: HTTP/1 one after another in our own keep-alive loop, HTTP/2 by
//! Pingora's.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use tokio::sync::watch;

use super::state::Phase;
use super::stream::Conn;

/// In a drain, how long a connection that sent nothing so far may still do so: it may have waited
/// in the accept queue with its request on the way.
const FIRST_REQUEST_IN_DRAIN: Duration = Duration::from_millis(500);
/// Pingora's "without a timer": the sweeper ends idle connections.
const NO_TIMER: Option<u64> = Some(0);

/// Serves a connection until it closes. `drain` turns true when it should come to an end.
pub(super) async fn serve<A>(
    app: &Arc<A>,
    mut conn: Conn,
    mut drain: watch::Receiver<bool>,
    h2c: bool,
    max_requests: u32,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    if conn.state().is_h2() {
        app.process_new(Box::new(conn), &drain).await;
        return;
    }
    if !first_bytes(&mut conn, &mut drain).await {
        return;
    }
    if h2c && conn.state().tls.is_none() {
        match conn.starts_h2().await {
            Ok(Some(false)) => {}
            Ok(Some(true)) => {
                app.process_new(Box::new(conn), &drain).await;
                return;
            }
            Ok(None) | Err(_) => return,
        }
    }
    serve_http1(app, conn, drain, max_requests).await;
}

/// Reads, as a socket fresh from the accept queue counts as readable until a read says otherwise.
async fn first_bytes(conn: &mut Conn, drain: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        came = conn.read_ahead() => return came.unwrap_or(false),
        () = draining(drain) => {}
    }
    let came = tokio::time::timeout(FIRST_REQUEST_IN_DRAIN, conn.read_ahead()).await;
    matches!(came, Ok(Ok(true)))
}

async fn serve_http1<A>(
    app: &Arc<A>,
    conn: Conn,
    mut drain: watch::Receiver<bool>,
    max_requests: u32,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let state = conn.state().clone();
    let mut session = ServerSession::new_http1(Box::new(conn));
    session.set_keepalive(NO_TIMER);
    // The first request is not a reuse.
    session.set_keepalive_reuses_remaining(Some(max_requests.saturating_sub(1)));
    while let Some(reused) = app.process_new_http(session, &drain).await {
        let (stream, settings) = reused.consume();
        if state.phase() != Phase::Idle {
            state.enter(Phase::Idle);
        }
        let Some(next) = park(stream, settings, &mut drain).await else { return };
        session = next;
    }
}

/// Waits for the next request, holding neither session nor buffers. In a drain there is none.
async fn park(
    stream: Stream,
    settings: Option<HttpPersistentSettings>,
    drain: &mut watch::Receiver<bool>,
) -> Option<ServerSession> {
    let mut conn = own(stream)?;
    let came = tokio::select! {
        biased;
        came = conn.wait_readable() => came.unwrap_or(false),
        () = draining(drain) => false,
    };
    if !came {
        return None;
    }
    let mut session = ServerSession::new_http1(conn);
    match settings {
        Some(settings) => settings.apply_to_session(&mut session),
        None => session.set_keepalive(NO_TIMER),
    }
    Some(session)
}

/// The stream back from Pingora. Apart, as `Box<dyn Any>` must not be held across an await.
fn own(stream: Stream) -> Option<Box<Conn>> {
    stream.into_any().downcast::<Conn>().ok()
}

/// Resolves once a drain began; a lost sender counts as one.
async fn draining(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|draining| *draining).await;
}
