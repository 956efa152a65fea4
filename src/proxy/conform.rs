//! Messages that two parties could read differently go no further (RFC 9110, 9112, 9113).

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};

/// What can be read in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    #[error("the target is neither a path nor http://host/path (RFC 9112, 3.2)")]
    Target,
    #[error("a control or a space in the target")]
    TargetBytes,
    #[error("Host is missing, repeated or malformed (RFC 9112, 3.2)")]
    Host,
    #[error("Content-Length is no single number (RFC 9112, 6.3)")]
    ContentLength,
    #[error("Transfer-Encoding is not one final chunked (RFC 9112, 6.1)")]
    TransferEncoding,
    #[error("both Content-Length and Transfer-Encoding (RFC 9112, 6.3)")]
    BothLengths,
    #[error("a header name with _ that reads as one of the framing headers")]
    ShadowingName,
    #[error("101 without a request for it")]
    UnaskedUpgrade,
    #[error("a status out of range")]
    Status,
}

/// Checks a request head. An absolute target becomes a path, the lengths become one plain number.
///
/// `raw` is the text of an HTTP/1 head with a transfer coding: Pingora drops a length beside it.
pub fn request(head: &mut RequestHeader, http2: bool, raw: Option<&[u8]>) -> Result<(), Ambiguous> {
    match http2 {
        true => from_http2(head),
        false => origin_form(head)?,
    }
    edited(head)?;
    if raw.is_some_and(names_content_length) {
        return Err(Ambiguous::BothLengths);
    }
    Ok(())
}

/// The same for a head that filters had in hand, whose target must be a path by now.
pub fn edited(head: &mut RequestHeader) -> Result<(), Ambiguous> {
    target(head)?;
    host(head)?;
    if let Some(length) = content_length(&head.headers)?
        && !plain_length(&head.headers)
    {
        // A number is always a valid header value.
        let _ = head.insert_header(CONTENT_LENGTH, length);
    }
    if transfer_encoding(&head.headers)? && head.headers.contains_key(CONTENT_LENGTH) {
        return Err(Ambiguous::BothLengths);
    }
    shadowing_names(&head.headers)
}

/// Checks an origin's response head, and takes out what must not be in one of its status.
///
/// A length beside a transfer coding does not come this far: Pingora drops it (RFC 9112, 6.3).
pub fn response(head: &mut ResponseHeader, upgrade_asked: bool) -> Result<(), Ambiguous> {
    if is_no_coding(&head.headers) {
        head.remove_header(&TRANSFER_ENCODING);
    }
    if transfer_encoding(&head.headers)? && head.version == Version::HTTP_10 {
        return Err(Ambiguous::TransferEncoding);
    }
    if let Some(length) = content_length(&head.headers)?
        && !plain_length(&head.headers)
    {
        // A number is always a valid header value.
        let _ = head.insert_header(CONTENT_LENGTH, length);
    }
    match head.status.as_u16() {
        101 if !upgrade_asked => return Err(Ambiguous::UnaskedUpgrade),
        100..=199 | 204 => {
            head.remove_header(&CONTENT_LENGTH);
            head.remove_header(&TRANSFER_ENCODING);
        }
        304 => drop(head.remove_header(&TRANSFER_ENCODING)),
        200..=599 => {}
        _ => return Err(Ambiguous::Status),
    }
    Ok(())
}

/// Puts a response head in terms that a client of `version` understands.
pub fn for_client(head: &mut ResponseHeader, version: Version) {
    let http2 = version == Version::HTTP_2;
    // Pingora passes trailers from HTTP/2 to HTTP/2 only.
    if !(http2 && head.version == Version::HTTP_2) {
        head.remove_header(&TRAILER);
    }
    if http2 {
        return;
    }
    // A server says what it speaks itself, not what its origin does (RFC 9110, 6.2).
    head.set_version(Version::HTTP_11);
    if version < Version::HTTP_11 {
        // The end of the connection ends the body instead (RFC 9112, 6.1).
        head.remove_header(&TRANSFER_ENCODING);
    }
}

