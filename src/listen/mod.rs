//! Our own listeners on Pingora: sockets, connections and their limits, up to the point where
//! Pingora's `HttpServerApp` takes a request. Reading order: `set`, `accept`, `http`, `stream`.
//!
//! Not here yet, with their places: minimum body rates (`registry::offence`), sockets handed down
//! over a re-exec (`set::bind`).

mod accept;
mod http;
mod http2;
mod intake;
mod limits;
mod linger;
mod proxy_protocol;
mod refusal;
mod registry;
mod set;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use pingora_core::protocols::http::ServerSession;

pub use limits::{ConnCounters, ConnLimits, Cut, Refusal, Rejection};
pub use refusal::Witness;
pub use set::{Applied, BindCause, BindError, Bound, Change, ListenerSet, bind};
pub use state::ConnState;

/// The connection of a request, in any hook.
pub fn conn_state(session: &pingora_proxy::Session) -> Option<&Arc<ConnState>> {
    conn_of(session.as_downstream())
}

/// The same for a session that no proxy is around.
pub fn conn_of(session: &ServerSession) -> Option<&Arc<ConnState>> {
    let proxy = session.digest()?.proxy_digest.as_ref()?;
    proxy.user_data.as_ref()?.downcast_ref()
}
