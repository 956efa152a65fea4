//! Keys in PEM: public keys, certificates, and private keys as PKCS#8.

use ring::rand::SystemRandom;
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use rustls::pki_types::pem::{PemObject, SectionKind};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::alg::{Alg, Curve, Family};
use super::key::{self, SigningKey, VerifyingKey};
use super::{BadKey, bad};

pub fn is_pem(text: &[u8]) -> bool {
    text.windows(MARK.len()).any(|window| window == MARK)
}

const MARK: &[u8] = b"-----BEGIN ";

/// The first key or certificate.
fn section(text: &[u8]) -> Result<(SectionKind, Vec<u8>), BadKey> {
    let section = <(SectionKind, Vec<u8>)>::from_pem_slice(text);
    section.map_err(|_| {
        bad("no key can be read from this PEM (encrypted keys are not: decrypt them with openssl pkcs8)")
    })
}

pub fn verifying(text: &[u8]) -> Result<VerifyingKey, BadKey> {
    let (kind, der) = section(text)?;
    match kind {
        SectionKind::PublicKey => {
            let spki = SubjectPublicKeyInfo::from_der(&der);
            spki.map_err(|_| bad("not a public key")).and_then(|(_, spki)| of_spki(&spki))
        }
        SectionKind::Certificate => {
            let certificate = X509Certificate::from_der(&der);
            let (_, certificate) = certificate.map_err(|_| bad("not a certificate"))?;
            of_spki(certificate.public_key())
        }
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
            Err(bad("this is a private key, and verifying takes the public one"))
        }
        _ => Err(bad("this PEM holds no public key and no certificate")),
    }
}

fn of_spki(spki: &SubjectPublicKeyInfo) -> Result<VerifyingKey, BadKey> {
    let unknown = || bad("a key of RSA, P-256, P-384 or Ed25519 is needed");
    let bytes = spki.subject_public_key.data.to_vec();
    if spki.algorithm.algorithm == OID_SIG_ED25519 {
        return VerifyingKey::ed25519(bytes);
    }
    match spki.parsed().map_err(|_| unknown())? {
        PublicKey::RSA(key) => VerifyingKey::rsa(key.modulus, key.exponent),
        PublicKey::EC(_) => {
            let parameters = spki.algorithm.parameters.as_ref();
            let curve = parameters.and_then(|any| any.as_oid().ok()).ok_or_else(unknown)?;
            match () {
                () if curve == OID_EC_P256 => VerifyingKey::ec(Curve::P256, bytes),
                () if curve == OID_NIST_EC_P384 => VerifyingKey::ec(Curve::P384, bytes),
                () => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

pub fn signing(alg: Alg, text: &[u8]) -> Result<SigningKey, BadKey> {
    let (kind, der) = section(text)?;
    match kind {
        SectionKind::PrivateKey => of_pkcs8(alg, &der),
        SectionKind::RsaPrivateKey => RsaKeyPair::from_der(&der)
            .map(|key| SigningKey::Rsa(Box::new(key)))
            .map_err(|why| bad(format!("this RSA key is of no use: {why}"))),
        SectionKind::EcPrivateKey => {
            Err(bad("write this key as PKCS#8: openssl pkcs8 -topk8 -nocrypt -in key.pem"))
        }
        SectionKind::PublicKey | SectionKind::Certificate => {
            Err(bad("this is a public key, and signing takes the private one"))
        }
        _ => Err(bad("this PEM holds no private key")),
    }
}

fn of_pkcs8(alg: Alg, der: &[u8]) -> Result<SigningKey, BadKey> {
    let read = match alg.family() {
        Family::Rsa => RsaKeyPair::from_pkcs8(der).map(|key| SigningKey::Rsa(Box::new(key))),
        Family::Ec(curve) => {
            EcdsaKeyPair::from_pkcs8(key::signing(curve), der, &SystemRandom::new())
                .map(|key| SigningKey::Ec(curve, Box::new(key)))
        }
        Family::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map(|key| SigningKey::Ed25519(Box::new(key))),
        Family::Hmac => return Err(bad(format!("{} takes a shared secret", alg.name()))),
    };
    read.map_err(|why| bad(format!("this key is of no use for {}: {why}", alg.name())))
}
