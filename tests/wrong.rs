//! Filters that must be refused at load: `tests/wrong/*.rhai`. The first line of each says where
//! (`LINE:COLUMN: `, if there is a place) and with which words.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

#[test]
fn each_is_refused_with_its_place_and_reason() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|p| p.extension().is_some_and(|e| e == "rhai")).collect();
    files.sort();
    assert!(files.len() >= 40, "only {}", files.len());

    let name = |file: &Path| file.file_stem().unwrap().to_str().unwrap().to_owned();
    let names: Vec<String> = files.iter().map(|file| name(file)).collect();
    let mut text = String::from(
        "listeners: { public: { address: \"127.0.0.1:0\" } }\n\
         upstreams: { api: { endpoints: [{ address: \"127.0.0.1:9\" }] } }\nfilters:\n",
    );
    for (file, name) in files.iter().zip(&names) {
        let script = file.display();
        let allow = "fetch: { allow: [\"http://api.test\"] }";
        writeln!(text, "  {name}: {{ script: \"{script}\", {allow} }}").unwrap();
    }
    let all = names.join(", ");
    writeln!(text, "routes: [{{ name: all, match: {{}}, upstream: api, filters: [{all}] }}]")
        .unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("wrong.yaml");
    std::fs::write(&config, text).unwrap();

    let mut check = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    let output = check.args(["check", "-c"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let printed =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    let missing: Vec<String> = files
        .iter()
        .zip(&names)
        .filter_map(|(file, name)| {
            let source = std::fs::read_to_string(file).unwrap();
            let expected = source.lines().next().unwrap().trim_start_matches("// ").to_owned();
            let label = format!("filters.{name}: ");
            let found: Vec<&str> = printed.lines().filter(|line| line.contains(&label)).collect();
            let at = format!("{}:", file.display());
            let fits = |line: &&str| match expected.split_once(": ") {
                Some((place, words)) if place.starts_with(|c: char| c.is_ascii_digit()) => {
                    line.starts_with(&format!("{at}{place}:")) && line.contains(words)
                }
                _ => line.contains(&expected),
            };
            (!found.iter().any(fits)).then(|| format!("{name}: wanted {expected}, got {found:#?}"))
        })
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
