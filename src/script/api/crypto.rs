//! Signatures, and sealing: what a client may carry and can neither read nor change.

use data_encoding::BASE64URL_NOPAD;
use rhai::{Blob, Dynamic};

use super::convert::{bytes_of, to_json};
use super::secret::key_of;
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::script::crypto::key::Material;
use crate::script::crypto::{Alg, BadKey, SigningKey, VerifyingKey, seal};
use crate::script::fiber;

/// Bytes of one message to seal, or of one that was sealed.
const MOST_SEALED: usize = 64 << 10;

pub fn area(table: &mut Table) {
    table.area("Signatures");
    table
        .function(
            "crypto::sign(alg, key, data)",
            "The signature as bytes. `alg` is one of HS256, HS384, HS512 (the key is a secret), \
             RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA (a private key as \
             PKCS#8 PEM, or a JWK).",
            sign,
        )
        .example(r#"hex::encode(crypto::sign("HS256", secret("key"), "data")) == hmac::sha256(secret("key"), "data")"#)
        .function(
            "crypto::verify(alg, key, data, signature)",
            "Whether the signature, as bytes, is right. The key is the secret, or a public key or \
             a certificate as PEM, or a JWK. ES256 and ES384 also take a signature in DER.",
            verify,
        )
        .example(r#"crypto::verify("HS256", "key", "data", crypto::sign("HS256", "key", "data"))"#);
    table.area("Sealing");
    table
        .function(
            "crypto::seal(key, data, context)",
            "Encrypts and signs, as text for a cookie or a URL; the key has at least 16 bytes. \
             What was sealed in one context does not open in another.",
            |key: Dynamic, data: Dynamic, context: &str| seal_text(&key, &data, context),
        )
        .overload("crypto::seal(key, data)", |key: Dynamic, data: Dynamic| {
            seal_text(&key, &data, "")
        })
        .example(
            r#"const KEY = "0123456789abcdef";
  crypto::open(KEY, crypto::seal(KEY, "user 7", "session"), "session").as_string() == "user 7""#,
        )
        .function(
            "crypto::open(key, text, context)",
            "The bytes that were sealed, or `()` when the key or the context is another one or \
             the text was changed.",
            |key: Dynamic, text: &str, context: &str| open_text(&key, text, context),
        )
        .overload("crypto::open(key, text)", |key: Dynamic, text: &str| open_text(&key, text, ""))
        .example(r#"crypto::open("0123456789abcdef", "made up") == ()"#);
}

/// An algorithm by its name.
pub fn alg_of(name: &str) -> Outcome<Alg> {
    Alg::of_name(name).ok_or_else(|| {
        let names = Alg::ALL.map(Alg::name).join(", ");
        match name {
            "none" => invalid("none is no algorithm: it signs nothing"),
            "ES512" => invalid(format!("ES512 (P-521) is not offered; there are {names}")),
            _ => invalid(format!("there is no algorithm of this name; there are {names}")),
        }
    })
}

pub fn bad_key(error: BadKey) -> super::Raised {
    invalid(error.to_string())
}

/// Reads a key that is a Secret, text, bytes, or a JWK as a map.
pub fn read<K>(key: &Dynamic, read: impl FnOnce(Material) -> Result<K, BadKey>) -> Outcome<K> {
    if key.is_map() {
        let jwk = to_json(key)?;
        return read(Material::Jwk(&jwk)).map_err(bad_key);
    }
    let text = key_of(key)?;
    read(Material::Text(&text)).map_err(bad_key)
}

fn sign(alg: &str, key: Dynamic, data: Dynamic) -> Outcome<Blob> {
    let alg = alg_of(alg)?;
    let key = read(&key, |key| SigningKey::read(alg, key))?;
    fiber::charge(alg.cost(true));
    key.sign(alg, &bytes_of(&data)?).map_err(bad_key)
}

fn verify(alg: &str, key: Dynamic, data: Dynamic, signature: Dynamic) -> Outcome<bool> {
    let alg = alg_of(alg)?;
    let key = read(&key, |key| VerifyingKey::read(alg, key))?;
    let Some(signature) = signature.read_lock::<Blob>() else {
        return Err(invalid("a signature is bytes: decode it with hex::decode or base64::decode"));
    };
    fiber::charge(alg.cost(false));
    Ok(key.verify_any_form(alg, &bytes_of(&data)?, &signature))
}

fn sealing_key(key: &Dynamic) -> Outcome<Vec<u8>> {
    let key = key_of(key)?;
    if key.len() >= seal::LEAST_SECRET {
        return Ok(key);
    }
    Err(invalid(format!("a key to seal with has at least {} bytes", seal::LEAST_SECRET)))
}

fn seal_text(key: &Dynamic, data: &Dynamic, context: &str) -> Outcome<String> {
    let (key, data) = (sealing_key(key)?, bytes_of(data)?);
    if data.len() > MOST_SEALED {
        return Err(fail("limit", format!("at most {MOST_SEALED} bytes are sealed at once")));
    }
    fiber::charge(SEAL_COST + context.len());
    let sealed = seal::seal(&key, &data, context.as_bytes());
    let sealed = sealed.ok_or_else(|| fail("unavailable", "the system has no randomness"))?;
    Ok(BASE64URL_NOPAD.encode(&sealed))
}

/// What deriving a key costs, as bytes that are worked through.
const SEAL_COST: usize = 4 << 10;

fn open_text(key: &Dynamic, text: &str, context: &str) -> Outcome<Dynamic> {
    let key = sealing_key(key)?;
    fiber::charge(SEAL_COST + text.len() + context.len());
    if text.len() > 2 * MOST_SEALED {
        return Ok(Dynamic::UNIT);
    }
    let opened = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    let opened = opened.and_then(|sealed| seal::open(&key, &sealed, context.as_bytes()));
    Ok(opened.map_or(Dynamic::UNIT, Dynamic::from_blob))
}
