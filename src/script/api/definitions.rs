//! The script API for the Rhai language server, as `.d.rhai` files.

use std::collections::BTreeMap;

use rhai::Engine;

use super::super::hooks::Hook;
use super::table::{Doc, Form};
use super::{docs, kind, settable};

/// What scripts see everywhere.
const GLOBAL: &str = "__selvedge__.d.rhai";

/// Files by name: the API as the table declares it, and Rhai's own functions and operators.
pub fn definitions() -> Vec<(String, String)> {
    let mut modules: BTreeMap<&str, String> = BTreeMap::new();
    let mut global = String::from("module static;\n");
    global.push_str(&hooks());
    for doc in docs() {
        let module = doc.signature.split('(').next().and_then(|path| path.split_once("::"));
        let page = match module {
            Some((module, _)) => {
                modules.entry(module).or_insert_with(|| format!("module {module};\n"))
            }
            None => &mut global,
        };
        entry(page, doc);
    }
    let engine = Engine::new();
    let own = engine.definitions();
    let own = own.iter_files().filter(|(name, _)| name.starts_with("__builtin"));
    let mut files: Vec<(String, String)> = own.collect();
    files.push((GLOBAL.to_owned(), global));
    let named = modules.into_iter().map(|(name, page)| (format!("{name}.d.rhai"), page));
    files.extend(named);
    files
}

fn hooks() -> String {
    let mut page = String::from("\n// A filter defines one or more of:\n");
    for hook in Hook::ALL {
        page.push_str(&format!("//     fn {}\n", hook.signature()));
    }
    page.push_str("\n/// The `config:` of this filter in the configuration.\nconst config: ?;\n");
    page
}

fn entry(page: &mut String, doc: &Doc) {
    page.push('\n');
    if doc.signature.contains('[') {
        // The language has no form for it.
        page.push_str(&format!("// {}: {}\n", doc.signature, one_line(doc.text)));
        return;
    }
    for (index, form) in doc.forms.iter().enumerate() {
        let typed = typed(form);
        // Forms that differ in what has no name of its own would be listed twice.
        if doc.forms[..index].iter().any(|before| self::typed(before) == typed) {
            continue;
        }
        comment(page, doc);
        page.push_str(&typed);
    }
    if settable().contains(&doc.signature)
        && let Some((object, name)) = doc.property()
        && let Some(form) = doc.forms.first()
    {
        let owner = types(form.takes).into_iter().next().unwrap_or_default();
        comment(page, doc);
        page.push_str(&format!("fn set {name}({object}: {owner}, value: ?) -> ();\n"));
    }
}

fn comment(page: &mut String, doc: &Doc) {
    page.push_str(&format!("/// {}\n", one_line(doc.text)));
    let Some(example) = doc.example else { return };
    page.push_str("///\n/// ```rhai\n");
    for line in example.lines() {
        page.push_str(&format!("/// {}\n", line.trim()));
    }
    page.push_str("/// ```\n");
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `fn get path(req: Request) -> String;`
fn typed(form: &Form) -> String {
    let (path, parameters) = match form.signature.split_once('(') {
        Some((path, rest)) => (path, rest.trim_end_matches(')')),
        None => (form.signature, ""),
    };
    let (object, name) = match (path.split_once("::"), path.split_once('.')) {
        (Some((_, name)), _) => (None, name),
        (None, Some((object, name))) => (Some(object), name),
        (None, None) => (None, path),
    };
    let is_property = !form.signature.contains('(');
    let names = object.into_iter().chain(parameters.split(", ").filter(|name| !name.is_empty()));
    let types = types(form.takes);
    let typed = names.enumerate().map(|(index, name)| {
        let kind = types.get(index).map_or("?", String::as_str);
        format!("{name}: {kind}")
    });
    let typed = typed.collect::<Vec<_>>().join(", ");
    let get = if is_property { "get " } else { "" };
    format!("fn {get}{name}({typed}) -> {};\n", shown(result(form.gives)))
}

/// The types of a tuple in Rust's words, in the words of scripts.
fn types(tuple: &str) -> Vec<String> {
    let inside = tuple.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(tuple);
    parts(inside).into_iter().map(|part| shown(part).to_owned()).collect()
}

/// Split at the commas that no bracket encloses.
fn parts(list: &str) -> Vec<&str> {
    let (mut found, mut depth, mut from) = (Vec::new(), 0_i32, 0);
    for (at, c) in list.char_indices() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                found.push(list[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(list[from..].trim());
    found.retain(|part| !part.is_empty());
    found
}

/// What a function gives when it does not fail.
fn result(gives: &str) -> &str {
    inside(gives, "Result<").map_or(gives, |inside| parts(inside)[0])
}

/// `T` of `path::Mut<T>`, for the given `Mut<`.
fn inside<'t>(name: &'t str, wrapper: &str) -> Option<&'t str> {
    let at = name.find(wrapper).filter(|at| !name[..*at].contains('<'))?;
    name[at + wrapper.len()..].strip_suffix('>')
}

/// A type as scripts know it; `?` for one of many.
fn shown(rust: &str) -> &'static str {
    let rust = inside(rust, "Mut<").unwrap_or(rust).trim_start_matches("&mut ");
    if let Some(name) = kind(rust) {
        return name;
    }
    match rust {
        "()" => "()",
        "bool" => "bool",
        "i64" => "int",
        "f64" => "float",
        "char" => "char",
        "&str" | "str" | "alloc::string::String" => "String",
        "alloc::vec::Vec<u8>" => "Blob",
        _ if rust.ends_with("ImmutableString") => "String",
        _ if rust.starts_with("alloc::vec::Vec<rhai::") => "Array",
        _ if rust.starts_with("alloc::collections::btree::map::BTreeMap<") => "Map",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> String {
        let files = definitions();
        let found = files.into_iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("no {name}")).1
    }

    #[test]
    fn functions_have_their_true_names_types_and_docs() {
        let global = file(GLOBAL);
        for line in [
            "fn get path(req: Request) -> String;",
            "fn set path(req: Request, value: ?) -> ();",
            "fn get headers(req: Request) -> Headers;",
            "fn append(headers: Headers, name: String, value: ?) -> ();",
            "fn fetch(url: String, options: Map) -> Response;",
            "fn fetch(url: String) -> Response;",
            "fn fetch_all(requests: Array) -> Array;",
            "fn response(status: int, headers: Map, body: ?) -> Response;",
            "fn secret(name: String) -> Secret;",
            "/// The path as sent, still encoded; can be set.",
        ] {
            assert!(global.lines().any(|it| it == line), "{line} is not in {global}");
        }
        let time = file("time.d.rhai");
        assert!(time.starts_with("module time;\n"), "{time}");
        assert!(time.contains("fn rfc3339(unix: int) -> String;"), "{time}");
        assert!(file("__builtin__.d.rhai").contains("fn "));
    }

    #[test]
    fn every_line_has_a_form_that_the_language_knows() {
        let line = regex::Regex::new(
            r"^(module \w+;|//.*|const \w+: \?;|fn (get |set )?\w+\((\w+: (\w+|\?|\(\))(, )?)*\) -> (\w+|\?|\(\));|)$",
        );
        let line = line.unwrap();
        for (name, page) in definitions().iter().filter(|(name, _)| !name.starts_with("__builtin"))
        {
            for text in page.lines() {
                assert!(line.is_match(text), "{name}: {text}");
            }
        }
    }
}
