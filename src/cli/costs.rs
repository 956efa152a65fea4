//! `selvedge check --explain-cost`: which functions of a filter run as closures, and what Rhai's
//! evaluator still does in the middle of them.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::config::Config;
use crate::config::filters::Lowering;
use crate::script::{Diagnostic, FunctionCost, Script, Slow, compile};
use crate::state::Lists;

/// One filter's functions.
pub struct Costs<'c> {
    name: &'c str,
    lowering: Lowering,
    script: Script,
}

impl<'c> Costs<'c> {
    /// Of all filters, in the order of the configuration.
    pub fn of(config: &'c Config, lists: &Lists) -> Result<Vec<Self>, Vec<Diagnostic>> {
        let one = |filter: &'c crate::config::filters::Filter| {
            let script = compile(filter, lists)?;
            Ok(Self { name: &filter.name, lowering: filter.lowering, script })
        };
        config.filters.iter().map(one).collect()
    }

    pub fn json(&self) -> Value {
        let place = |slow: &Slow| {
            json!({
                "file": self.script.file(),
                "line": slow.position.line(),
                "why": slow.why,
            })
        };
        let function = |cost: &FunctionCost| {
            json!({
                "function": cost.function,
                "lowered": cost.kept.is_none(),
                "kept": cost.kept.as_ref().map(place),
                "rhai": cost.islands.iter().map(place).collect::<Vec<_>>(),
            })
        };
        let functions: Vec<_> = self.script.costs().iter().map(function).collect();
        json!({ "name": self.name, "lowering": word(self.lowering), "functions": functions })
    }

    /// A line for each function, and one for each thing that Rhai does.
    pub fn text(&self) -> String {
        let mut text = format!("{}: lowering {}\n", self.name, word(self.lowering));
        let place = |slow: &Slow| {
            let line = slow.position.line().unwrap_or(0);
            format!("{}:{line}: {}", self.script.file().display(), slow.why)
        };
        for cost in self.script.costs() {
            // Writing to a string does not fail.
            let _ = match &cost.kept {
                Some(slow) => writeln!(text, "    {}: by Rhai, {}", cost.function, place(slow)),
                None => writeln!(text, "    {}: lowered", cost.function),
            };
            for slow in &cost.islands {
                let _ = writeln!(text, "        {}", place(slow));
            }
        }
        text
    }
}

fn word(lowering: Lowering) -> &'static str {
    match lowering {
        Lowering::On => "on",
        Lowering::Off => "off",
        Lowering::Verify => "verify",
    }
}
