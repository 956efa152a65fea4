//! Which route a request takes, and the routes that answer by themselves.

use http::{HeaderValue, header};
use pingora::Result;
use pingora_proxy::Session;

use super::ctx::{Ctx, Routed};
use super::fail::{Failure, Page};
use super::response;
use crate::config::routes::{Action, AmbiguousPath};
use crate::routing::path::{Ambiguity, normalise};
use crate::routing::{Found, RequestView};
use crate::snapshot::Shared;

/// Fills `Ctx::routed` and puts the path's normal form into the request.
pub fn choose(session: &mut Session, ctx: &mut Ctx) -> Result<()> {
    let (path, query, ambiguous) = match normal_path(session) {
        Ok(normal) => normal,
        Err(failure) => return Err(ctx.refuse(failure)),
    };
    let facts = ctx.facts()?;
    let head = session.req_header();
    let found = facts.snapshot.router.find(&RequestView {
        host: &facts.host,
        path: &path,
        method: &head.method,
        headers: &head.headers,
        query: query.as_deref(),
    });
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
    let upstream = route.upstream.clone();
    set_path(session, &path, query.as_deref())?;
    ctx.routed = Some(Routed { index, route, path, params, upstream });
    match ambiguous {
        Some(what) if refuse_ambiguous => {
            Err(ctx.refuse(Failure::BadPath(what.to_string().into())))
        }
        _ => Ok(()),
    }
}

/// The path in normal form, the query as it came, and what in the path could be read differently.
fn normal_path(
    session: &Session,
) -> std::result::Result<(String, Option<String>, Option<Ambiguity>), Failure> {
    let raw = session.req_header().raw_path();
    let target = std::str::from_utf8(raw).map_err(|_| Failure::BadPath("not UTF-8".into()))?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    if path == "*" {
        return Ok((path.to_owned(), query, None));
    }
    let normal = normalise(path).map_err(|bad| Failure::BadPath(bad.to_string().into()))?;
    Ok((normal.path.into_owned(), query, normal.ambiguous))
}

/// Makes `path?query` the request's target.
pub fn set_path(session: &mut Session, path: &str, query: Option<&str>) -> Result<()> {
    let head = session.req_header_mut();
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if head.raw_path() != target.as_bytes() {
        head.set_raw_path(target.as_bytes())?;
    }
    Ok(())
}

/// Answers for a redirect or a fixed response; false where an upstream is to answer.
pub async fn answer(session: &mut Session, ctx: &mut Ctx, shared: &Shared) -> Result<bool> {
    let page = match &ctx.routed()?.route.config.action {
        Action::Upstream(_) => return Ok(false),
        Action::Redirect { status, to } => {
            let location = location(to, ctx, session)?;
            Page { status: *status, headers: vec![(header::LOCATION, location)], body: "".into() }
        }
        Action::Respond { status, body, headers } => {
            let headers = headers.iter().filter_map(|(name, value)| {
                HeaderValue::from_str(value).ok().map(|value| (name.clone(), value))
            });
            let body = bytes::Bytes::copy_from_slice(body.as_bytes());
            Page { status: *status, headers: headers.collect(), body }
        }
    };
    response::send_draft(session, ctx, shared, page.into_draft()).await?;
    Ok(true)
}

fn location(to: &str, ctx: &Ctx, session: &Session) -> Result<HeaderValue> {
    let routed = ctx.routed()?;
    let query = session.req_header().uri.query().unwrap_or_default();
    let mut target = to
        .replace("{host}", &ctx.facts()?.host)
        .replace("{path}", routed.path.trim_start_matches("//"))
        .replace("{query}", query);
    if query.is_empty() {
        target.truncate(target.trim_end_matches('?').len());
    }
    HeaderValue::from_str(&target).map_err(|error| {
        pingora::Error::because(pingora::ErrorType::InternalError, "redirect target", error)
    })
}
