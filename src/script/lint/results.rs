//! Values that come of last statements: of a hook, where Rhai returns one even with a semicolon,
//! and of a `catch`, where it returns none.

use rhai::{AST, ASTNode, Expr, FnCallExpr, Position, Stmt};

use super::{Lint, functions};
use crate::script::diagnostic::Diagnostic;
use crate::script::hooks::Hook;

impl Lint<'_> {
    pub(super) fn catches(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some(ASTNode::Stmt(Stmt::TryCatch(flow, _))) = path.last()
                && let Some(last) = flow.branch.statements().last().filter(|last| is_value(last))
            {
                let message = "a catch has no value: this one is lost".to_owned();
                let hint = "write return before it, or keep it in a variable".to_owned();
                found.push(self.problem(last.position(), message).with_hint(Some(hint)));
            }
            true
        });
    }

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
        Stmt::If(flow, _) => {
            last(flow.body.statements()).or_else(|| last(flow.branch.statements()))
        }
        Stmt::TryCatch(flow, _) => last(flow.body.statements()),
        _ => None,
    }
}

/// Whether a statement does nothing but have a value.
fn is_value(statement: &Stmt) -> bool {
    let makes = |call: &FnCallExpr| {
        let of_response = call.namespace.path.first().is_some_and(|part| part.name == "Response");
        call.op_token.is_some() || call.name == "response" || of_response
    };
    match statement {
        Stmt::FnCall(call, _) => makes(call),
        Stmt::Expr(expr) => match &**expr {
            Expr::FnCall(call, _) => makes(call),
            Expr::Unit(_) => false,
            Expr::Variable(..) | Expr::Array(..) | Expr::Map(..) | Expr::InterpolatedString(..) => {
                true
            }
            Expr::Dot(chain, ..) => matches!(chain.rhs, Expr::Property(..)),
            other => other.is_constant(),
        },
        _ => false,
    }
}
