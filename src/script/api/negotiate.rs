//! What a request's headers say in lists and schemes: credentials, types, languages.

use data_encoding::BASE64;
use rhai::{Array, Dynamic, Map};

use super::objects::Request;
use super::request::header;
use super::table::Table;
use crate::script::exchange::RequestDraft;

pub fn area(table: &mut Table) {
    table
        .function(
            "req.bearer()",
            "The token of `Authorization: Bearer ..`, or `()`.",
            |r: &mut Request| {
                let token = r.0.read(|d| credentials(d, "bearer"));
                token.map_or(Dynamic::UNIT, Into::into)
            },
        )
        .example(r#"req.headers["authorization"] = "Bearer abc"; req.bearer() == "abc""#)
        .function(
            "req.basic()",
            "`#{ user, password }` of `Authorization: Basic ..`, or `()`.",
            |r: &mut Request| r.0.read(basic),
        )
        .example(r#"req.headers["authorization"] = "Basic YW5uOnB3"; req.basic().user == "ann""#)
        .function(
            "req.accepts(types)",
            "The one of these types that Accept likes best, or `()`.",
            |r: &mut Request, types: Array| best(r, "accept", types, fits_type),
        )
        .example(r#"req.headers["accept"] = "text/*;q=0.5, application/json"; req.accepts(["text/html", "application/json"]) == "application/json""#)
        .function(
            "req.accept_language(languages)",
            "The one of these languages that Accept-Language likes best, or `()`.",
            |r: &mut Request, languages: Array| best(r, "accept-language", languages, fits_language),
        )
        .example(r#"req.headers["accept-language"] = "de-CH, en;q=0.8"; req.accept_language(["en", "de"]) == "de""#);
}

/// What stands behind the scheme, which is compared without case.
fn credentials(draft: &RequestDraft, scheme: &str) -> Option<String> {
    let value = header(draft, "authorization")?;
    let (given, credentials) = value.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credentials.trim().to_owned())
}

fn basic(draft: &RequestDraft) -> Dynamic {
    let decoded = credentials(draft, "basic").and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
        return Dynamic::UNIT;
    };
    Map::from_iter([("user".into(), user.into()), ("password".into(), password.into())]).into()
}

/// How well an offer fits a range of the header: 0 not at all, more is more exact.
type Fits = fn(range: &str, offer: &str) -> u32;

/// The offer of the highest quality; of equal ones the first (RFC 9110, 12.5).
fn best(request: &mut Request, name: &str, offers: Array, fits: Fits) -> Dynamic {
    let Some(header) = request.0.read(|draft| header(draft, name)) else {
        return offers.into_iter().next().unwrap_or(Dynamic::UNIT);
    };
    let ranges: Vec<(&str, f64)> = header.split(',').map(quality).collect();
    let mut found = (Dynamic::UNIT, 0.0);
    for offer in offers {
        let text = offer.to_string();
        let exact = |(range, quality): &(&str, f64)| (fits(range, &text), *quality);
        // The most exact range decides, so that `text/*, text/html;q=0` refuses HTML.
        let fitting = ranges.iter().map(exact).filter(|(fit, _)| *fit > 0);
        let quality = fitting.max_by_key(|(fit, _)| *fit).map_or(0.0, |(_, quality)| quality);
        if quality > found.1 {
            found = (offer, quality);
        }
    }
    found.0
}

fn quality(part: &str) -> (&str, f64) {
    let mut parts = part.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let quality = parts.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")));
    (range, quality.and_then(|q| q.parse().ok()).unwrap_or(1.0))
}

fn fits_type(range: &str, offer: &str) -> u32 {
    let main = |kind: &str| kind.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match range {
        "*/*" | "*" => 1,
        _ if range.ends_with("/*") && main(range) == main(offer) => 2,
        _ if range.eq_ignore_ascii_case(offer) => 3,
        _ => 0,
    }
}

/// `en` fits `en-GB` and, less well, the reverse.
fn fits_language(range: &str, offer: &str) -> u32 {
    let (range, offer) = (range.to_ascii_lowercase(), offer.to_ascii_lowercase());
    let within = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.starts_with('-'))
    };
    match () {
        () if range == offer => 4,
        () if within(&offer, &range) => 3,
        () if within(&range, &offer) => 2,
        () => u32::from(range == "*"),
    }
}
