//! Closures that use variables from outside: where they may stand.
//!
//! Rhai shares such a variable behind a lock. A closure kept inside of what it captures is never
//! freed, and one that runs while its variable is in use waits for a lock that its own script
//! holds. So a capturing closure may only be called at once: by a function of arrays and maps, by
//! a function of the script that does nothing else with it, or from a variable used only for calls.
//! Callbacks on a body are kept apart from all that they capture, and called when the hook is over.

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

/// Natives that keep their last argument for a body (`api/transforms.rs`).
pub(super) const CALLED_ON_A_BODY: [&str; 7] =
    ["map_chunks", "map_events", "map_json", "map_lines", "on", "on_text", "replace_regex"];

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
        match place.used(body, functions) {
            Use::AtOnce => None,
            Use::Kept => {
                let names = place.captured.join(", ");
                let message =
                    format!("this closure uses {names} from outside, and could outlive it");
                let hint = "write it where it is called, as in list.map(|x| ..), or give it what \
                            it needs as parameters";
                Some(self.problem(place.position, message).with_hint(Some(hint.to_owned())))
            }
            Use::Racing(name) => {
                let message = format!("this closure uses {name} while {name} itself is in use");
                let hint = format!("make a copy before: let copy = {name};");
                Some(self.problem(place.position, message).with_hint(Some(hint)))
            }
        }
    }
}

/// What becomes of a closure.
#[derive(PartialEq)]
enum Use {
    AtOnce,
    Kept,
    /// Called by a function of this variable, which it captures.
    Racing(String),
}

impl Place<'_> {
    fn used(&self, body: &AST, functions: &Functions) -> Use {
        match self.around.last() {
            Some(ASTNode::Stmt(Stmt::Var(definition, ..))) => {
                use_of(body, &definition.0.name, &self.captured)
            }
            Some(around) if called(around).is_some() => {
                match given_to(self.around, self.closure, &self.captured) {
                    Use::Kept => given_to_script(around, self.closure, functions),
                    other => other,
                }
            }
            _ => Use::Kept,
        }
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

/// The use that the innermost call of `around` makes of its argument.
fn given_to(around: &[ASTNode], argument: &Expr, captured: &[&str]) -> Use {
    let Some((call, method)) = around.last().and_then(called) else { return Use::Kept };
    let index = call.args.iter().position(|arg| std::ptr::eq(arg, argument));
    let bare = call.namespace.is_empty();
    // The host keeps these apart from all values, and calls them when no other code runs.
    let kept_apart = match call.name.as_str() {
        "after_response" => !method && index == Some(0),
        name => CALLED_ON_A_BODY.contains(&name) && index == call.args.len().checked_sub(1),
    };
    if bare && kept_apart {
        return Use::AtOnce;
    }
    let first = if method { 0 } else { 1 };
    let native = bare && CALLED_AT_ONCE.contains(&call.name.as_str());
    if !native || index != Some(first) {
        return Use::Kept;
    }
    let receiver = if method { receiver(around) } else { call.args.first().and_then(root) };
    match receiver.filter(|name| captured.contains(name)) {
        Some(receiver) => Use::Racing(receiver.to_owned()),
        None => Use::AtOnce,
    }
}

/// The use that the script's own function makes of a parameter.
fn given_to_script(around: &ASTNode, argument: &Expr, functions: &Functions) -> Use {
    let Some((call, false)) = called(around) else { return Use::Kept };
    let index = call.args.iter().position(|arg| std::ptr::eq(arg, argument));
    let (Some(index), true) = (index, call.namespace.is_empty()) else { return Use::Kept };
    let mut functions = functions.iter().filter(|(name, parameters, _)| {
        *name == call.name.as_str() && parameters.len() == call.args.len()
    });
    let parameter = functions.next().and_then(|(_, names, body)| Some((names.get(index)?, body)));
    parameter.map_or(Use::Kept, |(name, body)| use_of(body, name, &[]))
}

/// Of a variable that holds a closure: only `f.call(..)`, or given to what calls it at once.
fn use_of(body: &AST, name: &str, captured: &[&str]) -> Use {
    let mut found = Use::AtOnce;
    body.walk(&mut |path: &[ASTNode]| {
        let [outer @ .., ASTNode::Expr(used @ Expr::Variable(variable, ..))] = path else {
            return true;
        };
        if variable.1 == name {
            found = match outer.last() {
                Some(ASTNode::Expr(Expr::Dot(chain, ..)))
                    if std::ptr::eq(*used, &chain.lhs) && is_call(&chain.rhs) =>
                {
                    Use::AtOnce
                }
                // The capture itself, for another closure or in its own list.
                _ => given_to(outer, used, captured),
            };
        }
        found == Use::AtOnce
    });
    found
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
