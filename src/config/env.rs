//! `${NAME}` and `${NAME:-default}` inside values. Done on the tree, so a value cannot add keys.

use super::read::Reader;
use super::yaml::{Kind, Node};

/// Replaces every reference below `node`; `$${` stands for a literal `${`.
pub fn expand(node: &mut Node, lookup: &dyn Fn(&str) -> Option<String>, cx: &mut Reader<'_>) {
    match &mut node.kind {
        Kind::Seq(nodes) => {
            for (i, node) in nodes.iter_mut().enumerate() {
                cx.below(&format!("[{i}]"), |cx| expand(node, lookup, cx));
            }
        }
        Kind::Map(entries) => {
            for (key, node) in entries {
                cx.below(&key.text, |cx| expand(node, lookup, cx));
            }
        }
        Kind::Scalar { text, from_env, .. } if text.contains("${") => {
            match expanded(text, lookup) {
                Ok(value) => {
                    *text = value;
                    *from_env = true;
                }
                Err(message) => {
                    cx.problem(node.at, message, None);
                    node.kind = Kind::Refused;
                }
            }
        }
        Kind::Scalar { .. } | Kind::Refused => {}
    }
}

fn expanded(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start]);
            out.push('{');
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let end = inner.find('}').ok_or_else(|| format!("\"{text}\": `${{` without `}}`"))?;
        out.push_str(&value_of(&inner[..end], lookup)?);
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(reference: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("\"{name}\" is not the name of an environment variable"));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!("the default of {name} cannot hold another reference"));
    }
    lookup(name).or(default.map(str::to_owned)).ok_or_else(|| {
        format!("the environment variable {name} is not set; ${{{name}:-default}} gives a default")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_port(name: &str) -> Option<String> {
        (name == "PORT").then(|| "8080".into())
    }

    #[test]
    fn references_become_values_defaults_or_problems() {
        assert_eq!(expanded("a:${PORT}/${X:-y}", &with_port), Ok("a:8080/y".into()));
        assert_eq!(expanded("$${PORT} $1", &with_port), Ok("${PORT} $1".into()));
        assert!(expanded("${NOPE}", &with_port).unwrap_err().contains("NOPE is not set"));
        assert!(expanded("${PORT", &with_port).is_err());
        assert!(expanded("${A B}", &with_port).is_err());
        assert!(expanded("${A:-${PORT}}", &with_port).is_err());
    }
}
