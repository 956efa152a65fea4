//! Callbacks on a body that would wait: its pieces pass by without one.

use std::collections::BTreeSet;

use rhai::{AST, ASTNode, Expr, FnPtr, Position};

use super::closures::CALLED_ON_A_BODY;
use super::{Lint, call_of, functions};
use crate::script::diagnostic::Diagnostic;

/// Natives that wait whatever they are given; others are refused when they are about to.
const WAITING: [&str; 5] = ["fetch", "fetch_all", "fetch_start", "sleep", "wait"];

impl Lint<'_> {
    pub(super) fn bodies(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        let functions = functions(ast);
        let mut seen = BTreeSet::new();
        let mut to_do = Vec::new();
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some(name) = closure(path)
                && path.iter().filter_map(call_of).any(|(call, _)| is_on_a_body(&call.name))
            {
                to_do.push(name);
            }
            true
        });
        while let Some(name) = to_do.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            for (_, _, body) in functions.iter().filter(|(known, _, _)| *known == name) {
                body.walk(&mut |path: &[ASTNode]| {
                    to_do.extend(closure(path));
                    if let Some((call, position)) = path.last().and_then(call_of) {
                        if call.namespace.is_empty() && WAITING.contains(&call.name.as_str()) {
                            found.push(self.waits(&call.name, position));
                        }
                        to_do.push(call.name.to_string());
                    }
                    true
                });
            }
        }
    }

    fn waits(&self, name: &str, position: Position) -> Diagnostic {
        let message =
            format!("{name} waits, and this runs in a callback while the body streams by");
        let hint = "call it before, in the hook, and use its result in the callback";
        self.problem(position, message).with_hint(Some(hint.to_owned()))
    }
}

fn is_on_a_body(name: &str) -> bool {
    CALLED_ON_A_BODY.contains(&name)
}

/// The function that a closure, or `Fn("name")`, stands for.
fn closure(path: &[ASTNode]) -> Option<String> {
    let Some(ASTNode::Expr(Expr::DynamicConstant(value, _))) = path.last() else { return None };
    value.read_lock::<FnPtr>().map(|function| function.fn_name().to_owned())
}
