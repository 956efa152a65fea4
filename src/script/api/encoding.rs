//! Base64, base64url and hex.

use data_encoding::{BASE64, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXLOWER_PERMISSIVE};
use rhai::{Blob, Dynamic};

use super::convert::bytes_of;
use super::table::Table;
use super::{Outcome, fail};

pub fn area(table: &mut Table) {
    table.area("Encoding");
    table
        .function("base64::encode(data)", "Of a string or bytes.", |d: Dynamic| encode(&BASE64, &d))
        .example(r#"base64::encode("hi") == "aGk=""#)
        .function("base64::decode(text)", "To bytes.", |t: &str| decode(&BASE64, t))
        .example(r#"base64::decode("aGk=").as_string() == "hi""#)
        .function("base64url::encode(data)", "Without padding.", |d: Dynamic| {
            encode(&BASE64URL_NOPAD, &d)
        })
        .example(r#"base64url::encode("hi?>") == "aGk_Pg""#)
        .function("base64url::decode(text)", "To bytes; padding is ignored.", |t: &str| {
            decode(&BASE64URL_NOPAD, t.trim_end_matches('='))
        })
        .example(r#"base64url::decode("aGk_Pg").as_string() == "hi?>""#)
        .function("hex::encode(data)", "In lower case.", |d: Dynamic| encode(&HEXLOWER, &d))
        .example(r#"hex::encode("hi") == "6869""#)
        .function("hex::decode(text)", "To bytes.", |t: &str| decode(&HEXLOWER_PERMISSIVE, t))
        .example(r#"hex::decode("6869").as_string() == "hi""#);
}

fn encode(encoding: &Encoding, data: &Dynamic) -> Outcome<String> {
    Ok(encoding.encode(&bytes_of(data)?))
}

fn decode(encoding: &Encoding, text: &str) -> Outcome<Blob> {
    encoding.decode(text.as_bytes()).map_err(|error| fail("parse", error.to_string()))
}
