//! `Vary`: which variant of a stored response a request gets (RFC 9111, 4.1).

use http::{HeaderMap, HeaderName, header};

use super::directives::members;

/// `Vary: *` matches no request.
pub(super) fn varies_on_all(headers: &HeaderMap) -> bool {
    names(headers).any(|name| name == "*")
}

fn names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::VARY).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

/// The request's values of the fields that `stored` varies on, in a form in which only what differs
/// in meaning differs. `None` where it does not vary.
pub fn variant(stored: &HeaderMap, request: &HeaderMap) -> Option<Vec<(HeaderName, String)>> {
    let fields = names(stored).filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    let mut fields: Vec<HeaderName> = fields.collect();
    fields.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    fields.dedup();
    let values = fields.into_iter().map(|name| {
        let value = match name {
            header::ACCEPT_LANGUAGE => languages(stored, request),
            header::ACCEPT_ENCODING | header::ACCEPT => weighted(&items(request, &name)),
            _ => items(request, &name).join(","),
        };
        (name, value)
    });
    Some(values.collect()).filter(|values: &Vec<_>| !values.is_empty())
}

/// All lines as one list, free of the space around its items.
fn items(request: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = request.get_all(name).iter();
    let lines: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    lines.iter().flat_map(|line| members(line)).map(str::to_owned).collect()
}

/// An item in lower case and its weight in thousandths.
fn weight(item: &str) -> (String, u16) {
    let item = item.to_ascii_lowercase();
    let (value, parameters) = item.split_once(';').unwrap_or((&item, ""));
    let quality = parameters.split(';').find_map(|p| p.trim().strip_prefix("q="));
    let quality: f32 = quality.and_then(|q| q.trim().parse().ok()).unwrap_or(1.0);
    let others = parameters.split(';').map(str::trim).filter(|p| !p.starts_with("q="));
    let kept = std::iter::once(value.trim()).chain(others.filter(|p| !p.is_empty()));
    (kept.collect::<Vec<_>>().join(";"), (quality.clamp(0.0, 1.0) * 1000.0) as u16)
}

/// A list whose order means nothing, as weights say what is preferred (RFC 9110, 12.4.2).
fn weighted(items: &[String]) -> String {
    let mut items: Vec<_> = items.iter().map(|item| weight(item)).collect();
    items.sort();
    let shown: Vec<String> = items.iter().map(|(value, q)| format!("{value};q={q}")).collect();
    shown.join(",")
}

/// Who wants the stored response's language as much as any other is as well served by it as the
/// one for whom it was chosen.
fn languages(stored: &HeaderMap, request: &HeaderMap) -> String {
    let wanted = items(request, &header::ACCEPT_LANGUAGE);
    let language = stored.get(header::CONTENT_LANGUAGE).and_then(|value| value.to_str().ok());
    if let Some(language) = language.map(|language| language.trim().to_ascii_lowercase()) {
        let weights: Vec<_> = wanted.iter().map(|item| weight(item)).collect();
        let highest = weights.iter().map(|(_, q)| *q).max().unwrap_or(0);
        if weights.iter().any(|(name, q)| *name == language && *q == highest && *q > 0) {
            return format!("content-language={language}");
        }
    }
    weighted(&wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn same(stored: &[(&str, &str)], one: &[(&str, &str)], other: &[(&str, &str)]) -> bool {
        let stored = headers(stored);
        let of = |lines: &[(&str, &str)]| variant(&stored, &headers(lines));
        assert!(of(one).is_some(), "it varies");
        of(one) == of(other)
    }

    #[test]
    fn values_of_all_named_fields_must_match_9111_4_1() {
        let vary = [("vary", "Foo, bar"), ("vary", "baz")];
        let one = [("foo", "1"), ("bar", "2"), ("baz", "3")];
        assert!(same(&vary, &one, &[("baz", "3"), ("foo", "1"), ("bar", "2"), ("other", "9")]));
        assert!(!same(&vary, &one, &[("foo", "1"), ("bar", "2"), ("baz", "4")]));
        assert!(!same(&vary, &one, &[("foo", "1"), ("bar", "2")]), "absent is a value");
        assert_eq!(variant(&headers(&[]), &headers(&one)), None);
    }

    #[test]
    fn space_and_lines_do_not_matter_9111_4_1() {
        assert!(same(&[("vary", "foo")], &[("foo", "1, 2")], &[("foo", "1"), ("foo", " 2 ")]));
        assert!(!same(&[("vary", "foo")], &[("foo", "1, 2")], &[("foo", "2, 1")]));
    }

    #[test]
    fn order_of_weighted_lists_does_not_matter_9110_12_4_2() {
        let vary = [("vary", "accept-encoding")];
        assert!(same(
            &vary,
            &[("accept-encoding", "gzip, BR;q=0.5")],
            &[("accept-encoding", "br;q=0.50,gzip;q=1.0")]
        ));
        assert!(!same(&vary, &[("accept-encoding", "gzip")], &[("accept-encoding", "gzip;q=0")]));
    }

    #[test]
    fn a_language_that_nobody_prefers_another_to_is_shared() {
        let stored = [("vary", "accept-language"), ("content-language", "de")];
        let both = [("accept-language", "en, de")];
        assert!(same(&stored, &both, &[("accept-language", "de, fr;q=0.5")]));
        assert!(!same(&stored, &both, &[("accept-language", "de;q=0.5, fr")]));
    }

    #[test]
    fn a_star_is_seen_among_others() {
        assert!(varies_on_all(&headers(&[("vary", "foo"), ("vary", "bar, *")])));
        assert!(!varies_on_all(&headers(&[("vary", "foo")])));
    }
}
