//! A session in place of the client's own, for as long as Pingora must meet a body that we hold
//! (docs/decisions/0011).
//!
//! Pingora reads a request's body itself while it sends it on; of what was read before it sends at
//! most 64 KiB. A session of ours may answer what it reads. All else goes to the client's own
//! session, which is left behind whole when the stand-in goes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::{Error, ErrorType, Result};
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as CustomSession;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_proxy::Session;

/// Whether there is a stand-in, and where it leaves the client's session.
#[derive(Default)]
pub struct Place(Option<Arc<Mutex<Option<ServerSession>>>>);

impl Place {
    /// Lets Pingora meet `body` as the request's body, read already.
    pub fn put(&mut self, session: &mut Session, body: Bytes) {
        self.take_back(session);
        let left = Arc::default();
        self.0 = Some(Arc::clone(&left));
        let own = std::mem::replace(&mut *session.downstream_session, nobody());
        *session.downstream_session =
            ServerSession::new_custom(Box::new(StandIn { own, body, left }));
    }

    /// From here on Pingora has the client's own session, as it has where none stood in.
    pub fn take_back(&mut self, session: &mut Session) {
        let Some(left) = self.0.take() else { return };
        drop(std::mem::replace(&mut *session.downstream_session, nobody()));
        if let Some(own) = left.lock().take() {
            *session.downstream_session = own;
        }
    }
}

/// What stands there for a moment, and is never used.
fn nobody() -> ServerSession {
    ServerSession::new_custom(Box::new(()))
}

struct StandIn {
    own: ServerSession,
    body: Bytes,
    left: Arc<Mutex<Option<ServerSession>>>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        *self.left.lock() = Some(std::mem::replace(&mut self.own, nobody()));
    }
}

/// Messages beside HTTP, which the client's own protocols do not have.
type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

fn no_messages<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "no messages beside HTTP")
}

#[async_trait]
impl CustomSession for StandIn {
    /// All of it was read.
    fn is_body_done(&mut self) -> bool {
        true
    }

    fn is_body_empty(&mut self) -> bool {
        self.body.is_empty()
    }

    /// What Pingora sends first; it is everything.
    fn get_retry_buffer(&self) -> Option<Bytes> {
        (!self.body.is_empty()).then(|| self.body.clone())
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    async fn read_body_or_idle(&mut self, _no_body_expected: bool) -> Result<Option<Bytes>> {
        self.own.read_body_or_idle(true).await
    }

    // The rest is the client's own session.

    fn req_header(&self) -> &RequestHeader {
        self.own.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.own.req_header_mut()
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, _: bool) -> Result<()> {
        self.own.write_response_header(head).await
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, _: bool) -> Result<()> {
        self.own.write_response_header_ref(head).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.own.write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.own.write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.own.response_duplex_vec(tasks).await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.own.set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.own.get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.own.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.own.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.own.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.own.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.own.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.own.response_written()
    }

    async fn shutdown(&mut self, _code: u32, _why: &str) {
        self.own.shutdown().await;
    }

    async fn finish(&mut self) -> Result<()> {
        self.own.finish_body().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.own.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.own.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.own.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.own.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.own.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.own.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.own.to_h1_raw()
    }

    fn is_upgrade_req(&self) -> bool {
        self.own.is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.own.was_upgraded()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: Messages) -> Result<()> {
        no_messages()
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(
        &mut self,
        _writer: Box<dyn CustomMessageWrite>,
    ) -> Result<()> {
        no_messages()
    }
}
