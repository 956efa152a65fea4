//! Every hook of Pingora, in the order in which a request meets them. Each calls its phases and
//! decides nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};
use pingora_cache::key::HashBinary;
use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler, RespCacheable};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::ctx::Ctx;
use super::{
    accept, body, cache, collect, fail, finish, forward, mirror, peer, request, response, retry,
    route,
};
use crate::snapshot::Shared;

/// The proxy, as Pingora drives it.
pub struct Gateway {
    shared: Arc<Shared>,
}

impl Gateway {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed, as Pingora moves it about.
    type CTX = Box<Ctx>;

    fn new_ctx(&self) -> Box<Ctx> {
        Box::default()
    }

    /// Head read: ids, client, sanity.
    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Box<Ctx>) -> Result<()> {
        accept::begin(session, ctx, &self.shared)
    }

    /// So that a refresh in the background can be begun.
    fn allow_spawning_subrequest(&self, _session: &Session, ctx: &Box<Ctx>) -> bool {
        cache::may_begin(ctx)
    }

    /// Route, limits, filters, answers of the route itself. True: answered.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Ctx>) -> Result<bool> {
        route::choose(session, ctx)?;
        request::limit_body(session, ctx)?;
        Ok(request::run(session, ctx, &self.shared).await?
            || route::answer(session, ctx, &self.shared).await?)
    }

    /// Whether the cache is asked.
    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Box<Ctx>) -> Result<()> {
        cache::begin(session, ctx, &self.shared)
    }

    fn cache_key_callback(&self, session: &Session, ctx: &mut Box<Ctx>) -> Result<CacheKey> {
        cache::key_of(session, ctx, &self.shared)
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        _ctx: &mut Box<Ctx>,
        head: &RequestHeader,
    ) -> Option<HashBinary> {
        cache::variance(meta, head)
    }

    /// Something is stored: may this request have it?
    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        _handler: &mut HitHandler,
        _fresh: bool,
        ctx: &mut Box<Ctx>,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(cache::judge(session, meta, ctx, &self.shared))
    }

    /// Nothing stored will do. False: answered.
    async fn proxy_upstream_filter(
        &self,
        session: &mut Session,
        ctx: &mut Box<Ctx>,
    ) -> Result<bool> {
        cache::refuse_unstored(session, ctx)
    }

    /// Which endpoint; again for each retry.
    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Box<Ctx>,
    ) -> Result<Box<HttpPeer>> {
        peer::choose(session, ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        peer::connected(ctx, reused, digest)
    }

    /// The origin's copy of the request.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        forward::prepare(session, head, ctx)?;
        collect::ask_for_whole(head, ctx);
        request::run_upstream(session, head, ctx, &self.shared).await?;
        mirror::begin(session, head, ctx, &self.shared);
        body::send_held(session, head, ctx)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        _body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        ctx.body.sent(session);
        request::limit_body_as_it_comes(session, ctx)
    }

    /// The origin's head, before anything else sees it.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        ctx.body.sent(session);
        response::from_upstream(session, head, ctx, &self.shared).await
    }

    /// Whether the response is stored, before anything is changed for this client.
    fn response_cache_filter(
        &self,
        session: &Session,
        head: &ResponseHeader,
        ctx: &mut Box<Ctx>,
    ) -> Result<RespCacheable> {
        cache::admit(session, head, ctx)
    }

    fn should_serve_stale(
        &self,
        session: &mut Session,
        ctx: &mut Box<Ctx>,
        error: Option<&Error>,
    ) -> bool {
        cache::serve_stale(session, ctx, error)
    }

    /// The head on its way to the client.
    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        response::to_client(session, head, ctx, &self.shared).await
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<Ctx>,
    ) -> Result<Option<Duration>> {
        response::body(ctx, body, end)?;
        Ok(None)
    }

    /// The body ended before, without its last piece.
    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        _trailers: &mut HeaderMap,
        ctx: &mut Box<Ctx>,
    ) -> Result<Option<Bytes>> {
        response::before_trailers(session, ctx).await
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<Ctx>,
        error: Box<Error>,
    ) -> Box<Error> {
        retry::connect_failed(ctx, error)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Ctx>,
        reused: bool,
    ) -> Box<Error> {
        collect::give_up(session, ctx);
        retry::exchange_failed(session, ctx, peer, error, reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Ctx>,
    ) -> FailToProxy {
        collect::give_up(session, ctx);
        fail::answer(session, error, ctx, &self.shared).await
    }

    /// The failures' table has told the log already.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Box<Ctx>, _error: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<Ctx>) {
        collect::release(session, error, ctx, &self.shared).await;
        finish::record(session, error, ctx, &self.shared).await;
    }
}
