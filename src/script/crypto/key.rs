//! Keys that sign and keys that verify, read for an algorithm that the caller has fixed.
//!
//! What a text means follows from the algorithm, never the reverse: a PEM file is no secret for
//! HMAC, so that nobody can pass off a public key as one.

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, Ed25519KeyPair,
    RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
};

use super::alg::{Alg, Curve, Family};
use super::jwk::Jwk;
use super::{BadKey, bad, pem};

/// A key as it is given.
pub enum Material<'a> {
    /// A secret, PEM, or the text of a JWK.
    Text(&'a [u8]),
    Jwk(&'a serde_json::Value),
}

/// A public key, or a shared secret.
pub enum VerifyingKey {
    Secret(Vec<u8>),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// An uncompressed point.
    Ec(Curve, Vec<u8>),
    Ed25519(Vec<u8>),
}

impl VerifyingKey {
    pub fn read(alg: Alg, material: Material) -> Result<Self, BadKey> {
        let key = match read(alg, material)? {
            Read::Secret(secret) => Self::Secret(secret),
            Read::Jwk(jwk) => jwk.verifying(alg)?,
            Read::Pem(text) => pem::verifying(text)?,
        };
        check_family(alg, key.family())?;
        Ok(key)
    }

    /// From big-endian numbers, which may have leading zeros.
    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Result<Self, BadKey> {
        let strip = |number: &[u8]| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            number[zeros..].to_vec()
        };
        let (n, e) = (strip(n), strip(e));
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err(bad(format!("RSA keys have 2048 to 8192 bits, and this one has {bits}")));
        }
        Ok(Self::Rsa(RsaPublicKeyComponents { n, e }))
    }

    pub(super) fn ec(curve: Curve, point: Vec<u8>) -> Result<Self, BadKey> {
        if point.len() != 2 * curve.size() + 1 || point.first() != Some(&4) {
            return Err(bad(format!("not an uncompressed point of {}", curve.name())));
        }
        Ok(Self::Ec(curve, point))
    }

    pub(super) fn ed25519(bytes: Vec<u8>) -> Result<Self, BadKey> {
        match bytes.len() {
            32 => Ok(Self::Ed25519(bytes)),
            _ => Err(bad("an Ed25519 key has 32 bytes")),
        }
    }

    fn family(&self) -> Family {
        match self {
            Self::Secret(_) => Family::Hmac,
            Self::Rsa(_) => Family::Rsa,
            Self::Ec(curve, _) => Family::Ec(*curve),
            Self::Ed25519(_) => Family::Ed25519,
        }
    }

    pub fn fits(&self, alg: Alg) -> bool {
        self.family() == alg.family()
    }

    /// False also for a key of another algorithm. ECDSA's signature is the two numbers in a row.
    pub fn verify(&self, alg: Alg, data: &[u8], signature: &[u8]) -> bool {
        if !self.fits(alg) {
            return false;
        }
        match self {
            Self::Secret(secret) => alg.hmac().is_some_and(|algorithm| {
                hmac::verify(&hmac::Key::new(algorithm, secret), data, signature).is_ok()
            }),
            Self::Rsa(key) => alg.rsa().is_some_and(|rsa| key.verify(rsa, data, signature).is_ok()),
            Self::Ec(curve, point) => {
                UnparsedPublicKey::new(fixed(*curve), point).verify(data, signature).is_ok()
            }
            Self::Ed25519(bytes) => {
                UnparsedPublicKey::new(&signature::ED25519, bytes).verify(data, signature).is_ok()
            }
        }
    }

    /// As [`VerifyingKey::verify`], and takes ECDSA's signature in DER as well.
    pub fn verify_any_form(&self, alg: Alg, data: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ec(curve, point) if self.fits(alg) && signature.len() != 2 * curve.size() => {
                UnparsedPublicKey::new(der(*curve), point).verify(data, signature).is_ok()
            }
            _ => self.verify(alg, data, signature),
        }
    }
}

