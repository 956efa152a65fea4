//! Rhai's `trim` and `replace` change a text in place and have no value; ours (`trimmed`,
//! `replaced`) give a copy. Each is easily written where the other is meant.

use rhai::{AST, ASTNode, Expr, FnCallExpr, Position, Stmt, StmtBlock};

use super::{Lint, functions};
use crate::script::api;
use crate::script::diagnostic::Diagnostic;

impl Lint<'_> {
    pub(super) fn in_place(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        for (.., body) in functions(ast) {
            let mut top = Vec::new();
            body.walk(&mut |path: &[ASTNode]| {
                if let [ASTNode::Stmt(statement)] = path {
                    top.push(std::ptr::from_ref(*statement));
                }
                true
            });
            body.walk(&mut |path: &[ASTNode]| {
                found.extend(self.lost(path, top.last().copied()));
                true
            });
        }
    }

    fn lost(&self, path: &[ASTNode], last: Option<*const Stmt>) -> Option<Diagnostic> {
        let ASTNode::Expr(Expr::MethodCall(call, position)) = path.last()? else { return None };
        // The chain that ends in this call, and what holds the chain.
        let chain = path.iter().rposition(|node| {
            !matches!(node, ASTNode::Expr(Expr::Dot(..) | Expr::MethodCall(..)))
        })?;
        let Some(ASTNode::Expr(Expr::Dot(outermost, ..))) = path.get(chain + 1) else {
            return None;
        };
        if !ends_in(&outermost.rhs, call) {
            return None;
        }
        let unused = matches!(path[chain], ASTNode::Stmt(Stmt::Expr(_)));
        match call.name.as_str() {
            "trim" if !unused => Some(self.without_value("trim", "trimmed()", *position)),
            "replace" if !unused && is_text(path) => {
                Some(self.without_value("replace", "replaced(from, to)", *position))
            }
            "trimmed" | "replaced" if unused && !is_value(&path[..=chain], last) => {
                let message = format!("{} gives a copy, which is lost here", call.name);
                let hint = "keep it in a variable, or set the property to it".to_owned();
                Some(self.problem(*position, message).with_hint(Some(hint)))
            }
            _ => None,
        }
    }

    fn without_value(&self, name: &str, copy: &str, position: Position) -> Diagnostic {
        let message = format!("{name} changes the text in place and has no value");
        self.problem(position, message).with_hint(Some(format!("for a copy write {copy}")))
    }
}

/// Whether a chain's last link is this call.
fn ends_in(rest: &Expr, call: &FnCallExpr) -> bool {
    match rest {
        Expr::Dot(chain, ..) => ends_in(&chain.rhs, call),
        Expr::MethodCall(last, _) => std::ptr::eq(&**last, call),
        _ => false,
    }
}

/// Whether the object of the last call is a text for certain; a regex has a `replace` too.
fn is_text(path: &[ASTNode]) -> bool {
    let Some(ASTNode::Expr(Expr::Dot(chain, ..))) = path.iter().rev().nth(1) else { return false };
    match &chain.lhs {
        Expr::StringConstant(..) | Expr::InterpolatedString(..) => true,
        Expr::Property(property, _) => {
            let name = property.2.as_str();
            let docs = api::docs().iter().filter(|doc| doc.property().is_some_and(|p| p.1 == name));
            let mut forms = docs.flat_map(|doc| &doc.forms).peekable();
            forms.peek().is_some() && forms.all(|form| form.gives.ends_with("String"))
        }
        _ => false,
    }
}

/// Whether a statement's value may be its block's. `path` ends in the statement.
fn is_value(path: &[ASTNode], last_of_function: Option<*const Stmt>) -> bool {
    let Some(ASTNode::Stmt(statement)) = path.last() else { return false };
    let last_of = |block: &StmtBlock| {
        block.statements().last().is_some_and(|last| std::ptr::eq(last, *statement))
    };
    match path.iter().rev().nth(1) {
        None => last_of_function.is_some_and(|last| std::ptr::eq(last, *statement)),
        Some(ASTNode::Stmt(Stmt::Block(block))) => last_of(block),
        Some(ASTNode::Stmt(Stmt::If(flow, _) | Stmt::TryCatch(flow, _))) => {
            last_of(&flow.body) || last_of(&flow.branch)
        }
        Some(ASTNode::Stmt(Stmt::While(..) | Stmt::Do(..) | Stmt::For(..))) => false,
        // Blocks as expressions, cases of a switch.
        Some(_) => true,
    }
}
