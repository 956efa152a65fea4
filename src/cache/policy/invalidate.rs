//! What an unsafe request makes invalid (RFC 9111, 4.4).

use http::{HeaderMap, Method, StatusCode, header};

/// The targets, as path and query, that a response to `method target` on `host` makes invalid:
/// its own, and those of the same host that `Location` and `Content-Location` name.
pub fn invalidated(
    method: &Method,
    host: &str,
    target: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Vec<String> {
    if method.is_safe() || !(200..400).contains(&status.as_u16()) {
        return Vec::new();
    }
    let named = [header::LOCATION, header::CONTENT_LOCATION];
    let named = named.iter().filter_map(|name| headers.get(name)?.to_str().ok());
    let mut targets = vec![target.to_owned()];
    targets.extend(named.filter_map(|reference| same_host(host, target, reference)));
    targets.dedup();
    targets
}

/// The target that a URI reference means, if it leads to the same host: another one's entries are
/// nothing that this host may touch.
pub fn same_host(host: &str, target: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    let absolute = reference
        .strip_prefix("http://")
        .or_else(|| reference.strip_prefix("https://"))
        .or_else(|| reference.strip_prefix("//"));
    if let Some(rest) = absolute {
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        return authority.eq_ignore_ascii_case(host).then_some(path);
    }
    let path = target.split('?').next().unwrap_or_default();
    match reference.as_bytes().first() {
        None => None,
        Some(b'/') => Some(reference.to_owned()),
        Some(b'?') => Some(format!("{path}{reference}")),
        Some(_) => {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            Some(format!("{folder}/{reference}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, status: u16, lines: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        invalidated(&method, "a.test", "/x/y?q", status, &headers)
    }

    #[test]
    fn unsafe_methods_that_succeed_invalidate_9111_4_4() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert_eq!(of(method, 200, &[]), ["/x/y?q"]);
        }
        assert_eq!(of("M-SEARCH".parse().expect("a method"), 303, &[]), ["/x/y?q"]);
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
            assert!(of(method, 200, &[]).is_empty());
        }
        assert!(of(Method::POST, 404, &[]).is_empty());
        assert!(of(Method::POST, 500, &[]).is_empty());
    }

    #[test]
    fn what_location_names_on_the_same_host_too_9111_4_4() {
        let named = |reference: &str| {
            let mut found = of(Method::POST, 201, &[("location", reference)]);
            found.remove(0);
            found
        };
        assert_eq!(named("/new"), ["/new"]);
        assert_eq!(named("new?a#b"), ["/x/new?a"]);
        assert_eq!(named("?b"), ["/x/y?b"]);
        assert_eq!(named("http://A.test/new"), ["/new"]);
        assert_eq!(named("https://a.test"), ["/"]);
        assert_eq!(named("//a.test/new"), ["/new"]);
        for other in ["http://b.test/new", "//b.test/new", "http://a.test.evil/new", ""] {
            assert!(named(other).is_empty(), "{other}");
        }
    }
}
