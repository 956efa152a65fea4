//! Sealing: what only the holder of a secret can read or make (AES-256-GCM).
//!
//! Each message has a key of its own, derived from the secret and a random salt (HKDF-SHA-256), so
//! that one secret may seal any number of messages.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

/// Before what it seals: which way this is.
const VERSION: u8 = 1;
const SALT: usize = 16;
const HEAD: usize = 1 + SALT + NONCE_LEN;
const PURPOSE: &[u8] = b"selvedge seal 1";
/// Bytes of the shortest secret: less could be guessed by whoever has one sealed message.
pub const LEAST_SECRET: usize = 16;

/// None only when the system has no randomness.
pub fn seal(secret: &[u8], plain: &[u8], context: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = vec![0; HEAD];
    SystemRandom::new().fill(&mut sealed[1..]).ok()?;
    sealed[0] = VERSION;
    let (key, nonce) = key_of(secret, &sealed)?;
    let mut body = plain.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(context), &mut body).ok()?;
    sealed.append(&mut body);
    Some(sealed)
}

/// None for what was not sealed with this secret and this context, or was changed since.
pub fn open(secret: &[u8], sealed: &[u8], context: &[u8]) -> Option<Vec<u8>> {
    if sealed.first() != Some(&VERSION) {
        return None;
    }
    let (head, body) = sealed.split_at_checked(HEAD)?;
    let (key, nonce) = key_of(secret, head)?;
    let mut body = body.to_vec();
    let length = key.open_in_place(nonce, Aad::from(context), &mut body).ok()?.len();
    body.truncate(length);
    Some(body)
}

fn key_of(secret: &[u8], head: &[u8]) -> Option<(LessSafeKey, Nonce)> {
    let (salt, nonce) = head.get(1..HEAD)?.split_at_checked(SALT)?;
    let derived = Salt::new(HKDF_SHA256, salt).extract(secret);
    let key = UnboundKey::from(derived.expand(&[PURPOSE], &AES_256_GCM).ok()?);
    Some((LessSafeKey::new(key), Nonce::try_assume_unique_for_key(nonce).ok()?))
}
