//! The reference of the script API, as markdown.

use super::super::hooks::Hook;

/// Generated from the table of functions, so that it cannot be stale.
pub fn reference() -> String {
    let mut text = String::from("# Filter API\n\nGenerated from the code.\n\n## Hooks\n\n");
    for hook in Hook::ALL {
        text.push_str(&format!("- `{}`\n", hook.signature()));
    }
    let mut area = "";
    for doc in super::docs() {
        if doc.area != area {
            area = doc.area;
            text.push_str(&format!("\n## {area}\n\n"));
        }
        text.push_str(&format!("- `{}`: {}\n", doc.signature, doc.text));
        for overload in &doc.overloads {
            text.push_str(&format!("  also `{overload}`\n"));
        }
        if let Some(example) = doc.example {
            text.push_str(&format!("  `{example}`\n"));
        }
    }
    text
}
