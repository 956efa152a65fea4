//! HTML escaping and regular expressions (linear time).

use std::sync::Arc;

use regex::RegexBuilder;
use rhai::{Dynamic, Map};

use super::safe::listed;
use super::table::Table;
use super::{Outcome, fail};
use crate::script::fiber;

/// Bytes of one compiled expression.
const REGEX_SIZE: usize = 1 << 20;

#[derive(Clone)]
pub struct Regex(pub Arc<regex::Regex>);

pub fn area(table: &mut Table) {
    table.area("Text");
    table
        .function("html::escape(text)", "Safe as text and in attributes.", escape)
        .example(r#"html::escape("<a>") == "&lt;a&gt;""#)
        .function("regex(pattern)", "Best as a constant at the top level.", regex_of)
        .example(r#"regex("^/api/v[0-9]+/").is_match("/api/v2/users")"#)
        .function("re.is_match(text)", "Whether it matches anywhere.", |r: &mut Regex, t: &str| {
            r.0.is_match(t)
        })
        .example(r#"regex("^a+$").is_match("aaa")"#)
        .function("re.find(text)", "The first match or `()`.", |r: &mut Regex, t: &str| {
            r.0.find(t).map_or(Dynamic::UNIT, |found| found.as_str().into())
        })
        .example(r#"regex("[0-9]+").find("a12b3") == "12""#)
        .function("re.find_all(text)", "All matches.", |r: &mut Regex, t: &str| {
            listed(t, r.0.find_iter(t).map(|found| found.as_str()))
        })
        .example(r#"regex("[0-9]+").find_all("a12b3") == ["12", "3"]"#)
        .function("re.captures(text)", "A map by number and name, or `()`.", captures)
        .example(r#"regex("(?P<y>[0-9]+)").captures("in 2024").y == "2024""#)
        .function("re.replace(text, by)", "Replaces all matches; `$1` is a group.", replace)
        .example(r#"regex("[0-9]").replace("a1b2", "-") == "a-b-""#)
        .function("text.trimmed()", "A trimmed copy.", |text: &str| text.trim().to_owned())
        .example(r#"" a ".trimmed() == "a""#)
        .function("text.replaced(from, to)", "A copy with all replaced.", super::safe::replaced)
        .example(r#""aXb".replaced("X", "-") == "a-b""#);
}

fn escape(text: &str) -> String {
    fiber::charge(text.len());
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn regex_of(pattern: &str) -> Outcome<Regex> {
    let built = RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build();
    let regex = built.map_err(|error| fail("parse", error.to_string()))?;
    Ok(Regex(Arc::new(regex)))
}

/// Groups as a map, by number and name.
pub fn groups_map(groups: Vec<(Option<String>, Option<String>)>) -> Map {
    let mut map = Map::new();
    for (index, (name, text)) in groups.into_iter().enumerate() {
        let value: Dynamic = text.map_or(Dynamic::UNIT, Into::into);
        if let Some(name) = name {
            map.insert(name.into(), value.clone());
        }
        map.insert(index.to_string().into(), value);
    }
    map
}

fn captures(regex: &mut Regex, text: &str) -> Dynamic {
    let Some(captures) = regex.0.captures(text) else { return Dynamic::UNIT };
    let names = regex.0.capture_names().enumerate();
    let group = |(index, name): (usize, Option<&str>)| {
        let text = captures.get(index).map(|found| found.as_str().to_owned());
        (name.map(str::to_owned), text)
    };
    groups_map(names.map(group).collect()).into()
}

fn replace(regex: &mut Regex, text: &str, by: &str) -> Outcome<String> {
    // Each match may insert `by`, and each of its groups the whole match.
    let matches = regex.0.find_iter(text).count();
    let most = text.len() + matches * by.len() + text.len() * by.matches('$').count();
    super::safe::check_length(most)?;
    Ok(regex.0.replace_all(text, by).into_owned())
}
