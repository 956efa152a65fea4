//! The application as one HTTP/2 connection gets it: with the limits of the moment it was accepted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use tokio::sync::watch;

use super::limits::ConnLimits;

/// Shorter than any idle time that makes sense.
const SHORTEST_IDLE: Duration = Duration::from_millis(100);

/// `A`, with its own settings for HTTP/2.
pub(super) struct Http2<A> {
    app: Arc<A>,
    options: HttpServerOptions,
    header_list: u32,
}

impl<A> Http2<A> {
    pub fn new(app: Arc<A>, limits: &ConnLimits) -> Http2<A> {
        let mut options = HttpServerOptions::default();
        // Pingora's GOAWAY comes before our own cut of the idle connection.
        options.h2_idle_timeout = Some(limits.keep_alive.mul_f64(0.9).max(SHORTEST_IDLE));
        Http2 { app, options, header_list: limits.head_bytes.try_into().unwrap_or(u32::MAX) }
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Http2<A> {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        drain: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        self.app.process_new_http(session, drain).await
    }

    /// 100 streams at once; h2 itself ends connections that reset too many streams, or that send
    /// too many CONTINUATION frames for a header list of this size.
    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_header_list_size(self.header_list);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
