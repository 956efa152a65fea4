//! Host and path patterns as routes write them: parsing, and whether one pattern fits one text.
//!
//! Finding the best of many patterns is `routing`'s business; here one pattern stands alone.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// Parameters per path pattern; lets a match keep them without allocating.
pub const MAX_PARAMS: usize = 8;
/// Segments per path pattern; bounds the depth of the router's tree.
pub const MAX_SEGMENTS: usize = 64;
/// Bytes of a host name and of one label (RFC 1035, 2.3.4).
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// Which hosts a route takes. Ports and the root's trailing dot play no part, nor does case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `*`
    Any,
    /// `shop.test`
    Exact(Box<str>),
    /// `*.shop.test`, kept as `shop.test`: one or more labels in front, so `a.shop.test` and
    /// `a.b.shop.test`, but not `shop.test` itself.
    Wildcard(Box<str>),
}

impl HostPattern {
    /// Reads `*`, `shop.test`, `*.shop.test`, `10.0.0.1` or `[::1]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(literal) = text.strip_prefix('[') {
            return parse_ipv6(text, literal);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return Ok(Self::Wildcard(parse_name(text, suffix)?));
        }
        Ok(Self::Exact(parse_name(text, text)?))
    }

    /// Whether `host`, as [`canonical_host`] gives it, is one of these.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => host
                .strip_suffix(&**suffix)
                .and_then(|front| front.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The host of a `Host` header or `:authority` in the form that patterns have: no port, no
/// trailing dot, lower case. Allocates only if there are capitals.
pub fn canonical_host(host: &str) -> Cow<'_, str> {
    let end = if host.starts_with('[') {
        host.find(']').map_or(host.len(), |at| at + 1)
    } else {
        host.find(':').unwrap_or(host.len())
    };
    let name = &host[..end];
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn parse_ipv6(text: &str, literal: &str) -> Result<HostPattern, String> {
    let Some((address, after)) = literal.split_once(']') else {
        return Err(format!("host `{text}` lacks the closing `]`"));
    };
    if !after.is_empty() {
        return Err(format!(
            "host `{text}` goes on after `]`: a host matches on any port, leave `{after}` out"
        ));
    }
    match address.parse::<Ipv6Addr>() {
        Ok(address) => Ok(HostPattern::Exact(format!("[{address}]").into())),
        Err(_) => {
            Err(format!("host `{text}` is not an IPv6 address: write one like `[2001:db8::1]`"))
        }
    }
}

fn parse_name(text: &str, name: &str) -> Result<Box<str>, String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(format!("host `{text}` is empty: write a name, or `*` for any host"));
    }
    if text.contains("://") || text.contains('/') {
        return Err(format!("host `{text}` is a URL: write the name alone, such as `shop.test`"));
    }
    if let Some((bare, _)) = name.split_once(':') {
        return Err(format!(
            "host `{text}` has a port: a host matches on any port, write `{bare}`"
        ));
    }
    if name.contains('*') {
        return Err(format!(
            "host `{text}`: `*` stands only alone or in front, as in `*.shop.test`"
        ));
    }
    if !name.is_ascii() {
        return Err(format!("host `{text}` is not ASCII: write it in its `xn--` form"));
    }
    if name.len() > MAX_HOST {
        return Err(format!("host `{text}` is longer than {MAX_HOST} bytes"));
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL {
            return Err(format!(
                "host `{text}`: between dots there must be 1 to {MAX_LABEL} characters"
            ));
        }
        if let Some(odd) =
            label.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'))
        {
            return Err(format!(
                "host `{text}` contains `{}`: only letters, digits, `-`, `_` and dots may stand there",
                odd.escape_default()
            ));
        }
    }
    Ok(name.to_ascii_lowercase().into())
}

/// Which paths a route takes, segment by segment. Matched against the normalised path
/// (`routing::path`), and always whole: `/api` is `/api` alone, `/api/{rest*}` is `/api`,
/// `/api/` and all below.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    segments: Box<[Segment]>,
}

/// What stands between two slashes of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// This text. Empty only as the last one: `/` and `/api/`.
    Static(Box<str>),
    /// `{name}`: one segment that is not empty.
    Param(Box<str>),
    /// `{name*}`: what is left, nothing included. Only as the last one.
    Rest(Box<str>),
}

