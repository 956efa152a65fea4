//! JSON Web Tokens in the compact form (RFC 7515, RFC 7519), as RFC 8725 advises to read them.
//!
//! The caller says which algorithms are right; the token's header only has to agree. Keys and
//! addresses of keys that a token brings along are never looked at.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::alg::Alg;
use super::key::{SigningKey, VerifyingKey};
use super::{BadKey, strict_json};

/// Bytes of one token: more than any header line that servers take by default.
const MOST_BYTES: usize = 16 << 10;
/// How deep claims may be nested.
const DEPTH: usize = 31;

/// Why a token is not taken. Neither text holds anything of the token itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no token")]
    Absent,
    #[error("this is not a signed token in three parts: {0}")]
    Malformed(&'static str),
    #[error("the token's alg is not one that is allowed here")]
    Algorithm,
    #[error("no key is known for this token")]
    Key,
    #[error("the signature is wrong")]
    Signature,
    #[error("the token has expired (exp)")]
    Expired,
    #[error("the token is not valid yet ({0})")]
    Early(&'static str),
    #[error("the token is of another issuer (iss)")]
    Issuer,
    #[error("the token is for another audience (aud)")]
    Audience,
    #[error("the token has an aud, and none was asked for: say which is meant with aud")]
    AudienceNotAsked,
    #[error("a claim that is needed is not there")]
    Missing,
    #[error("the token is of another type (typ)")]
    Type,
}

impl Refusal {
    /// The word by which scripts tell them apart.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Malformed(_) => "malformed",
            Self::Algorithm => "alg",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::Early(_) => "early",
            Self::Issuer => "iss",
            Self::Audience | Self::AudienceNotAsked => "aud",
            Self::Missing => "missing",
            Self::Type => "typ",
        }
    }
}

/// A token that was read, and not yet believed.
pub struct Token<'a> {
    pub header: Map<String, Value>,
    claims: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    pub fn read(text: &'a str) -> Result<Self, Refusal> {
        if text.len() > MOST_BYTES {
            return Err(Refusal::Malformed("it is too long"));
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed("no dots"))?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::Malformed("one dot"))?;
        // A dot inside of the claims is no base64url, so five parts end here too.
        let decode = |part: &str| {
            let decoded = BASE64URL_NOPAD.decode(part.as_bytes());
            decoded.map_err(|_| Refusal::Malformed("a part is not base64url"))
        };
        let header = strict_json::object(&decode(header)?, DEPTH);
        let header = header.ok_or(Refusal::Malformed("the header is not a plain JSON object"))?;
        if header.contains_key("crit") {
            return Err(Refusal::Malformed("it asks for extensions (crit)"));
        }
        Ok(Self { header, claims: decode(claims)?, signed, signature: decode(signature)? })
    }

    pub fn kid(&self) -> Result<Option<&str>, Refusal> {
        match self.header.get("kid") {
            None => Ok(None),
            Some(Value::String(kid)) => Ok(Some(kid)),
            Some(_) => Err(Refusal::Malformed("the kid is not a string")),
        }
    }

    /// The token's algorithm, if it is one of those that the caller allows.
    pub fn alg(&self, allowed: &[Alg]) -> Result<Alg, Refusal> {
        let named = self.header.get("alg").and_then(Value::as_str).and_then(Alg::of_name);
        named.filter(|alg| allowed.contains(alg)).ok_or(Refusal::Algorithm)
    }

    pub fn verify(&self, alg: Alg, key: &VerifyingKey) -> Result<(), Refusal> {
        let right = key.verify(alg, self.signed.as_bytes(), &self.signature);
        if right { Ok(()) } else { Err(Refusal::Signature) }
    }

    pub fn claims(&self) -> Result<Map<String, Value>, Refusal> {
        let claims = strict_json::object(&self.claims, DEPTH);
        claims.ok_or(Refusal::Malformed("the claims are not a plain JSON object"))
    }
}

/// What a token has to say, beside a right signature.
#[derive(Debug, Default, Clone)]
pub struct Expected {
    pub algs: Vec<Alg>,
    /// One of these; empty for any.
    pub iss: Vec<String>,
    /// One of these must be among the token's.
    pub aud: Vec<String>,
    /// Seconds by which the clocks may differ.
    pub leeway: f64,
    /// Claims that must be there.
    pub require: Vec<String>,
    pub typ: Option<String>,
}

impl Expected {
    pub fn check_header(&self, header: &Map<String, Value>) -> Result<(), Refusal> {
        let Some(wanted) = &self.typ else { return Ok(()) };
        // RFC 7515, 4.1.9: the prefix may be left out, and case does not count.
        let bare = |typ: &str| {
            let typ = typ.to_ascii_lowercase();
            typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
        };
        let typ = header.get("typ").and_then(Value::as_str);
        if typ.is_some_and(|typ| bare(typ) == bare(wanted)) { Ok(()) } else { Err(Refusal::Type) }
    }

    /// `now` is in seconds since 1970.
    pub fn check(&self, claims: &Map<String, Value>, now: f64) -> Result<(), Refusal> {
        if self.require.iter().any(|name| claims.get(name).is_none_or(Value::is_null)) {
            return Err(Refusal::Missing);
        }
        if date(claims, "exp")?.is_some_and(|exp| now >= exp + self.leeway) {
            return Err(Refusal::Expired);
        }
        for name in ["nbf", "iat"] {
            if date(claims, name)?.is_some_and(|from| now + self.leeway < from) {
                return Err(Refusal::Early(name));
            }
        }
        let iss = claims.get("iss").and_then(Value::as_str);
        if !self.iss.is_empty() && !iss.is_some_and(|iss| self.iss.iter().any(|one| one == iss)) {
            return Err(Refusal::Issuer);
        }
        self.check_audience(claims.get("aud"))
    }

    fn check_audience(&self, given: Option<&Value>) -> Result<(), Refusal> {
        let meant = |aud: &Value| aud.as_str().is_some_and(|a| self.aud.iter().any(|one| one == a));
        match given {
            None if self.aud.is_empty() => Ok(()),
            None => Err(Refusal::Audience),
            // RFC 7519, 4.1.3: who does not find itself in there must refuse.
            Some(_) if self.aud.is_empty() => Err(Refusal::AudienceNotAsked),
            Some(Value::Array(all)) if all.iter().any(meant) => Ok(()),
            Some(one) if meant(one) => Ok(()),
            Some(_) => Err(Refusal::Audience),
        }
    }
}

fn date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            value.as_f64().map(Some).ok_or(Refusal::Malformed("a date in it is not a number"))
        }
    }
}

/// A new token. The header has `alg` and `typ`, and `kid` where one is given.
pub fn sign(
    claims: &Value,
    alg: Alg,
    key: &SigningKey,
    typ: &str,
    kid: Option<&str>,
) -> Result<String, BadKey> {
    let mut header = Map::new();
    header.insert("alg".into(), alg.name().into());
    header.insert("typ".into(), typ.into());
    if let Some(kid) = kid {
        header.insert("kid".into(), kid.into());
    }
    let encode = |text: String| BASE64URL_NOPAD.encode(text.as_bytes());
    let header = encode(Value::Object(header).to_string());
    let signed = format!("{header}.{}", encode(claims.to_string()));
    let signature = key.sign(alg, signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}
