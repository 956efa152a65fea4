//! Which route a request takes, and the routes that answer by themselves.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderValue, header};
use pingora::Result;
use pingora_proxy::Session;

use super::aggregate;
use super::ctx::{Ctx, Routed};
use super::fail::{Failure, Page};
use super::{head, key, response};
use crate::config::routes::{Action, AmbiguousPath};
use crate::routing::path::{Ambiguity, normalise};
use crate::routing::{Found, RequestView};
use crate::snapshot::{RouteState, Shared, UpstreamState};

/// Fills `Ctx::routed` and puts the path's normal form into the request.
pub fn choose(session: &mut Session, ctx: &mut Ctx) -> Result<()> {
    if ctx.cache.is_refresh() {
        return Ok(()); // It has the route of the request that it is for.
    }
    let facts = ctx.facts()?;
    let head = session.req_header();
    let (path, query, ambiguous) = match normal_path(head.raw_path()) {
        Ok(normal) => normal,
        Err(failure) => return Err(ctx.refuse(failure)),
    };
    let view = RequestView {
        host: facts.host(),
        path: &path,
        method: &head.method,
        headers: &head.headers,
        query,
    };
    let found = facts.snapshot.router.find(&view);
    let (index, params) = match found {
        Found::Route { index, params } => (index, params),
        Found::NotFound => return Err(ctx.refuse(Failure::NoRoute)),
        Found::MethodNotAllowed { allow } => {
            return Err(ctx.refuse(Failure::MethodNotAllowed(allow)));
        }
    };
    let Some(route) = facts.snapshot.routes.get(index).cloned() else {
        return Err(ctx.refuse(Failure::NoRoute));
    };
    let refuse_ambiguous = route.config.ambiguous_path == AmbiguousPath::Reject;
    let upstream = choose_upstream(session, ctx, &route, &view);
    let target = match &path {
        Cow::Borrowed(_) => None,
        Cow::Owned(path) => {
            let mut uri = head.uri.clone();
            head::set_target(&mut uri, path, query)?;
            Some(uri)
        }
    };
    let path = path.into_owned();
    ctx.routed = Some(Routed { index, route, path, params, upstream });
    head::edit(session.req_header_mut(), |parts| {
        if let Some(target) = target {
            parts.uri = target;
        }
    });
    match ambiguous {
        Some(what) if refuse_ambiguous => {
            Err(ctx.refuse(Failure::BadPath(what.to_string().into())))
        }
        _ => Ok(()),
    }
}

/// The route's upstream, or the one in whose share the request falls.
fn choose_upstream(
    session: &Session,
    ctx: &Ctx,
    route: &RouteState,
    view: &RequestView<'_>,
) -> Option<Arc<UpstreamState>> {
    let (Action::Split(config), Some(split)) = (&route.config.action, &route.split) else {
        return route.upstream.clone();
    };
    let key = key::of(session, ctx, config.by.as_ref());
    route.parts.get(split.choose(view, &key)).cloned()
}

/// The path in normal form, the query as it came, and what in the path could be read differently.
#[expect(clippy::type_complexity)] // three things that no other place puts together
fn normal_path(
    target: &[u8],
) -> std::result::Result<(Cow<'_, str>, Option<&str>, Option<Ambiguity>), Failure> {
    let target = std::str::from_utf8(target).map_err(|_| Failure::BadPath("not UTF-8".into()))?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if path == "*" {
        return Ok((path.into(), query, None));
    }
    let normal = normalise(path).map_err(|bad| Failure::BadPath(bad.to_string().into()))?;
    Ok((normal.path, query, normal.ambiguous))
}

/// Answers for a redirect or a fixed response; false where an upstream is to answer.
pub async fn answer(session: &mut Session, ctx: &mut Ctx, shared: &Shared) -> Result<bool> {
    let route = ctx.routed()?.route.clone();
    let page = match &route.config.action {
        Action::Upstream(_) | Action::Split(_) => return Ok(false),
        Action::Aggregate(of) => {
            // Boxed, so that other requests do not carry the room for it.
            Box::pin(aggregate::answer(session, ctx, shared, of)).await?;
            return Ok(true);
        }
        Action::Redirect { status, to } => {
            let location = location(to, ctx, session)?;
            Page { status: *status, headers: vec![(header::LOCATION, location)], body: "".into() }
        }
        Action::Respond { .. } => match Page::fixed(&route.config.action) {
            Some(page) => page,
            None => return Ok(false),
        },
    };
    response::send_draft(session, ctx, shared, page.into_draft()).await?;
    Ok(true)
}

fn location(to: &str, ctx: &Ctx, session: &Session) -> Result<HeaderValue> {
    let routed = ctx.routed()?;
    let query = session.req_header().uri.query().unwrap_or_default();
    let mut target = to
        .replace("{host}", ctx.facts()?.host())
        .replace("{path}", routed.path.trim_start_matches("//"))
        .replace("{query}", query);
    if query.is_empty() {
        target.truncate(target.trim_end_matches('?').len());
    }
    HeaderValue::from_str(&target).map_err(|error| {
        pingora::Error::because(pingora::ErrorType::InternalError, "redirect target", error)
    })
}
