//! Calls of functions that do not exist, or that take another number of arguments.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Expr, FnCallExpr, Position, Stmt};

use super::super::api;
use super::{Lint, call_of, nearest};
use crate::script::diagnostic::Diagnostic;

/// Areas that filters of other proxies have, and that a reader may look for here.
const NOT_IN_THIS_VERSION: [&str; 3] = ["cache", "metrics", "trace"];
/// Rhai's own names that are not in its function tables.
const KEYWORDS: [&str; 8] =
    ["call", "Fn", "is_def_fn", "is_def_var", "is_shared", "type_of", "print", "debug"];

/// How many arguments a name takes; for a native, its object is one of them.
#[derive(Default)]
struct Takes {
    /// What cannot be known: variables and properties that may hold a function.
    anything: bool,
    native: BTreeSet<usize>,
    script: BTreeSet<usize>,
}

type Known = BTreeMap<String, Takes>;

impl Takes {
    fn fits(&self, arguments: usize, method: bool) -> bool {
        // A method of the script has its object as `this`.
        self.anything
            || self.native.contains(&(arguments + usize::from(method)))
            || self.script.contains(&arguments)
    }
}

impl Lint<'_> {
    pub(super) fn calls(&self, ast: &AST, found: &mut Vec<Diagnostic>) {
        let known = self.known(ast);
        ast.walk(&mut |path: &[ASTNode]| {
            let Some(node) = path.last() else { return true };
            if let Some((call, position)) = call_of(node) {
                let method = matches!(node, ASTNode::Expr(Expr::MethodCall(..)));
                found.extend(self.call(call, method, position, &known));
            }
            true
        });
    }

    fn call(
        &self,
        call: &FnCallExpr,
        method: bool,
        position: Position,
        known: &Known,
    ) -> Option<Diagnostic> {
        // What the compiler makes of a closure that captures is a call of `curry`.
        if call.op_token.is_some() || call.name == "curry" {
            return None;
        }
        let path = call.namespace.path.iter().map(|part| part.name.as_str());
        let name = path.chain([call.name.as_str()]).collect::<Vec<_>>().join("::");
        let root = call.namespace.path.first().map(|part| part.name.as_str());
        if root.is_some_and(|root| root == "global" || known.contains_key(&of_import(root))) {
            return None;
        }
        let Some(takes) = known.get(&name) else {
            let message = format!("there is no function {name}");
            return Some(self.problem(position, message).with_hint(unknown_hint(&name, known)));
        };
        let given = call.args.len();
        if takes.fits(given, method) {
            return None;
        }
        let arguments = if given == 1 { "1 argument" } else { &format!("{given} arguments") };
        let message = format!("{name} does not take {arguments} here");
        Some(self.problem(position, message).with_hint(forms_hint(&name, takes)))
    }

    /// Everything that can be called: natives, the script's functions, variables, properties.
    fn known(&self, ast: &AST) -> Known {
        let mut known = Known::new();
        let natives = self.engine.collect_fn_metadata(
            None,
            |function| {
                let (module, name) = (&function.namespace, &function.metadata.name);
                let takes = (function.metadata.num_params, function.script.is_some());
                let name =
                    if module.is_empty() { name.to_string() } else { format!("{module}::{name}") };
                Some((name, takes))
            },
            true,
        );
        // Getters and setters have a `$` in their names.
        for (name, (parameters, script)) in natives.into_iter().filter(|(n, _)| !n.contains('$')) {
            let takes = known.entry(name).or_default();
            if script { &mut takes.script } else { &mut takes.native }.insert(parameters);
        }
        for function in ast.iter_functions() {
            let takes = known.entry(function.name.to_owned()).or_default();
            takes.script.insert(function.params.len());
        }
        for alias in imports(ast).iter().map(|alias| of_import(alias)) {
            // The engine knows what the script imports, but not what its imports import.
            if !known.keys().any(|name| name.starts_with(&alias)) {
                known.insert(alias, Takes::default());
            }
        }
        for name in KEYWORDS.map(String::from).into_iter().chain(may_hold_functions(ast)) {
            known.entry(name).or_default().anything = true;
        }
        known
    }
}

fn imports(ast: &AST) -> Vec<String> {
    let mut aliases = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, _))) = path.last() {
            aliases.push(import.1.name.to_string());
        }
        true
    });
    aliases
}

/// The key in [`Known`] of an import whose functions are not known.
fn of_import(alias: &str) -> String {
    format!("{alias}::")
}

/// Names of variables, parameters, and keys of maps.
fn may_hold_functions(ast: &AST) -> BTreeSet<String> {
    let parameters = ast.iter_functions().flat_map(|f| f.params);
    let mut names: BTreeSet<String> = parameters.map(str::to_owned).collect();
    ast.walk(&mut |path: &[ASTNode]| {
        match path.last() {
            Some(ASTNode::Stmt(Stmt::Var(definition, ..))) => {
                names.insert(definition.0.name.to_string());
            }
            Some(ASTNode::Expr(Expr::Map(map, _))) => {
                names.extend(map.0.iter().map(|(key, _)| key.name.to_string()));
            }
            Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                names.extend(last_key(&assignment.1.lhs));
            }
            _ => {}
        }
        true
    });
    names
}

/// `c` of `a.b.c` and of `a["c"]`.
fn last_key(target: &Expr) -> Option<String> {
    match target {
        Expr::Property(property, _) => Some(property.2.to_string()),
        Expr::StringConstant(key, _) => Some(key.to_string()),
        Expr::Dot(chain, ..) | Expr::Index(chain, ..) => last_key(&chain.rhs),
        _ => None,
    }
}

fn unknown_hint(name: &str, known: &Known) -> Option<String> {
    let start = name.split("::").next().unwrap_or_default();
    if NOT_IN_THIS_VERSION.contains(&start) {
        return Some(format!("{start} is not part of this version of selvedge"));
    }
    let names = known.keys().map(String::as_str).filter(|name| !name.contains('$'));
    nearest(name, names).map(|near| format!("did you mean {near}?"))
}

fn forms_hint(name: &str, takes: &Takes) -> Option<String> {
    let called = |signature: &&str| {
        let path = signature.split('(').next().unwrap_or_default();
        path == name || path.rsplit('.').next() == Some(name)
    };
    let all =
        api::docs().iter().flat_map(|doc| std::iter::once(&doc.signature).chain(&doc.overloads));
    let forms: Vec<&str> = all.copied().filter(called).collect();
    if !forms.is_empty() {
        return Some(format!("write {}", forms.join(" or ")));
    }
    let counts = takes.script.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    (!counts.is_empty()).then(|| format!("it takes {counts}"))
}
