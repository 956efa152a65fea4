//! What a hook returns by its last statement: Rhai returns its value even with a semicolon.

use rhai::{AST, ASTNode, Expr, Position, Stmt};

use super::{Lint, functions};
use crate::script::diagnostic::Diagnostic;
use crate::script::hooks::Hook;

impl Lint<'_> {
    /// A fetch for its effect, last in a hook, would answer the client with what it got.
    pub(super) fn results(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        for (name, _, body) in functions(ast) {
            if Hook::ALL.into_iter().all(|hook| hook.name() != name) {
                continue;
            }
            let mut last = None;
            body.walk(&mut |path: &[ASTNode]| {
                if let [ASTNode::Stmt(statement)] = path {
                    last = fetched(statement);
                }
                true
            });
            if let Some(position) = last {
                let message = "the response of this fetch would be the hook's answer".to_owned();
                let hint = "write return before it, or () after it if that is not meant";
                found.push(self.problem(position, message).with_hint(Some(hint.to_owned())));
            }
        }
    }
}

/// Where a statement, taken for its value, is a bare fetch.
fn fetched(statement: &Stmt) -> Option<Position> {
    let last = |block: &[Stmt]| block.last().and_then(fetched);
    match statement {
        Stmt::FnCall(call, position) if call.name == "fetch" => Some(*position),
        Stmt::Expr(expr) => match &**expr {
            Expr::FnCall(call, position) if call.name == "fetch" => Some(*position),
            Expr::Stmt(block) => last(block.statements()),
            _ => None,
        },
        Stmt::Block(block) => last(block.statements()),
        Stmt::If(flow, _) | Stmt::TryCatch(flow, _) => {
            last(flow.body.statements()).or_else(|| last(flow.branch.statements()))
        }
        _ => None,
    }
}