/// HTTP/2 has two ways to name the host, and may send cookies one by one; from here on there is
/// `Host` (a new path would lose `:authority`) and one `Cookie` line (RFC 9113, 8.2.3).
fn from_http2(head: &mut RequestHeader) {
    // Both are made of what were header values, so neither can fail.
    if !head.headers.contains_key(HOST)
        && let Some(authority) = head.uri.authority().cloned()
    {
        let _ = head.insert_header(HOST, authority.as_str());
    }
    if head.headers.get_all(COOKIE).iter().nth(1).is_some() {
        let lines = head.headers.get_all(COOKIE).iter().map(|line| line.as_bytes());
        let joined = lines.collect::<Vec<_>>().join(&b"; "[..]);
        let _ = head.insert_header(COOKIE, joined);
    }
}

/// `http://host/path` as the path; `Host` must say the same host.
fn origin_form(head: &mut RequestHeader) -> Result<(), Ambiguous> {
    let raw = head.raw_path();
    if matches!(raw.first(), None | Some(b'/' | b'*')) {
        return Ok(());
    }
    let after = |scheme: &str| {
        let (start, rest) = raw.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    };
    let rest = after("http://").or_else(|| after("https://")).ok_or(Ambiguous::Target)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if head.headers.get(HOST).is_none_or(|host| host.as_bytes() != authority) {
        return Err(Ambiguous::Host);
    }
    let slash = if path.first() == Some(&b'/') { "" } else { "/" };
    let path = [slash.as_bytes(), path].concat();
    head.set_raw_path(&path).map_err(|_| Ambiguous::Target)
}

fn target(head: &RequestHeader) -> Result<(), Ambiguous> {
    let raw = head.raw_path();
    let asterisk = raw == b"*" && head.method == Method::OPTIONS;
    if !asterisk && raw.first() != Some(&b'/') {
        return Err(Ambiguous::Target);
    }
    if raw.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(Ambiguous::TargetBytes);
    }
    Ok(())
}

fn host(head: &RequestHeader) -> Result<(), Ambiguous> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(one), None) if is_host(one.as_bytes()) => Ok(()),
        _ => Err(Ambiguous::Host),
    }
}

/// `name`, `name:port`, `[v6]`, `[v6]:port`; no userinfo, no lists.
fn is_host(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((inner, port)) if inner.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
            _ => return false,
        },
        None => {
            let end = text.find(':').unwrap_or(text.len());
            (Some(&text[..end]), &text[end..])
        }
    };
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let name_fine = name.is_none_or(|n| !n.is_empty() && n.len() <= 255 && n.bytes().all(fine));
    name_fine && is_port(port)
}

fn is_port(port: &str) -> bool {
    match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.bytes().all(|b| b.is_ascii_digit())
                && digits.parse::<u32>().is_ok_and(|port| port <= 65535)
        }
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Ambiguous> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| Ambiguous::ContentLength)?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = text.parse().ok().filter(|_| digits).ok_or(Ambiguous::ContentLength)?;
        if number > i64::MAX as u64 || length.is_some_and(|known| known != number) {
            return Err(Ambiguous::ContentLength);
        }
        length = Some(number);
    }
    Ok(length)
}

/// Whether the length stands there once, without leading zeros.
fn plain_length(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter().map(|line| line.as_bytes());
    lines.next().is_some_and(|line| line == b"0" || !line.starts_with(b"0"))
        && lines.next().is_none()
}

/// Whether the body is chunked.
fn transfer_encoding(headers: &HeaderMap) -> Result<bool, Ambiguous> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(one), None) if one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            Ok(true)
        }
        _ => Err(Ambiguous::TransferEncoding),
    }
}

/// Whether `Transfer-Encoding` names nothing that anybody could have meant. Such a body ends with
/// its connection (RFC 9112, 6.3), and is what it is. What names a real coding stays, to be refused.
fn is_no_coding(headers: &HeaderMap) -> bool {
    const REAL: [&str; 4] = ["chunked", "gzip", "deflate", "compress"];
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter().peekable();
    let nonsense = |line: &HeaderValue| {
        let text = line.to_str().map(str::to_ascii_lowercase);
        text.is_ok_and(|text| REAL.iter().all(|coding| !text.contains(coding)))
    };
    lines.peek().is_some() && lines.all(nonsense)
}

