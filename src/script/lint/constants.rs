//! Changes of constants, which would be made to a copy that nobody sees, or fail.

use rhai::{AST, ASTNode, Expr, Position, Stmt};

use super::{Lint, functions};
use crate::script::diagnostic::Diagnostic;

/// Methods of arrays, maps, bytes and strings that change them.
const CHANGING: [&str; 24] = [
    "append",
    "chop",
    "clear",
    "crop",
    "dedup",
    "drain",
    "fill_with",
    "insert",
    "make_lower",
    "make_upper",
    "mixin",
    "pad",
    "pop",
    "push",
    "remove",
    "retain",
    "reverse",
    "set",
    "shift",
    "sort",
    "sort_by",
    "splice",
    "trim",
    "truncate",
];

impl Lint<'_> {
    pub(super) fn constants(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        for (_, parameters, body) in functions(ast) {
            body.walk(&mut |path: &[ASTNode]| {
                let changed = match path.last() {
                    Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                        constant(&assignment.1.lhs)
                    }
                    Some(ASTNode::Expr(chain @ Expr::Dot(parts, ..))) if changes(&parts.rhs) => {
                        constant(chain)
                    }
                    _ => None,
                };
                // What a closure captures is a parameter that nothing resolves either.
                let local = |name: &str| parameters.iter().any(|parameter| parameter == name);
                if let Some((name, position)) = changed.filter(|(name, _)| !local(name)) {
                    let message = format!("{name} is a constant");
                    let hint = format!("change a copy: let copy = {name};");
                    found.push(self.problem(position, message).with_hint(Some(hint)));
                }
                true
            });
        }
    }

    /// `global::NAME`, which only the functions of imported files know.
    pub(super) fn namespaces(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some(ASTNode::Expr(Expr::Variable(variable, _, position))) = path.last()
                && variable.2.path.first().is_some_and(|part| part.name == "global")
            {
                let message = format!("there is no global::{}", variable.1);
                let hint = format!("write {}: a script's own constants have no prefix", variable.1);
                found.push(self.problem(*position, message).with_hint(Some(hint)));
            }
            true
        });
    }
}

/// Whether what follows a constant's dot ends in a changing method, by way of properties only.
fn changes(rest: &Expr) -> bool {
    match rest {
        Expr::MethodCall(call, _) => CHANGING.contains(&call.name.as_str()),
        Expr::Dot(chain, ..) => matches!(chain.lhs, Expr::Property(..)) && changes(&chain.rhs),
        _ => false,
    }
}

/// Strict variables leave only constants unresolved inside of a function.
fn constant(target: &Expr) -> Option<(&str, Position)> {
    match target {
        Expr::Variable(variable, short, position) if variable.0.is_none() && short.is_none() => {
            Some((&variable.1, *position))
        }
        Expr::Dot(chain, ..) | Expr::Index(chain, ..) => constant(&chain.lhs),
        _ => None,
    }
}
