//! Directives of `Cache-Control` and of the fields that take its place.
//!
//! `Cache-Control` is read as leniently as RFC 9111 asks for, `CDN-Cache-Control` (RFC 9213) as
//! strictly as structured fields demand: what is not one counts as absent.

use http::{HeaderMap, HeaderName, header};

/// Delta-seconds above this mean this (RFC 9111, 1.2.2).
const MOST_SECONDS: u64 = 1 << 31;

/// Directives in their order, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives(Vec<(String, Option<String>)>);

/// A directive's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seconds {
    Absent,
    Given(u64),
    /// There, but not a number: what depends on it counts as stale (RFC 9111, 4.2.1).
    Invalid,
}

impl Directives {
    /// All lines of `Cache-Control`.
    pub fn cache_control(headers: &HeaderMap) -> Self {
        let mut found = Vec::new();
        for line in headers.get_all(header::CACHE_CONTROL) {
            let text = String::from_utf8_lossy(line.as_bytes());
            found.extend(members(&text).filter_map(directive));
        }
        Self(found)
    }

    /// `CDN-Cache-Control` (RFC 9213), a dictionary of structured fields (RFC 9651); `None` where it
    /// is absent, empty, or not one.
    pub fn cdn(headers: &HeaderMap) -> Option<Self> {
        let lines: Option<Vec<&str>> =
            headers.get_all("cdn-cache-control").iter().map(|line| line.to_str().ok()).collect();
        let text = lines?.join(", ");
        if text.trim().is_empty() {
            return None;
        }
        let found: Option<Vec<_>> =
            text.split(',').map(|member| dictionary(member.trim())).collect();
        Some(Self(found?))
    }

