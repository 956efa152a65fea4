//! The generated references are what the code says.

use std::path::Path;

#[test]
fn generated_references_are_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    for (name, page) in selvedge::cli::docs::pages() {
        let written = std::fs::read_to_string(root.join(name)).unwrap_or_default();
        assert!(written == page, "docs/reference/{name} is stale: run `make docs`");
    }
}
