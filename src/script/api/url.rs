//! Percent-encoding.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::fail;
use super::table::Table;

/// RFC 3986's unreserved characters stay.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub fn area(table: &mut Table) {
    table.area("URL");
    table
        .function("url::encode(text)", "For one part of a URL.", |text: &str| {
            utf8_percent_encode(text, ENCODED).to_string()
        })
        .example(r#"url::encode("a b/c") == "a%20b%2Fc""#)
        .function("url::decode(text)", "The reverse.", |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|_| fail("parse", "not UTF-8"))
        })
        .example(r#"url::decode("a%20b") == "a b""#);
}
