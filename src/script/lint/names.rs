//! Namespaces, limits, counters, locks and lists that the filter's configuration does not grant.

use rhai::{AST, ASTNode, Expr, FnCallExpr, Position};

use super::{Lint, call_of, nearest};
use crate::config::state::Access;
use crate::script::api::KV_WRITES;
use crate::script::diagnostic::Diagnostic;

impl Lint<'_> {
    pub(super) fn names(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some((call, _)) = path.last().and_then(call_of) {
                found.extend(self.name(call));
            }
            if let Some(ASTNode::Expr(Expr::Dot(chain, ..))) = path.last() {
                found.extend(self.write(&chain.lhs, &chain.rhs));
            }
            true
        });
    }

    fn name(&self, call: &FnCallExpr) -> Option<Diagnostic> {
        let (name, position) = constant(call)?;
        let granted = &self.facts.state;
        let (key, names): (_, Vec<&String>) = match call.name.as_str() {
            "kv" => ("kv", granted.kv.keys().collect()),
            "rate_limit" => ("rate_limits", granted.rate_limits.keys().collect()),
            "counter" => ("counters", granted.counters.iter().collect()),
            "lock" => ("locks", granted.locks.iter().collect()),
            "dict" => ("dicts", granted.dicts.iter().collect()),
            "ipset" => ("ipsets", granted.ipsets.iter().collect()),
            _ => return None,
        };
        if names.iter().any(|known| *known == name) {
            return None;
        }
        let message = format!("this filter may not use {}(\"{name}\")", call.name);
        let near = nearest(name, names.iter().map(|known| known.as_str()));
        let hint = near.map_or_else(
            || format!("grant it in the configuration, under this filter's {key}: {name}"),
            |near| format!("did you mean {near}?"),
        );
        Some(self.problem(position, message).with_hint(Some(hint)))
    }

    /// `kv("name").put(..)` where the grant is to read.
    fn write(&self, object: &Expr, rest: &Expr) -> Option<Diagnostic> {
        let Expr::FnCall(call, _) = object else { return None };
        let (name, _) = constant(call).filter(|_| call.name == "kv")?;
        let (method, position) = match rest {
            Expr::MethodCall(method, position) => (method, *position),
            Expr::Dot(chain, ..) => match &chain.lhs {
                Expr::MethodCall(method, position) => (method, *position),
                _ => return None,
            },
            _ => return None,
        };
        let (_, access) = self.facts.state.kv.get(name)?;
        if *access == Access::ReadWrite || !KV_WRITES.contains(&method.name.as_str()) {
            return None;
        }
        let message = format!("this filter may only read the namespace {name}");
        let hint = format!("grant kv: {{ {name}: read_write }}");
        Some(self.problem(position, message).with_hint(Some(hint)))
    }
}

/// The first argument of a plain call, where it is spelt out.
fn constant(call: &FnCallExpr) -> Option<(&str, Position)> {
    match call.args.first() {
        Some(Expr::StringConstant(name, position)) if call.namespace.is_empty() => {
            Some((name.as_str(), *position))
        }
        _ => None,
    }
}
