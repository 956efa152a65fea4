//! Documents say what is so: references are fresh, sessions go as shown, configurations are valid,
//! dependencies have their reason.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_yaml::{Mapping, Value};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// README and the guides, by name.
fn guides() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(root().join("docs/guide")).expect("docs/guide");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| format!("docs/guide/{}", name.display())).collect();
    names.push("README.md".to_owned());
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

/// Fenced blocks of a language, each with the last line of text before it.
fn blocks(page: &str, language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut before = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(tag) = line.strip_prefix("```") {
            let body: String =
                lines.by_ref().take_while(|l| *l != "```").map(|l| format!("{l}\n")).collect();
            if tag == language {
                found.push((before.clone(), body));
            }
        } else if !line.is_empty() {
            before = line.to_owned();
        }
    }
    found
}

#[test]
fn generated_references_are_fresh() {
    for (name, page) in selvedge::cli::docs::pages() {
        let path = root().join("docs/reference").join(name);
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page, "docs/reference/{name} is stale: run `make docs`");
    }
}

/// A folder with the repository's `conf` and `scripts`, and the scripts that a page writes: the
/// text before a block begins with the file's name.
fn workshop(page: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["conf", "scripts"] {
        std::os::unix::fs::symlink(root().join(name), folder.path().join(name)).expect("a link");
    }
    for (before, body) in blocks(page, "rhai") {
        let name = before.strip_prefix('`').and_then(|text| text.split('`').next());
        if let Some(name) = name.filter(|name| name.ends_with(".rhai")) {
            std::fs::write(folder.path().join(name), body).expect("writable");
        }
    }
    folder
}

/// Runs `selvedge ARGS` and returns stdout, then stderr.
fn said(folder: &Path, args: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    let output = command.args(args.split_whitespace()).current_dir(folder).output().expect("runs");
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

/// Whether `found` is `shown`, where a line `...` stands for any lines.
fn fits(shown: &[&str], found: &[&str]) -> bool {
    match shown.split_first() {
        None => found.is_empty(),
        Some((&"...", rest)) => (0..=found.len()).any(|skip| fits(rest, &found[skip..])),
        Some((line, rest)) => {
            found.first() == Some(line) && fits(rest, found.get(1..).unwrap_or_default())
        }
    }
}

#[test]
fn sessions_in_the_guides_go_as_shown() {
    let mut count = 0;
    for (name, page) in guides() {
        let folder = workshop(&page);
        let lines: Vec<&str> = page.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(args) = line.strip_prefix("    $ selvedge ") else { continue };
            let shown: Vec<&str> =
                lines[index + 1..].iter().map_while(|line| line.strip_prefix("    ")).collect();
            let found = said(folder.path(), args);
            let fine = fits(&shown, &found.lines().collect::<Vec<_>>());
            assert!(fine, "{name}: selvedge {args} says:\n{found}");
            count += 1;
        }
    }
    assert!(count >= 3, "only {count} sessions found");
}

/// A block of a guide as a whole configuration, with what it leaves to the reader.
fn whole(block: Value) -> Mapping {
    let mut config = Mapping::new();
    match block {
        Value::Sequence(_) => drop(config.insert("routes".into(), block)),
        Value::Mapping(route) if route.contains_key("match") => {
            let mut route = route;
            route.insert("name".into(), "x".into());
            route.insert("respond".into(), Mapping::new().into());
            config.insert("routes".into(), Value::Sequence(vec![route.into()]));
        }
        Value::Mapping(sections) => config = sections,
        other => panic!("{other:?}"),
    }
    let rest =
        "{ listeners: { x: { address: ':1' } }, routes: [{ name: x, match: {}, respond: {} }] }";
    let rest: Mapping = serde_yaml::from_str(rest).expect("YAML");
    for (key, value) in rest {
        config.entry(key).or_insert(value);
    }
    config
}

#[test]
fn configurations_in_the_guides_are_valid() {
    /// What a part of a configuration cannot have.
    const MISSING: [&str; 4] =
        ["there is no upstream named", "there is no filter named", "is not set", "No such file"];
    let mut count = 0;
    for (name, page) in guides() {
        for (_, block) in blocks(&page, "yaml") {
            let value: Value = serde_yaml::from_str(&block).expect("YAML");
            if value.is_null() {
                continue;
            }
            let text = serde_yaml::to_string(&whole(value)).expect("YAML");
            let problems = selvedge::config::parse(&text, Path::new("x.yaml")).err();
            for problem in problems.unwrap_or_default() {
                let fine = MISSING.iter().any(|what| problem.message.contains(what));
                assert!(fine, "{name}: {problem}\n{block}");
            }
            count += 1;
        }
    }
    assert!(count >= 9, "only {count} configurations found");
}

#[test]
fn scripts_shown_in_the_readme_are_the_shipped_ones() {
    let shipped: Vec<String> = ["scripts/auth.rhai", "scripts/auth_test.rhai"].map(read).into();
    let shown = blocks(&read("README.md"), "rhai");
    assert_eq!(shown.len(), shipped.len());
    for (_, block) in shown {
        let parts: Vec<&str> = block.split("\n\n").map(str::trim).collect();
        let is_there = |text: &String| parts.iter().all(|part| text.contains(part));
        assert!(shipped.iter().any(is_there), "not in the script:\n{block}");
    }
}

#[test]
fn every_dependency_has_its_reason_and_its_use() {
    let (manifest, reasons) = (read("Cargo.toml"), read("docs/decisions/0001-dependencies.md"));
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    let (_, after) = manifest.split_once("[dependencies]").expect("dependencies");
    let (normal, after) = after.split_once("[dev-dependencies]").expect("dev-dependencies");
    let test_only = after.split("\n[").next().unwrap_or_default();
    let names = |table: &str| -> Vec<String> {
        let lines = table.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.split_once(" = ")?.0.to_owned())).collect()
    };
    for name in names(normal) {
        // md-5 is the one whose library has another name.
        let library = if name == "md-5" { "md5".to_owned() } else { name.replace('-', "_") };
        let uses = [format!("{library}::"), format!("use {library} as ")];
        assert!(uses.iter().any(|used| code.contains(used)), "{name} is not used in src/");
    }
    for name in [names(normal), names(test_only)].concat() {
        let words = reasons.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c)));
        assert!(words.clone().any(|word| word == name), "{name} has no reason in decision 0001");
    }
}

fn sources(folder: &Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).expect("src") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, code);
        } else {
            code.push_str(&std::fs::read_to_string(&path).expect("UTF-8"));
        }
    }
}
