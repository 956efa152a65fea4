//! Whole configurations: what is accepted, and what is said of what is not.

use std::path::Path;

use super::*;

fn problems(text: &str) -> Vec<String> {
    match parse(text, Path::new("x.yaml")) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

const SMALL: &str = "\
listeners: { public: { address: \":8080\" } }
upstreams: { shop: { endpoints: [{ address: \"127.0.0.1:1\" }] } }
routes: [{ name: all, match: { path: \"/{rest*}\" }, upstream: shop }]
";

#[test]
fn a_small_file_is_enough() {
    assert_eq!(problems(SMALL), Vec::<String>::new());
}

#[test]
fn every_problem_is_found_in_one_run_with_its_place_and_the_nearest_name() {
    let text = "\
listeners: { public: { adress: \":8080\" } }
upstreams: { shop: { endpoints: [{ address: \"127.0.0.1:1\" }], balance: robin } }
routes:
  - { name: all, match: { path: \"api\" }, upstream: shopp }
  - { name: all, match: {}, upstream: shop, timeout: 5 }
";
    let found = problems(text);
    assert!(
        found.iter().any(|p| p.starts_with(
            "x.yaml:1:24: listeners.public: unknown key \"adress\" (did you mean \"address\"?)"
        )),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|p| p.contains("upstreams.shop.balance: unknown value \"robin\"")),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|p| p.starts_with("x.yaml:4:") && p.contains("routes[0].match.path")),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|p| p.contains("routes[1].timeout: \"5\" is not a duration")),
        "{found:#?}"
    );
}

#[test]
fn names_that_dangle_are_problems() {
    let found = problems(&SMALL.replace("upstream: shop }", "upstream: shopp, filters: [auth] }"));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("there is no upstream named \"shopp\" (did you mean \"shop\"?)"));
    assert!(found[1].contains("there is no filter named \"auth\""));
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let first = parse(SMALL, Path::new("x.yaml")).expect("valid");
    let text = serde_yaml::to_string(&first.effective).expect("yaml");
    let second = parse(&text, Path::new("x.yaml")).unwrap_or_else(|p| panic!("{p:#?}\n{text}"));
    assert_eq!(first.effective, second.effective);
}

#[test]
fn the_schema_knows_every_key_and_refuses_others() {
    let schema = reference::json_schema();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(
        schema["properties"]["upstreams"]["additionalProperties"]["properties"]["retries"]["default"],
        1
    );
    assert_eq!(schema["required"], serde_json::json!(["listeners", "routes"]));
}

#[test]
fn what_the_environment_gave_to_a_filter_is_masked_when_shown() {
    // Cargo sets this one for every test.
    let text = SMALL.replace(
        "routes:",
        "filters: { f: { script: x.rhai, config: { token: \"${CARGO_PKG_NAME}\", plain: 1 } } }\nroutes:",
    );
    let config = parse(&text, Path::new("x.yaml")).unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!(config.filters[0].config["token"], "selvedge");
    let shown = serde_yaml::to_string(&config.effective).expect("yaml");
    assert!(shown.contains("token: '***'") && shown.contains("plain: 1"), "{shown}");
}
