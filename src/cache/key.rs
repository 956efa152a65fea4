//! What makes two requests the same, and what a purge can name an entry by.

use http::{HeaderMap, header};

use crate::config::cache::{KeyRules, QueryRule, RouteCache};

/// A request, as far as its key is concerned; after the filters had it in hand.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub scheme: &'a str,
    pub headers: &'a HeaderMap,
    /// A filter's `req.cache_key`, in place of query, headers, cookies and device.
    pub own: Option<&'a str>,
}

/// Where an entry belongs; all variants and schemes of a URL have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    pub host: String,
    pub path: String,
    /// Only what counts.
    pub query: Option<String>,
}

impl Location {
    pub fn new(
        host: &str,
        scheme: &str,
        path: &str,
        query: Option<&str>,
        rules: &KeyRules,
    ) -> Self {
        let query =
            query.map(|query| counted_query(query, rules)).filter(|query| !query.is_empty());
        Self { host: host_without_default_port(host, scheme), path: path.to_owned(), query }
    }

    /// `host/path?query`.
    pub fn url(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{}{query}", self.host, self.path)
    }
}

/// The key: every part with its length before it, so that no two requests that differ in a part
/// can meet in the whole.
pub fn key(asked: Asked<'_>, location: &Location, cache: &RouteCache) -> Vec<u8> {
    let mut key = Vec::with_capacity(128);
    let mut add = |part: &[u8]| {
        key.extend_from_slice(&(part.len() as u64).to_be_bytes());
        key.extend_from_slice(part);
    };
    add(cache.scope.as_bytes());
    add(b"GET");
    add(asked.scheme.as_bytes());
    add(location.host.as_bytes());
    add(location.path.as_bytes());
    if let Some(own) = asked.own {
        add(b"own");
        add(own.as_bytes());
        return key;
    }
    add(location.query.as_deref().unwrap_or_default().as_bytes());
    for name in &cache.key.headers {
        let values = asked.headers.get_all(name).iter().map(|value| value.as_bytes());
        add(&values.collect::<Vec<_>>().join(&b", "[..]));
    }
    for name in &cache.key.cookies {
        // An absent cookie is not an empty one.
        add(cookie(asked.headers, name)
            .map(|value| format!("={value}"))
            .unwrap_or_default()
            .as_bytes());
    }
    if cache.key.device {
        add(device(asked.headers).as_bytes());
    }
    key
}

/// What of a query counts; the spelling of what stays is kept.
pub fn counted_query(query: &str, rules: &KeyRules) -> String {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let listed = |names: &[String], pair: &str| names.iter().any(|rule| fits(rule, &name(pair)));
    let counts = |pair: &&str| match &rules.query {
        QueryRule::All => true,
        QueryRule::Only(names) => listed(names, pair),
        QueryRule::Ignore(names) => !listed(names, pair),
    };
    if rules.query == QueryRule::All && !rules.sort_query {
        return query.to_owned();
    }
    let mut pairs: Vec<&str> = query.split('&').filter(counts).collect();
    if rules.sort_query {
        // Values of one name keep their order, which means something to most origins.
        pairs.sort_by_key(|pair| name(pair));
    }
    pairs.join("&")
}

fn fits(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => rule == name,
    }
}

/// `Shop.test:80` over HTTP is `shop.test`.
fn host_without_default_port(host: &str, scheme: &str) -> String {
    let port = if scheme == "https" { ":443" } else { ":80" };
    host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase()
}

fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

/// What a page is laid out for. Tablets of Android say nothing of `Mobile`.
fn device(headers: &HeaderMap) -> &'static str {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let agent = agent.unwrap_or_default().to_ascii_lowercase();
    let has = |word: &str| agent.contains(word);
    match () {
        () if has("ipad") || has("tablet") || has("android") && !has("mobile") => "tablet",
        () if has("mobi") || has("iphone") => "phone",
        () => "desktop",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::cache::{ClientDirectives, Rules};

    fn cache(key: KeyRules) -> RouteCache {
        RouteCache {
            scope: "route a".into(),
            key,
            rules: Rules::default(),
            client_directives: ClientDirectives::Obey,
            wait: Duration::from_secs(1),
        }
    }

    fn of(url: &str, headers: &[(&'static str, &str)], cache: &RouteCache) -> Vec<u8> {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (host, target) = rest.split_at(rest.find('/').expect("a path"));
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        let location = Location::new(host, scheme, path, query, &cache.key);
        let asked = Asked { scheme, headers: &map, own: None };
        key(asked, &location, cache)
    }

    #[test]
    fn what_differs_in_a_part_differs_in_the_whole() {
        let cache = cache(KeyRules::default());
        let urls = [
            "http://a.test/b",
            "https://a.test/b",
            "http://a.test:81/b",
            "http://a.test/B",
            "http://a.test/b?",
            "http://a.test/b?x=1&y=2",
            "http://a.test/b?y=2&x=1",
            "http://a.testb/",
        ];
        let mut keys: Vec<_> = urls.iter().map(|url| of(url, &[], &cache)).collect();
        keys.sort();
        keys.dedup();
        // An empty query and none are one.
        assert_eq!(keys.len(), urls.len() - 1);
        assert_eq!(of("http://A.test:80/b", &[], &cache), of("http://a.test/b", &[], &cache));
    }

    #[test]
    fn routes_share_nothing() {
        let (one, mut other) = (cache(KeyRules::default()), cache(KeyRules::default()));
        other.scope = "route b".into();
        assert_ne!(of("http://a.test/", &[], &one), of("http://a.test/", &[], &other));
    }

    #[test]
    fn queries_are_counted_as_the_route_says() {
        let rules = |query, sort_query| KeyRules { query, sort_query, ..KeyRules::default() };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let query = "b=2&utm_source=x&a=1&utm=y&a=0";
        let counted = |rules| counted_query(query, &rules);
        assert_eq!(counted(rules(QueryRule::Only(names(&["a"])), false)), "a=1&a=0");
        assert_eq!(
            counted(rules(QueryRule::Ignore(names(&["utm_*"])), false)),
            "b=2&a=1&utm=y&a=0"
        );
        assert_eq!(counted(rules(QueryRule::All, true)), "a=1&a=0&b=2&utm=y&utm_source=x");
    }

    #[test]
    fn headers_cookies_and_devices_count_where_the_route_says_so() {
        let plain = cache(KeyRules::default());
        let url = "http://a.test/";
        let phone = [("user-agent", "Mozilla/5.0 (iPhone) Mobile/15"), ("cookie", "a=1; b=2")];
        assert_eq!(of(url, &phone, &plain), of(url, &[], &plain));
        let keyed = cache(KeyRules {
            cookies: vec!["b".into()],
            headers: vec![http::HeaderName::from_static("x-tenant")],
            device: true,
            ..KeyRules::default()
        });
        let of = |headers: &[(&'static str, &str)]| of(url, headers, &keyed);
        assert_ne!(of(&phone), of(&[]));
        assert_eq!(of(&[("cookie", "a=1; b=2")]), of(&[("cookie", "b=2")]));
        assert_ne!(of(&[("cookie", "b=")]), of(&[]), "empty is not absent");
        assert_ne!(of(&[("x-tenant", "1")]), of(&[("x-tenant", "2")]));
    }
}