impl PathPattern {
    /// Reads `/api/{id}/{rest*}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(body) = text.strip_prefix('/') else {
            return Err(format!("path `{text}` must begin with `/`"));
        };
        let count = body.split('/').count();
        if count > MAX_SEGMENTS {
            return Err(format!("path `{text}` has {count} segments, {MAX_SEGMENTS} are the most"));
        }
        let mut segments = Vec::with_capacity(count);
        for (at, raw) in body.split('/').enumerate() {
            let segment = parse_segment(raw, at + 1 == count)
                .map_err(|why| format!("path `{text}`: {why}"))?;
            segments.push(segment);
        }
        let pattern = Self { segments: segments.into() };
        let names: Vec<&str> = pattern.names().collect();
        if names.len() > MAX_PARAMS {
            return Err(format!(
                "path `{text}` has {} parameters, {MAX_PARAMS} are the most",
                names.len()
            ));
        }
        if let Some((_, twice)) =
            names.iter().enumerate().find(|(at, name)| names[..*at].contains(name))
        {
            return Err(format!("path `{text}` has two parameters named `{twice}`: rename one"));
        }
        Ok(pattern)
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The parameters' names, in the order they stand.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Static(_) => None,
            Segment::Param(name) | Segment::Rest(name) => Some(&**name),
        })
    }

    /// Whether any path that fits begins with the segments of `prefix`.
    pub fn can_begin_with(&self, prefix: &str) -> bool {
        let prefix = prefix.trim_matches('/');
        let mut given = prefix.split('/').filter(|_| !prefix.is_empty());
        for segment in &self.segments {
            let Some(wanted) = given.next() else { return true };
            let fits = match segment {
                Segment::Rest(_) => return true,
                Segment::Static(text) => **text == *wanted,
                Segment::Param(_) => true,
            };
            if !fits {
                return false;
            }
        }
        given.next().is_none()
    }

    /// Whether the normalised `path` fits.
    pub fn matches(&self, path: &str) -> bool {
        let Some(body) = path.strip_prefix('/') else {
            return false;
        };
        let mut given = body.split('/');
        for segment in &self.segments {
            let fits = match segment {
                Segment::Rest(_) => return true,
                Segment::Static(text) => given.next() == Some(&**text),
                Segment::Param(_) => given.next().is_some_and(|value| !value.is_empty()),
            };
            if !fits {
                return false;
            }
        }
        given.next().is_none()
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Static(text) => write!(f, "/{text}")?,
                Segment::Param(name) => write!(f, "/{{{name}}}")?,
                Segment::Rest(name) => write!(f, "/{{{name}*}}")?,
            }
        }
        Ok(())
    }
}

fn parse_segment(raw: &str, last: bool) -> Result<Segment, String> {
    if raw.is_empty() && !last {
        return Err("`//` never matches: write one slash".into());
    }
    if raw == "*" || raw == "**" {
        return Err(format!(
            "`{raw}` is no wildcard here: write `{{name}}` for one segment, `{{rest*}}` for all that follow"
        ));
    }
    if !raw.contains(['{', '}']) {
        return parse_static(raw);
    }
    let inner = raw
        .strip_prefix('{')
        .and_then(|after| after.strip_suffix('}'))
        .filter(|inner| !inner.contains(['{', '}']));
    let Some(inner) = inner else {
        return Err(format!("`{raw}`: a parameter fills a whole segment, as in `/{{name}}/`"));
    };
    let (name, rest) = inner.strip_suffix('*').map_or((inner, false), |name| (name, true));
    if name.starts_with(|c: char| c.is_ascii_digit())
        || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        || name.is_empty()
    {
        return Err(format!(
            "`{raw}`: a parameter's name consists of letters, digits and `_`, and does not begin with a digit"
        ));
    }
    match rest {
        true if !last => Err(format!("`{raw}` takes all that follows, so it must stand last")),
        true => Ok(Segment::Rest(name.into())),
        false => Ok(Segment::Param(name.into())),
    }
}

/// Brings static text into the form that normalised paths have, or says why none ever has it.
fn parse_static(raw: &str) -> Result<Segment, String> {
    if raw == "." || raw == ".." {
        return Err(format!("`{raw}` never matches: dot segments are resolved before routing"));
    }
    let bytes = raw.as_bytes();
    let mut text = String::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let Some(value) = escaped(bytes, at) else {
                    return Err(format!(
                        "`{raw}`: after `%` there must be two hexadecimal digits (a `%` itself is `%25`)"
                    ));
                };
                if is_unreserved(value) {
                    return Err(format!(
                        "`{raw}`: write `{}` for `{}`",
                        char::from(value),
                        &raw[at..at + 3]
                    ));
                }
                if matches!(value, b'/' | b'\\' | 0) {
                    return Err(format!(
                        "`{raw}`: `{}` cannot be matched as text, origins read it differently; use `{{name}}`",
                        &raw[at..at + 3]
                    ));
                }
                push_escape(&mut text, value);
                at += 2;
            }
            b'?' | b'#' => {
                return Err(format!(
                    "`{raw}`: a path ends at `{}`; queries are matched by `query`",
                    char::from(byte)
                ));
            }
            b'\\' => return Err(format!("`{raw}`: `\\` cannot be matched, write `/`")),
            0..=b' ' | 0x7f => {
                return Err(format!(
                    "`{}`: write `%{byte:02X}` for that character",
                    raw.escape_default()
                ));
            }
            0x80.. => push_escape(&mut text, byte),
            _ => text.push(char::from(byte)),
        }
        at += 1;
    }
    Ok(Segment::Static(text.into()))
}

