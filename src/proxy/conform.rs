//! Messages that two parties could read differently go no further (RFC 9110, 9112, 9113).

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method};
use pingora::http::{RequestHeader, ResponseHeader};

/// What can be read in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    #[error("the target does not begin with / (RFC 9112, 3.2)")]
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

/// Checks a request head; equal repeated lengths collapse to one line.
///
/// `raw` is the head's text on HTTP/1, where Pingora drops a length beside a transfer coding.
pub fn request(head: &mut RequestHeader, http2: bool, raw: Option<&[u8]>) -> Result<(), Ambiguous> {
    target(head)?;
    host(head, http2)?;
    if let Some(length) = content_length(&head.headers)? {
        collapse_length(head, length);
    }
    if transfer_encoding(&head.headers)? {
        let length_too = head.headers.contains_key(CONTENT_LENGTH);
        if length_too || raw.is_some_and(names_content_length) {
            return Err(Ambiguous::BothLengths);
        }
    }
    shadowing_names(&head.headers)
}

/// Checks an origin's response head.
pub fn response(head: &ResponseHeader, upgrade_asked: bool) -> Result<(), Ambiguous> {
    transfer_encoding(&head.headers)?;
    content_length(&head.headers)?;
    match head.status.as_u16() {
        101 if !upgrade_asked => Err(Ambiguous::UnaskedUpgrade),
        100..=599 => Ok(()),
        _ => Err(Ambiguous::Status),
    }
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

fn host(head: &RequestHeader, http2: bool) -> Result<(), Ambiguous> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let authority = head.uri.authority().filter(|_| http2);
    let valid = |bytes: &[u8]| if is_host(bytes) { Ok(()) } else { Err(Ambiguous::Host) };
    if let Some(authority) = authority {
        valid(authority.as_str().as_bytes())?;
    }
    match (hosts.next(), hosts.next()) {
        (Some(one), None) => valid(one.as_bytes()),
        (None, _) if authority.is_some() => Ok(()),
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

fn collapse_length(head: &mut RequestHeader, length: u64) {
    if head.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        // A number is always a valid header value.
        let _ = head.insert_header(CONTENT_LENGTH, length);
    }
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
        assert_eq!(verdict("http://a/", &[host]), Err(Ambiguous::Target));
        assert_eq!(verdict("*", &[host]), Err(Ambiguous::Target));
    }

    #[test]
    fn equal_lengths_collapse() {
        let mut head =
            head("/", &[("host", "a"), ("content-length", "5"), ("content-length", "5")]);
        assert_eq!(request(&mut head, false, None), Ok(()));
        assert_eq!(head.headers.get_all(CONTENT_LENGTH).iter().count(), 1);
    }

    #[test]
    fn a_dropped_length_is_seen_in_the_raw_head() {
        let mut head = head("/", &[("host", "a"), ("transfer-encoding", "chunked")]);
        let raw = b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(request(&mut head, false, Some(raw)), Err(Ambiguous::BothLengths));
    }
}