fn names_content_length(raw: &[u8]) -> bool {
    raw.split(|b| *b == b'\n').any(|line| {
        const NAME: &[u8] = b"content-length:";
        line.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME))
    })
}

/// Origins that put headers into variables read `_` and `-` as the same.
fn shadowing_names(headers: &HeaderMap) -> Result<(), Ambiguous> {
    let shadows = |name: &HeaderName| {
        let name = name.as_str();
        name.contains('_')
            && [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, CONNECTION, UPGRADE]
                .iter()
                .any(|known| name.replace('_', "-") == known.as_str())
    };
    if headers.keys().any(shadows) { Err(Ambiguous::ShadowingName) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", target.as_bytes(), None).expect("head");
        for (name, value) in headers {
            head.append_header(*name, *value).expect("header");
        }
        head
    }

    fn verdict(target: &str, headers: &[(&'static str, &str)]) -> Result<(), Ambiguous> {
        request(&mut head(target, headers), false, None)
    }

    #[test]
    fn plain_requests_pass() {
        assert_eq!(verdict("/a?b=c", &[("host", "shop.test:80")]), Ok(()));
        assert_eq!(verdict("/", &[("host", "[::1]:8080"), ("content-length", "5")]), Ok(()));
        assert_eq!(verdict("/", &[("host", "a"), ("transfer-encoding", "chunked")]), Ok(()));
    }

    #[test]
    fn what_two_parties_could_read_differently_is_named() {
        let host = ("host", "a");
        for (headers, expected) in [
            (vec![], Ambiguous::Host),
            (vec![host, host], Ambiguous::Host),
            (vec![("host", "a, b")], Ambiguous::Host),
            (vec![("host", "u@a")], Ambiguous::Host),
            (vec![("host", "a:")], Ambiguous::Host),
            (vec![("host", "a:99999")], Ambiguous::Host),
            (vec![host, ("content-length", "5, 5")], Ambiguous::ContentLength),
            (vec![host, ("content-length", "+5")], Ambiguous::ContentLength),
            (
                vec![host, ("content-length", "5"), ("content-length", "6")],
                Ambiguous::ContentLength,
            ),
            (vec![host, ("transfer-encoding", "gzip, chunked")], Ambiguous::TransferEncoding),
            (
                vec![host, ("transfer-encoding", "chunked"), ("content-length", "5")],
                Ambiguous::BothLengths,
            ),
            (vec![host, ("content_length", "5")], Ambiguous::ShadowingName),
        ] {
            assert_eq!(verdict("/", &headers), Err(expected), "{headers:?}");
        }
        for target in ["ftp://a/", "a/b", "http:/a", "http", "a:80"] {
            assert_eq!(verdict(target, &[host]), Err(Ambiguous::Target), "{target}");
        }
        for target in ["http:///a", "http://u@a/", "http://a b/"] {
            assert_eq!(verdict(target, &[host]), Err(Ambiguous::Host), "{target}");
        }
        assert_eq!(verdict("*", &[host]), Err(Ambiguous::Target));
    }

    #[test]
    fn lengths_become_one_plain_number() {
        for lines in [&["5", "5"][..], &["005"], &["05", "5"]] {
            let lines = lines.iter().map(|length| ("content-length", *length));
            let headers: Vec<_> = [("host", "a")].into_iter().chain(lines).collect();
            let mut head = head("/", &headers);
            assert_eq!(request(&mut head, false, None), Ok(()), "{headers:?}");
            let lengths: Vec<_> = head.headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(lengths, ["5"], "{headers:?}");
        }
    }

    #[test]
    fn http2_heads_get_a_host_and_one_cookie_line() {
        let mut given = head("/", &[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
        given.set_uri("http://a.test:80/b".parse().expect("a URI"));
        assert_eq!(request(&mut given, true, None), Ok(()));
        assert_eq!(given.headers[HOST], "a.test:80");
        assert_eq!(given.headers[COOKIE], "a=1; b=2; c=3");
        assert_eq!(given.headers.get_all(COOKIE).iter().count(), 1);
        assert_eq!(request(&mut head("/", &[]), true, None), Err(Ambiguous::Host));
    }

    #[test]
    fn absolute_targets_become_paths() {
        for (target, host, path) in [
            ("http://a/b?c", "a", "/b?c"),
            ("HTTP://A:80", "A:80", "/"),
            ("https://[::1]?c=http://x/", "[::1]", "/?c=http://x/"),
            ("http://a//b", "a", "//b"),
        ] {
            let mut given = head(target, &[("host", host)]);
            assert_eq!(request(&mut given, false, None), Ok(()), "{target}");
            assert_eq!(given.raw_path(), path.as_bytes(), "{target}");
            for headers in [&[][..], &[("host", "b")]] {
                assert_eq!(verdict(target, headers), Err(Ambiguous::Host), "{target} {headers:?}");
            }
        }
    }

    fn answer(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).expect("head");
        for (name, value) in headers {
            head.append_header(*name, *value).expect("header");
        }
        head
    }

    #[test]
    fn a_response_keeps_the_framing_that_its_status_allows() {
        let (length, chunked) = (("content-length", "5"), ("transfer-encoding", "chunked"));
        for (status, headers, kept) in [
            (200, vec![length], vec![CONTENT_LENGTH]),
            (200, vec![length, length], vec![CONTENT_LENGTH]),
            (200, vec![chunked], vec![TRANSFER_ENCODING]),
            (103, vec![length, chunked], vec![]),
            (204, vec![length, chunked], vec![]),
            (304, vec![length, chunked], vec![CONTENT_LENGTH]),
        ] {
            let mut head = answer(status, &headers);
            assert_eq!(response(&mut head, false), Ok(()), "{status} {headers:?}");
            let found: Vec<_> = head.headers.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(found, kept, "{status} {headers:?}");
        }
    }

    #[test]
    fn responses_that_could_be_read_differently_are_refused() {
        for (status, headers, expected) in [
            (101, vec![], Ambiguous::UnaskedUpgrade),
            (600, vec![], Ambiguous::Status),
            (200, vec![("transfer-encoding", "gzip")], Ambiguous::TransferEncoding),
            (200, vec![("transfer-encoding", "xchunked")], Ambiguous::TransferEncoding),
            (200, vec![("content-length", "5, 5")], Ambiguous::ContentLength),
        ] {
            let mut head = answer(status, &headers);
            assert_eq!(response(&mut head, false), Err(expected), "{status} {headers:?}");
        }
        let mut old = answer(200, &[("transfer-encoding", "chunked")]);
        old.set_version(Version::HTTP_10);
        assert_eq!(response(&mut old, false), Err(Ambiguous::TransferEncoding));
    }

    #[test]
    fn a_client_gets_a_head_of_its_own_version() {
        let headers = [("transfer-encoding", "chunked"), ("trailer", "x")];
        for (client, origin, version, kept) in [
            (Version::HTTP_11, Version::HTTP_10, Version::HTTP_11, "transfer-encoding"),
            (Version::HTTP_10, Version::HTTP_11, Version::HTTP_11, ""),
            (Version::HTTP_2, Version::HTTP_11, Version::HTTP_11, "transfer-encoding"),
            (Version::HTTP_2, Version::HTTP_2, Version::HTTP_2, "transfer-encoding trailer"),
        ] {
            let mut head = answer(200, &headers);
            head.set_version(origin);
            for_client(&mut head, client);
            let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
            assert_eq!((head.version, &*names.join(" ")), (version, kept), "{client:?} {origin:?}");
        }
    }

    #[test]
    fn a_dropped_length_is_seen_in_the_raw_head() {
        let mut head = head("/", &[("host", "a"), ("transfer-encoding", "chunked")]);
        let raw = b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(request(&mut head, false, Some(raw)), Err(Ambiguous::BothLengths));
    }
}
