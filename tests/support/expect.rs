//! What a case expects of a message: exact text, or a regular expression between slashes.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// Headers in their written order, names possibly repeated.
#[derive(Debug, Clone, Default)]
pub struct Pairs(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a mapping from names to a value or a list of values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Values {
                    One(String),
                    Many(Vec<String>),
                }
                let mut pairs = Vec::new();
                while let Some((name, values)) = map.next_entry::<String, Values>()? {
                    match values {
                        Values::One(value) => pairs.push((name, value)),
                        Values::Many(values) => {
                            pairs.extend(values.into_iter().map(|value| (name.clone(), value)));
                        }
                    }
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Whether `found` is what `expected` says.
pub fn fits(expected: &str, found: &str) -> Result<bool, String> {
    match expected.strip_prefix('/').and_then(|e| e.strip_suffix('/')).filter(|e| !e.is_empty()) {
        Some(pattern) => {
            let regex = regex::Regex::new(pattern).map_err(|e| format!("/{pattern}/: {e}"))?;
            Ok(regex.is_match(found))
        }
        None => Ok(expected == found),
    }
}

/// Checks expected headers against those of a message; several lines are joined with ", ".
pub fn headers(
    expected: &Pairs,
    absent: &[String],
    found: &[(String, String)],
) -> Result<(), String> {
    let joined = |name: &str| {
        let same = found.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let values: Vec<&str> = same.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    };
    for (name, value) in &expected.0 {
        let Some(have) = joined(name) else { return Err(format!("no header {name} in {found:?}")) };
        if !fits(value, &have)? {
            return Err(format!("header {name}: expected {value}, found {have}"));
        }
    }
    for name in absent {
        if let Some(have) = joined(name) {
            return Err(format!("header {name} should be absent, found {have}"));
        }
    }
    Ok(())
}
