//! Keys, signatures, sealing and tokens, on ring; without anything of the script engine.

pub mod alg;
mod jwk;
pub mod key;
pub mod key_sets;
mod pem;
pub mod seal;
mod strict_json;
pub mod token;

#[cfg(test)]
mod tests;

pub use alg::Alg;
pub use key::{SigningKey, VerifyingKey};
pub use key_sets::KeySets;

/// Why a key cannot be used. It says nothing of the key's bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKey(String);

fn bad(message: impl Into<String>) -> BadKey {
    BadKey(message.into())
}
