//! The one normal form of a request's path, for matching and for forwarding alike.
//!
//! Since both use the same text, no route can be walked around by spelling a path differently.
//! Where origins disagree what a path means, it is left as it came and the caller is told.

use std::borrow::Cow;

use crate::config::pattern::{escaped, is_unreserved, push_escape};

/// A path without dot segments, without needless escapes, in ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normalised<'a> {
    /// Borrowed if the path came in normal form.
    pub path: Cow<'a, str>,
    /// The first thing in the path as it came that origins read differently.
    pub ambiguous: Option<Ambiguity>,
}

/// What in a path origins read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguity {
    #[error("an escaped slash (%2F)")]
    EscapedSlash,
    #[error("an escaped backslash (%5C)")]
    EscapedBackslash,
    #[error("a backslash")]
    Backslash,
    #[error("an escaped NUL (%00)")]
    EscapedNul,
    #[error("an empty segment (//)")]
    EmptySegment,
    #[error("a dot segment with a parameter (..;)")]
    DotParameter,
}

/// A path that no request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    #[error("`%` at byte {at} is not followed by two hexadecimal digits")]
    BadEscape { at: usize },
    #[error("byte {at} (0x{byte:02x}) must be escaped in a path")]
    Unescaped { at: usize, byte: u8 },
}

/// Normalises `path` (without its query): resolves dot segments (RFC 3986, 5.2.4), also escaped
/// ones; decodes unreserved characters; writes other escapes in capitals; escapes what is not
/// ASCII. `%2f`, `%5c`, `%00`, `\`, `//` and `..;` stay as they are and are reported.
pub fn normalise(path: &str) -> Result<Normalised<'_>, BadPath> {
    let survey = survey(path)?;
    let path = match (survey.recode, survey.dots) {
        (false, false) => return Ok(Normalised { path: path.into(), ambiguous: survey.ambiguous }),
        (false, true) => Cow::Borrowed(path),
        (true, _) => Cow::Owned(recode(path)),
    };
    // Servlet containers take the parameter off first, and then climb.
    let climbs = path.contains("/.;") || path.contains("/..;");
    let ambiguous = survey.ambiguous.or(climbs.then_some(Ambiguity::DotParameter));
    let path = if has_dots(&path) { Cow::Owned(resolve_dots(&path)) } else { path };
    Ok(Normalised { path, ambiguous })
}

/// What is to be done with a path, found without changing it.
struct Survey {
    recode: bool,
    /// Whether a segment begins with a dot, as `/.well-known` does, too.
    dots: bool,
    ambiguous: Option<Ambiguity>,
}

fn survey(path: &str) -> Result<Survey, BadPath> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(BadPath::NotAbsolute);
    }
    let mut found = Survey { recode: false, dots: false, ambiguous: None };
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let ambiguity = match byte {
            b'%' => {
                let value = escaped(bytes, at).ok_or(BadPath::BadEscape { at })?;
                let ambiguity = ambiguous_escape(value);
                let digits = &bytes[at + 1..at + 3];
                found.recode |= ambiguity.is_none()
                    && (is_unreserved(value) || digits.iter().any(u8::is_ascii_lowercase));
                at += 2;
                ambiguity
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => Some(Ambiguity::EmptySegment),
            b'/' => {
                found.dots |= bytes.get(at + 1) == Some(&b'.');
                None
            }
            b'\\' => Some(Ambiguity::Backslash),
            0..=b' ' | 0x7f | b'?' | b'#' => return Err(BadPath::Unescaped { at, byte }),
            0x80.. => {
                found.recode = true;
                None
            }
            _ => None,
        };
        found.ambiguous = found.ambiguous.or(ambiguity);
        at += 1;
    }
    Ok(found)
}

fn ambiguous_escape(value: u8) -> Option<Ambiguity> {
    match value {
        b'/' => Some(Ambiguity::EscapedSlash),
        b'\\' => Some(Ambiguity::EscapedBackslash),
        0 => Some(Ambiguity::EscapedNul),
        _ => None,
    }
}

