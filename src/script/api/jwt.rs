//! JSON Web Tokens, and the key sets that issuers publish.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use rhai::{Array, Dynamic, EvalAltResult, Map, NativeCallContext, Position};
use serde_json::Value;

use super::convert::{from_json, to_json};
use super::crypto::{alg_of, bad_key, read};
use super::fetch::{self, seconds};
use super::state::{State, wait};
use super::table::Table;
use super::{Outcome, Raised, invalid};
use crate::script::crypto::alg::{Alg, Family};
use crate::script::crypto::key_sets::{self, NoKey, Policy, Wanted};
use crate::script::crypto::token::{self, Expected, Refusal, Token};
use crate::script::crypto::{SigningKey, VerifyingKey};
use crate::script::fiber;
use crate::script::host::FetchRequest;

/// `jwks(url)`: a name for a set that the host keeps.
#[derive(Clone)]
pub struct Jwks(Arc<Set>);

struct Set {
    url: Uri,
    policy: Policy,
}

pub fn area(table: &mut Table) {
    table.area("JWT");
    table
        .function(
            "jwt::verify(token, key, options)",
            "The claims of a token whose signature and dates are right. `alg` must be given: a name \
             as in `crypto::sign`, or a list. Further options: `iss`, `aud` (each a string or a \
             list), `leeway` (seconds by which clocks may differ, 0), `require` (names of claims), \
             `typ`. A token with an `aud` is refused unless `aud` is given. The key is as in \
             `crypto::verify`, or `jwks(..)`. What is refused throws `#{ kind: \"token\", reason, \
             message }`, where reason is absent, malformed, alg, key, signature, expired, early, \
             iss, aud, missing or typ; other kinds mean that the key or the options are wrong, or \
             that the keys cannot be fetched.",
            |c: NativeCallContext, token: Dynamic, key: Dynamic, options: Map| {
                verify(&c, &token, &key, &options)
            },
        )
        .example(
            r#"let token = jwt::sign(#{ sub: "ann", exp: time::unix() + 60 }, secret("key"), #{ alg: "HS256" });
  jwt::verify(token, secret("key"), #{ alg: "HS256" }).sub == "ann""#,
        )
        .function(
            "jwt::sign(claims, key, options)",
            "A token. Options: `alg`, and `kid` and `typ` of its header. No claim is added: set \
             `exp` yourself.",
            |claims: Map, key: Dynamic, options: Map| sign(&claims.into(), &key, &options),
        )
        .example(r#"jwt::sign(#{ sub: "ann" }, "key", #{ alg: "HS256" }).split(".").len == 3"#)
        .function(
            "jwt::decode_unverified(token)",
            "`#{ header, claims }` of a token of which nothing was checked: for logs only.",
            decode,
        )
        .example(
            r#"jwt::decode_unverified(jwt::sign(#{ a: 1 }, "key", #{ alg: "HS256" })).header.alg == "HS256""#,
        )
        .function(
            "jwks(url, options)",
            "A set of public keys by its URL, which `fetch.allow` must name; best as a constant. It \
             is fetched when it is first needed and kept for `ttl` seconds (600), and for an hour \
             more while the issuer does not answer. A token with an unknown `kid` leads to another \
             fetch, at most every `cooldown` seconds (5). A token without `kid` needs a set with \
             only one key that fits.",
            jwks,
        )
        .overload("jwks(url)", |c: NativeCallContext, url: &str| jwks(c, url, Map::new()))
        .example(
            r#"const KEYS = jwks("http://api/keys");
  let reason = ""; try { jwt::verify("a.b.c", KEYS, #{ alg: "ES256" }) } catch (e) { reason = e.reason; }
  reason == "malformed""#,
        );
}

fn refused(why: Refusal) -> Raised {
    let fields = [
        ("kind", "token".to_owned()),
        ("reason", why.reason().to_owned()),
        ("message", why.to_string()),
    ];
    let map: Map = fields.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
    EvalAltResult::ErrorRuntime(map.into(), Position::NONE).into()
}

fn verify(c: &NativeCallContext, token: &Dynamic, key: &Dynamic, options: &Map) -> Outcome<Map> {
    let expected = expected(options)?;
    let state = State::of(c)?;
    let text = token_text(token)?;
    fiber::charge(text.len());
    let token = Token::read(&text).map_err(refused)?;
    let kid = token.kid().map_err(refused)?;
    let set = key.read_lock::<Jwks>().map(|set| set.clone());
    let (alg, key) = match set {
        Some(_) if expected.algs[0].family() == Family::Hmac => {
            return Err(invalid("a key set has public keys, and HS algorithms take a secret"));
        }
        Some(set) => {
            let alg = token.alg(&expected.algs).map_err(refused)?;
            let wanted = Wanted { kid: kid.map(str::to_owned), alg };
            (alg, set.find(&state, wanted)?)
        }
        None => {
            let key = read(key, |key| VerifyingKey::read(expected.algs[0], key))?;
            let alg = token.alg(&expected.algs).map_err(refused)?;
            (alg, Arc::new(key))
        }
    };
    fiber::charge(alg.cost(false));
    token.verify(alg, &key).map_err(refused)?;
    expected.check_header(&token.header).map_err(refused)?;
    let claims = token.claims().map_err(refused)?;
    let now = state.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    expected.check(&claims, now).map_err(refused)?;
    Ok(map_of(&claims))
}

/// `()` is the token that `req.bearer()` did not find.
fn token_text(token: &Dynamic) -> Outcome<rhai::ImmutableString> {
    if token.is_unit() {
        return Err(refused(Refusal::Absent));
    }
    let text = token.read_lock::<rhai::ImmutableString>().map(|text| text.clone());
    text.ok_or_else(|| invalid(format!("a token is a string, not {}", token.type_name())))
}

fn map_of(object: &serde_json::Map<String, Value>) -> Map {
    object.iter().map(|(name, value)| (name.as_str().into(), from_json(value))).collect()
}

fn expected(options: &Map) -> Outcome<Expected> {
    const OPTIONS: [&str; 6] = ["alg", "iss", "aud", "leeway", "require", "typ"];
    known(options, "jwt::verify", &OPTIONS)?;
    let algs = texts(options, "alg")?;
    let algs = algs.iter().map(|name| alg_of(name)).collect::<Outcome<Vec<Alg>>>()?;
    let Some(first) = algs.first() else {
        return Err(invalid("jwt::verify needs to be told the alg, as #{ alg: \"RS256\" }"));
    };
    // Else a public key could be taken for a secret.
    let is_secret = |alg: &Alg| alg.family() == Family::Hmac;
    if algs.iter().any(|alg| is_secret(alg) != is_secret(first)) {
        return Err(invalid("HS algorithms take another key than the others: name one kind"));
    }
    Ok(Expected {
        algs,
        iss: texts(options, "iss")?,
        aud: texts(options, "aud")?,
        leeway: options.get("leeway").map_or(Ok(0.0), |s| seconds(s).map(|s| s.as_secs_f64()))?,
        require: match options.get("require").and_then(|list| list.read_lock::<Array>()) {
            Some(none) if none.is_empty() => Vec::new(),
            _ => texts(options, "require")?,
        },
        typ: text(options, "typ")?,
    })
}

fn sign(claims: &Dynamic, key: &Dynamic, options: &Map) -> Outcome<String> {
    known(options, "jwt::sign", &["alg", "kid", "typ"])?;
    let alg = text(options, "alg")?;
    let alg = alg.ok_or_else(|| invalid("jwt::sign needs to be told the alg"))?;
    let alg = alg_of(&alg)?;
    let key = read(key, |key| SigningKey::read(alg, key))?;
    let (typ, kid) = (text(options, "typ")?, text(options, "kid")?);
    fiber::charge(alg.cost(true));
    let typ = typ.as_deref().unwrap_or("JWT");
    token::sign(&to_json(claims)?, alg, &key, typ, kid.as_deref()).map_err(bad_key)
}

fn decode(text: &str) -> Outcome<Map> {
    fiber::charge(text.len());
    let token = Token::read(text).map_err(refused)?;
    let claims = token.claims().map_err(refused)?;
    Ok(Map::from_iter([
        ("header".into(), map_of(&token.header).into()),
        ("claims".into(), map_of(&claims).into()),
    ]))
}

fn known(options: &Map, function: &str, names: &[&str]) -> Outcome<()> {
    match options.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(invalid(format!("{function} has no option {name}"))),
        None => Ok(()),
    }
}

fn text(options: &Map, name: &str) -> Outcome<Option<String>> {
    let not_text = || invalid(format!("{name} is a string"));
    let value = options.get(name).filter(|value| !value.is_unit());
    value.map(|value| value.clone().into_string().map_err(|_| not_text())).transpose()
}

/// A string or a list of strings; `()` is none, as is what is not there.
fn texts(options: &Map, name: &str) -> Outcome<Vec<String>> {
    let Some(value) = options.get(name).filter(|value| !value.is_unit()) else {
        return Ok(Vec::new());
    };
    let wrong = || invalid(format!("{name} is a string or a list of strings"));
    let one = |value: &Dynamic| value.clone().into_string().map_err(|_| wrong());
    match value.read_lock::<Array>() {
        Some(items) if items.is_empty() => Err(wrong()),
        Some(items) => items.iter().map(one).collect(),
        None => Ok(vec![one(value)?]),
    }
}

fn jwks(context: NativeCallContext, url: &str, options: Map) -> Outcome<Jwks> {
    known(&options, "jwks", &["ttl", "cooldown"])?;
    let time = |name: &str, default: u64| {
        options.get(name).map_or(Ok(Duration::from_secs(default)), seconds)
    };
    let policy = Policy { ttl: time("ttl", 600)?, cooldown: time("cooldown", 5)? };
    let url = fetch::granted(&State::of(&context)?.facts().fetch, url)?;
    Ok(Jwks(Arc::new(Set { url, policy })))
}

impl Jwks {
    /// Waits for a fetch if there must be one; it counts as one of the filter's.
    fn find(&self, state: &State, wanted: Wanted) -> Outcome<Arc<VerifyingKey>> {
        let slot = state.host()?.key_sets().slot(&self.0.url.to_string());
        let grant = &state.facts().fetch;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let request = FetchRequest {
            method: Method::GET,
            url: self.0.url.clone(),
            headers,
            body: Bytes::new(),
            timeout: grant.timeout,
            max_body: grant.max_body.min(key_sets::MOST_BYTES),
        };
        let (state, policy) = (state.clone(), self.0.policy);
        let fetch = move || {
            let started = fetch::start(&state, request);
            async move { started?.await }
        };
        wait(slot.find(wanted, policy, fetch))?.map_err(|error| match error {
            NoKey::Unknown => refused(Refusal::Key),
            NoKey::Fetch(error) => fetch::raised(&error),
        })
    }
}
