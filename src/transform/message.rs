//! What a transform means for the head of a response, and whether there can be one.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::Coding;

/// Headers about the very bytes of a body.
static OF_THE_BYTES: [HeaderName; 6] = [
    header::ACCEPT_RANGES,
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// What there is to transform.
#[derive(Debug, PartialEq, Eq)]
pub enum Fit {
    /// The body comes in `from` and goes in `to`.
    Body { from: Option<Coding>, to: Option<Coding> },
    /// There is no body, and the head is as it would be with one.
    HeadOnly,
}

/// Why a body stays as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// A filter that knows better removes the directive.
    #[error("the response says no-transform (RFC 9111, 5.2.2.6), so its body passes as it is")]
    NoTransform,
    #[error("a part of a body (206) cannot be transformed")]
    Part,
    #[error("a body in the content coding {0} cannot be transformed")]
    Coding(String),
}

/// Makes the head of a response true of the transformed body.
pub fn fit(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Result<Fit, Obstacle> {
    // Nothing streams by that a stage could be shown.
    if headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0") {
        return Ok(Fit::HeadOnly);
    }
    let from = coding(status, headers)?;
    let to = from.and_then(|from| answered(from, request));
    edit(headers, from, to);
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless || method == Method::HEAD {
        return Ok(Fit::HeadOnly);
    }
    Ok(Fit::Body { from, to })
}

/// Makes the origin's copy of a request ask for what can be transformed: no part of a body (a
/// server may ignore `Range`; RFC 9110, 14.2), and no coding that is not known.
pub fn ask(request: &mut HeaderMap) {
    request.remove(header::RANGE);
    request.remove(header::IF_RANGE);
    if !request.contains_key(header::ACCEPT_ENCODING) {
        return;
    }
    let known = words(request, &header::ACCEPT_ENCODING).filter(|word| {
        let name = word.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("identity") || Coding::of(name).is_some()
    });
    let known = known.collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "identity" } else { &known };
    // Made of what was a header's value.
    if let Ok(value) = HeaderValue::from_str(known) {
        request.insert(header::ACCEPT_ENCODING, value);
    }
}

/// The coding that the body is in, if it can be transformed.
fn coding(status: StatusCode, headers: &HeaderMap) -> Result<Option<Coding>, Obstacle> {
    if status == StatusCode::PARTIAL_CONTENT {
        return Err(Obstacle::Part);
    }
    let mut cache_control = words(headers, &header::CACHE_CONTROL);
    if cache_control.any(|word| word.eq_ignore_ascii_case("no-transform")) {
        return Err(Obstacle::NoTransform);
    }
    let codings = words(headers, &header::CONTENT_ENCODING);
    let codings: Vec<&str> =
        codings.filter(|word| !word.eq_ignore_ascii_case("identity")).collect();
    match codings[..] {
        [] => Ok(None),
        [one] => Coding::of(one).map(Some).ok_or_else(|| Obstacle::Coding(one.to_owned())),
        _ => Err(Obstacle::Coding(codings.join(", "))),
    }
}

/// The members of a list header.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// The coding for the client: the origin's, else one that the client takes, else none.
fn answered(from: Coding, headers: &HeaderMap) -> Option<Coding> {
    let wanted = [from, Coding::Gzip, Coding::Zstd, Coding::Brotli];
    wanted.into_iter().find(|coding| *coding != Coding::Deflate && accepts(headers, *coding))
}

/// By `Accept-Encoding` (RFC 9110, 12.5.3).
fn accepts(headers: &HeaderMap, coding: Coding) -> bool {
    let mut any = false;
    for word in words(headers, &header::ACCEPT_ENCODING) {
        let (name, weight) = word.split_once(';').unwrap_or((word, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        let wanted = weight.is_ok_and(|weight| weight > 0.0);
        if Coding::of(name.trim()) == Some(coding) {
            return wanted;
        }
        any |= name.trim() == "*" && wanted;
    }
    any
}

/// What the head says of the bytes is no longer true; that the content means the same still is,
/// so a strong validator becomes a weak one (RFC 9110, 8.8.1).
fn edit(headers: &mut HeaderMap, from: Option<Coding>, to: Option<Coding>) {
    for name in &OF_THE_BYTES {
        headers.remove(name);
    }
    let strong = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    if let Some(tag) = strong {
        let weak = [b"W/", tag.as_bytes()].concat();
        // A valid value with a valid start.
        if let Ok(weak) = HeaderValue::from_bytes(&weak) {
            headers.insert(header::ETAG, weak);
        }
    }
    if from.is_none() {
        return;
    }
    headers.remove(header::CONTENT_ENCODING);
    if let Some(to) = to {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(to.name()));
    }
    let varies = words(headers, &header::VARY)
        .any(|word| word == "*" || word.eq_ignore_ascii_case("accept-encoding"));
    if !varies {
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}
