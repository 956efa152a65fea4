//! Closures that use variables from outside: where they may stand.
//!
//! Rhai shares such a variable behind a lock. A closure kept inside of what it captures is never
//! freed, and one that runs while its variable is in use waits for a lock that its own script
//! holds. So a capturing closure may only be called at once: by a function of arrays and maps, by
//! a function of the script that does nothing else with it, or from a variable used only for calls.

use rhai::{AST, ASTNode, Expr, FnCallExpr, Position, Stmt};

use super::{Lint, call_of, functions, root};
use crate::script::diagnostic::Diagnostic;

/// Natives that call their first argument and forget it.
const CALLED_AT_ONCE: [&str; 17] = [
    "all",
    "dedup",
    "drain",
    "filter",
    "find",
    "find_map",
    "for_each",
    "index_of",
    "map",
    "order",
    "order_by",
    "reduce",
    "reduce_rev",
    "retain",
    "some",
    "sort",
    "sort_by",
];

type Functions = [(String, Vec<String>, AST)];

/// Where a closure stands, innermost first.
struct Place<'a> {
    captured: Vec<&'a str>,
    position: Position,
    /// The expression that is the closure, and what is around it.
    closure: &'a Expr,
    around: &'a [ASTNode<'a>],
}

impl Lint<'_> {
    pub(super) fn closures(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        let functions = functions(ast);
        let top = ast.clone_statements_only();
        for body in functions.iter().map(|(_, _, body)| body).chain([&top]) {
            body.walk(&mut |path: &[ASTNode]| {
                if let Some(place) = place(path) {
                    found.extend(self.closure(&place, body, &functions));
                }
                true
            });
        }
    }

    fn closure(&self, place: &Place, body: &AST, functions: &Functions) -> Option<Diagnostic> {
        let names = place.captured.join(", ");
        let kept = || {
            let message = format!("this closure uses {names} from outside, and could outlive it");
            let hint = "write it where it is called, as in list.map(|x| ..), or give it what it \
                        needs as parameters";
            Some(self.problem(place.position, message).with_hint(Some(hint.to_owned())))
        };
        if let Some(ASTNode::Stmt(Stmt::Var(definition, ..))) = place.around.last() {
            return if only_called(body, &definition.0.name) { None } else { kept() };
        }
        let Some((call, method)) = place.around.last().and_then(called) else { return kept() };
        let Some(index) = call.args.iter().position(|arg| std::ptr::eq(arg, place.closure)) else {
            return kept();
        };
        if !calls_at_once(call, method, index) && !calls_only(call, index, functions) {
            return kept();
        }
        let receiver =
            if method { receiver(place.around) } else { call.args.first().and_then(root) };
        let receiver = receiver.filter(|name| place.captured.contains(name))?;
        let message = format!("this closure uses {receiver} while {receiver} itself is in use");
        let hint = format!("make a copy before: let copy = {receiver};");
        Some(self.problem(place.position, message).with_hint(Some(hint)))
    }
}

/// The compiler writes a capturing closure as a block: share the variables, then `curry`.
fn place<'a>(path: &'a [ASTNode<'a>]) -> Option<Place<'a>> {
    let [around @ .., ASTNode::Expr(closure @ Expr::Stmt(_)), ASTNode::Stmt(_), curry] = path
    else {
        return None;
    };
    let (call, position) = call_of(curry).filter(|(call, _)| call.name == "curry")?;
    let captured = call.args.iter().skip(1).filter_map(root).collect();
    Some(Place { captured, position, closure, around })
}

fn called<'a>(node: &'a ASTNode<'a>) -> Option<(&'a FnCallExpr, bool)> {
    let (call, _) = call_of(node)?;
    Some((call, matches!(node, ASTNode::Expr(Expr::MethodCall(..)))))
}

fn calls_at_once(call: &FnCallExpr, method: bool, index: usize) -> bool {
    let first = if method { 0 } else { 1 };
    call.namespace.is_empty() && index == first && CALLED_AT_ONCE.contains(&call.name.as_str())
}

fn calls_only(call: &FnCallExpr, index: usize, functions: &Functions) -> bool {
    let mut candidates = functions.iter().filter(|(name, parameters, _)| {
        *name == call.name.as_str() && parameters.len() == call.args.len()
    });
    let Some((_, parameters, body)) = candidates.next() else { return false };
    call.namespace.is_empty() && parameters.get(index).is_some_and(|name| only_called(body, name))
}

/// Whether a variable is only used as `f.call(..)`, or given to what calls it at once.
fn only_called(body: &AST, name: &str) -> bool {
    let mut only = true;
    body.walk(&mut |path: &[ASTNode]| {
        let [.., around, ASTNode::Expr(used @ Expr::Variable(variable, ..))] = path else {
            return true;
        };
        if variable.1 == name {
            only &= match (around, called(around)) {
                (ASTNode::Expr(Expr::Dot(chain, ..)), _) => {
                    std::ptr::eq(*used, &chain.lhs) && is_call(&chain.rhs)
                }
                (_, Some((call, method))) => {
                    let index = call.args.iter().position(|arg| std::ptr::eq(arg, *used));
                    index.is_some_and(|index| calls_at_once(call, method, index))
                }
                _ => false,
            };
        }
        only
    });
    only
}

fn is_call(expr: &Expr) -> bool {
    match expr {
        Expr::MethodCall(call, _) => call.name == "call",
        Expr::Dot(chain, ..) | Expr::Index(chain, ..) => is_call(&chain.lhs),
        _ => false,
    }
}

/// The variable at the start of the chain whose method is called.
fn receiver<'a>(around: &'a [ASTNode<'a>]) -> Option<&'a str> {
    let outer = around.iter().rev().skip(1);
    let chain = outer.map_while(|node| match node {
        ASTNode::Expr(chain @ (Expr::Dot(..) | Expr::Index(..))) => Some(*chain),
        _ => None,
    });
    chain.last().and_then(root)
}
