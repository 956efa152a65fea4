//! Hashes, HMAC, and comparison in constant time.

use data_encoding::HEXLOWER;
use md5::{Digest, Md5};
use rhai::Dynamic;
use ring::{digest, hmac};
use subtle::ConstantTimeEq;
use xxhash_rust::xxh64::xxh64;

use super::convert::bytes_of;
use super::secret::key_of;
use super::table::Table;
use super::{Outcome, invalid};

pub fn area(table: &mut Table) {
    table.area("Hashes");
    table
        .function("hash::sha1(data)", "In hex; not for security.", sha1)
        .example(r#"hash::sha1("abc").starts_with("a9993e36")"#)
        .function("hash::sha256(data)", "In hex.", sha256)
        .example(r#"hash::sha256("abc").starts_with("ba7816bf")"#)
        .function("hash::sha512(data)", "In hex.", sha512)
        .example(r#"hash::sha512("abc").starts_with("ddaf35a1")"#)
        .function("hash::md5(data)", "In hex; not for security.", md5)
        .example(r#"hash::md5("") == "d41d8cd98f00b204e9800998ecf8427e""#)
        .function("hash::xxh(data)", "64 bits in hex; fast, not for security.", |d: Dynamic| {
            bytes_of(&d).map(|bytes| format!("{:016x}", xxh64(&bytes, 0)))
        })
        .example(r#"hash::xxh("abc") == "44bc2cf5ad770999""#)
        .function("hash::bucket(id, salt, n)", "0 to n-1, always the same for an id.", bucket)
        .example(r#"hash::bucket("u1", "exp", 10) == hash::bucket("u1", "exp", 10)"#);
    table.area("HMAC");
    table
        .function("hmac::sha1(key, data)", "In hex; the key is a Secret or a string.", mac_sha1)
        .example(r#"hmac::sha1("key", "data").len == 40"#)
        .function("hmac::sha256(key, data)", "In hex.", mac_sha256)
        .example(r#"hmac::sha256("key", "data").len == 64"#)
        .function("hmac::sha512(key, data)", "In hex.", mac_sha512)
        .example(r#"hmac::sha512("key", "data").len == 128"#)
        .function("crypto::equal(a, b)", "Compares in constant time.", equal)
        .example(r#"crypto::equal("a", "a") && !crypto::equal("a", "b")"#);
}

fn hex_digest(algorithm: &'static digest::Algorithm, data: &Dynamic) -> Outcome<String> {
    Ok(HEXLOWER.encode(digest::digest(algorithm, &bytes_of(data)?).as_ref()))
}

fn sha1(data: Dynamic) -> Outcome<String> {
    hex_digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &data)
}

fn sha256(data: Dynamic) -> Outcome<String> {
    hex_digest(&digest::SHA256, &data)
}

fn sha512(data: Dynamic) -> Outcome<String> {
    hex_digest(&digest::SHA512, &data)
}

fn md5(data: Dynamic) -> Outcome<String> {
    Ok(HEXLOWER.encode(&Md5::digest(bytes_of(&data)?)))
}

fn bucket(id: &str, salt: &str, buckets: i64) -> Outcome<i64> {
    let buckets = u64::try_from(buckets).ok().filter(|n| *n > 0);
    let buckets = buckets.ok_or_else(|| invalid("there must be at least one bucket"))?;
    let hash = xxh64(format!("{salt}\0{id}").as_bytes(), 0);
    // The high half of a 128-bit product: even, and without a division's bias.
    let bucket = (u128::from(hash) * u128::from(buckets)) >> 64;
    Ok(i64::try_from(bucket).unwrap_or(i64::MAX))
}

fn mac(algorithm: hmac::Algorithm, key: &Dynamic, data: &Dynamic) -> Outcome<String> {
    let key = hmac::Key::new(algorithm, &key_of(key)?);
    Ok(HEXLOWER.encode(hmac::sign(&key, &bytes_of(data)?).as_ref()))
}

fn mac_sha1(key: Dynamic, data: Dynamic) -> Outcome<String> {
    mac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key, &data)
}

fn mac_sha256(key: Dynamic, data: Dynamic) -> Outcome<String> {
    mac(hmac::HMAC_SHA256, &key, &data)
}

fn mac_sha512(key: Dynamic, data: Dynamic) -> Outcome<String> {
    mac(hmac::HMAC_SHA512, &key, &data)
}

fn equal(a: Dynamic, b: Dynamic) -> Outcome<bool> {
    Ok(key_of(&a)?.ct_eq(&key_of(&b)?).into())
}