fn fixed(curve: Curve) -> &'static EcdsaVerificationAlgorithm {
    match curve {
        Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
        Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
    }
}

fn der(curve: Curve) -> &'static EcdsaVerificationAlgorithm {
    match curve {
        Curve::P256 => &signature::ECDSA_P256_SHA256_ASN1,
        Curve::P384 => &signature::ECDSA_P384_SHA384_ASN1,
    }
}

pub(super) fn signing(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
    }
}

/// A private key, or a shared secret.
pub enum SigningKey {
    Secret(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    Ec(Curve, Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl SigningKey {
    pub fn read(alg: Alg, material: Material) -> Result<Self, BadKey> {
        let key = match read(alg, material)? {
            Read::Secret(secret) => Self::Secret(secret),
            Read::Jwk(jwk) => jwk.signing(alg)?,
            Read::Pem(text) => pem::signing(alg, text)?,
        };
        let family = match &key {
            Self::Secret(_) => Family::Hmac,
            Self::Rsa(_) => Family::Rsa,
            Self::Ec(curve, _) => Family::Ec(*curve),
            Self::Ed25519(_) => Family::Ed25519,
        };
        check_family(alg, family)?;
        Ok(key)
    }

    pub fn sign(&self, alg: Alg, data: &[u8]) -> Result<Vec<u8>, BadKey> {
        let unfit = || bad(format!("this key does not sign with {}", alg.name()));
        let rng = SystemRandom::new();
        match self {
            Self::Secret(secret) => {
                let key = hmac::Key::new(alg.hmac().ok_or_else(unfit)?, secret);
                Ok(hmac::sign(&key, data).as_ref().to_vec())
            }
            Self::Rsa(key) => {
                let padding = alg.padding().ok_or_else(unfit)?;
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, &rng, data, &mut signature).map_err(|_| unfit())?;
                Ok(signature)
            }
            Self::Ec(_, key) => key
                .sign(&rng, data)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| unfit()),
            Self::Ed25519(key) => Ok(key.sign(data).as_ref().to_vec()),
        }
    }
}

enum Read<'a> {
    Secret(Vec<u8>),
    Jwk(Box<Jwk>),
    Pem(&'a [u8]),
}

fn read<'a>(alg: Alg, material: Material<'a>) -> Result<Read<'a>, BadKey> {
    let text = match material {
        Material::Jwk(value) => return Jwk::of(value).map(Box::new).map(Read::Jwk),
        Material::Text(text) => text,
    };
    if let Some(jwk) = Jwk::of_text(text) {
        return jwk.map(Box::new).map(Read::Jwk);
    }
    match (alg.family(), pem::is_pem(text)) {
        (Family::Hmac, true) => Err(bad(format!(
            "{} takes a shared secret, and this is a PEM file: its keys are for RS, PS, ES, EdDSA",
            alg.name()
        ))),
        (Family::Hmac, false) if text.is_empty() => Err(bad("the key is empty")),
        (Family::Hmac, false) => Ok(Read::Secret(text.to_vec())),
        (_, true) => Ok(Read::Pem(text)),
        (_, false) => Err(bad(format!("{} takes a key as PEM or JWK", alg.name()))),
    }
}

fn check_family(alg: Alg, found: Family) -> Result<(), BadKey> {
    if alg.family() == found {
        return Ok(());
    }
    let (wanted, found) = (shown(alg.family()), shown(found));
    Err(bad(format!("{} takes {wanted}, and this is {found}", alg.name())))
}

fn shown(family: Family) -> &'static str {
    match family {
        Family::Hmac => "a shared secret",
        Family::Rsa => "an RSA key",
        Family::Ec(Curve::P256) => "a key of the curve P-256",
        Family::Ec(Curve::P384) => "a key of the curve P-384",
        Family::Ed25519 => "an Ed25519 key",
    }
}
