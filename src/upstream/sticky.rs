//! The value of a cookie that keeps a client at one endpoint. It is sealed: a client cannot choose
//! its endpoint, and does not learn where that is.

use data_encoding::BASE64URL_NOPAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;

/// Bytes of an endpoint's id.
const ID: usize = 8;

/// What cookies are sealed with.
pub struct StickyKey(LessSafeKey);

impl StickyKey {
    /// `None` is a fault of the library: a digest is as long as a key.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let key = digest::digest(&digest::SHA256, secret);
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).ok()?;
        Some(Self(LessSafeKey::new(key)))
    }

    /// A cookie's value for an endpoint, by its id, that says nothing to any other upstream.
    pub fn seal(&self, upstream: &str, endpoint: u64) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = endpoint.to_be_bytes().to_vec();
        let fresh = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(fresh, Aad::from(upstream), &mut sealed).ok()?;
        Some(BASE64URL_NOPAD.encode(&[&nonce[..], &sealed].concat()))
    }

    /// The endpoint that a cookie's value names, if it is one of ours.
    pub fn open(&self, upstream: &str, value: &str) -> Option<u64> {
        let bytes = BASE64URL_NOPAD.decode(value.as_bytes()).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let id = self.0.open_in_place(nonce, Aad::from(upstream), &mut sealed).ok()?;
        let id: [u8; ID] = (&*id).try_into().ok()?;
        Some(u64::from_be_bytes(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_here_for_this_upstream_opens() {
        let key = StickyKey::new(b"secret").expect("a key");
        let value = key.seal("shop", 42).expect("sealed");
        assert_eq!(key.open("shop", &value), Some(42));
        assert_eq!(key.open("other", &value), None);
        assert_eq!(StickyKey::new(b"wrong").expect("a key").open("shop", &value), None);
        for bad in ["", "x", "AAAA", &value[1..], &format!("{value}A"), &"A".repeat(48)] {
            assert_eq!(key.open("shop", bad), None, "{bad:?}");
        }
    }
}
