//! Properties of a hook's own parameters, whose types are known before the script runs.

use std::collections::BTreeMap;

use rhai::{AST, ASTNode, Expr, Stmt};

use super::{Lint, functions, nearest};
use crate::config::body::BodyMode;
use crate::script::api;
use crate::script::diagnostic::Diagnostic;
use crate::script::hooks::Hook;

/// Rhai's own property of all values.
const OF_ALL: &str = "tag";
/// What properties lead to, by the names of the reference. What can be indexed by a string
/// (headers, query, cookies, ctx, params) takes any name as a property.
const LEADS_TO: &[(&str, &str, &str)] = &[
    ("req", "client", "client"),
    ("req", "body", "body"),
    ("client", "tls", "tls"),
    ("client", "geo", "geo"),
    ("tls", "cert", "cert"),
    ("res", "body", "body"),
    ("res", "cache", "cache"),
];

impl Lint<'_> {
    pub(super) fn members(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        for (name, parameters, body) in functions(ast) {
            let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.name() == name) else {
                continue;
            };
            let types: BTreeMap<&str, &str> = parameters
                .iter()
                .map(String::as_str)
                .zip(hook.parameters().iter().copied())
                .filter(|(name, _)| !is_shadowed(&body, name))
                .collect();
            body.walk(&mut |path: &[ASTNode]| {
                found.extend(self.member(path, &types));
                true
            });
        }
    }

    fn member(&self, path: &[ASTNode], types: &BTreeMap<&str, &str>) -> Option<Diagnostic> {
        let Some(ASTNode::Expr(Expr::Dot(chain, ..))) = path.last() else { return None };
        let Expr::Variable(variable, ..) = &chain.lhs else { return None };
        let name = variable.1.as_str();
        let set = matches!(path.iter().rev().nth(1),
            Some(ASTNode::Stmt(Stmt::Assignment(assignment)))
                if matches!(&assignment.1.lhs, Expr::Dot(target, ..) if std::ptr::eq(target, chain)));
        self.property(name, types.get(name)?, &chain.rhs, set)
    }

    /// Follows a chain as long as the type is known.
    fn property(&self, at: &str, object: &str, rest: &Expr, set: bool) -> Option<Diagnostic> {
        let (first, next) = match rest {
            Expr::Dot(chain, ..) => (&chain.lhs, Some(&chain.rhs)),
            other => (other, None),
        };
        let Expr::Property(property, position) = first else { return None };
        let name = property.2.as_str();
        let names = api::docs().iter().filter_map(api::Doc::property);
        let mut names = names.filter(|(of, _)| *of == object).map(|(_, name)| name);
        let shown = format!("{at}.{name}");
        let known = name == OF_ALL || names.clone().any(|known| known == name);
        if !known {
            let hint = match names_of_methods(object).any(|method| method == name) {
                true => Some(format!("write {shown}(..)")),
                false => nearest(name, &mut names).map(|near| format!("did you mean {at}.{near}?")),
            };
            return Some(self.problem(*position, format!("there is no {shown}")).with_hint(hint));
        }
        if (object, name) == ("req", "body") && self.facts.body.request == BodyMode::None {
            let message = "this filter sees no request bodies".to_owned();
            let hint = "set body: { request: buffer } in its configuration".to_owned();
            return Some(self.problem(*position, message).with_hint(Some(hint)));
        }
        if (object, name) == ("client", "geo") && !self.facts.geo {
            let message = format!("{shown} needs files that know where addresses are");
            let hint = "add state: { geo: [FILE] } to the configuration".to_owned();
            return Some(self.problem(*position, message).with_hint(Some(hint)));
        }
        if let Some(next) = next {
            let leads = LEADS_TO.iter().find(|(of, by, _)| *of == object && *by == name);
            return leads.and_then(|(_, _, to)| self.property(&shown, to, next, set));
        }
        let settable =
            name == OF_ALL || api::settable().contains(&format!("{object}.{name}").as_str());
        (set && !settable).then(|| self.problem(*position, format!("{shown} cannot be set")))
    }
}

fn names_of_methods(object: &str) -> impl Iterator<Item = &'static str> {
    let method = move |signature: &&'static str| {
        let (path, _) = signature.split_once('(')?;
        let (of, name) = path.split_once('.')?;
        (of == object).then_some(name)
    };
    let all =
        api::docs().iter().flat_map(|doc| std::iter::once(&doc.signature).chain(&doc.overloads));
    all.filter_map(method)
}

/// Whether another variable of this name lives anywhere in the function.
fn is_shadowed(body: &AST, name: &str) -> bool {
    let mut shadowed = false;
    body.walk(&mut |path: &[ASTNode]| {
        shadowed |= match path.last() {
            Some(ASTNode::Stmt(Stmt::Var(definition, ..))) => definition.0.name == name,
            Some(ASTNode::Stmt(Stmt::For(parts, _))) => {
                parts.0.name == name || parts.1.as_ref().is_some_and(|index| index.name == name)
            }
            Some(ASTNode::Stmt(Stmt::TryCatch(parts, _))) => super::root(&parts.expr) == Some(name),
            _ => false,
        };
        !shadowed
    });
    shadowed
}
