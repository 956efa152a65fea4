//! Conditions on headers, query parameters and cookies, ready to be tested.
//!
//! Where a name has several values, `equals` asks for any one of them. Names of headers know no
//! case; all else does.

use http::{HeaderMap, HeaderName};

use super::router::RequestView;
use crate::config::routes::{Condition, ConditionOn, Test};

/// A route's conditions without those that others imply; sorted, so that equal sets are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Conditions(Box<[Check]>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Check {
    on: On,
    want: Want,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum On {
    /// In lower case.
    Header(Box<str>),
    Query(Box<str>),
    Cookie(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Want {
    Present,
    Absent,
    Equals(Box<str>),
}

impl Conditions {
    /// Fails with the reason if no request can ever fulfil them.
    pub(super) fn new(given: &[Condition]) -> Result<Self, String> {
        let mut checks = given.iter().map(Check::new).collect::<Result<Vec<_>, _>>()?;
        checks.sort();
        checks.dedup();
        for check in checks.iter().filter(|check| check.want == Want::Absent) {
            if checks.iter().any(|other| other.on == check.on && other.want != Want::Absent) {
                return Err(format!("{} is to be both there and absent", check.on));
            }
        }
        let all = checks.clone();
        checks.retain(|check| {
            let implied =
                |other: &Check| other.on == check.on && matches!(other.want, Want::Equals(_));
            check.want != Want::Present || !all.iter().any(implied)
        });
        Ok(Self(checks.into()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn hold(&self, request: &RequestView<'_>) -> bool {
        self.0.iter().all(|check| check.holds(request))
    }

    /// The first condition that does not hold, in words.
    pub(super) fn failing(&self, request: &RequestView<'_>) -> Option<String> {
        self.0.iter().find(|check| !check.holds(request)).map(Check::to_string)
    }

    /// How many there are, and how many of them are `equals`: the more, the earlier.
    pub(super) fn weight(&self) -> (usize, usize) {
        let equals = self.0.iter().filter(|check| matches!(check.want, Want::Equals(_))).count();
        (self.0.len(), equals)
    }
}

impl Check {
    fn new(given: &Condition) -> Result<Self, String> {
        let on = match &given.on {
            ConditionOn::Header(name) => match name.parse::<HeaderName>() {
                Ok(name) => On::Header(name.as_str().into()),
                Err(_) => return Err(format!("`{name}` is no name that a header can have")),
            },
            ConditionOn::Query(name) => On::Query(name.as_str().into()),
            ConditionOn::Cookie(name) => On::Cookie(name.as_str().into()),
        };
        let want = match &given.test {
            Test::Present => Want::Present,
            Test::Absent => Want::Absent,
            Test::Equals(value) => Want::Equals(value.as_str().into()),
        };
        Ok(Self { on, want })
    }

    fn holds(&self, request: &RequestView<'_>) -> bool {
        match &self.on {
            On::Header(name) => {
                let mut values = request.headers.get_all(&**name).iter();
                self.want.fits(|is| values.any(|value| is(value.as_bytes())))
            }
            On::Query(name) => {
                let mut pairs =
                    form_urlencoded::parse(request.query.unwrap_or_default().as_bytes());
                self.want
                    .fits(|is| pairs.any(|(key, value)| *key == **name && is(value.as_bytes())))
            }
            On::Cookie(name) => {
                let mut values =
                    cookies(request.headers).filter(|(key, _)| *key == name.as_bytes());
                self.want.fits(|is| values.any(|(_, value)| is(value)))
            }
        }
    }
}

impl Want {
    /// `any` tells whether one of the values passes a test.
    fn fits(&self, any: impl FnOnce(&dyn Fn(&[u8]) -> bool) -> bool) -> bool {
        match self {
            Self::Present => any(&|_| true),
            Self::Absent => !any(&|_| true),
            Self::Equals(wanted) => any(&|value| value == wanted.as_bytes()),
        }
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(http::header::COOKIE).iter().flat_map(|line| {
        line.as_bytes().split(|byte| *byte == b';').filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
        })
    })
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.want {
            Want::Present => write!(f, "{} is present", self.on),
            Want::Absent => write!(f, "{} is absent", self.on),
            Want::Equals(value) => write!(f, "{} equals `{value}`", self.on),
        }
    }
}

impl std::fmt::Display for On {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header `{name}`"),
            Self::Query(name) => write!(f, "query parameter `{name}`"),
            Self::Cookie(name) => write!(f, "cookie `{name}`"),
        }
    }
}
