//! Assignments to constants, which would change a copy that nobody sees.

use rhai::{AST, ASTNode, Expr, Position, Stmt};

use super::{Lint, functions};
use crate::script::diagnostic::Diagnostic;

impl Lint<'_> {
    pub(super) fn constants(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        for (_, _, body) in functions(ast) {
            body.walk(&mut |path: &[ASTNode]| {
                if let Some(ASTNode::Stmt(Stmt::Assignment(assignment))) = path.last()
                    && let Some((name, position)) = constant(&assignment.1.lhs)
                {
                    let message = format!("{name} is a constant");
                    let hint = format!("change a copy: let copy = {name};");
                    found.push(self.problem(position, message).with_hint(Some(hint)));
                }
                true
            });
        }
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
