//! Keys as JSON (RFC 7517, RFC 7518 section 6, RFC 8037).

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use serde::Deserialize;
use serde_json::Value;

use super::alg::{Alg, Curve};
use super::key::{self, SigningKey, VerifyingKey};
use super::{BadKey, bad};

/// What it holds is as it was sent: base64url, not yet decoded. It may be private: no `Debug`.
#[derive(Deserialize)]
pub struct Jwk {
    kty: String,
    pub kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    k: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<String>,
    p: Option<String>,
    q: Option<String>,
    dp: Option<String>,
    dq: Option<String>,
    qi: Option<String>,
}

impl Jwk {
    pub fn of(value: &Value) -> Result<Self, BadKey> {
        Self::deserialize(value).map_err(|_| bad("this is not a JWK"))
    }

    /// None unless the text is an object with a `kty`.
    pub fn of_text(text: &[u8]) -> Option<Result<Self, BadKey>> {
        if text.trim_ascii_start().first() != Some(&b'{') {
            return None;
        }
        let value: Value = serde_json::from_slice(text).ok()?;
        value.get("kty").is_some().then(|| Self::of(&value))
    }

    /// Whether it may sign with `alg`, by what it says of itself.
    fn check(&self, alg: Alg) -> Result<(), BadKey> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err(bad("this JWK is not for signatures (use)"));
        }
        if self.alg.as_deref().is_some_and(|own| own != alg.name()) {
            return Err(bad(format!("this JWK is for another algorithm than {}", alg.name())));
        }
        Ok(())
    }

    pub fn verifying(&self, alg: Alg) -> Result<VerifyingKey, BadKey> {
        self.check(alg)?;
        match self.kind()? {
            Kind::Secret => Ok(VerifyingKey::Secret(self.secret()?)),
            Kind::Rsa => VerifyingKey::rsa(&bytes("n", &self.n)?, &bytes("e", &self.e)?),
            Kind::Ec(curve) => VerifyingKey::ec(curve, self.point(curve)?),
            Kind::Ed25519 => VerifyingKey::ed25519(bytes("x", &self.x)?),
        }
    }

    /// The public key in a set that a stranger may read, with the algorithm it is bound to.
    pub fn public(&self) -> Result<(VerifyingKey, Option<Alg>), BadKey> {
        let alg = self.alg.as_deref().map(Alg::of_name);
        let bound = match alg {
            Some(None) => return Err(bad("a key for an unknown algorithm")),
            Some(Some(alg)) => Some(alg),
            None => None,
        };
        let assumed = match (bound, self.kind()?) {
            (_, Kind::Secret) => return Err(bad("a secret in a public set")),
            (Some(alg), _) => alg,
            (None, Kind::Rsa) => Alg::Rs256,
            (None, Kind::Ec(Curve::P256)) => Alg::Es256,
            (None, Kind::Ec(Curve::P384)) => Alg::Es384,
            (None, Kind::Ed25519) => Alg::EdDsa,
        };
        // Its algorithm names the curve, and where it has none the curve names the algorithm.
        let key = self.verifying(assumed)?;
        if bound.is_some_and(|alg| !key.fits(alg)) {
            return Err(bad("a key that does not fit its own algorithm"));
        }
        Ok((key, bound))
    }

    pub fn signing(&self, alg: Alg) -> Result<SigningKey, BadKey> {
        self.check(alg)?;
        let rng = SystemRandom::new();
        let useless = |why| bad(format!("this JWK is of no use for {}: {why}", alg.name()));
        match self.kind()? {
            Kind::Secret => Ok(SigningKey::Secret(self.secret()?)),
            Kind::Rsa => {
                let key = RsaKeyPair::from_components(&self.rsa_numbers()?).map_err(useless)?;
                Ok(SigningKey::Rsa(Box::new(key)))
            }
            Kind::Ec(curve) => {
                let (d, point) = (bytes("d", &self.d)?, self.point(curve)?);
                let signing = key::signing(curve);
                let key = EcdsaKeyPair::from_private_key_and_public_key(signing, &d, &point, &rng);
                Ok(SigningKey::Ec(curve, Box::new(key.map_err(useless)?)))
            }
            Kind::Ed25519 => {
                let (d, x) = (bytes("d", &self.d)?, bytes("x", &self.x)?);
                let key = Ed25519KeyPair::from_seed_and_public_key(&d, &x).map_err(useless)?;
                Ok(SigningKey::Ed25519(Box::new(key)))
            }
        }
    }

    fn kind(&self) -> Result<Kind, BadKey> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => Ok(Kind::Secret),
            ("RSA", _) => Ok(Kind::Rsa),
            ("EC", Some("P-256")) => Ok(Kind::Ec(Curve::P256)),
            ("EC", Some("P-384")) => Ok(Kind::Ec(Curve::P384)),
            ("OKP", Some("Ed25519")) => Ok(Kind::Ed25519),
            _ => Err(bad("a JWK is a secret, or a key of RSA, P-256, P-384 or Ed25519")),
        }
    }

    fn secret(&self) -> Result<Vec<u8>, BadKey> {
        match bytes("k", &self.k)? {
            empty if empty.is_empty() => Err(bad("the key is empty")),
            secret => Ok(secret),
        }
    }

    fn point(&self, curve: Curve) -> Result<Vec<u8>, BadKey> {
        let (x, y) = (bytes("x", &self.x)?, bytes("y", &self.y)?);
        if x.len() != curve.size() || y.len() != curve.size() {
            return Err(bad(format!(
                "the coordinates of {} have {} bytes",
                curve.name(),
                curve.size()
            )));
        }
        Ok([&[4], x.as_slice(), y.as_slice()].concat())
    }

    fn rsa_numbers(&self) -> Result<KeyPairComponents<Vec<u8>>, BadKey> {
        Ok(KeyPairComponents {
            public_key: PublicKeyComponents { n: bytes("n", &self.n)?, e: bytes("e", &self.e)? },
            d: bytes("d", &self.d)?,
            p: bytes("p", &self.p)?,
            q: bytes("q", &self.q)?,
            dP: bytes("dp", &self.dp)?,
            dQ: bytes("dq", &self.dq)?,
            qInv: bytes("qi", &self.qi)?,
        })
    }
}

enum Kind {
    Secret,
    Rsa,
    Ec(Curve),
    Ed25519,
}

fn bytes(name: &str, text: &Option<String>) -> Result<Vec<u8>, BadKey> {
    let text = text.as_ref().ok_or_else(|| bad(format!("this JWK has no {name}")))?;
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| bad(format!("{name} of this JWK is not base64url")))
}
