//! A connection's requests: HTTP/1 one after another in our own keep-alive loop, HTTP/2 by
//! Pingora's.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use tokio::sync::watch;

use super::http2::Http2;
use super::intake::End;
use super::limits::ConnLimits;
use super::state::{ConnState, Phase};
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
    limits: &ConnLimits,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    if conn.state().is_h2() {
        serve_http2(app, conn, &drain, limits).await;
        return;
    }
    if !first_bytes(&mut conn, &mut drain).await {
        return;
    }
    if h2c && conn.state().tls.is_none() {
        match conn.starts_h2().await {
            Ok(Some(false)) => {}
            Ok(Some(true)) => {
                serve_http2(app, conn, &drain, limits).await;
                return;
            }
            Ok(None) | Err(_) => return,
        }
    }
    let afterlife = conn.afterlife();
    serve_http1(app, conn, &drain, limits.requests_per_connection).await;
    Box::pin(afterlife.linger(&mut drain)).await;
}

async fn serve_http2<A>(
    app: &Arc<A>,
    conn: Conn,
    drain: &watch::Receiver<bool>,
    limits: &ConnLimits,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    Arc::new(Http2::new(app.clone(), limits)).process_new(Box::new(conn), drain).await;
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

async fn serve_http1<A>(app: &Arc<A>, conn: Conn, drain: &watch::Receiver<bool>, max_requests: u32)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let state = conn.state().clone();
    let mut waiter = drain.clone();
    let mut drained = pin!(draining(&mut waiter));
    let mut session = ServerSession::new_http1(Box::new(conn));
    session.set_keepalive(NO_TIMER);
    session.set_pipelining_enabled(true);
    // The first request is not a reuse.
    session.set_keepalive_reuses_remaining(Some(max_requests.saturating_sub(1)));
    loop {
        let served = tokio::select! {
            biased;
            served = app.process_new_http(session, drain) => served,
            () = idle_in_drain(&state, drain, drained.as_mut()) => return,
        };
        let Some((stream, settings)) = served.map(|reused| reused.consume()) else { return };
        let Some(mut conn) = own(stream) else { return };
        match conn.end_of_request() {
            // The usual case: nothing but the socket is kept until more comes.
            End::Exact => {
                state.enter(Phase::Idle);
                if !comes(&mut conn, drain, drained.as_mut()).await {
                    return;
                }
            }
            // Pipelined requests are in `settings`, where nobody but Pingora can look.
            End::Perhaps => state.enter(Phase::Idle),
            End::Elsewhere => state.enter(Phase::Head),
        }
        session = next(conn, settings);
    }
}

/// Waits for the next request, holding neither session nor buffers. In a drain there is none.
async fn comes(
    conn: &mut Conn,
    drain: &watch::Receiver<bool>,
    drained: Pin<&mut impl Future<Output = ()>>,
) -> bool {
    tokio::select! {
        biased;
        came = conn.wait_readable() => came.unwrap_or(false),
        () = begun(drain, drained) => false,
    }
}

fn next(conn: Box<Conn>, settings: Option<HttpPersistentSettings>) -> ServerSession {
    let mut session = ServerSession::new_http1(conn);
    match settings {
        Some(settings) => settings.apply_to_session(&mut session),
        None => session.set_keepalive(NO_TIMER),
    }
    session
}

/// Resolves if a drain finds Pingora waiting for a request that has not begun.
async fn idle_in_drain(
    state: &ConnState,
    drain: &watch::Receiver<bool>,
    drained: Pin<&mut impl Future<Output = ()>>,
) {
    begun(drain, drained).await;
    if state.phase() != Phase::Idle {
        std::future::pending().await
    }
}

/// The stream back from Pingora. Apart, as `Box<dyn Any>` must not be held across an await.
fn own(stream: Stream) -> Option<Box<Conn>> {
    stream.into_any().downcast::<Conn>().ok()
}

/// Resolves once a drain began. All of a connection's requests wait by one future, since to wait
/// anew costs more; it must not be polled after its end.
async fn begun(drain: &watch::Receiver<bool>, drained: Pin<&mut impl Future<Output = ()>>) {
    if !*drain.borrow() {
        drained.await;
    }
}

/// Resolves once a drain began; a lost sender counts as one.
pub(super) async fn draining(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|draining| *draining).await;
}