    /// `Surrogate-Control`, as Varnish and Fastly read it: `max-age=N+M` is fresh for N and may be
    /// stale for M.
    pub fn surrogate(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("surrogate-control")?.to_str().ok()?;
        let mut found = Vec::new();
        for (name, value) in members(text).filter_map(directive) {
            match value.as_deref().and_then(|value| value.split_once('+')) {
                Some((fresh, stale)) if name == "max-age" => {
                    found.push((name, Some(fresh.to_owned())));
                    for stale_directive in ["stale-while-revalidate", "stale-if-error"] {
                        found.push((stale_directive.to_owned(), Some(stale.to_owned())));
                    }
                }
                _ => found.push((name, value)),
            }
        }
        Some(Self(found))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// There without a list of fields, which makes it about the whole response.
    pub fn has_for_all(&self, name: &str) -> bool {
        self.0.iter().any(|(known, value)| known == name && value.is_none())
    }

    /// The first one counts (RFC 9111, 4.2.1).
    pub fn seconds(&self, name: &str) -> Seconds {
        let Some((_, value)) = self.0.iter().find(|(known, _)| known == name) else {
            return Seconds::Absent;
        };
        let digits = value.as_deref().filter(|v| !v.is_empty() && is_digits(v));
        match digits {
            // Digits that do not fit are a large number.
            Some(text) => Seconds::Given(text.parse().unwrap_or(MOST_SECONDS).min(MOST_SECONDS)),
            None => Seconds::Invalid,
        }
    }

    /// The fields that `no-cache="a, b"` or `private="a"` name.
    pub fn fields(&self, name: &str) -> impl Iterator<Item = HeaderName> {
        let lists = self.0.iter().filter(move |(known, _)| known == name);
        lists
            .filter_map(|(_, value)| value.as_deref())
            .flat_map(|list| list.split(','))
            .filter_map(|field| HeaderName::from_bytes(field.trim().as_bytes()).ok())
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What stands between commas that no quotation marks enclose.
pub fn members(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    let pieces = text.split(move |c| {
        let comma = c == ',' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        comma
    });
    pieces.map(str::trim).filter(|piece| !piece.is_empty())
}

/// `name`, `name=token` or `name="text"`.
fn directive(member: &str) -> Option<(String, Option<String>)> {
    let (name, value) = match member.split_once('=') {
        Some((name, value)) => (name, Some(unquoted(value))),
        None => (member, None),
    };
    let named = !name.is_empty() && name.bytes().all(is_token);
    named.then(|| (name.to_ascii_lowercase(), value))
}

fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    inner.unwrap_or(value).replace('\\', "")
}

/// `tchar` of RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// One member of a dictionary: a key, and `=` with an item unless it is true. Parameters are read
/// over. Those directives that need an integer make the whole field invalid without one.
fn dictionary(member: &str) -> Option<(String, Option<String>)> {
    let item = member.split(';').next().unwrap_or_default().trim_end();
    let (key, value) = match item.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (item, None),
    };
    let mut bytes = key.bytes();
    let first = matches!(bytes.next(), Some(b'a'..=b'z' | b'*'));
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b);
    if !first || !bytes.all(valid) {
        return None;
    }
    let needs_integer =
        ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"].contains(&key);
    let integer = value.is_some_and(|v| (1..=15).contains(&v.len()) && is_digits(v));
    match value {
        _ if needs_integer && !integer => None,
        // `?1` is true, spelt out; `?0` says that it is not so, and no cache reads that today.
        None | Some("?1") => Some((key.to_owned(), None)),
        Some(value) => Some((key.to_owned(), Some(value.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, line.parse().expect("a value"));
        }
        headers
    }

    fn of(lines: &[&str]) -> Directives {
        Directives::cache_control(&headers("cache-control", lines))
    }

    #[test]
    fn names_are_case_insensitive_and_lines_are_one_list_9111_5_2() {
        let found = of(&["MAX-AGE=5, Public", ", ,no-store ,"]);
        assert_eq!(found.seconds("max-age"), Seconds::Given(5));
        assert!(found.has("public") && found.has("no-store") && !found.has("private"));
    }

    #[test]
    fn quoted_text_holds_no_directives() {
        let found = of(&[r#"ext="max-age=5, no-store", max-age="10", a="\", no-cache""#]);
        assert!(!found.has("no-store") && !found.has("no-cache"));
        assert_eq!(found.seconds("max-age"), Seconds::Given(10));
    }

    #[test]
    fn the_first_of_several_counts_9111_4_2_1() {
        assert_eq!(of(&["max-age=1, max-age=9"]).seconds("max-age"), Seconds::Given(1));
    }

    #[test]
    fn what_is_no_number_is_invalid_and_what_is_too_large_is_large_9111_1_2_2() {
        for bad in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=a", "max-age='1'"]
        {
            assert_eq!(of(&[bad]).seconds("max-age"), Seconds::Invalid, "{bad}");
        }
        for large in ["max-age=2147483649", "max-age=99999999999999999999999"] {
            assert_eq!(of(&[large]).seconds("max-age"), Seconds::Given(MOST_SECONDS), "{large}");
        }
    }

    #[test]
    fn fields_are_named_in_quotes_9111_5_2_2_4() {
        let found = of(&[r#"private="set-cookie, X-A", no-cache"#]);
        let fields: Vec<_> = found.fields("private").collect();
        assert_eq!(fields, ["set-cookie", "x-a"]);
        assert!(!found.has_for_all("private") && found.has_for_all("no-cache"));
    }

    #[test]
    fn cdn_cache_control_is_a_strict_dictionary_9213_2_1() {
        let of = |lines: &[&str]| Directives::cdn(&headers("cdn-cache-control", lines));
        let seconds = |lines: &[&str]| of(lines).map(|found| found.seconds("max-age"));
        assert_eq!(seconds(&["max-age=5"]), Some(Seconds::Given(5)));
        assert_eq!(seconds(&["no-store;a=b, max-age=5;x"]), Some(Seconds::Given(5)));
        for bad in ["", "max-age", "max-age=\"5\"", "MAX-AGE=5", "max-age =5", "max-age=5,", "&&&"]
        {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn surrogate_control_may_allow_stale_beside_fresh() {
        let found = Directives::surrogate(&headers("surrogate-control", &["max-age=5+9"]));
        let found = found.expect("there");
        assert_eq!(found.seconds("max-age"), Seconds::Given(5));
        assert_eq!(found.seconds("stale-if-error"), Seconds::Given(9));
    }
}
