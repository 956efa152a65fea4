//! The vectors of the RFCs, and tokens that nobody should take.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::key::Material;
use super::key_sets::{KeySets, NoKey, Policy, Wanted};
use super::token::{Expected, Refusal, Token, sign};
use super::*;
use crate::script::host::{FetchError, FetchErrorKind, FetchResponse};

/// What the RFCs print: keys as JWK, tokens, and whether signing gives the same bytes again.
static VECTORS: LazyLock<Vec<Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("tests/vectors.json")).unwrap());

fn vector(name: &str) -> &'static Value {
    VECTORS.iter().find(|vector| vector["name"] == name).unwrap()
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap()
}

fn verifying(alg: Alg, jwk: &Value) -> Result<VerifyingKey, BadKey> {
    VerifyingKey::read(alg, Material::Jwk(jwk))
}

/// Takes a token as a caller does.
fn take(token: &str, key: &VerifyingKey, expected: &Expected) -> Result<Value, Refusal> {
    const NOW: f64 = 1_000_000.0;
    let token = Token::read(token)?;
    token.kid()?;
    let alg = token.alg(&expected.algs)?;
    token.verify(alg, key)?;
    expected.check_header(&token.header)?;
    let claims = token.claims()?;
    expected.check(&claims, NOW)?;
    Ok(claims.into())
}

fn only(alg: Alg) -> Expected {
    Expected { algs: vec![alg], ..Expected::default() }
}