/// Writes each character in its normal form. Escapes have been checked by [`survey`].
fn recode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut text = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, escaped(bytes, at).filter(|_| byte == b'%')) {
            (_, Some(value)) => {
                if is_unreserved(value) {
                    text.push(char::from(value));
                } else if ambiguous_escape(value).is_some() {
                    text.push_str(&path[at..at + 3]);
                } else {
                    push_escape(&mut text, value);
                }
                at += 2;
            }
            (0x80.., None) => push_escape(&mut text, byte),
            (_, None) => text.push(char::from(byte)),
        }
        at += 1;
    }
    text
}

fn has_dots(path: &str) -> bool {
    path.split('/').any(|segment| segment == "." || segment == "..")
}

fn resolve_dots(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let mut ends_in_dots = false;
    for segment in path.split('/').skip(1) {
        ends_in_dots = segment == "." || segment == "..";
        if segment == ".." {
            text.truncate(text.rfind('/').unwrap_or(0));
        } else if segment != "." {
            text.push('/');
            text.push_str(segment);
        }
    }
    // What `..` leaves is a folder.
    if ends_in_dots {
        text.push('/');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_get_their_normal_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/%41%7e%2d", "/A~-"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a\u{e9}", "/a%C3%A9"),
            ("/a%252e%252e/b", "/a%252e%252e/b"),
            ("/.well-known/...", "/.well-known/..."),
            ("/a;x=1/..b;/.c;", "/a;x=1/..b;/.c;"),
        ] {
            let found = normalise(path).expect(path);
            assert_eq!((&*found.path, found.ambiguous), (normal, None), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_stay_and_are_reported() {
        for (path, normal, what) in [
            ("/a%2fb", "/a%2fb", Ambiguity::EscapedSlash),
            ("/a%2F..%2fb", "/a%2F..%2fb", Ambiguity::EscapedSlash),
            ("/a%5cb", "/a%5cb", Ambiguity::EscapedBackslash),
            ("/a\\..\\b", "/a\\..\\b", Ambiguity::Backslash),
            ("/a%00", "/a%00", Ambiguity::EscapedNul),
            ("/a//b", "/a//b", Ambiguity::EmptySegment),
            ("//", "//", Ambiguity::EmptySegment),
            ("/a//../b", "/a/b", Ambiguity::EmptySegment),
            ("/..//evil", "//evil", Ambiguity::EmptySegment),
            ("/a/..;/b", "/a/..;/b", Ambiguity::DotParameter),
            ("/a/%2E.;x=1/b", "/a/..;x=1/b", Ambiguity::DotParameter),
            ("/a/../.;/b", "/.;/b", Ambiguity::DotParameter),
        ] {
            let found = normalise(path).expect(path);
            assert_eq!((&*found.path, found.ambiguous), (normal, Some(what)), "{path}");
        }
    }

    #[test]
    fn bad_paths_are_errors() {
        for (path, why) in [
            ("", BadPath::NotAbsolute),
            ("*", BadPath::NotAbsolute),
            ("/%", BadPath::BadEscape { at: 1 }),
            ("/a%4", BadPath::BadEscape { at: 2 }),
            ("/%zz", BadPath::BadEscape { at: 1 }),
            ("/%+1", BadPath::BadEscape { at: 1 }),
            ("/a b", BadPath::Unescaped { at: 2, byte: b' ' }),
            ("/a?b", BadPath::Unescaped { at: 2, byte: b'?' }),
        ] {
            assert_eq!(normalise(path), Err(why), "{path}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in ["/", "/a%20b", "/.well-known", "/a%2fb", "/a//b", "/a/b.c/..d"] {
            assert!(matches!(normalise(path).expect(path).path, Cow::Borrowed(_)), "{path}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(path in "/([a.]|/|%2[eEfF]|%[0-9a-fA-F]{2}|\\\\|\u{e9}|%5c){0,12}") {
            let once = normalise(&path).expect("well-formed").path.into_owned();
            let again = normalise(&once).expect("well-formed");
            prop_assert!(matches!(again.path, Cow::Borrowed(_)), "{} {}", once, again.path);
            prop_assert!(!has_dots(&once));
        }
    }
}
