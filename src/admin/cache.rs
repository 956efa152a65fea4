//! `/cache` and `/purge`: what is stored, why, and how to be rid of it.

use std::time::{Duration, SystemTime};

use http::{Response, StatusCode};
use pingora::http::RequestHeader;
use serde_json::{Value, json};

use super::{answer, text};
use crate::cache::key::{Asked, key};
use crate::cache::store::{Entry, Place, Rule, Scope, Which};
use crate::routing::{Found, RequestView};
use crate::snapshot::{Shared, Snapshot};

const PURGE: &str = "POST /purge with one of ?url= ?prefix= ?host= ?tag= ?all, and &soft if stale \
                     responses may still be served\n";

/// A URL for people: with or without its scheme.
struct Url<'a> {
    scheme: &'a str,
    host: &'a str,
    target: String,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some(_) => return None,
            None => ("http", text),
        };
        let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(split);
        let target = target.split('#').next().unwrap_or_default();
        let slash = if target.starts_with('/') { "" } else { "/" };
        let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic());
        named.then(|| Self { scheme, host, target: format!("{slash}{target}") })
    }
}

/// `POST /purge`.
pub(super) async fn purge(head: &RequestHeader, shared: &Shared) -> Response<Vec<u8>> {
    let rule = match rule(head.uri.query().unwrap_or_default(), &shared.snapshot.load()) {
        Ok(rule) => rule,
        Err(why) => return text(StatusCode::BAD_REQUEST, &format!("{why}\n{PURGE}")),
    };
    let Some(cache) = shared.cache() else {
        return text(StatusCode::NOT_FOUND, "no route has a cache\n");
    };
    let soft = rule.soft;
    match cache.store.purge(rule).await {
        Ok(purged) => answer(
            StatusCode::OK,
            &json!({ "purged": { "memory": purged.memory, "disk": purged.disk }, "soft": soft }),
        ),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}\n")),
    }
}

/// Exactly one thing to purge.
fn rule(query: &str, snapshot: &Snapshot) -> Result<Rule, String> {
    let (mut scopes, mut soft) = (Vec::new(), false);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        scopes.push(match &*name {
            "soft" => {
                soft = true;
                continue;
            }
            "all" => Scope::All,
            "tag" => Scope::Tag(value.into_owned()),
            "host" => Scope::Host(value.to_ascii_lowercase()),
            "prefix" => Scope::Prefix(prefix(&value)?),
            "url" => {
                let url = Url::parse(&value).ok_or_else(|| format!("\"{value}\" is not a URL"))?;
                Scope::Url(snapshot.location(url.scheme, url.host, &url.target).url())
            }
            other => return Err(format!("there is no {other} to purge by")),
        });
    }
    match (scopes.pop(), scopes.is_empty()) {
        (Some(scope), true) => Ok(Rule { scope, soft }),
        (None, _) => Err("nothing to purge".to_owned()),
        (Some(_), false) => Err("one thing at a time".to_owned()),
    }
}

/// A prefix of what entries are named by, which has no scheme.
fn prefix(text: &str) -> Result<String, String> {
    let url = Url::parse(text).ok_or_else(|| format!("\"{text}\" is not the start of a URL"))?;
    Ok(format!("{}{}", url.host.to_ascii_lowercase(), url.target))
}

/// `GET /cache`: what the store holds, or with `?url=` what a URL finds in it.
pub(super) async fn explain(head: &RequestHeader, shared: &Shared) -> Response<Vec<u8>> {
    let query = head.uri.query().unwrap_or_default();
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "url");
    let Some((_, url)) = asked else {
        return answer(StatusCode::OK, &held(shared));
    };
    match Url::parse(&url) {
        Some(url) => answer(StatusCode::OK, &about(&url, shared).await),
        None => text(StatusCode::BAD_REQUEST, &format!("\"{url}\" is not a URL\n")),
    }
}

fn held(shared: &Shared) -> Value {
    let Some(cache) = shared.cache() else { return json!({ "cache": false }) };
    let figures = cache.figures();
    let tiers = figures.tiers.iter().map(|(name, tier)| {
        json!({
            "tier": name,
            "entries": tier.entries,
            "bytes": tier.bytes,
            "limit": tier.limit,
            "evictions": tier.evictions,
        })
    });
    json!({
        "cache": true,
        "tiers": tiers.collect::<Vec<_>>(),
        "fill_bytes": figures.fill_bytes,
        "purge_rules": figures.rules,
        "disk_usable": figures.disk_usable,
    })
}

/// The route that a GET takes, what is stored for it, and if nothing, why.
async fn about(url: &Url<'_>, shared: &Shared) -> Value {
    let snapshot = shared.snapshot.load_full();
    let location = snapshot.location(url.scheme, url.host, &url.target);
    let mut told = json!({ "url": location.url() });
    let headers = http::HeaderMap::new();
    let (path, query) = url
        .target
        .split_once('?')
        .map_or((&*url.target, None), |(path, query)| (path, Some(query)));
    let view =
        RequestView { host: url.host, path, method: &http::Method::GET, headers: &headers, query };
    let route = match snapshot.router.find(&view) {
        Found::Route { index, .. } => snapshot.routes.get(index),
        Found::NotFound | Found::MethodNotAllowed { .. } => None,
    };
    told["route"] = route.map(|route| &*route.name).into();
    let rules = route.and_then(|route| route.config.cache.as_ref());
    told["cached"] = rules.is_some().into();
    let (Some(cache), Some(rules)) = (shared.cache(), rules) else { return told };
    let entries = cache.store.explain(Which::Url(location.url())).await;
    let now = SystemTime::now();
    told["entries"] = entries.iter().map(|found| entry(found, now)).collect();
    if entries.is_empty() {
        let asked = Asked { scheme: url.scheme, headers: &headers, own: None };
        let why = cache.why_not(key(asked, &location, rules));
        told["not_stored"] = why.unwrap_or("not asked for, expired, evicted or purged").into();
    }
    told
}

fn entry(entry: &Entry, now: SystemTime) -> Value {
    let since = |time: SystemTime| now.duration_since(time).unwrap_or(Duration::ZERO).as_secs();
    let left = entry.fresh_until.duration_since(now).map(|left| left.as_secs()).ok();
    let variant = entry.variance.map(|hash| hex(&hash));
    json!({
        "status": entry.status,
        "bytes": entry.bytes,
        "tier": match entry.place {
            Place::Fill => "fill",
            Place::Memory => "memory",
            Place::Disk => "disk",
        },
        "age": since(entry.epoch),
        "stored_for": since(entry.created),
        "state": if left.is_some() { "fresh" } else { "stale" },
        "fresh_for": left.unwrap_or(0),
        "stale_for": if left.is_some() { 0 } else { since(entry.fresh_until) },
        "stale_while_revalidate": entry.stale_while_revalidate,
        "stale_if_error": entry.stale_if_error,
        "tags": entry.tags,
        "key": hex(&entry.primary),
        "variant": variant,
        "hits": entry.hits,
    })
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        let of = |text| Url::parse(text).map(|url| (url.scheme, url.host, url.target));
        assert_eq!(of("https://a.test/x?y#z"), Some(("https", "a.test", "/x?y".to_owned())));
        assert_eq!(of("a.test"), Some(("http", "a.test", "/".to_owned())));
        assert_eq!(of("a.test?y"), Some(("http", "a.test", "/?y".to_owned())));
        assert_eq!(of("/x"), None);
        assert_eq!(of("ftp://a.test/"), None);
    }
}