/// A token of three plain texts, the last one a right signature by HS256 with this key.
fn made(header: &str, claims: &str, key: &[u8]) -> String {
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let key = SigningKey::read(Alg::Hs256, Material::Text(key)).unwrap();
    let signature = key.sign(Alg::Hs256, signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn secret(text: &str) -> VerifyingKey {
    VerifyingKey::read(Alg::Hs256, Material::Text(text.as_bytes())).unwrap()
}

#[test]
fn the_vectors_of_the_rfcs_hold() {
    assert_eq!(VECTORS.len(), 7);
    for vector in VECTORS.iter() {
        let name = text(vector, "name");
        let alg = Alg::of_name(text(vector, "alg")).unwrap();
        let key = verifying(alg, &vector["key"]).unwrap();
        let printed = text(vector, "token");
        let token = Token::read(printed).unwrap();
        assert_eq!(token.alg(&[alg]), Ok(alg), "{name}");
        assert_eq!(token.verify(alg, &key), Ok(()), "{name}");
        for other in Alg::ALL.into_iter().filter(|other| *other != alg) {
            let found = token.verify(other, &key);
            assert_eq!(found, Err(Refusal::Signature), "{name} as {}", other.name());
            assert_eq!(token.alg(&[other]), Err(Refusal::Algorithm), "{name}");
        }
        // Each byte of what is signed, and of the signature, counts.
        let (signed, signature) = printed.rsplit_once('.').unwrap();
        let mut signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        assert!(key.verify(alg, signed.as_bytes(), &signature), "{name}");
        assert!(!key.verify(alg, &signed.as_bytes()[1..], &signature), "{name}");
        signature[5] ^= 1;
        assert!(!key.verify(alg, signed.as_bytes(), &signature), "{name}");
        signature.clear();
        assert!(!key.verify(alg, signed.as_bytes(), &signature), "{name}");
        if let Ok(signing) = SigningKey::read(alg, Material::Jwk(&vector["key"])) {
            let again = signing.sign(alg, signed.as_bytes()).unwrap();
            assert!(key.verify(alg, signed.as_bytes(), &again), "{name}");
            let again = format!("{signed}.{}", BASE64URL_NOPAD.encode(&again));
            assert_eq!(again == printed, vector["signs_the_same"] == true, "{name}");
        }
    }
}

#[test]
fn the_unsecured_token_of_rfc_7519_is_refused() {
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let token = format!("eyJhbGciOiJub25lIn0.{claims}.");
    let token = Token::read(&token).unwrap();
    assert_eq!(token.alg(&Alg::ALL), Err(Refusal::Algorithm));
    assert!(Alg::ALL.iter().all(|alg| !alg.name().eq_ignore_ascii_case("none")));
    // RFC 7520, 4.3: P-521, which ring does not have.
    assert_eq!(Alg::of_name("ES512"), None);
}

#[test]
fn a_public_key_is_no_secret() {
    let jwk = &vector("RFC 7520 4.1")["key"];
    let pem = include_bytes!("tests/rsa_public.pem");
    let refused = VerifyingKey::read(Alg::Hs256, Material::Text(pem)).err().unwrap();
    assert!(refused.to_string().contains("a PEM file"), "{refused}");
    let refused = verifying(Alg::Hs256, jwk).err().unwrap();
    assert!(refused.to_string().contains("HS256 takes a shared secret"), "{refused}");
    let as_text = jwk.to_string();
    assert!(VerifyingKey::read(Alg::Hs256, Material::Text(as_text.as_bytes())).is_err());
    // The attack itself: HS256 with the text of the public key, to someone who expects RS256.
    let key = VerifyingKey::read(Alg::Rs256, Material::Text(pem)).unwrap();
    let header = r#"{"alg":"HS256"}"#;
    let signed = made(header, r#"{"sub":"mallory"}"#, b"any");
    assert_eq!(take(&signed, &key, &only(Alg::Rs256)), Err(Refusal::Algorithm));
    assert_eq!(take(&signed, &key, &only(Alg::Hs256)), Err(Refusal::Signature));
}

#[test]
fn hostile_tokens_are_refused_by_name() {
    let key = secret("k");
    let good = made(r#"{"alg":"HS256"}"#, r#"{"sub":"ann"}"#, b"k");
    assert_eq!(take(&good, &key, &only(Alg::Hs256)), Ok(json!({ "sub": "ann" })));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = signed.split_once('.').unwrap();
    let long = format!("{head}.{}.{signature}", "A".repeat(1 << 20));
    let nested = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
    let arrays = format!(r#"{{"a":{}{}}}"#, "[".repeat(4000), "]".repeat(4000));
    let with = |header: &str, claims: &str| made(header, claims, b"k");
    let hs = r#"{"alg":"HS256"}"#;
    let malformed = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        signed.to_owned(),
        format!("{good}."),
        format!("{good}.a.b"),
        format!("{good}="),
        format!("{good} "),
        format!("{head}.{body}.!!!!"),
        format!("{head}=.{body}.{signature}"),
        format!("\u{e9}{good}"),
        long,
        with(hs, &nested),
        with(hs, &arrays),
        with(&nested, "{}"),
        with(hs, "[]"),
        with(hs, "1"),
        with(hs, ""),
        with(hs, r#"{"sub":"ann"} {"sub":"eve"}"#),
        with(hs, r#"{"sub":"ann","sub":"eve"}"#),
        with(hs, r#"{"sub":"ann","s\u0075b":"eve"}"#),
        with(hs, r#"{"a":{"b":1,"b":2}}"#),
        with(r#"{"alg":"HS256","alg":"none"}"#, "{}"),
        with(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "{}"),
        with(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, "{}"),
        with(r#"{"alg":"HS256","kid":["../../etc/passwd"]}"#, "{}"),
        with(hs, r#"{"exp":"9999999999"}"#),
        with(hs, r#"{"nbf":null}"#),
        with(hs, "{\"sub\":\"\u{0}\"}"),
    ];
    for token in &malformed {
        let found = take(token, &key, &only(Alg::Hs256));
        let shown: String = token.chars().take(80).collect();
        assert!(matches!(found, Err(Refusal::Malformed(_))), "{shown}: {found:?}");
    }
}

#[test]
fn headers_neither_choose_the_algorithm_nor_bring_the_key() {
    let key = secret("k");
    for header in [
        "{}",
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"none"}"#,
        r#"{"alg":"nOnE"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS512"}"#,
        r#"{"alg":"HS256 "}"#,
        r#"{"alg":"RS256"}"#,
    ] {
        let token = made(header, "{}", b"k");
        assert_eq!(take(&token, &key, &only(Alg::Hs256)), Err(Refusal::Algorithm), "{header}");
    }
    for header in [
        // Keys that a token brings along, and paths, are of no account.
        r#"{"alg":"HS256","jwk":{"kty":"oct","k":"ZXZpbA"}}"#,
        r#"{"alg":"HS256","jku":"https://evil.test/keys","x5u":"https://evil.test/"}"#,
        r#"{"alg":"HS256","kid":"../../../dev/null"}"#,
        r#"{"alg":"HS256","kid":"' OR 1=1 --"}"#,
    ] {
        let token = made(header, "{}", b"evil");
        assert_eq!(take(&token, &key, &only(Alg::Hs256)), Err(Refusal::Signature), "{header}");
    }
}

#[test]
fn claims_are_checked_with_leeway() {
    let key = secret("k");
    // Now is 1,000,000.
    let cases: [(&str, Value, Value, &str); 24] = [
        ("valid for a second", json!({ "exp": 1_000_001 }), json!({}), "ok"),
        ("ends now", json!({ "exp": 1_000_000 }), json!({}), "expired"),
        ("ended within the leeway", json!({ "exp": 999_996 }), json!({ "leeway": 5 }), "ok"),
        ("ended by the leeway", json!({ "exp": 999_995 }), json!({ "leeway": 5 }), "expired"),
        ("a fraction", json!({ "exp": 1_000_000.5 }), json!({}), "ok"),
        ("below zero", json!({ "exp": -1 }), json!({}), "expired"),
        ("begins now", json!({ "nbf": 1_000_000 }), json!({}), "ok"),
        ("begins later", json!({ "nbf": 1_000_001 }), json!({}), "early"),
        ("begins within the leeway", json!({ "nbf": 1_000_005 }), json!({ "leeway": 5 }), "ok"),
        ("made later", json!({ "iat": 1_000_006 }), json!({ "leeway": 5 }), "early"),
        ("a required claim", json!({ "exp": 1_000_001 }), json!({ "require": ["exp"] }), "ok"),
        ("no required claim", json!({}), json!({ "require": ["exp"] }), "missing"),
        ("a required null", json!({ "sub": null }), json!({ "require": ["sub"] }), "missing"),
        ("the issuer", json!({ "iss": "a" }), json!({ "iss": ["b", "a"] }), "ok"),
        ("another issuer", json!({ "iss": "A" }), json!({ "iss": ["a"] }), "iss"),
        ("no issuer", json!({}), json!({ "iss": ["a"] }), "iss"),
        ("issuers in a list", json!({ "iss": ["a"] }), json!({ "iss": ["a"] }), "iss"),
        ("the audience", json!({ "aud": "a" }), json!({ "aud": ["a"] }), "ok"),
        ("among audiences", json!({ "aud": ["x", "a"] }), json!({ "aud": ["a"] }), "ok"),
        ("another audience", json!({ "aud": ["x", "aa"] }), json!({ "aud": ["a"] }), "aud"),
        ("no audience", json!({}), json!({ "aud": ["a"] }), "aud"),
        ("an empty audience", json!({ "aud": [] }), json!({ "aud": ["a"] }), "aud"),
        ("an audience that is no text", json!({ "aud": [1] }), json!({ "aud": ["a"] }), "aud"),
        ("an audience that nobody asked for", json!({ "aud": "a" }), json!({}), "aud"),
    ];
    let list = |value: &Value| -> Vec<String> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    for (name, claims, options, outcome) in cases {
        let expected = Expected {
            iss: list(&options["iss"]),
            aud: list(&options["aud"]),
            require: list(&options["require"]),
            leeway: options["leeway"].as_f64().unwrap_or(0.0),
            ..only(Alg::Hs256)
        };
        let token = made(r#"{"alg":"HS256"}"#, &claims.to_string(), b"k");
        let found = take(&token, &key, &expected);
        assert_eq!(found.map_or_else(Refusal::reason, |_| "ok"), outcome, "{name}");
    }
}

#[test]
fn the_type_is_compared_as_a_media_type() {
    let expected = Expected { typ: Some("at+jwt".into()), ..only(Alg::Hs256) };
    for (typ, right) in [("at+jwt", true), ("application/AT+JWT", true), ("JWT", false)] {
        let token = made(&json!({ "alg": "HS256", "typ": typ }).to_string(), "{}", b"k");
        let found = take(&token, &secret("k"), &expected);
        assert_eq!(found.is_ok(), right, "{typ}: {found:?}");
    }
    let without = made(r#"{"alg":"HS256"}"#, "{}", b"k");
    assert_eq!(take(&without, &secret("k"), &expected), Err(Refusal::Type));
}

#[test]
fn keys_are_read_as_openssl_writes_them() {
    let kinds: [(&[Alg], &[u8], &[u8]); 4] = [
        (
            &[Alg::Rs256, Alg::Rs384, Alg::Rs512, Alg::Ps256, Alg::Ps384, Alg::Ps512],
            include_bytes!("tests/rsa.pem"),
            include_bytes!("tests/rsa_public.pem"),
        ),
        (&[Alg::Es256], include_bytes!("tests/p256.pem"), include_bytes!("tests/p256_public.pem")),
        (&[Alg::Es384], include_bytes!("tests/p384.pem"), include_bytes!("tests/p384_cert.pem")),
        (
            &[Alg::EdDsa],
            include_bytes!("tests/ed25519.pem"),
            include_bytes!("tests/ed25519_public.pem"),
        ),
    ];
    for (own, private, public) in kinds {
        for alg in Alg::ALL.into_iter().filter(|alg| alg.hmac().is_none()) {
            let signing = SigningKey::read(alg, Material::Text(private));
            let verifying = VerifyingKey::read(alg, Material::Text(public));
            if !own.contains(&alg) {
                assert!(signing.is_err() && verifying.is_err(), "{}", alg.name());
                continue;
            }
            let token =
                sign(&json!({ "a": 1 }), alg, &signing.unwrap(), "JWT", Some("k1")).unwrap();
            let found = take(&token, &verifying.unwrap(), &only(alg));
            assert_eq!(found, Ok(json!({ "a": 1 })), "{}", alg.name());
        }
        let swapped = VerifyingKey::read(own[0], Material::Text(private)).err().unwrap();
        assert!(swapped.to_string().contains("private key"), "{swapped}");
        let swapped = SigningKey::read(own[0], Material::Text(public)).err().unwrap();
        assert!(swapped.to_string().contains("public key"), "{swapped}");
    }
}

#[test]
fn bad_keys_are_told_apart_and_not_shown() {
    let rsa = &vector("RFC 7515 A.2")["key"];
    let short = json!({ "kty": "RSA", "n": BASE64URL_NOPAD.encode(&[0xff; 128]), "e": "AQAB" });
    let off_curve = json!({ "kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA" });
    let cases = [
        (verifying(Alg::Rs256, &short), "1024"),
        (
            verifying(Alg::Es256, rsa),
            "ES256 takes a key of the curve P-256, and this is an RSA key",
        ),
        (verifying(Alg::Es256, &off_curve), "32 bytes"),
        (verifying(Alg::Rs256, &json!({ "kty": "RSA", "e": "AQAB" })), "no n"),
        (verifying(Alg::Rs256, &json!({ "kty": "RSA", "n": "?", "e": "AQAB" })), "not base64url"),
        (verifying(Alg::Rs256, &json!({ "kty": "DSA" })), "a JWK is"),
        (verifying(Alg::Rs256, &json!([])), "not a JWK"),
        (verifying(Alg::Hs256, &json!({ "kty": "oct", "k": "" })), "empty"),
        (verifying(Alg::Hs256, &json!({ "kty": "oct", "k": "AA", "use": "enc" })), "use"),
        (verifying(Alg::Hs256, &json!({ "kty": "oct", "k": "AA", "alg": "HS512" })), "another"),
        (VerifyingKey::read(Alg::Hs256, Material::Text(b"")), "empty"),
        (VerifyingKey::read(Alg::Rs256, Material::Text(b"s3cret")), "PEM or JWK"),
        (VerifyingKey::read(Alg::Rs256, Material::Text(b"-----BEGIN s3cret")), "no key"),
    ];
    for (index, (found, expected)) in cases.into_iter().enumerate() {
        let message = found.err().unwrap_or_else(|| panic!("case {index}")).to_string();
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn ecdsa_in_der_is_taken_where_it_may_be() {
    let key = vector("RFC 7515 A.3");
    let printed = text(key, "token");
    let key = verifying(Alg::Es256, &key["key"]).unwrap();
    let (signed, _) = printed.rsplit_once('.').unwrap();
    // The printed signature in DER: two numbers, the second with a leading zero.
    let der = "3045022\
        00ed1215379636c483c2f7f155807d402a3b228033af97c7e17819ac3169ea665\
        022100c50a07d38c3c70e5d8f12daf084a5480a66590c5f293509a8f3f7f8a83a354d5";
    let der = data_encoding::HEXLOWER.decode(der.as_bytes()).unwrap();
    assert!(key.verify_any_form(Alg::Es256, signed.as_bytes(), &der));
    assert!(!key.verify(Alg::Es256, signed.as_bytes(), &der), "a JWT's is in the fixed form");
    assert!(!key.verify_any_form(Alg::Es256, b"other", &der));
    assert!(!key.verify_any_form(Alg::Rs256, signed.as_bytes(), &der));
}

#[test]
fn what_is_sealed_opens_only_as_it_was() {
    let (secret, other) = (b"0123456789abcdef".as_slice(), b"0123456789abcdeg".as_slice());
    let sealed = seal::seal(secret, b"user 7", b"session").unwrap();
    assert_eq!(seal::open(secret, &sealed, b"session").as_deref(), Some(b"user 7".as_slice()));
    assert_eq!(seal::open(other, &sealed, b"session"), None);
    assert_eq!(seal::open(secret, &sealed, b"cart"), None);
    for index in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[index] ^= 1;
        assert_eq!(seal::open(secret, &changed, b"session"), None, "byte {index}");
        assert_eq!(seal::open(secret, &sealed[..index], b"session"), None, "{index} bytes");
    }
    assert_ne!(seal::seal(secret, b"user 7", b"session").unwrap(), sealed, "never the same twice");
    let empty = seal::seal(secret, b"", b"").unwrap();
    assert_eq!(seal::open(secret, &empty, b""), Some(Vec::new()));
}

/// An issuer whose answers are given in turn, and counted.
#[derive(Clone)]
struct Issuer {
    answer: Arc<parking_lot::Mutex<Result<FetchResponse, FetchError>>>,
    asked: Arc<AtomicUsize>,
    slow: Duration,
}

impl Issuer {
    fn of(kids: &[&str]) -> Self {
        let issuer = Self {
            answer: Arc::new(parking_lot::Mutex::new(Err(down()))),
            asked: Arc::default(),
            slow: Duration::from_millis(20),
        };
        issuer.publish(kids);
        issuer
    }

    fn publish(&self, kids: &[&str]) {
        let mut key = vector("RFC 8037 A.4")["key"].clone();
        let keys = kids.iter().map(|kid| {
            key["kid"] = json!(kid);
            key.clone()
        });
        let mut keys: Vec<Value> = keys.collect();
        // What a set may also hold, and is passed over.
        keys.push(json!({ "kty": "oct", "kid": "a", "k": "AAAA", "alg": "EdDSA" }));
        keys.push(json!({ "kty": "EC", "kid": "p521", "crv": "P-521", "x": "", "y": "" }));
        keys.push(json!("rubbish"));
        self.say(StatusCode::OK, &json!({ "keys": keys }).to_string());
    }

    fn say(&self, status: StatusCode, body: &str) {
        let body = body.to_owned().into();
        *self.answer.lock() = Ok(FetchResponse { status, headers: HeaderMap::new(), body });
    }

    async fn find(&self, sets: &KeySets, kid: Option<&str>, policy: Policy) -> &'static str {
        let issuer = self.clone();
        let fetch = move || {
            issuer.asked.fetch_add(1, SeqCst);
            async move {
                tokio::time::sleep(issuer.slow).await;
                issuer.answer.lock().clone()
            }
        };
        let wanted = Wanted { kid: kid.map(str::to_owned), alg: Alg::EdDsa };
        match sets.slot("https://id.test/keys").find(wanted, policy, fetch).await {
            Ok(_) => "found",
            Err(NoKey::Unknown) => "unknown",
            Err(NoKey::Fetch(error)) => error.kind.name(),
        }
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, SeqCst)
    }
}

fn down() -> FetchError {
    FetchError { kind: FetchErrorKind::Connect, message: "down".into() }
}

const HOUR: Duration = Duration::from_secs(3600);
const KEPT: Policy = Policy { ttl: HOUR, cooldown: HOUR };

#[tokio::test]
async fn a_set_is_asked_for_once_however_many_wait() {
    let (sets, issuer) = (KeySets::default(), Issuer::of(&["a"]));
    let ask = || issuer.find(&sets, Some("a"), KEPT);
    let (x, y, z) = tokio::join!(ask(), ask(), ask());
    assert_eq!((x, y, z), ("found", "found", "found"));
    assert_eq!(ask().await, "found");
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn an_unknown_kid_leads_to_one_fetch_in_a_while() {
    let (sets, issuer) = (KeySets::default(), Issuer::of(&["a"]));
    assert_eq!(issuer.find(&sets, Some("a"), KEPT).await, "found");
    issuer.publish(&["a", "b"]);
    assert_eq!(issuer.find(&sets, Some("b"), KEPT).await, "found", "a key of a rotation");
    assert_eq!(issuer.asked(), 2);
    for kid in ["x", "../a", "", "A", "y"] {
        assert_eq!(issuer.find(&sets, Some(kid), KEPT).await, "unknown", "{kid}");
    }
    assert_eq!(issuer.asked(), 0, "anybody can make up a kid");
    let soon = Policy { cooldown: Duration::ZERO, ..KEPT };
    assert_eq!(issuer.find(&sets, Some("x"), soon).await, "unknown");
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn without_a_kid_there_must_be_one_key() {
    let (sets, issuer) = (KeySets::default(), Issuer::of(&["a"]));
    assert_eq!(issuer.find(&sets, None, KEPT).await, "found");
    let (sets, issuer) = (KeySets::default(), Issuer::of(&["a", "b"]));
    assert_eq!(issuer.find(&sets, None, KEPT).await, "unknown");
}

#[tokio::test]
async fn old_keys_serve_while_the_issuer_is_down() {
    let (sets, issuer) = (KeySets::default(), Issuer::of(&["a"]));
    let at_once = Policy { ttl: Duration::ZERO, cooldown: Duration::ZERO };
    assert_eq!(issuer.find(&sets, Some("a"), at_once).await, "found");
    *issuer.answer.lock() = Err(down());
    for _ in 0..3 {
        assert_eq!(issuer.find(&sets, Some("a"), at_once).await, "found");
    }
    assert_eq!(issuer.asked(), 2, "a failure stands for a while");
    let (sets, issuer) = (KeySets::default(), Issuer::of(&["a"]));
    assert_eq!(issuer.find(&sets, Some("a"), at_once).await, "found");
    // A key that went from the set is no longer taken once the set is known to be newer.
    issuer.publish(&["b"]);
    assert_eq!(issuer.find(&sets, Some("a"), at_once).await, "unknown");
}

#[tokio::test]
async fn no_set_is_a_failure_and_not_a_refusal() {
    let cases = [
        (StatusCode::INTERNAL_SERVER_ERROR, r#"{"keys":[]}"#, "status"),
        (StatusCode::OK, "<html>", "unavailable"),
        (StatusCode::OK, r#"{"keys":[]}"#, "unavailable"),
        (StatusCode::OK, r#"{"keys":{}}"#, "unavailable"),
        (StatusCode::OK, r#"{"keys":[],"keys":[]}"#, "unavailable"),
    ];
    for (status, body, expected) in cases {
        let (sets, issuer) = (KeySets::default(), Issuer::of(&["a"]));
        issuer.say(status, body);
        assert_eq!(issuer.find(&sets, Some("a"), KEPT).await, expected, "{body}");
        assert_eq!(issuer.find(&sets, Some("a"), KEPT).await, expected, "{body}");
        assert_eq!(issuer.asked(), 1, "{body}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_nothing_from_the_others() {
    let (sets, issuer) = (KeySets::default(), Issuer::of(&["a"]));
    let left = tokio::time::timeout(Duration::from_millis(1), issuer.find(&sets, Some("a"), KEPT));
    assert!(left.await.is_err());
    assert_eq!(issuer.find(&sets, Some("a"), KEPT).await, "found");
    assert_eq!(issuer.asked(), 1);
}
