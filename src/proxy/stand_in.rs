//! A session in place of the client's own, while a body is held (docs/decisions/0014).
//!
//! Pingora reads a request's body itself while it sends it on; of what was read before it sends at
//! most 64 KiB. And it writes a response's head before it has the body. A session of ours may answer
//! what it reads, and keep what it writes. All else goes to the client's own session, which is left
//! behind whole when the stand-in goes.

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

use super::collect::Collected;

/// Whether there is a stand-in, and where it leaves what it has.
#[derive(Default)]
pub struct Place {
    left: Option<Arc<Mutex<Left>>>,
    /// It is there for the request's body.
    sends: bool,
}

#[derive(Default)]
struct Left {
    own: Option<ServerSession>,
    collected: Option<Collected>,
}

/// What the stand-in does for the client.
enum Role {
    /// Gives Pingora the request's body, read already.
    Sends(Bytes),
    /// Keeps the response that Pingora writes.
    Collects(Collected),
    /// It collected, and found that it cannot.
    Passes(Collected),
}

impl Place {
    /// Lets Pingora meet `body` as the request's body.
    pub fn send(&mut self, session: &mut Session, body: Bytes) {
        self.put(session, Role::Sends(body));
        self.sends = true;
    }

    /// Keeps the response from here on.
    pub fn collect(&mut self, session: &mut Session, collected: Collected) {
        self.put(session, Role::Collects(collected));
    }

    fn put(&mut self, session: &mut Session, role: Role) {
        self.take_back(session);
        let left = Arc::default();
        self.left = Some(Arc::clone(&left));
        let own = std::mem::replace(&mut *session.downstream_session, nobody());
        *session.downstream_session =
            ServerSession::new_custom(Box::new(StandIn { own, role, left }));
    }

    /// Pingora has the request's body.
    pub fn sent(&mut self, session: &mut Session) {
        if self.sends {
            self.take_back(session);
        }
    }

    /// From here on Pingora has the client's own session, as it has where none stood in; with what
    /// was collected.
    pub fn take_back(&mut self, session: &mut Session) -> Option<Collected> {
        self.sends = false;
        let left = self.left.take()?;
        drop(std::mem::replace(&mut *session.downstream_session, nobody()));
        let Left { own, collected } = std::mem::take(&mut *left.lock());
        if let Some(own) = own {
            *session.downstream_session = own;
        }
        collected
    }
}

/// What stands there for a moment, and is never used.
fn nobody() -> ServerSession {
    ServerSession::new_custom(Box::new(()))
}

struct StandIn {
    own: ServerSession,
    role: Role,
    left: Arc<Mutex<Left>>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let collected = match std::mem::replace(&mut self.role, Role::Sends(Bytes::new())) {
            Role::Collects(collected) | Role::Passes(collected) => Some(collected),
            Role::Sends(_) => None,
        };
        let own = Some(std::mem::replace(&mut self.own, nobody()));
        *self.left.lock() = Left { own, collected };
    }
}

impl StandIn {
    /// Keeps the head, if it is the one that is waited for.
    async fn head(&mut self, head: Box<ResponseHeader>) -> Result<()> {
        match &mut self.role {
            Role::Collects(collected) if !head.status.is_informational() => {
                collected.head = Some(head);
                Ok(())
            }
            _ => self.own.write_response_header(head).await,
        }
    }

    async fn piece(&mut self, data: Bytes, end: bool) -> Result<()> {
        let Role::Collects(collected) = &mut self.role else {
            return self.own.write_response_body(data, end).await;
        };
        let Err(obstacle) = collected.add(&data, end) else { return Ok(()) };
        let text = collected.fail(obstacle);
        if !collected.may_pass {
            return Err(Error::explain(ErrorType::InternalError, text));
        }
        self.pass_on().await?;
        self.own.write_response_body(data, end).await
    }

    /// Nobody insists on seeing the response: it goes on as it came.
    async fn pass_on(&mut self) -> Result<()> {
        let role = std::mem::replace(&mut self.role, Role::Sends(Bytes::new()));
        let Role::Collects(mut collected) = role else { return Ok(()) };
        let (head, body) = (collected.head.take(), collected.take_body());
        self.role = Role::Passes(collected);
        if let Some(head) = head {
            self.own.write_response_header(head).await?;
        }
        self.own.write_response_body(body, false).await
    }

    /// One of Pingora's tasks; true at the response's end.
    async fn task(&mut self, task: HttpTask) -> Result<bool> {
        let end = task.is_end();
        match task {
            HttpTask::Header(head, end) => {
                self.head(head).await?;
                if end {
                    self.piece(Bytes::new(), true).await?;
                }
            }
            HttpTask::Body(data, end) | HttpTask::UpgradedBody(data, end) => {
                self.piece(data.unwrap_or_default(), end).await?;
            }
            HttpTask::Trailer(_) | HttpTask::Done => self.piece(Bytes::new(), true).await?,
            HttpTask::Failed(error) => return Err(error),
        }
        Ok(end)
    }
}

/// Messages beside HTTP, which the client's own protocols do not have.
type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

fn no_messages<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "no messages beside HTTP")
}

#[async_trait]
impl CustomSession for StandIn {
    fn is_body_done(&mut self) -> bool {
        matches!(self.role, Role::Sends(_)) || self.own.is_body_done()
    }

    fn is_body_empty(&mut self) -> bool {
        match &self.role {
            Role::Sends(body) => body.is_empty(),
            Role::Collects(_) | Role::Passes(_) => self.own.is_body_empty(),
        }
    }

    /// What Pingora sends first; of a held body it is everything.
    fn get_retry_buffer(&self) -> Option<Bytes> {
        match &self.role {
            Role::Sends(body) => (!body.is_empty()).then(|| body.clone()),
            Role::Collects(_) | Role::Passes(_) => self.own.get_retry_buffer(),
        }
    }

    fn enable_retry_buffering(&mut self) {
        if !matches!(self.role, Role::Sends(_)) {
            self.own.enable_retry_buffering();
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        !matches!(self.role, Role::Sends(_)) && self.own.retry_buffer_truncated()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.own.read_request_body().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.own.drain_request_body().await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        self.own.read_body_or_idle(no_body_expected).await
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, _: bool) -> Result<()> {
        self.head(head).await
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, _: bool) -> Result<()> {
        self.head(Box::new(head.clone())).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.piece(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        match &self.role {
            Role::Collects(_) => self.piece(Bytes::new(), true).await,
            Role::Sends(_) | Role::Passes(_) => self.own.write_response_trailers(trailers).await,
        }
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        if matches!(self.role, Role::Sends(_)) {
            return self.own.response_duplex_vec(tasks).await;
        }
        let mut ended = false;
        for task in tasks {
            ended |= self.task(task).await?;
        }
        Ok(ended)
    }

    async fn finish(&mut self) -> Result<()> {
        match &self.role {
            Role::Collects(_) => self.piece(Bytes::new(), true).await,
            Role::Sends(_) | Role::Passes(_) => self.own.finish_body().await,
        }
    }

    // The rest is the client's own session.

    fn req_header(&self) -> &RequestHeader {
        self.own.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.own.req_header_mut()
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
