//! `json`: parsing with bounds, and writing.

use rhai::Dynamic;

use super::convert::{DEPTH, from_json, to_json};
use super::table::Table;
use super::{Outcome, fail};
use crate::script::fiber;

/// Values of one document: what arrays and maps may hold together.
const VALUES: usize = 20_000;

pub fn area(table: &mut Table) {
    table.area("JSON");
    table
        .function("json::parse(text)", "A value; nested at most 32 deep.", |text: &str| parse(text))
        .example(r#"json::parse(`{"a":[1,2]}`).a[1] == 2"#)
        .function("json::stringify(value)", "The text of plain data.", |value: Dynamic| {
            to_json(&value).map(|value| value.to_string())
        })
        .example(r#"json::stringify([1, "a", ()]) == `[1,"a",null]`"#)
        .function(
            "json::for_script(value)",
            "JSON that is safe inside a <script> element.",
            |value: Dynamic| -> Outcome<String> {
                let text = to_json(&value)?.to_string();
                let text = text.replace('<', "\\u003c").replace('>', "\\u003e");
                Ok(text
                    .replace('&', "\\u0026")
                    .replace('\u{2028}', "\\u2028")
                    .replace('\u{2029}', "\\u2029"))
            },
        )
        .example(r#"json::for_script("</script>") == "\"\\u003c/script\\u003e\"""#);
}

pub fn parse(text: &str) -> Outcome<Dynamic> {
    fiber::charge(text.len());
    check_shape(text)?;
    let value = serde_json::from_str(text).map_err(|error| fail("parse", error.to_string()))?;
    Ok(from_json(&value))
}

/// What would take much more memory than its text is refused before it is read.
fn check_shape(text: &str) -> Outcome<()> {
    let (mut depth, mut values, mut quoted, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => (depth, values) = (depth + 1, values + 1),
            b',' if !quoted => values += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth >= DEPTH {
            return Err(fail("parse", format!("nested more than {DEPTH} deep")));
        }
        if values > VALUES {
            return Err(fail("limit", format!("more than {VALUES} values")));
        }
    }
    Ok(())
}