/// The byte that the escape at `bytes[at..at + 3]` stands for.
pub fn escaped(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |offset: usize| {
        bytes
            .get(at + offset)
            .and_then(|b| char::from(*b).to_digit(16))
            .and_then(|d| u8::try_from(d).ok())
    };
    Some(digit(1)? << 4 | digit(2)?)
}

/// Characters that mean the same with and without an escape (RFC 3986, 2.3).
pub fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Appends `byte` as `%XX`.
pub fn push_escape(text: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(HEX[usize::from(byte >> 4)]));
    text.push(char::from(HEX[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_no_path_has_is_known() {
        let can = |pattern: &str, prefix: &str| {
            PathPattern::parse(pattern).expect(pattern).can_begin_with(prefix)
        };
        for (pattern, prefix) in [
            ("/{rest*}", "/a/b"),
            ("/a/{rest*}", "/a"),
            ("/a/{rest*}", "/a/b"),
            ("/{x}/b", "/a/b"),
            ("/a/b", "/a/"),
            ("/a", "/"),
        ] {
            assert!(can(pattern, prefix), "{pattern} has paths below {prefix}");
        }
        for (pattern, prefix) in
            [("/a/{rest*}", "/b"), ("/a", "/a/b"), ("/ab", "/a"), ("/{x}/b", "/a/c")]
        {
            assert!(!can(pattern, prefix), "{pattern} has no path below {prefix}");
        }
    }

    #[test]
    fn hosts_are_read_and_shown() {
        for (text, shown) in [
            ("*", "*"),
            ("Shop.Test.", "shop.test"),
            ("*.Shop.test", "*.shop.test"),
            ("10.0.0.1", "10.0.0.1"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(
                HostPattern::parse(text).map(|p| p.to_string()),
                Ok(shown.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn bad_hosts_say_what_to_write() {
        for (text, part) in [
            ("", "`*` for any host"),
            ("*.", "`*` for any host"),
            ("shop.test:80", "write `shop.test`"),
            ("http://shop.test", "URL"),
            ("a.*.test", "`*.shop.test`"),
            ("*shop.test", "`*.shop.test`"),
            ("bücher.test", "xn--"),
            ("a..b", "between dots"),
            ("a b", "letters"),
            ("[::1", "closing"),
            ("[::1]:80", "any port"),
            ("[shop]", "IPv6"),
        ] {
            let error = HostPattern::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn hosts_match() {
        for (pattern, host, fits) in [
            ("shop.test", "SHOP.test.:8080", true),
            ("shop.test", "a.shop.test", false),
            ("*.shop.test", "a.shop.test:1", true),
            ("*.shop.test", "b.a.shop.test", true),
            ("*.shop.test", "shop.test", false),
            ("*.shop.test", ".shop.test", false),
            ("*.shop.test", "workshop.test", false),
            ("[::1]", "[::1]:8080", true),
            ("*", "", true),
        ] {
            let parsed = HostPattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(&canonical_host(host)), fits, "{pattern} {host}");
        }
    }

    #[test]
    fn paths_match_whole_segments() {
        for (pattern, path, fits) in [
            ("/api", "/api", true),
            ("/api", "/apix", false),
            ("/api", "/api/", false),
            ("/api/", "/api/", true),
            ("/api/{rest*}", "/api", true),
            ("/api/{rest*}", "/api/", true),
            ("/api/{rest*}", "/api/a/b", true),
            ("/api/{rest*}", "/apix", false),
            ("/api/{id}", "/api/7", true),
            ("/api/{id}", "/api/", false),
            ("/api/{id}", "/api/7/8", false),
            ("/", "/", true),
            ("/{rest*}", "/", true),
            ("/{rest*}", "//x", true),
            ("/caf\u{e9}", "/caf%C3%A9", true),
            ("/a%2cb", "/a%2Cb", true),
        ] {
            let parsed = PathPattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(path), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn bad_paths_say_what_to_write() {
        for (text, part) in [
            ("api", "begin with `/`"),
            ("/a//b", "one slash"),
            ("/a/*", "`{rest*}`"),
            ("/a{b}", "whole segment"),
            ("/{a}{b}", "whole segment"),
            ("/{a", "whole segment"),
            ("/{}", "name"),
            ("/{1a}", "digit"),
            ("/{a*}/b", "last"),
            ("/{a}/{a}", "rename"),
            ("/..", "dot segments"),
            ("/a?b=1", "`query`"),
            ("/a b", "`%20`"),
            ("/%41", "write `A`"),
            ("/a%2fb", "use `{name}`"),
            ("/a%2", "`%25`"),
            ("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}", "8 are the most"),
        ] {
            let error = PathPattern::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
