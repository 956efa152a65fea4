//! Every shipped configuration is valid, and no change of a key or a closed value goes unnoticed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_yaml::{Mapping, Value};

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
            | ["routes", _, "match", "headers" | "query" | "cookies", _]
    )
}

/// Values out of a closed set.
const CLOSED: [&str; 12] = [
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
