//! Every shipped configuration is valid, and no change of a key or a closed value goes unnoticed.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_yaml::{Mapping, Value};

mod peers;
mod support;

fn check(file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["check", "-c"]).arg(file).output().expect("the binary runs")
}

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let entries = std::fs::read_dir(folder).expect("conf/");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    assert!(files.len() >= 3, "{files:?}");
    files
}

#[test]
fn shipped_configurations_are_valid() {
    for file in shipped() {
        let output = check(&file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", file.display());
    }
}

/// Names that the user chooses freely, and data that is the script's own: nothing can be wrong
/// with them by themselves.
fn is_free(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(
        path.as_slice(),
        ["listeners", _]
            | ["filters", _, "config", ..]
            | ["routes", _, "aggregate", "parts", _]
            | ["routes", _, "match", "headers" | "query" | "cookies", _]
            | ["routes", _, "split", "to", _, "headers" | "cookies", _]
    )
}

/// Values out of a closed set.
const CLOSED: [&str; 13] = [
    "algorithm",
    "balance",
    "protocol",
    "on_fault",
    "ambiguous_path",
    "format",
    "min_version",
    "client_auth",
    "h2c",
    "http2",
    "present",
    "client_ip",
    "status",
];

/// Every value with one key or one closed value changed, and where.
fn mutations(value: &Value, path: &mut Vec<String>) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    match value {
        Value::Mapping(map) => {
            for (key, below) in map {
                let name = key.as_str().expect("keys are text").to_owned();
                path.push(name.clone());
                if !is_free(path) {
                    let renamed = rename(map, key, &format!("{name}x"));
                    all.push((format!("{}: renamed", path.join(".")), renamed));
                }
                if CLOSED.contains(&name.as_str()) && !below.is_mapping() && !is_free(path) {
                    let mut changed = map.clone();
                    changed.insert(key.clone(), "zzz".into());
                    all.push((format!("{}: zzz", path.join(".")), Value::Mapping(changed)));
                }
                for (what, changed) in mutations(below, path) {
                    let mut whole = map.clone();
                    whole.insert(key.clone(), changed);
                    all.push((what, Value::Mapping(whole)));
                }
                path.pop();
            }
        }
        Value::Sequence(list) => {
            for (index, below) in list.iter().enumerate() {
                path.push(index.to_string());
                for (what, changed) in mutations(below, path) {
                    let mut whole = list.clone();
                    whole[index] = changed;
                    all.push((what, Value::Sequence(whole)));
                }
                path.pop();
            }
        }
        _ => {}
    }
    all
}

fn rename(map: &Mapping, old: &Value, new: &str) -> Value {
    let renamed = map.iter().map(|(key, value)| {
        let key = if key == old { Value::from(new) } else { key.clone() };
        (key, value.clone())
    });
    Value::Mapping(renamed.collect())
}

#[test]
fn any_mutated_key_or_closed_value_is_a_problem() {
    let mut count = 0;
    for file in shipped() {
        let text = std::fs::read_to_string(&file).expect("readable");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        let mutated = file.with_file_name(format!(".mutated-{}.yaml", std::process::id()));
        for (what, changed) in mutations(&value, &mut Vec::new()) {
            count += 1;
            let text = serde_yaml::to_string(&changed).expect("YAML");
            let problems = selvedge::cli::check::problems_in(&text, &mutated);
            assert!(!problems.is_empty(), "{}: {what} was accepted:\n{text}", file.display());
        }
    }
    assert!(count > 150, "only {count} mutations");
}

/// The configurations of case files that are not about problems, by the file's name.
fn of_cases(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("tests/cases") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            of_cases(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let case: Value = serde_yaml::from_str(&text).expect("YAML");
        if case.get("problems").is_none() {
            let config = case["config"].as_str().expect("a configuration");
            found.push((path.display().to_string(), filled(config)));
        }
    }
}

/// With an address for each `{{origin}}`, and a listener.
fn filled(config: &str) -> String {
    let mut text = String::new();
    let mut rest = config;
    while let Some((before, after)) = rest.split_once("{{") {
        let (_, after) = after.split_once("}}").expect("}}");
        text.push_str(before);
        text.push_str("127.0.0.1:1");
        rest = after;
    }
    text.push_str(rest);
    if !text.contains("listeners:") {
        text.push_str("\nlisteners: { public: { address: \":8080\" } }\n");
    }
    text
}

/// What the reader takes although it looks odd as JSON.
const ODD: &str = "
listeners:
  public:
    address: \"${LISTEN:-:8443}\"
    tls: { certificates: [{ cert: 1.pem, key: 2 }], min_version: 1.2, http2: \"${H2:-true}\" }
upstreams:
  shop:
    endpoints: [{ address: \"127.0.0.1:1\", weight: \"2\" }]
    balance: \"${BALANCE:-random}\"
    retries: \"${RETRIES:-1}\"
routes:
  - { name: 1, match: { query: { q: { equals: 7 }, on: { equals: true } } }, upstream: shop, max_body: 0 }
";

fn schema_errors(documents: Vec<(String, String)>) -> String {
    let parsed = documents.into_iter().map(|(name, text)| {
        let value: serde_json::Value =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        (name, value)
    });
    let documents: serde_json::Map<_, _> = parsed.collect();
    let schema = selvedge::config::reference::json_schema();
    let given = serde_json::json!({ "schema": schema, "documents": documents }).to_string();
    let python = peers::tool("venv/bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/validate.py");
    let script = script.display().to_string();
    let ran = peers::run_with(&python, &[&script], given.as_bytes());
    assert_eq!(ran.code, 0, "{}", ran.all());
    ran.out
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let mut documents = vec![("odd".to_owned(), ODD.to_owned())];
    for file in shipped() {
        let text = std::fs::read_to_string(&file).expect("readable");
        documents.push((file.display().to_string(), text));
    }
    of_cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases"), &mut documents);
    assert!(documents.len() > 12, "only {} configurations", documents.len());
    assert_eq!(schema_errors(documents), "");
    let odd = selvedge::config::parse(ODD, Path::new("odd.yaml"));
    assert!(odd.is_ok(), "the reader takes it: {odd:?}");
}

#[test]
fn the_schema_refuses_wrong_keys_and_values() {
    let good =
        "listeners: { a: { address: \":1\" } }\nroutes: [{ name: x, match: {}, respond: {} }]\n";
    let bad = [
        ("key", format!("{good}limit: {{}}\n")),
        ("type", format!("{good}access_log: json\n")),
        ("choice", format!("{good}access_log: {{ format: xml }}\n")),
        ("missing", "routes: []\n".to_owned()),
        ("number", format!("{good}limits: {{ connections: 1.5 }}\n")),
    ];
    let count = bad.len();
    let errors = schema_errors(bad.map(|(name, text)| (name.to_owned(), text)).into());
    assert_eq!(errors.lines().count(), count, "{errors}");
}
