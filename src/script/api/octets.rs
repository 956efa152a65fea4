//! `Bytes`: what `bytes()` gives of a body. It is never copied, and as long as a body may be,
//! where a blob of the engine's own has at most 10,000 bytes.

use bytes::Bytes;
use rhai::{Blob, INT};

use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::script::compile::{ARRAY_LENGTH, STRING_BYTES};
use crate::script::fiber;

#[derive(Clone, PartialEq, Eq)]
pub struct Octets(pub Bytes);

pub fn area(table: &mut Table) {
    table.area("Bytes");
    table
        .index_get("bytes[index]", "A byte, 0 to 255; from the end if negative.", byte)
        .example(r#"Response::text("abc").body.bytes()[-1] == 99"#)
        .get("bytes.len", "How many.", |b: &mut Octets| whole(b.0.len()))
        .example(r#"Response::text("abc").body.bytes().len == 3"#)
        .hidden("bytes.len()", |b: &mut Octets| whole(b.0.len()))
        .function("bytes.extract(start, length)", "A part; what is not there is left out.", extract)
        .example(r#"Response::text("abc").body.bytes().extract(1, 9).as_string() == "bc""#)
        .function(
            "bytes.as_string()",
            "As text; what is not UTF-8 becomes U+FFFD.",
            |b: &mut Octets| text_of(&b.0),
        )
        .example(r#"Response::text("abc").body.bytes().as_string() == "abc""#)
        .function("bytes.to_blob()", "A blob to change, of at most 10,000 bytes.", to_blob)
        .example(r#"Response::text("AAA").body.bytes().to_blob() == blob(3, 65)"#)
        .hidden("==(a, b)", |a: &mut Octets, b: Octets| *a == b)
        .hidden("!=(a, b)", |a: &mut Octets, b: Octets| *a != b)
        .hidden("==(a, b)", |a: &mut Octets, b: Blob| a.0 == b)
        .hidden("!=(a, b)", |a: &mut Octets, b: Blob| a.0 != b);
}

fn whole(length: usize) -> INT {
    INT::try_from(length).unwrap_or(INT::MAX)
}

fn byte(bytes: &mut Octets, index: INT) -> Outcome<INT> {
    let at = if index < 0 { index + whole(bytes.0.len()) } else { index };
    let byte = usize::try_from(at).ok().and_then(|at| bytes.0.get(at).copied());
    byte.map(INT::from).ok_or_else(|| invalid(format!("there is no byte {index}")))
}

fn extract(bytes: &mut Octets, start: INT, length: INT) -> Outcome<Octets> {
    let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(length)) else {
        return Err(invalid("a part's start and length are not negative"));
    };
    let start = start.min(bytes.0.len());
    let end = start.saturating_add(length).min(bytes.0.len());
    Ok(Octets(bytes.0.slice(start..end)))
}

fn to_blob(bytes: &mut Octets) -> Outcome<Blob> {
    if bytes.0.len() > ARRAY_LENGTH {
        return Err(fail("limit", format!("a blob has at most {ARRAY_LENGTH} bytes")));
    }
    Ok(bytes.0.to_vec())
}

/// As a string of the engine, within its bound.
pub fn text_of(bytes: &[u8]) -> Outcome<String> {
    let too_long = || fail("limit", format!("a string has at most {STRING_BYTES} bytes"));
    if bytes.len() > STRING_BYTES {
        return Err(too_long());
    }
    fiber::charge(bytes.len());
    let text = String::from_utf8_lossy(bytes).into_owned();
    if text.len() > STRING_BYTES { Err(too_long()) } else { Ok(text) }
}
