//! `upstream`: what a filter can know of the pools that it may choose.

use rhai::NativeCallContext;

use super::state::State;
use super::table::Table;
use super::{Outcome, invalid};

pub fn area(table: &mut Table) {
    table.area("Upstreams");
    table
        .function(
            "upstream::healthy(name)",
            "Whether any endpoint of an upstream passes its health check. One without checks counts \
             as healthy.",
            |context: NativeCallContext, name: &str| -> Outcome<bool> {
                let healthy = State::of(&context)?.host()?.upstream_healthy(name);
                healthy.ok_or_else(|| invalid(format!("there is no upstream named \"{name}\"")))
            },
        )
        .example(r#"if upstream::healthy("blue") { req.upstream = "blue"; } true"#);
}
