//! Values by key, from a file: CSV lines of `key,value`, or one JSON object.

use std::collections::HashMap;

use super::csv::records;
use super::lists::{Bad, MOST_ENTRIES};

#[derive(Debug, Default)]
pub struct Dict(HashMap<Box<str>, Value>);

#[derive(Debug, PartialEq)]
pub enum Value {
    Text(Box<str>),
    Json(serde_json::Value),
}

impl Dict {
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn from_json(text: &str) -> Result<Self, Bad> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
            .map_err(|error| {
                Bad::at(error.line(), error.column(), format!("no JSON object: {error}"))
            })?;
        let entries = object.into_iter().map(|(key, value)| {
            let value = match value {
                serde_json::Value::String(text) => Value::Text(text.into()),
                other => Value::Json(other),
            };
            (key.into_boxed_str(), value)
        });
        Self(entries.collect()).bounded()
    }

    /// RFC 4180 without a header: two fields a line.
    pub fn from_csv(text: &str) -> Result<Self, Bad> {
        let mut entries = HashMap::new();
        for record in records(text) {
            let (line, fields) = record?;
            let [key, value] = fields.as_slice() else {
                let message = format!("a line is key,value, and this one has {}", fields.len());
                return Err(Bad::at(line, 1, message));
            };
            let value = Value::Text(value.as_str().into());
            if entries.insert(key.as_str().into(), value).is_some() {
                return Err(Bad::at(line, 1, format!("the key \"{key}\" is here twice")));
            }
        }
        Self(entries).bounded()
    }

    fn bounded(self) -> Result<Self, Bad> {
        match self.0.len() {
            0..=MOST_ENTRIES => Ok(self),
            more => Err(Bad::whole(format!("{more} entries, more than {MOST_ENTRIES}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(dict: &Dict, key: &str) -> Option<String> {
        match dict.get(key) {
            Some(Value::Text(text)) => Some(text.to_string()),
            Some(Value::Json(json)) => Some(json.to_string()),
            None => None,
        }
    }

    #[test]
    fn csv_has_quotes_line_breaks_and_both_line_ends() {
        let dict = Dict::from_csv(
            "\u{feff}a,1\r\n\r\n\"b,c\",\"x \"\"y\"\"\nz\"\n\nd,\n\"e\",\"5\"\r\nlast,6",
        )
        .expect("good");
        let expected = [("a", "1"), ("b,c", "x \"y\"\nz"), ("d", ""), ("e", "5"), ("last", "6")];
        for (key, value) in expected {
            assert_eq!(text(&dict, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!((dict.len(), dict.get("A")), (5, None));
    }

    #[test]
    fn bad_csv_says_its_line() {
        for (csv, line, message) in [
            ("a,1\nb", 2, "this one has 1"),
            ("\"x\n\",1\na,1,2\n", 3, "this one has 3"),
            ("a,1\na,2", 2, "\"a\" is here twice"),
            ("a,\"1\n", 1, "a quote is not closed"),
            ("\"a\"b,1", 1, "text after a closing quote"),
        ] {
            let bad = Dict::from_csv(csv).expect_err(csv);
            assert_eq!(bad.line, line, "{csv:?}: {}", bad.message);
            assert!(bad.message.contains(message), "{csv:?}: {}", bad.message);
        }
    }

    #[test]
    fn json_is_one_object() {
        let dict = Dict::from_json(r#"{ "a": "1", "b": { "c": [2] } }"#).expect("good");
        assert_eq!(text(&dict, "a").as_deref(), Some("1"));
        assert_eq!(text(&dict, "b").as_deref(), Some(r#"{"c":[2]}"#));
        let bad = Dict::from_json("{\n  \"a\": 1,\n  b\n}").expect_err("no JSON");
        assert_eq!((bad.line, bad.column), (3, 3), "{}", bad.message);
        assert!(Dict::from_json("[1]").is_err());
    }
}
