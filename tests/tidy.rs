//! The architecture's rules, read off the sources: layers, walls, sizes, headers, unsafe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which of our modules each may use; see ARCHITECTURE.md.
const LAYERS: [(&str, &[&str]); 16] = [
    ("transform", &[]),
    ("config", &[]),
    ("telemetry", &["config"]),
    ("routing", &["config"]),
    ("tls", &["config", "telemetry"]),
    ("listen", &["config", "telemetry", "tls"]),
    ("upstream", &["config", "telemetry"]),
    ("cache", &["config", "telemetry"]),
    ("state", &["config", "telemetry"]),
    ("script", &["config", "telemetry", "transform", "upstream", "cache", "state"]),
    (
        "snapshot",
        &[
            "config",
            "telemetry",
            "routing",
            "tls",
            "listen",
            "upstream",
            "state",
            "script",
            "transform",
            "cache",
        ],
    ),
    (
        "proxy",
        &[
            "config",
            "telemetry",
            "routing",
            "tls",
            "listen",
            "upstream",
            "state",
            "script",
            "transform",
            "cache",
            "snapshot",
        ],
    ),
    (
        "admin",
        &[
            "config",
            "telemetry",
            "routing",
            "tls",
            "listen",
            "upstream",
            "state",
            "script",
            "transform",
            "cache",
            "snapshot",
        ],
    ),
    (
        "server",
        &[
            "config",
            "telemetry",
            "routing",
            "tls",
            "listen",
            "upstream",
            "state",
            "script",
            "transform",
            "cache",
            "snapshot",
            "proxy",
            "admin",
        ],
    ),
    (
        "cli",
        &[
            "config",
            "telemetry",
            "routing",
            "tls",
            "listen",
            "upstream",
            "state",
            "script",
            "transform",
            "cache",
            "snapshot",
            "proxy",
            "admin",
            "server",
        ],
    ),
    ("main", &["cli"]),
];

/// Crates that stay behind a wall, with the modules inside of it.
const WALLS: [(&str, &[&str]); 20] = [
    ("lol_html", &["transform"]),
    ("flate2", &["transform", "script"]),
    ("brotli", &["transform"]),
    ("zstd", &["transform"]),
    ("regex_automata", &["transform"]),
    ("html_escape", &["transform"]),
    ("pingora", &["proxy", "cache", "upstream", "listen", "tls", "server", "admin"]),
    ("pingora_core", &["proxy", "cache", "upstream", "listen", "tls", "server", "admin"]),
    ("pingora_proxy", &["proxy", "listen", "server"]),
    ("pingora_cache", &["cache", "proxy"]),
    ("quick_cache", &["cache"]),
    ("rustix", &["cache"]),
    ("pingora_load_balancing", &["upstream"]),
    ("rhai", &["script"]),
    ("corosensei", &["script"]),
    ("redb", &["state"]),
    ("maxminddb", &["state"]),
    ("ring", &["script", "tls", "upstream"]),
    ("prometheus", &["telemetry"]),
    ("clap", &["cli", "main"]),
];

/// The only folder with `unsafe`.
const UNSAFE: &str = "script/fiber";
const MAX_LINES: usize = 500;

struct Source {
    /// Below `src/`.
    path: PathBuf,
    text: String,
    /// Without comments and tests.
    code: String,
}

impl Source {
    fn module(&self) -> &str {
        let first = self.path.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.iter().any(|part| part == "tests")
    }
}

/// Every Rust file below a folder of the repository, by its path there.
fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                found.push((path.strip_prefix(&root).expect("below it").to_owned(), text));
            }
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let found = rust_files("src").into_iter().map(|(path, text)| {
        let production = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let kept = production.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = kept.collect::<Vec<_>>().join("\n");
        Source { path, text, code }
    });
    let found: Vec<Source> = found.collect();
    assert!(found.len() > 40, "only {} sources found", found.len());
    found
}

fn refuse(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Names that follow `crate::`, inside braces too.
fn uses(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| {
            text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        };
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split(';').next().unwrap_or_default();
                let mut depth = 0;
                let mut piece = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(name(&std::mem::take(&mut piece))),
                        _ if depth == 0 => piece.push(c),
                        _ => {}
                    }
                }
                names.push(name(&piece));
            }
            None => names.push(name(rest)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn modules_use_only_the_layers_below() {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "lib") {
        let Some(allowed) = layers.get(source.module()) else {
            complaints.push(format!("{}: a module without a layer", source.path.display()));
            continue;
        };
        for used in uses(&source.code) {
            let known = layers.contains_key(used.as_str());
            if known && used != source.module() && !allowed.contains(&used.as_str()) {
                let path = source.path.display();
                complaints.push(format!("{path}: {} may not use {used}", source.module()));
            }
        }
    }
    refuse(complaints);
}

#[test]
fn foreign_crates_stay_behind_their_walls() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (name, inside) in WALLS {
            let named = |prefix: &str| source.code.contains(&format!("{prefix}{name}::"));
            let used = named("use ") || named(" ") || named("(") || named("<") || named("&");
            if used && !inside.contains(&source.module()) {
                complaints.push(format!("{}: {name} stays in {inside:?}", source.path.display()));
            }
        }
    }
    refuse(complaints);
}

#[test]
fn unsafe_stays_in_one_folder_and_says_why() {
    let mut complaints = Vec::new();
    for source in sources() {
        let inside = source.path.starts_with(UNSAFE);
        let lines: Vec<&str> = source.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens = ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"];
            if !opens.iter().any(|open| code.contains(open)) {
                continue;
            }
            let before = &lines[index.saturating_sub(8)..index];
            let argued =
                before.iter().any(|line| line.contains("SAFETY") || line.contains("# Safety"));
            let place = format!("{}:{}", source.path.display(), index + 1);
            if !inside {
                complaints.push(format!("{place}: unsafe outside of {UNSAFE}"));
            } else if !argued && !code.contains("unsafe fn") {
                complaints.push(format!("{place}: unsafe without a SAFETY argument"));
            }
        }
    }
    refuse(complaints);
}

#[test]
fn every_file_says_what_it_is_for_and_is_small() {
    let mut complaints = Vec::new();
    for source in sources() {
        let path = source.path.display();
        if !source.text.starts_with("//! ") {
            complaints.push(format!("{path}: the first line is no `//!`"));
        }
        let lines =
            source.text.split("\n#[cfg(test)]\nmod ").next().map_or(0, |t| t.lines().count());
        if lines > MAX_LINES && !source.is_test() {
            complaints.push(format!("{path}: {lines} lines, more than {MAX_LINES}"));
        }
    }
    refuse(complaints);
}

#[test]
fn no_test_is_ignored_and_the_gateway_has_no_branch() {
    let mut complaints = Vec::new();
    // Put together here, so that this file does not hold what it looks for.
    let attribute = concat!("#[", "ignore");
    for (path, text) in rust_files("tests").into_iter().chain(rust_files("src")) {
        if text.contains(attribute) {
            complaints.push(format!("{}: an ignored test", path.display()));
        }
    }
    for source in sources() {
        if source.path.ends_with("proxy/gateway.rs") {
            for branch in [" if ", "match ", " else ", "while ", "for "] {
                let found = source.code.lines().any(|line| {
                    line.contains(branch) && !line.contains("impl ") && line.starts_with("        ")
                });
                if found {
                    complaints.push(format!("{}: holds `{branch}`", source.path.display()));
                }
            }
        }
    }
    refuse(complaints);
}
