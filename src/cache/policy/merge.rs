//! What a 304 changes in a stored response (RFC 9111, 3.2 and 4.3.4), and what of a response is
//! for one client only.

use http::{HeaderMap, HeaderName, header};

use super::directives::Directives;
use super::freshness::hidden;

/// Fields about the stored body, which a 304 does not bring, and `Vary`, by which it is found.
const KEPT: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::VARY,
];

/// Makes `stored` what a 304 with `new` says it is now.
pub fn update(stored: &mut HeaderMap, new: &HeaderMap) {
    for name in new.keys().filter(|name| !KEPT.contains(name)) {
        stored.remove(name);
        for value in new.get_all(name) {
            stored.append(name.clone(), value.clone());
        }
    }
    if !new.contains_key(header::AGE) {
        // It told how old the response was that is fresh again.
        stored.remove(header::AGE);
    }
}

/// Takes the fields out that `private` and `no-cache` name; they are for this client.
pub fn take_private_fields(headers: &mut HeaderMap) -> HeaderMap {
    let mut taken = HeaderMap::new();
    for name in hidden(&Directives::cache_control(headers)) {
        for value in headers.get_all(&name) {
            taken.append(name.clone(), value.clone());
        }
        headers.remove(&name);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn a_304_replaces_all_fields_but_those_of_the_body_9111_3_2() {
        let mut stored = headers(&[
            ("a", "old"),
            ("a", "older"),
            ("kept", "1"),
            ("content-length", "9"),
            ("age", "7"),
        ]);
        update(&mut stored, &headers(&[("a", "new"), ("b", "2"), ("content-length", "0")]));
        assert_eq!(
            stored,
            headers(&[("a", "new"), ("kept", "1"), ("content-length", "9"), ("b", "2")])
        );
    }

    #[test]
    fn fields_that_are_named_are_taken_9111_5_2_2_7() {
        let mut stored = headers(&[
            ("cache-control", r#"private="a", no-cache="b""#),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
        ]);
        let taken = take_private_fields(&mut stored);
        assert_eq!(taken, headers(&[("a", "1"), ("b", "2")]));
        assert!(!stored.contains_key("a") && !stored.contains_key("b") && stored.contains_key("c"));
    }
}
