//! Whether the origin's response is stored, or what its 304 makes of what is.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_cache::{CacheMeta, NoCacheReason, RespCacheable};
use pingora_proxy::Session;

use crate::cache::key::Location;
use crate::cache::policy::{self, Answer, Lifetime, Refusal, Verdict, Wishes};
use crate::cache::store::Labels;
use crate::proxy::ctx::Ctx;
use crate::proxy::head;

/// The origin's head came; of a 304 all headers are wanted later, and Pingora keeps few.
pub fn origin_answered(session: &Session, head: &ResponseHeader, ctx: &mut Ctx) {
    if head.status.is_informational() || !session.cache.enabled() {
        return;
    }
    ctx.cache.origin_status = Some(head.status.as_u16());
    if head.status == StatusCode::NOT_MODIFIED {
        ctx.cache.not_modified = Some(head.headers.clone());
    }
}

/// What Pingora is to store. After a 304, `head` is what is stored.
pub fn admit(session: &Session, head: &ResponseHeader, ctx: &mut Ctx) -> Result<RespCacheable> {
    let mut head = head.clone();
    let not_modified = ctx.cache.not_modified.take();
    let mut wishes = ctx.cache.wishes.clone();
    if let Some(new) = &not_modified {
        head::edit_response(&mut head, |parts| policy::update(&mut parts.headers, new));
        if wishes == Wishes::default() {
            // What filters said of the whole response still holds.
            wishes = session.cache.maybe_cache_meta().map(wishes_of).unwrap_or_default();
        }
    }
    match verdict(session, &head, ctx, &wishes)? {
        Verdict::Refuse(refusal) => {
            ctx.cache.refusal = Some(refusal);
            Ok(RespCacheable::Uncacheable(NoCacheReason::Custom(refusal.label())))
        }
        Verdict::Store(lifetime) => {
            let taken = head::edit_response(&mut head, |parts| {
                policy::take_private_fields(&mut parts.headers)
            });
            if not_modified.is_none() {
                ctx.cache.private = taken;
            }
            let labels = labels(&head.headers, ctx, &wishes);
            let mut meta = meta(head, lifetime);
            labels.attach(&mut meta);
            Ok(RespCacheable::Cacheable(meta))
        }
    }
}

fn verdict(
    session: &Session,
    head: &ResponseHeader,
    ctx: &Ctx,
    wishes: &Wishes,
) -> Result<Verdict> {
    let Some(cache) = &ctx.routed()?.route.config.cache else {
        return Err(crate::proxy::ctx::out_of_order("cache"));
    };
    if ctx.attempt.fell_back {
        return Ok(Verdict::Refuse(Refusal::Fallback));
    }
    let request = session.req_header();
    let largest = ctx.facts()?.snapshot.cache.largest();
    if length(&head.headers).is_some_and(|length| length > largest) {
        return Ok(Verdict::Refuse(Refusal::TooLarge));
    }
    if request.method == Method::POST && !is_about_itself(head, ctx) {
        return Ok(Verdict::Refuse(Refusal::Method));
    }
    let answer = Answer {
        method: &request.method,
        request: &request.headers,
        status: head.status,
        headers: &head.headers,
    };
    Ok(policy::judge(answer, wishes, &cache.rules, SystemTime::now()))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether `Content-Location` is the request's own URL (RFC 9110, 9.3.3).
fn is_about_itself(head: &ResponseHeader, ctx: &Ctx) -> bool {
    let Some(facts) = &ctx.facts else { return false };
    let named = head.headers.get(header::CONTENT_LOCATION).and_then(|value| value.to_str().ok());
    let named = named.and_then(|named| policy::same_host(facts.host(), facts.target(), named));
    named.as_deref() == Some(facts.target())
}

fn meta(head: ResponseHeader, lifetime: Lifetime) -> CacheMeta {
    let now = SystemTime::now();
    // A second ago is stale now, and not only in a second.
    let fresh_until = match lifetime.fresh.is_zero() {
        true => now - Duration::from_secs(1),
        false => now + lifetime.fresh,
    };
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let mut meta = CacheMeta::new(
        fresh_until,
        now,
        seconds(lifetime.stale_while_revalidate),
        seconds(lifetime.stale_if_error),
        head,
    );
    meta.set_epoch_override(now - lifetime.age);
    meta
}

/// What an entry can be purged by, and what filters said of it.
fn labels(headers: &HeaderMap, ctx: &Ctx, wishes: &Wishes) -> Labels {
    let mut tags = Labels::tags_of(headers);
    tags.extend(wishes.tags.iter().map(|tag| tag.as_str().into()));
    tags.sort_unstable();
    tags.dedup();
    let note = match wishes {
        none if *none == Wishes::default() => Vec::new(),
        some => serde_json::to_vec(some).unwrap_or_default(),
    };
    let url = ctx.cache.location.as_ref().map(Location::url).unwrap_or_default();
    Labels { url: url.into(), tags: tags.into(), note: note.into() }
}

/// What filters said of a stored response.
pub(super) fn wishes_of(meta: &CacheMeta) -> Wishes {
    let note = Labels::of(meta).map(|labels| labels.note.clone()).unwrap_or_default();
    serde_json::from_slice(&note).unwrap_or_default()
}
